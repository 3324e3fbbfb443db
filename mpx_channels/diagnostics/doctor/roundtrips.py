"""Checks that do what the layer is for, under its prefix, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import wraps

from redis.exceptions import ResponseError

from mpx_channels.channels.cluster_names import ClusterNames
from mpx_channels.diagnostics.values import milliseconds
from mpx_channels.layer import CommandRefused, MpxChannelLayer, NotConnected, Subscription
from mpx_channels.multiplexer.slots import slot_of

from .examination import Check, Examination, ProjectCheck
from .findings import Finding, info, ok, problem, skipped
from .probe import PATIENCE, cause_of

__all__ = ["CHECKS"]

# Names that are tried to find groups on all masters.
TRIES = 1000

RoundTrip = Callable[[MpxChannelLayer, str], Awaitable[str]]


async def check_connect(exam: Examination) -> list[Finding]:
    """The layer itself, as a worker process would have it."""
    started = time.perf_counter()
    try:
        layer = await exam.session.connect()
        took = milliseconds(time.perf_counter() - started)
        # That it can send, too: over another connection.
        with contextlib.suppress(CommandRefused):
            await layer.group_send(f"mpx-doctor-{uuid.uuid4().hex[:8]}", {"type": "mpx.doctor"})
    except NotConnected as error:
        await _require_servers(exam)
        cause, todo = cause_of(error)
        return [problem(f"the layer cannot connect: {cause}", todo=todo)]
    return [ok(f"connected and subscribed in {took}")]


async def _require_servers(exam: Examination) -> None:
    """Raise, as a probe does, if a server is gone: then it need not be asked for anything more."""
    for server in exam.servers:
        with contextlib.suppress(ResponseError):
            await server.probe("PING")


def round_trip(action: RoundTrip) -> Callable[[Examination], Awaitable[list[Finding]]]:
    """A check of something that is sent and comes back; the action says what, by a name."""

    @wraps(action)
    async def run(exam: Examination) -> list[Finding]:
        mark = f"mpx-doctor-{uuid.uuid4().hex[:8]}"
        started = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                what = await action(exam.session.layer, mark)
        except TimeoutError:
            await _require_servers(exam)
            return [
                problem(
                    f"nothing came back within {PATIENCE:g} s",
                    todo="See 'Role', 'ACL permissions' and 'Encryption' above, and whether a "
                    "proxy stands between here and the server.",
                )
            ]
        except CommandRefused as error:
            return [problem(f"refused: {error}", todo="See 'ACL permissions' and 'Cluster' above.")]
        return [ok(f"{what} in {milliseconds(time.perf_counter() - started)}")]

    return run


async def _there_and_back(layer: MpxChannelLayer, group: str) -> None:
    async with layer.subscribe(groups=[group]) as events:
        await layer.group_send(group, {"type": "mpx.doctor", "mark": group})
        await _arrival(events, group)


@round_trip
async def check_one_group(layer: MpxChannelLayer, mark: str) -> str:
    await _there_and_back(layer, mark)
    return "a message to a group came back"


async def check_group(exam: Examination) -> list[Finding]:
    """A group; in a cluster one on each master."""
    layout, config = exam.layout, exam.config
    if layout is None or config is None:
        return await check_one_group(exam)
    names = ClusterNames(config.prefix, config.partitions)

    @round_trip
    async def check_each(layer: MpxChannelLayer, mark: str) -> str:
        groups: dict[int, str] = {}
        for number in range(TRIES):
            group = f"{mark}-{number}"
            owner = layout.owner(slot_of(names.group(group).encode()))
            if owner is not None:
                groups.setdefault(layout.masters.index(owner), group)
        took = []
        for group in groups.values():  # fewer than masters, if one has hardly a slot
            started = time.perf_counter()
            await _there_and_back(layer, group)
            took.append(time.perf_counter() - started)
        slowest = milliseconds(max(took))
        what = f"a message to a group came back by each of {len(took)} masters"
        return f"{what} (the slowest: {slowest})"

    return await check_each(exam)


@round_trip
async def check_any_pattern(layer: MpxChannelLayer, mark: str) -> str:
    async with layer.subscribe(group_patterns=[f"{mark}.*"]) as events:
        await layer.group_send(f"{mark}.1", {"type": "mpx.doctor", "mark": mark})
        await _arrival(events, mark)
    return "a message to a group came back over a wildcard"


async def check_pattern(exam: Examination) -> list[Finding]:
    """A wildcard group, unless the ACL is known to refuse what it does not name."""
    config = exam.config
    if config is not None and config.cluster and config.sharded_pubsub:
        return [
            info(
                "wildcard groups are off: sharded channels have no patterns",
                todo="If they are used, set 'sharded_pubsub': False in CONFIG, in all processes.",
            )
        ]
    if any(server.only_literal_patterns for server in exam.servers):
        return [skipped("not looked at: the ACL has patterns word for word, see 'ACL permissions'")]
    return await check_any_pattern(exam)


async def _arrival(events: Subscription, mark: str) -> None:
    async for event in events:
        if event.get("mark") == mark:
            return


@round_trip
async def check_promise(layer: MpxChannelLayer, mark: str) -> str:
    promise = await layer.new_promise(mark, PATIENCE)
    await layer.resolve(mark, mark)
    await promise
    return "a promise was settled"


@round_trip
async def check_queue(layer: MpxChannelLayer, mark: str) -> str:
    await layer.send(mark, {"type": "mpx.doctor", "mark": mark})
    while (await layer.receive(mark)).get("mark") != mark:
        pass
    return "a message went through a plain channel"


CONNECTED = ("settings", "reachable", "login", "connect")

CHECKS: tuple[Check, ...] = (
    ProjectCheck(
        "connect",
        "Layer connects",
        "A worker process does just this when it starts.",
        ("settings", "masters", "reachable", "login", "partitions"),
        run=check_connect,
    ),
    ProjectCheck(
        "groups", "Group", "Groups are how consumers hear of anything.", CONNECTED, run=check_group
    ),
    ProjectCheck(
        "patterns",
        "Pattern",
        "Wildcard groups and pattern subscriptions come this way.",
        CONNECTED,
        run=check_pattern,
    ),
    ProjectCheck(
        "promises", "Promise", "Promises and requests come this way.", CONNECTED, run=check_promise
    ),
    ProjectCheck(
        "plain-channels",
        "Plain channel",
        "Workers of runworker get their messages this way.",
        CONNECTED,
        run=check_queue,
    ),
)
