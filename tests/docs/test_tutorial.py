"""Who types the tutorial gets the example project, and it works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import free_port, missing

from .pages import DOCS, ROOT, blocks
from .programs import Program, WebSocket

TUTORIAL = DOCS / "tutorial.md"
DOWNLOAD = re.compile(r"\{download\}`[\w.]+ <([^>]+)>`")
# Files that the table of what the example has besides names.
BESIDES = re.compile(r"`(chat/[\w./]+)`")


def typed() -> dict[str, str]:
    """The files that the tutorial has typed: blocks with the same caption follow each other."""
    pieces = defaultdict(list)
    for block in blocks(TUTORIAL):
        if block.caption is not None:
            pieces[block.caption].append(block.text)
    return {name: "\n\n".join(texts) for name, texts in pieces.items()}


def downloaded() -> dict[str, Path]:
    """The files that the tutorial has downloaded."""
    paths = [(DOCS / link).resolve() for link in DOWNLOAD.findall(TUTORIAL.read_text())]
    return {str(path.relative_to(ROOT)): path for path in paths}


def code(text: str) -> list[str]:
    """The lines that matter when pieces of a file are put together."""
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", typed())
def test_what_is_typed_is_in_the_example(name: str) -> None:
    # The example goes on where the tutorial ends: its files may have lines between those.
    there = iter(code((ROOT / name).read_text()))
    assert [line for line in code(typed()[name]) if line not in there] == []


def test_nothing_of_the_example_is_left_unsaid() -> None:
    example = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "example_project").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != "__init__.py"
    }
    besides = {f"example_project/{name}" for name in BESIDES.findall(TUTORIAL.read_text())}
    assert typed().keys() | downloaded().keys() | besides == example | {"manage.py"}
    assert besides.isdisjoint(typed().keys() | downloaded().keys())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of somebody who has followed the tutorial."""
    (folders,) = (b.text for b in blocks(TUTORIAL) if b.text.startswith("mkdir "))
    subprocess.run(["sh", "-ec", folders], cwd=tmp_path, check=True)
    for name, text in typed().items():
        (tmp_path / name).write_text(text)
    for name, path in downloaded().items():
        shutil.copy(path, tmp_path / name)
    return tmp_path


async def test_two_people_talk(project: Path, redis_url: str) -> None:
    if find_spec("daphne") is None:
        missing("Daphne is not installed")
    environment = {**os.environ, "REDIS_URL": redis_url}
    del environment["DJANGO_SETTINGS_MODULE"]
    port = free_port()
    manage = [sys.executable, "manage.py"]
    async with Program(
        *manage, "check", "--fail-level", "WARNING", cwd=project, env=environment
    ) as check:
        await check.ends()
    async with Program(
        *manage, "runserver", "--noreload", f"127.0.0.1:{port}", cwd=project, env=environment
    ) as server:
        await server.listens(port)
        async with (
            WebSocket("127.0.0.1", port, "/ws/chat/tea/?name=Ann") as ann,
            WebSocket("127.0.0.1", port, "/ws/chat/tea/?name=Ben") as ben,
        ):
            for client in (ann, ben):
                await client.send('{"enter": null}')
                await hears(client, type="entered")
            await ann.send('{"text": "Hello", "key": "key"}')
            for client in (ann, ben):
                await hears(client, type="message", **{"from": "Ann", "text": "Hello"})

        for page in ("/", "/room/tea/", *(f"/static/chat/{Path(f).name}" for f in downloaded())):
            status = await server.aside(fetch, f"http://127.0.0.1:{port}{page}")
            assert status == 200, page


async def hears(client: WebSocket, **parts: str) -> None:
    """Among what comes is a frame with these parts."""
    while not parts.items() <= json.loads(await client.receive()).items():
        pass


def fetch(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as response:
        status: int = response.status
        return status
