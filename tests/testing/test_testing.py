"""A small project's tests, run as its developers do: with no Redis, and warnings as errors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers
from django.conf import settings

from mpx_channels import embedded
from mpx_channels.layer import MpxChannelLayer
from mpx_channels.testing import ChannelLayersMixin, isolated_channel_layers
from tests.conftest import missing
from tests.docs.pages import blocks

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).with_name("project")
TIMEOUT = 120  # seconds
PYTEST_INI = """\
[pytest]
python_files = *_cases.py
python_classes = *Tests
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""
# From Python 3.12 on; Channels' live server does it.
FORK_WARNING = "This process (pid="

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs Python in the project; returns what it says."""
    shutil.copytree(PROJECT, tmp_path, dirs_exist_ok=True)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["mpx_channels.testing.plugin"]\n')
    (tmp_path / "pytest.ini").write_text(PYTEST_INI)
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def run(*arguments: str, **variables: str) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "settings",
            "TMPDIR": str(temporary),
            **variables,
        }
        for name in ("PYTEST_ADDOPTS", "PYTEST_VERSION", "PYTEST_CURRENT_TEST"):
            environment.pop(name, None)
        ran = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        if ran.returncode:
            pytest.fail(ran.stdout, pytrace=False)
        assert "Warning" not in ran.stdout
        assert "was destroyed" not in ran.stdout
        assert not list(temporary.glob("mpx-testing-*")), "a server's folder is left"
        return ran.stdout

    return run


def needs_daphne() -> None:
    if find_spec("daphne") is None:
        missing("Daphne is not installed")


def test_unittest_classes(run: Run) -> None:
    needs_daphne()
    said = run("-W", "error", "-m", "django", "test", "-p", "unittest_cases.py")
    assert "Ran 13 tests" in said


def test_unittest_classes_in_parallel(run: Run) -> None:
    needs_daphne()
    # Those of asyncio cannot be sent to a worker, says pickle.
    cases = [f"-k={name}" for name in ("PlainTests", "DjangoTests", "SimpleTests")]
    options = ["-W", "error", "-W", f"ignore:{FORK_WARNING}"]
    command = ["-m", "django", "test", "-p", "unittest_cases.py", "--parallel", "2"]
    assert "Ran 8 tests" in run(*options, *command, *cases)


def test_pytest(run: Run) -> None:
    needs_daphne()
    assert "9 passed" in run("-m", "pytest", "pytest_cases.py")


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_live_server_of_unittest(run: Run, start_method: str) -> None:
    needs_daphne()
    options = ["-W", "error", "-W", f"ignore:{FORK_WARNING}"]
    said = run(*options, "-m", "django", "test", "-p", "live_cases.py", START_METHOD=start_method)
    assert "Ran 3 tests" in said


def test_live_server_of_pytest(run: Run) -> None:
    needs_daphne()
    assert "3 passed" in run("-m", "pytest", "live_cases.py", START_METHOD="spawn")


def test_what_the_page_says(run: Run, tmp_path: Path) -> None:
    needs_daphne()
    (tmp_path / "mysite").mkdir()
    (tmp_path / "mysite" / "__init__.py").touch()
    (tmp_path / "mysite" / "asgi.py").write_text("from asgi import application\n")
    for block in blocks(ROOT / "docs" / "testing.md"):
        if block.caption is not None:
            (tmp_path / block.caption).write_text(block.text)
    assert "1 passed" in run("-m", "pytest", "mysite/test_rooms.py")
    said = run("-m", "django", "test", "-p", "tests*.py", "mysite")
    assert "Ran 2 tests" in said


def test_another_server(redis_url: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPX_TESTING_URL", redis_url)
    with isolated_channel_layers() as isolated:
        assert isolated["default"]["CONFIG"]["hosts"] == [redis_url]


def test_a_project_on_a_cluster(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mpx_channels.layer.MpxChannelLayer",
            "CONFIG": {
                "cluster": True,
                "hosts": ["redis://cluster-1.example.com"],
                "address_remap": lambda address: ("nowhere.invalid", 1),
            },
        }
    }
    with isolated_channel_layers() as isolated:
        layer = channel_layers["default"]
        layer.sync.group_send("room", {"type": "say"})
        assert layer.sync.group_size("room") == 0
    (host,) = isolated["default"]["CONFIG"]["hosts"]
    embedded.stop(host)
    assert embedded.wait_stopped(host)


def test_without_any_layer_the_default_is_ours(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {}
    with isolated_channel_layers():
        assert isinstance(channel_layers["default"], MpxChannelLayer)
    assert settings.CHANNEL_LAYERS == {}


@pytest.mark.parametrize("backend", ["nowhere.to.be.found", 1, None])
def test_a_backend_that_cannot_be_imported_is_channels_business(
    settings: Any, backend: Any
) -> None:
    settings.CHANNEL_LAYERS = layers = {"default": {"BACKEND": backend}}
    with isolated_channel_layers() as isolated:
        assert isolated == layers


def test_the_folder_of_the_server_is_made_once() -> None:
    with isolated_channel_layers() as first, isolated_channel_layers() as second:
        one, other = first["default"]["CONFIG"], second["default"]["CONFIG"]
        assert one["hosts"] == other["hosts"]
        assert one["hosts"][0].startswith(f"embedded://{tempfile.gettempdir()}")
        assert one["prefix"] != other["prefix"]
        assert second == settings.CHANNEL_LAYERS
    assert settings.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"] != one["hosts"]


def test_the_mixin_comes_first() -> None:
    with pytest.raises(TypeError, match="must name ChannelLayersMixin before"):
        type("Wrong", (unittest.TestCase, ChannelLayersMixin), {})
