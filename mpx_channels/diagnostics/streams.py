"""stdin and stdout without blocking the event loop: Ctrl-C and the connection do not wait."""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys
from collections.abc import Callable
from typing import TextIO

__all__ = ["on_reader_gone", "read_all", "write"]

# A pipe that is ready to be written takes so much without blocking (POSIX' PIPE_BUF is no more).
AT_ONCE = getattr(select, "PIPE_BUF", 512)


async def write(file: TextIO, text: str) -> None:
    """Write to a file, and flush, as fast as whoever reads it takes it."""
    fd = _descriptor(file)
    if fd is None:
        file.write(text)
        file.flush()
        return
    file.flush()
    data = memoryview(text.encode(file.encoding or "utf-8", "backslashreplace"))
    while data:
        if not select.select((), (fd,), (), 0)[1]:
            await _ready(fd, "writer")
        data = data[os.write(fd, data[:AT_ONCE]) :]


async def read_all(file: TextIO) -> str:
    """What a file has, to its end."""
    fd = _descriptor(file)
    if fd is None:
        return file.read()
    parts: list[bytes] = []
    while True:
        if not select.select((fd,), (), (), 0)[0]:
            await _ready(fd, "reader")
        part = os.read(fd, 65536)
        if not part:
            return b"".join(parts).decode(file.encoding or "utf-8")
        parts.append(part)


def on_reader_gone(file: TextIO, callback: Callable[[], object]) -> Callable[[], object]:
    """Have `callback` called when nobody reads the pipe `file` any more, such as ``| head``.

    Returns what ends that. Where it cannot be known, the next `write` finds out.
    """
    fd = _descriptor(file)
    if fd is None or sys.platform != "linux" or not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return lambda: None
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(fd)
        callback()

    # The end of a pipe that is written to is never readable; its error counts as that.
    loop.add_reader(fd, gone)
    return lambda: loop.remove_reader(fd)


async def _ready(fd: int, side: str) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add, remove = getattr(loop, f"add_{side}"), getattr(loop, f"remove_{side}")
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)


def _descriptor(file: TextIO) -> int | None:
    """The file's descriptor, if it is one that can be waited for."""
    if sys.platform == "win32":
        return None
    try:
        return file.fileno()
    except (AttributeError, OSError, ValueError):
        return None
