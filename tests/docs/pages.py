"""The pages of the documentation, and the code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts),
]

FENCE = re.compile(r"^```(?:\{code-block\} *)?([\w+-]+)$")
OPTION = re.compile(r"^:(\w+): *(.*)$")
NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")


@dataclass
class Block:
    """A fenced block of code: from ```` ```python ```` or ```` ```{code-block} python ````."""

    page: Path
    language: str
    # Of its first line in the page, from 1.
    line: int = 0
    lines: list[str] = field(default_factory=list)
    caption: str | None = None
    # The reason in `<!-- not run: reason -->` on the line before, for what cannot be run.
    not_run: str | None = None
    # What it prints, by the ```output block that follows.
    output: str | None = None

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def blocks(page: Path) -> list[Block]:
    """The page's blocks of code, without those that only show what another one prints."""
    found: list[Block] = []
    block: Block | None = None
    not_run = None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if block is None:
            if fence := FENCE.match(line):
                block = Block(page, fence[1], not_run=not_run)
            if line:
                reason = NOT_RUN.match(line)
                not_run = reason and reason[1]
        elif line == "```":
            if block.language == "output":
                found[-1].output = block.text
            else:
                found.append(block)
            block = None
        elif not block.lines and (option := OPTION.match(line)):
            if option[1] == "caption":
                block.caption = option[2]
        elif line or block.lines:
            block.line = block.line or number
            block.lines.append(line)
    assert block is None, f"{page}: a block is not closed"
    return found
