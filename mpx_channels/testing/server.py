"""The server or cluster of a test run: embedded in a folder of its own, or one that is told."""

from __future__ import annotations

import os
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path
from urllib.parse import quote

from mpx_channels import embedded
from mpx_channels.embedded_places import place_of

__all__ = ["URL_VARIABLE", "server_url"]

URL_VARIABLE = "MPX_TESTING_URL"

# Only what this process, or one that it is a fork of, has made; by scheme.
_urls: dict[str, str] = {}


def server_url(*, cluster: bool = False) -> str:
    """The URL for ``hosts``: that of ``MPX_TESTING_URL``, or of a server for this process.

    The embedded server, or cluster, starts when a layer is first used, and ends with the last
    process that uses it.
    """
    if told := os.environ.get(URL_VARIABLE):
        return told
    scheme = "embedded+cluster" if cluster else "embedded"
    if scheme not in _urls:
        folder = Path(tempfile.mkdtemp(prefix="mpx-testing-"))
        _urls[scheme] = url = f"{scheme}://{quote(str(folder))}"
        # Not atexit, which the workers of Django's parallel test runner do without. It runs in
        # the process that made it only, not in forks.
        Finalize(None, _remove, (url, folder), exitpriority=0)
    return _urls[scheme]


def _remove(url: str, folder: Path) -> None:
    embedded.stop(url)
    # The server's log is in there: wait for its last line. Without a server there is none.
    if (place_of(url, None).folder / "users.lock").exists():
        embedded.wait_stopped(url)
    shutil.rmtree(folder, ignore_errors=True)
