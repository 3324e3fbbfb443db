"""A question to every process that listens to a name, and what they answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .answers import Answer

if TYPE_CHECKING:
    from .hub import Hub

__all__ = ["Poll", "ask_all", "reach"]


@dataclass(frozen=True, slots=True)
class Poll:
    """The ``answers`` that came in time, of ``asked`` processes.

    ``broken``: the end of our link, which ended the wait; answers may have been missed.
    """

    answers: list[Answer]
    asked: int
    broken: Exception | None = None


async def reach(hub: Hub, name: str, data: bytes) -> int:
    """Publish to `name`; return how many processes got it that subscribe to this very name.

    Whoever listens by a pattern, to look on perhaps, gets it but does not answer. Raises as
    `Multiplexer.publish`.
    """
    results: tuple[int | BaseException, Any] = await asyncio.gather(
        hub.multiplexer.publish_soon(name, data),
        hub.multiplexer.command(
            b"PUBSUB", b"NUMSUB", name.encode(), node=hub.multiplexer.node_of(name)
        ),
        return_exceptions=True,
    )
    received, counted = results
    if isinstance(received, BaseException):
        raise received
    if isinstance(counted, BaseException):
        # Where an ACL forbids to count, whoever waits for answers runs out of patience.
        return received
    return min(received, int(counted[1]))


async def ask_all(
    hub: Hub, name: str, body: bytes, timeout: float, *, enough: int | None = None
) -> Poll:
    """Publish an encoded question to `name` and collect the answers, for `timeout` seconds at most.

    They come to our inbox; a link that breaks meanwhile ends the wait, and so do ``enough``
    answers. Raises as `Multiplexer.publish`.
    """
    answers: list[Answer] = []
    expected: int | None = None
    broken: Exception | None = None
    complete: asyncio.Future[None] = hub.loop.create_future()

    def on_reply(reply: Answer | Exception) -> None:
        nonlocal broken
        if isinstance(reply, Exception):
            broken = reply
        else:
            answers.append(reply)
        if (broken is not None or len(answers) == expected) and not complete.done():
            complete.set_result(None)

    number = hub.answers.expect(on_reply)
    try:
        data = hub.wrapping.seal(name, body, {"by": hub.process_id, "id": number})
        received = await reach(hub, name, data)
        expected = received if enough is None else min(received, enough)
        if len(answers) < expected and broken is None:
            await asyncio.wait([complete], timeout=timeout)
        return Poll(answers, received, broken)
    finally:
        hub.answers.expect_no_more(number)
        complete.cancel()
