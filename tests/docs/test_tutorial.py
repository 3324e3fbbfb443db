"""Who types the tutorial has what works after each chapter, and the example in the end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import free_port, missing

from .pages import DOCS, ROOT, blocks
from .programs import Program, WebSocket

TUTORIAL = DOCS / "tutorial.md"
DOWNLOAD = re.compile(r"\{download\}`[\w.]+ <([^>]+)>`")
# Files that the table of what the example has besides names.
BESIDES = re.compile(r"`(chat/[\w./]+)`")
CHAPTERS = ("Set up", "Settings", "Pages", "Talk", "Lose nothing")
# Of a block that replaces a part of a file: from its first line to its last one.
CHANGED = ", changed"
# What the tutorial has for its last chapter alone.
SERVER, SERVER_PORT = "server.py", "6399"


def chapter_at(line: int) -> str:
    """The chapter that a line of the page is in."""
    titles = [each[3:] for each in TUTORIAL.read_text().splitlines()[:line] if each[:3] == "## "]
    return titles[-1]


def typed(until: str = CHAPTERS[-1]) -> dict[str, str]:
    """
    The files as they are after a chapter. Blocks of one chapter with the same caption follow each
    other, and take the place of what earlier chapters had there.
    """
    files: dict[str, str] = {}
    chapters: dict[str, str] = {}
    for block in blocks(TUTORIAL):
        chapter = chapter_at(block.line)
        if block.caption is None or CHAPTERS.index(chapter) > CHAPTERS.index(until):
            continue
        name = block.caption.removesuffix(CHANGED)
        if name != block.caption:
            files[name] = changed(files[name], block.text)
        elif chapters.get(name) == chapter:
            files[name] += f"\n\n{block.text}"
        else:
            files[name], chapters[name] = block.text, chapter
    return files


def changed(text: str, part: str) -> str:
    """A file in which a part stands for what began and ended with the same lines."""
    lines, new = text.splitlines(), part.splitlines()
    begin = lines.index(new[0])
    end = lines.index(new[-1], begin)
    return "\n".join([*lines[:begin], *new, *lines[end + 1 :], ""])


def downloaded() -> dict[str, Path]:
    """The files that the tutorial has downloaded."""
    paths = [(DOCS / link).resolve() for link in DOWNLOAD.findall(TUTORIAL.read_text())]
    return {str(path.relative_to(ROOT)): path for path in paths}


def code(text: str) -> list[str]:
    """The lines that matter when pieces of a file are put together."""
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", sorted(typed().keys() - {SERVER}))
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
    assert typed().keys() | downloaded().keys() | besides == example | {"manage.py", SERVER}
    assert besides.isdisjoint(typed().keys() | downloaded().keys())


class Site:
    """The folder of somebody who has followed the tutorial until some chapter, and a server."""

    def __init__(self, folder: Path, chapter: str, redis_url: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.environment = {**os.environ, "REDIS_URL": redis_url}
        del self.environment["DJANGO_SETTINGS_MODULE"]
        (folders,) = (b.text for b in blocks(TUTORIAL) if b.text.startswith("mkdir "))
        subprocess.run(["sh", "-ec", folders], cwd=folder, check=True)
        for name, text in typed(chapter).items():
            (folder / name).write_text(text)
        if CHAPTERS.index(chapter) >= CHAPTERS.index("Pages"):
            for name, path in downloaded().items():
                shutil.copy(path, folder / name)

    def manage(self, *arguments: str) -> Program:
        command = [sys.executable, "manage.py", *arguments]
        return Program(*command, cwd=self.folder, env=self.environment)

    def serve(self) -> Program:
        if find_spec("daphne") is None:
            missing("Daphne is not installed")
        return self.manage("runserver", "--noreload", f"127.0.0.1:{self.port}")

    def enter(self, name: str) -> WebSocket:
        return WebSocket("127.0.0.1", self.port, f"/ws/chat/tea/?name={name}")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
            text: str = response.read().decode()
        return text


async def test_it_is_set_up(tmp_path: Path, redis_url: str) -> None:
    async with Site(tmp_path, "Set up", redis_url).manage("version") as version:
        assert re.fullmatch(r"\d+\.\d+.*", await version.line())
        await version.ends()


async def test_the_settings_are_fine(tmp_path: Path, redis_url: str) -> None:
    site = Site(tmp_path, "Settings", redis_url)
    async with site.manage("check", "--fail-level", "WARNING") as check:
        await check.ends()
    async with site.manage("mpx", "doctor") as doctor:
        await doctor.ends()
    async with site.serve() as server:
        await server.listens(site.port)
        assert "The install worked successfully" in await server.aside(site.get, "/")


async def test_the_pages_are_there(tmp_path: Path, redis_url: str) -> None:
    site = Site(tmp_path, "Pages", redis_url)
    async with site.serve() as server:
        await server.listens(site.port)
        assert "Pick a name and a room" in await server.aside(site.get, "/")
        assert 'data-room="tea"' in await server.aside(site.get, "/room/tea/")
        for name in downloaded():
            assert await server.aside(site.get, f"/static/chat/{Path(name).name}")


@pytest.mark.parametrize("chapter", ["Talk", "Lose nothing"])
async def test_two_people_talk(tmp_path: Path, redis_url: str, chapter: str) -> None:
    site = Site(tmp_path, chapter, redis_url)
    async with site.serve() as server:
        await server.listens(site.port)
        async with site.enter("Ann") as ann, site.enter("Ben") as ben:
            for client in (ann, ben):
                await client.send('{"enter": null}')
                await hears(client, type="entered")
            await ann.send('{"text": "Hello", "key": "key"}')
            for client in (ann, ben):
                await hears(client, type="message", **{"from": "Ann", "text": "Hello"})


async def test_nothing_is_lost_when_redis_is_restarted(tmp_path: Path) -> None:
    port = free_port()
    site = Site(tmp_path, "Lose nothing", f"redis://127.0.0.1:{port}")
    program = tmp_path / SERVER
    assert SERVER_PORT in program.read_text()
    program.write_text(program.read_text().replace(SERVER_PORT, str(port)))

    def redis() -> Program:
        return Program(sys.executable, program, cwd=tmp_path, env=site.environment)

    async with site.serve() as server, contextlib.AsyncExitStack() as window:
        async with redis() as first:
            await first.line()
            await server.listens(site.port)
            ann = await window.enter_async_context(site.enter("Ann"))
            await ann.send('{"enter": null}')
            await hears(ann, type="entered")
            await ann.send('{"text": "Before", "key": "1"}')
            await hears(ann, type="message", text="Before")
            await first.interrupt()
        await hears(ann, type="redis", away=True)
        await ann.send('{"text": "Meanwhile", "key": "2"}')
        async with redis() as second:
            await second.line()
            # As the page does, as long as it does not hear of it.
            while not (await receive(ann)).items() >= {"type": "sent", "key": "2"}.items():
                await ann.send('{"text": "Meanwhile", "key": "2"}')
            async with site.enter("Ben") as ben:
                await ben.send('{"enter": null}')
                history = await hears(ben, type="history")
                assert [each["text"] for each in history["messages"]] == ["Before", "Meanwhile"]


async def receive(client: WebSocket) -> dict[str, Any]:
    frame: dict[str, Any] = json.loads(await client.receive())
    return frame


async def hears(client: WebSocket, **parts: object) -> dict[str, Any]:
    """Among what comes is a frame with these parts."""
    while not parts.items() <= (frame := await receive(client)).items():
        pass
    return frame
