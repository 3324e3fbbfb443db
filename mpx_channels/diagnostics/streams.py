"""stdin and stdout without blocking the event loop: Ctrl-C and the connection do not wait."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import stat
import sys
import threading
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
    loop = asyncio.get_running_loop()
    reading: asyncio.Future[bytes] = loop.create_future()

    def end(data: bytes, error: OSError | None) -> None:
        if reading.done():
            return
        if error is not None:
            reading.set_exception(error)
        else:
            reading.set_result(data)

    def read() -> None:
        parts: list[bytes] = []
        error = None
        try:
            while part := os.read(fd, 65536):
                parts.append(part)
        except OSError as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # nobody waits: the loop was closed
            loop.call_soon_threadsafe(end, b"".join(parts), error)

    # To see whether there is something to read is not enough: at Ctrl-C a terminal throws away
    # what was typed. The thread ends with the process; what it reads from has no lock of Python's.
    threading.Thread(target=read, name="mpx-stdin", daemon=True).start()
    return (await reading).decode(file.encoding or "utf-8")


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
