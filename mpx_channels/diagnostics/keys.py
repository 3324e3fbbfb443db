"""The keyboard of a terminal: keys as they are pressed, and the terminal as it was, afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import termios
import tty
from collections.abc import Callable
from typing import Any, Self

__all__ = ["END_OF_INPUT", "KeyReader", "Keyboard"]

END_OF_INPUT = "end of input"

ESCAPE = "\x1b"
# What terminals send, behind ESC [ or ESC O.
SEQUENCES = {
    "A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end",
    "1~": "home", "4~": "end", "5~": "page up", "6~": "page down", "7~": "home", "8~": "end",
}  # fmt: skip


class KeyReader:
    """Makes keys of what a terminal sends: characters, and names such as "page up"."""

    def __init__(self) -> None:
        self._pending = ""

    def feed(self, text: str) -> list[str]:
        """The keys in it; the beginning of a sequence waits for its rest."""
        keys = []
        for char in text:
            pending, self._pending = self._pending, ""
            if char == ESCAPE:
                self._pending = char
            elif not pending:
                keys.append(char)
            elif pending == ESCAPE:
                if char in "[O":
                    self._pending = pending + char
                else:
                    keys.append(char)  # Alt and a key, or Esc before it
            elif "@" <= char <= "~":
                name = SEQUENCES.get(pending[2:] + char)
                if name is not None:
                    keys.append(name)
            else:
                self._pending = pending + char
        return keys


class Keyboard:
    """Keys of the terminal `fd` go to `on_keys` at once, within ``with``.

    Ctrl-C and Ctrl-Z do what they always do. At the end the terminal is as it was, whatever
    happened. `on_keys` gets `END_OF_INPUT` when the terminal is gone.
    """

    def __init__(self, fd: int, on_keys: Callable[[list[str]], object]) -> None:
        self._fd = fd
        self._on_keys = on_keys
        self._reader = KeyReader()
        self._before: list[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        # At Ctrl-C and Ctrl-Z a terminal throws away what was typed: a read must not wait then.
        mode = termios.tcgetattr(self._fd)
        mode[6][termios.VMIN] = 0
        termios.tcsetattr(self._fd, termios.TCSANOW, mode)
        self._loop.add_reader(self._fd, self._read)
        return self

    def __exit__(self, *exc_info: object) -> None:
        before, self._before = self._before, None
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
        if before is not None:
            with contextlib.suppress(termios.error):  # the terminal may be gone
                # What was typed and not read is not for the shell.
                termios.tcsetattr(self._fd, termios.TCSAFLUSH, before)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        else:
            if not data and not select.select((self._fd,), (), (), 0)[0]:
                return  # thrown away; the end of input stays readable
        if not data and self._loop is not None:
            self._loop.remove_reader(self._fd)
        self._on_keys(self._reader.feed(data.decode(errors="replace")) if data else [END_OF_INPUT])
