"""Runs other people's tests in a process of their own, where ours stands for theirs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# Their tests sleep for some twenty seconds; one that hangs must not hang ours.
TIMEOUT = 300  # seconds

INI = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

RunFile = Callable[..., None]


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where the tests stay from one run to the next; git ignores it."""
    folder = ROOT / ".embedded" / "dropin"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def run_file(tmp_path: Path, redis_url: str) -> RunFile:
    """Runs a file of tests; all have to pass but those known not to."""

    def run(file: Path, known: Mapping[str, str], *options: str, **told: Any) -> None:
        shutil.copy(file, tmp_path)
        (tmp_path / "pytest.ini").write_text(INI)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MPX_DROPIN": json.dumps({"redis_url": redis_url, "known": known, **told}),
            "DJANGO_SETTINGS_MODULE": "tests.dropin.settings",
        }
        environment.pop("PYTEST_ADDOPTS", None)
        command = ["-m", "pytest", "-q", "-p", "tests.dropin.substitutes"]
        ran = subprocess.run(
            [sys.executable, *command, *options, file.name],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        if ran.returncode:
            pytest.fail(f"{file.name}:\n{ran.stdout}\n{ran.stderr}", pytrace=False)

    return run
