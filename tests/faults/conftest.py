"""The campaign begins before all other tests."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """It waits more than it works. And pytest-xdist's workers take tests from each other's end:
    so one process has all of its cases, and does not play them a second time."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/faults/test_faults.py"))
