"""What tests run over."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .over import CLASSIC, CLUSTER, SENTINEL, SINGLE, parse_over

ROOT = Path(__file__).parents[1]


def collected(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "--co", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def over(printed: str, name: str) -> Counter[str]:
    """How often a test runs over what."""
    tests = [line.partition(f"::{name}")[2] for line in printed.splitlines() if f"::{name}" in line]
    return Counter(test.strip("[]").partition("-")[0] or SINGLE for test in tests)


@pytest.mark.alike
@pytest.mark.parametrize(
    ("asked", "marked", "classic", "unmarked", "own_server"),
    [
        ([], [SINGLE, SENTINEL, CLUSTER], [SINGLE, SENTINEL, CLASSIC], [SINGLE], [SINGLE]),
        (["--over=cluster"], [CLUSTER], [CLASSIC], [CLUSTER], []),
    ],
    ids=str,
)  # fmt: skip
def test_over(
    asked: list[str],
    marked: list[str],
    classic: list[str],
    unmarked: list[str],
    own_server: list[str],
) -> None:
    files = [f"tests/layer/groups/test_{each}.py" for each in ("exclude", "wildcards")]
    returned, printed = collected(*asked, *files)
    assert returned == 0
    assert over(printed, "test_many_messages_at_once") == Counter(marked)
    assert over(printed, "test_once_however_often_it_matches") == Counter(classic)
    assert over(printed, "test_many_is_any_iterable") == Counter(unmarked)
    assert over(printed, "test_many_leave_in_one_write") == Counter(own_server)


def test_what_there_is_not() -> None:
    with pytest.raises(pytest.UsageError, match="no 'nowhere', but single, sentinel, cluster"):
        parse_over("single,nowhere")
