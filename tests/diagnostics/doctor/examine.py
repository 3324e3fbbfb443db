"""The doctor's checks in this process: faster than a command for each, and some at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from channels.layers import channel_layers
from django.test import override_settings

from mpx_channels.diagnostics.doctor import probe, roundtrips
from mpx_channels.diagnostics.doctor.command import CHECKS
from mpx_channels.diagnostics.doctor.examination import Examination, Row, ServerCheck
from mpx_channels.diagnostics.doctor.findings import Level
from mpx_channels.diagnostics.session import Session
from tests.conftest import PATIENCE

BY_ID = {check.id: check for check in CHECKS}


async def examine(
    config: dict[str, Any], *ids: str, before: Callable[[str], object] = lambda id: None
) -> list[Row]:
    """What these checks (all, if none is named) find, and those that they need.

    ``before`` is called with the id of each before it runs.
    """
    wanted = set(ids or BY_ID)
    for id in ids:
        wanted |= set(BY_ID[id].needs)
    layers = {"default": {"BACKEND": "mpx_channels.layer.MpxChannelLayer", "CONFIG": config}}
    rows: list[Row] = []
    with override_settings(CHANNEL_LAYERS=layers):
        session = Session("default")
        exam = Examination(session)
        try:
            for check in CHECKS:
                if check.id in wanted:
                    before(check.id)
                    servers = exam.servers if isinstance(check, ServerCheck) else []
                    for server in servers or [None]:
                        rows += await exam.run(check, server)
        finally:
            await exam.close()
            await session.close()
            channel_layers.backends.pop("default", None)
    return rows


async def examine_patiently(config: dict[str, Any], *ids: str) -> list[Row]:
    """The same on a machine that may be busy, where all is well otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (probe, roundtrips):
            patch.setattr(module, "PATIENCE", PATIENCE)
        return await examine(config, *ids)


def of(rows: list[Row], id: str) -> list[Row]:
    """What one check found."""
    return [row for row in rows if row.check.id == id]


def one(rows: list[Row], id: str) -> tuple[Level, str]:
    """The level and the text of a check's only finding."""
    (row,) = of(rows, id)
    return row.finding.level, row.finding.found


def worst(rows: list[Row], id: str) -> Level:
    """The worst that a check found."""
    order = [Level.OK, Level.INFO, Level.SKIPPED, Level.WARNING, Level.PROBLEM]
    return max((row.finding.level for row in of(rows, id)), key=order.index)


def complaints(rows: list[Row], *, but: str = "") -> list[dict[str, Any]]:
    """What it warns of, but for what is installed here, which is another thing in each corner, and
    for how long a round trip takes, which is as busy as this machine is.
    """
    bad = (Level.PROBLEM, Level.WARNING)
    return [
        row.as_json()
        for row in rows
        if row.finding.level in bad and row.check.id not in ("versions", "round-trip", but)
    ]
