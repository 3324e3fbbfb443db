"""Channels' own tests of its generic consumers, with ours for theirs.

Its tests of layers look into InMemoryChannelLayer, or are about the classes and functions that ours
inherits and shares.
"""

from __future__ import annotations

from pathlib import Path

import channels
import pytest

from .conftest import RunFile
from .sources import channels_tests

KNOWN: dict[str, dict[str, str]] = {
    "test_generic_websocket.py": {},
    "test_generic_http.py": {},
}


@pytest.mark.parametrize("file", KNOWN)
def test_theirs_pass(file: str, cache: Path, run_file: RunFile) -> None:
    run_file(channels_tests(cache, channels.__version__) / file, KNOWN[file])
