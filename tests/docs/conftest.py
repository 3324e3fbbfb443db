"""A page's session: its blocks of Python, run one after the other, as if they had been pasted."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis
from channels.layers import get_channel_layer
from django.utils.module_loading import import_string

from mpx_channels import embedded
from mpx_channels.layer import MpxChannelLayer
from mpx_channels.layer.config import LayerConfig
from tests.conftest import PATIENCE

from .pages import PAGES, Block, blocks

# What readers have, and the tests replace by what they have.
READERS_URL = "redis://localhost:6379"

# By the name of the page, as far as it has any.
SESSIONS = {
    page.name: session
    for page in PAGES
    if (session := [b for b in blocks(page) if b.language == "python" and b.caption is None])
}

# Reads a page: what its blocks have defined.
Read = Callable[[str], dict[str, Any]]


@pytest.fixture
def read(
    redis_url: str,
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Read]:
    """Runs a page, and fails if it prints anything but what it says that it prints."""
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mpx_channels.layer.MpxChannelLayer",
            "CONFIG": {"hosts": [redis_url]},
        }
    }
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()  # such as who was present in another page's rooms, and lingers
    monkeypatch.chdir(tmp_path)  # a page may make files
    monkeypatch.delenv("MPX_EMBEDDED_DIR", raising=False)

    def read(page: str) -> dict[str, Any]:
        namespace: dict[str, Any] = {"__name__": "__main__"}
        for block in SESSIONS[page]:
            if block.not_run is None:
                run(block, namespace, redis_url)
                printed = capsys.readouterr().out
                assert printed == (block.output or ""), f"{block.page}, line {block.line}"
        return namespace

    yield read
    asyncio.run(get_channel_layer().close())  # also what layer.sync sends over
    if (tmp_path / ".embedded").exists():
        embedded.stop()
        assert embedded.wait_stopped(timeout=10)


def run(block: Block, namespace: dict[str, Any], redis_url: str) -> None:
    # Empty lines before it: errors then show the page's line.
    source = "\n" * (block.line - 1) + block.text.replace(READERS_URL, redis_url)
    for setting in ("CHANNEL_LAYERS", "INSTALLED_APPS"):
        namespace.pop(setting, None)
    with patience(f"{block.page}, line {block.line}"):
        exec(compile(source, block.page, "exec"), namespace)
    for entry in namespace.get("CHANNEL_LAYERS", {}).values():
        check_layer(entry)
    for app in namespace.get("INSTALLED_APPS", []):
        assert find_spec(app), app


@contextlib.contextmanager
def patience(where: str) -> Iterator[None]:
    """A page's program that waits for what does not come must not wait for ever."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"{where}: still running after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check_layer(entry: dict[str, Any]) -> None:
    assert set(entry) <= {"BACKEND", "CONFIG"}
    if entry["BACKEND"].startswith("mpx_channels."):
        assert issubclass(import_string(entry["BACKEND"]), MpxChannelLayer)
        config = LayerConfig.parse(entry.get("CONFIG", {}))
        for host in config.parsed_hosts:
            if embedded.is_embedded(host.url):
                embedded.check(host.url)
