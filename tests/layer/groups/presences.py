"""What tests of presence have in common: listeners, what they hear, and processes to kill."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

from mpx_channels.layer import Hooks, Mailbox, MpxChannelLayer

LISTENS = Hooks(presence=("mpx.presence",))
# Short, where the end of something is waited for; a loaded machine may stand still for a second.
QUICK = {"presence_linger": 0.2, "presence_lease": 3.0}

MEMBER = """
import asyncio, json, sys
from django.conf import settings
settings.configure()
from mpx_channels.layer import MpxChannelLayer

async def main(config, ids):
    layer = MpxChannelLayer(**json.loads(config))
    channel = await layer.new_channel()
    await asyncio.gather(*(layer.presence_join("room", channel, id) for id in json.loads(ids)))
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await layer.close()
    print("closed", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def listener(layer: MpxChannelLayer, group: str = "room") -> Mailbox:
    """A channel in the group that hears who comes and goes."""
    mailbox = await layer.open_channel(hooks=LISTENS)
    await layer.group_add(group, mailbox.channel)
    return mailbox


async def next_of(mailbox: Mailbox, group: str = "room") -> dict[str, Any]:
    """The next event, without what is the same in all."""
    async with asyncio.timeout(30):
        event = await mailbox.get()
    assert event.pop("type") == "mpx.presence"
    assert event.pop("group") == group
    return event


def change(
    members: int,
    joined: dict[str, Any] | None = None,
    left: dict[str, str] | None = None,
) -> dict[str, Any]:
    return {"joined": joined or {}, "left": left or {}, "members": members}


async def members(layer: MpxChannelLayer, group: str = "room") -> dict[str, Any]:
    page = await layer.presence(group)
    assert page.next is None
    return dict(page.members)


@contextlib.asynccontextmanager
async def process(config: str, ids: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that holds members, as JSON has them; killed at the end."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MEMBER, config, ids,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert started.stdout is not None
        assert await started.stdout.readline() == b"ready\n"
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()
