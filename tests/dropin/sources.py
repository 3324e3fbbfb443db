"""Other people's tests, fetched when they are to run: none of them is in this repository."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.conftest import missing

__all__ = ["channels_redis_tests", "channels_tests"]

# pip's own patience is for people.
TIMEOUT = 120  # seconds


def channels_redis_tests(cache: Path, version: str) -> Path:
    """The folder of channels_redis' tests, from its sdist."""
    return _fetched(
        cache / f"channels_redis-{version}",
        ["--no-deps", "--no-binary", ":all:", f"channels_redis=={version}"],
    )


def channels_tests(cache: Path, version: str) -> Path:
    """The folder of Channels' tests, from GitHub: its sdist leaves them out.

    A network that has a package index may still have no GitHub, so this is for GitHub's own CI, and
    for whoever says ``MPX_CHANNELS_TESTS=1``, or has a checkout: ``MPX_CHANNELS_TESTS=~/channels``.
    """
    wanted = os.environ.get("MPX_CHANNELS_TESTS", "")
    checkout = Path(wanted).expanduser() / "tests"
    if wanted and checkout.is_dir():
        return checkout
    if not (os.environ.get("GITHUB_ACTIONS") or wanted):
        pytest.skip("Channels' own tests come from GitHub: MPX_CHANNELS_TESTS=1 fetches them")
    archive = f"https://github.com/django/channels/archive/refs/tags/{version}.tar.gz"
    return _fetched(
        cache / f"channels-{version}",
        ["--no-deps", "--retries", "0", "--timeout", "10", f"channels @ {archive}"],
    )


def _fetched(place: Path, what: list[str]) -> Path:
    if not place.is_dir():
        try:
            _download(place, what)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            missing(f"could not fetch {place.name}: {said.strip().splitlines()[-1]}")
    return place


def _download(place: Path, what: list[str]) -> None:
    """Leave the tests in `place`; pip knows the index, the proxy and the certificates here."""
    aside = place.with_name(f"{place.name}-{os.getpid()}")
    try:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--dest", aside, *what],
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        (archive,) = (path for path in aside.iterdir() if path.suffix in (".gz", ".zip"))
        with tarfile.open(archive) as tar:
            tar.extractall(aside, filter="data")
        (tests,) = aside.glob("*/tests")
        with contextlib.suppress(FileExistsError):  # another process of pytest-xdist was first
            tests.rename(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
