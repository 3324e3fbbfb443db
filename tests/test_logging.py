"""One tree of loggers; what can repeat is limited; the page has every message."""

from __future__ import annotations

import ast
import logging
import logging.config
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .docs.pages import DOCS, ROOT, blocks

PACKAGE = ROOT / "mpx_channels"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
RECEIVER = re.compile(r"(self\.)?(_?context\.)?_?(log|logger)")
ROW = re.compile(r"^\| `(\w+)` \| ([A-Z]+) \| `(.+?)` \| (.+) \|$", re.MULTILINE)


def calls() -> Iterator[tuple[Path, ast.Call]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield path, node


def logged() -> Iterator[tuple[str, str, str, bool]]:
    """Every message: the logger's last name, the level, the text, and whether it is limited."""
    for path, call in calls():
        assert isinstance(call.func, ast.Attribute)
        receiver = ast.unparse(call.func.value)
        if call.func.attr in LEVELS and RECEIVER.fullmatch(receiver):
            if path.name == "logs.py":
                continue
            limited = not receiver.endswith("logger")
            text = call.args[1 if limited else 0]
            assert isinstance(text, ast.Constant), ast.unparse(call)
            yield name_of(path), call.func.attr.upper(), text.value, limited


def name_of(path: Path) -> str:
    """The logger of a file: the floor it is on. Users know channels as a part of the layer."""
    floor = path.relative_to(PACKAGE).with_suffix("").parts[0]
    return "layer" if floor == "channels" else floor


def test_loggers_are_named_by_their_floor() -> None:
    found = [
        (path, ast.literal_eval(node.value.args[0]))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "logging.getLogger"
        # The diagnostics log nothing: they look at the whole tree.
        and "diagnostics" not in path.parts
    ]
    assert len(found) > 5
    assert [each for each in found if each[1] != f"mpx_channels.{name_of(each[0])}"] == []


def test_what_can_repeat_is_limited() -> None:
    unlimited = [text for _, _, text, limited in logged() if not limited]
    # It has a pace of its own.
    assert unlimited == ["Cannot connect to %s (%s) after %d attempts, trying again: %s"]


def test_the_page_has_every_message() -> None:
    there = [(logger, level, text) for logger, level, text, _ in logged()]
    assert len(there) > 15
    rows = [row[:3] for row in ROW.findall((DOCS / "logging.md").read_text())]
    assert sorted(rows) == sorted(set(there))


def test_the_page_has_every_logger() -> None:
    rows = re.findall(r"^\| `(mpx_channels\.\w+)` \|", (DOCS / "logging.md").read_text(), re.M)
    assert sorted(rows) == sorted({f"mpx_channels.{logger}" for logger, *_ in logged()})


@pytest.fixture
def loggers_as_they_were() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("mpx_channels")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


@pytest.mark.usefixtures("loggers_as_they_were")
def test_the_setting_on_the_page_works(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in blocks(DOCS / "logging.md") if block.language == "python"]
    namespace: dict[str, Any] = {}
    exec(block.text, namespace)
    logging.config.dictConfig(namespace["LOGGING"])
    logging.getLogger("mpx_channels.layer").info("something %s", "happened")
    logging.getLogger("others").info("nobody listens")
    said = capsys.readouterr().err
    assert re.fullmatch(r"\S+ \S+ INFO mpx_channels\.layer: something happened\n", said)
