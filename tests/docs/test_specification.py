"""What the page about the specification names is there."""

from __future__ import annotations

import re

import pytest

from .pages import DOCS, ROOT

NAMED = re.findall(r"`([\w/]+/test_\w+\.py)::(test_\w+)`", (DOCS / "specification.md").read_text())


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_the_test_exists(file: str, test: str) -> None:
    source = (ROOT / "tests" / file).read_text()
    assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE)


def test_every_row_names_a_test() -> None:
    rows = [
        line
        for line in (DOCS / "specification.md").read_text().splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| The specification |"))
    ]
    assert rows
    assert [row for row in rows if "::test_" not in row] == []
