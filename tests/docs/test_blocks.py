"""Every block of Python in the pages runs, and prints what the page says it prints.

What the blocks of the how-to pages define is used by test_howto.py. Those of the tutorial are
files, and have tests of their own in test_tutorial.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import SESSIONS, Read
from .pages import blocks


@pytest.mark.parametrize("page", SESSIONS)
def test_blocks_run(page: str, read: Read) -> None:
    read(page)


def test_a_block_that_is_not_closed_or_not_found_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nprint(1)\n```\n\n```output\n1\n```\n\n"
        "<!-- not run: it would end the world -->\n\n```{code-block} python\n"
        ":caption: world.py\n\nend()\n```\n"
    )
    first, second = blocks(page)
    assert (first.text, first.line, first.output, first.not_run) == ("print(1)\n", 2, "1\n", None)
    assert (second.text, second.caption) == ("end()\n", "world.py")
    assert second.not_run == "it would end the world"

    page.write_text("```python\nprint(1)\n")
    with pytest.raises(AssertionError, match="not closed"):
        blocks(page)
