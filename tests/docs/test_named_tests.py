"""What the pages that say what shows it name is there."""

from __future__ import annotations

import re

import pytest

from tests.faults.cases import CASES

from .pages import DOCS, ROOT

PAGES = ("specification.md", "guarantees.md")
TEXT = "\n".join((DOCS / page).read_text() for page in PAGES)
NAMED = re.findall(r"`([\w/]*test_\w+\.py)::(test_\w+)`", TEXT)
HEADS = ("|---", "| The specification |", "| Event |")


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_the_test_exists(file: str, test: str) -> None:
    source = (ROOT / "tests" / file).read_text()
    assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE)


def cases(row: str) -> list[str]:
    """The cases of the campaign of faults that a row names."""
    _, found, names = row.rpartition(" case")
    return re.findall(r"`(\w+)`", names) if found else []


def test_every_row_names_a_test_or_a_case() -> None:
    rows = [row for row in TEXT.splitlines() if row.startswith("|") and not row.startswith(HEADS)]
    assert len(rows) > 60
    assert [row for row in rows if "::test_" not in row and not cases(row)] == []


def test_the_cases_exist() -> None:
    named = {case for row in TEXT.splitlines() if row.startswith("|") for case in cases(row)}
    assert named - set(CASES) == set()
    assert {"burst", "frozen", "process_killed", "scripts_flushed"} <= named
