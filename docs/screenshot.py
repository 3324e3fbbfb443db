"""Pictures of a terminal for these pages: what a command shows, as SVG.

    python docs/screenshot.py --title "mpx top" --keys q --seconds 70 docs/_static/mpx-top.svg \\
        python manage.py mpx top

Runs the command on a pseudo-terminal, waits, takes the picture, and presses the keys.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pty
import re
import select
import time
from pathlib import Path
from typing import Any

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLORS = {"brown": "yellow", "default": None}  # pyte's words, and Rich's


def run(command: list[str], columns: int, rows: int, seconds: float, keys: str) -> pyte.Screen:
    """What the screen shows after so many seconds, or at the command's end."""
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    pid, terminal = pty.fork()
    if not pid:
        size = {"COLUMNS": str(columns), "LINES": str(rows), "TERM": "xterm-256color"}
        os.execvpe(command[0], command, os.environ | size)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            try:
                stream.feed(os.read(terminal, 65536))
            except OSError:  # its end
                break
    else:
        os.write(terminal, keys.encode())
    os.waitpid(pid, 0)
    return screen


def as_text(screen: pyte.Screen) -> Text:
    """The screen's characters with their styles, without the empty lines at its end."""
    text = Text()
    for number in range(screen.lines):
        row = [screen.buffer[number][column] for column in range(screen.columns)]
        for (color, bold, reverse), cells in itertools.groupby(row, look):
            text.append(
                "".join(cell.data for cell in cells), Style(color=color, bold=bold, reverse=reverse)
            )
        text.append("\n")
    text.rstrip()
    return text


def look(cell: Any) -> tuple[str | None, bool, bool]:
    """A cell's colour as Rich has it, and whether it is bold or reversed."""
    color = COLORS.get(cell.fg, cell.fg)
    if color and re.fullmatch("[0-9a-f]{6}", color):
        color = f"#{color}"
    return color, cell.bold, cell.reverse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=30, help="when to take it, at the latest")
    parser.add_argument("--keys", default="\x03", help="what ends the command (Ctrl-C)")
    parser.add_argument("--title", default="")
    parser.add_argument("picture", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    screen = run(options.command, options.columns, options.rows, options.seconds, options.keys)
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=options.columns, file=nowhere)
        console.print(as_text(screen), soft_wrap=True)
        svg = console.export_svg(title=options.title, theme=MONOKAI)
    # Rich has the font fetched from elsewhere: whoever reads has one that will do.
    options.picture.write_text(re.sub(r"@font-face {.*?}\s*", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main()
