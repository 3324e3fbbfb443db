"""What docs/design.md says of files is so."""

from __future__ import annotations

import re

from .pages import DOCS, ROOT, blocks

PAGE = DOCS / "design.md"
PACKAGE = ROOT / "mpx_channels"
# The floors whose files the figure names.
FLOORS = ("layer", "history", "channels", "messages", "loops", "multiplexer")


def test_every_file_of_these_floors_is_in_the_figure() -> None:
    figure = blocks(PAGE)[0].text
    words = set(re.findall(r"\w+", figure))
    files = {file.stem for floor in FLOORS for file in (PACKAGE / floor).rglob("*.py")}
    assert files - words == {"__init__"}


def test_every_room_is_in_the_figure() -> None:
    words = set(re.findall(r"\w+", blocks(PAGE)[0].text))
    rooms = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    rooms |= {file.parent.name for file in PACKAGE.glob("layer/*/__init__.py")}
    assert rooms <= words


def test_every_file_that_is_named_is_there() -> None:
    there = [str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py")]
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE.read_text()))
    assert named
    assert [
        name for name in named if not any(f"/{each}".endswith(f"/{name}") for each in there)
    ] == []
