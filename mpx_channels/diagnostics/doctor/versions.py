"""Check of the versions of what the layer stands on."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version

import mpx_channels
from mpx_channels.multiplexer.wire import HAS_HIREDIS

from .examination import Check, Examination, ProjectCheck
from .findings import Finding, ok, problem, warning

__all__ = ["CHECKS", "SUPPORTED"]

# As pyproject.toml has it: from the first on, up to but without the second.
SUPPORTED: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "django": ((5, 2), None),
    "channels": ((4, 2), None),
    "redis": ((5, 2), (9,)),
    "msgspec": ((0, 19), None),
    "rich": ((13, 9), None),
}


async def check_versions(exam: Examination) -> list[Finding]:
    """Python and the packages."""
    findings = []
    names = [f"mpx_channels {mpx_channels.__version__}", f"Python {platform.python_version()}"]
    for package, (lowest, too_high) in SUPPORTED.items():
        there = installed(package)
        if there is None:
            findings.append(problem(f"{package} is not installed", todo=f"pip install {package}"))
            continue
        names.append(f"{package} {there}")
        if wrong := out_of_range(there, lowest, too_high):
            findings.append(
                warning(
                    f"{package} {there} is {wrong}",
                    "mpx_channels is not tested with it.",
                    f"pip install '{package}{requirement(lowest, too_high)}'",
                )
            )
    if HAS_HIREDIS:
        names.append(f"hiredis {installed('hiredis') or ''}".strip())
    else:
        findings.append(
            warning(
                "hiredis is not installed, or cannot be imported",
                "Messages from Redis are then read in Python, some twenty times as slowly.",
                "pip install 'redis[hiredis]'",
            )
        )
    return [ok(", ".join(names)), *findings]


def installed(package: str) -> str | None:
    """The version that is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def requirement(lowest: tuple[int, ...], too_high: tuple[int, ...] | None) -> str:
    """A range as pip has it."""
    text = ">=" + ".".join(map(str, lowest))
    return text if too_high is None else f"{text},<{'.'.join(map(str, too_high))}"


def out_of_range(there: str, lowest: tuple[int, ...], too_high: tuple[int, ...] | None) -> str:
    numbers = tuple(int(number) for number in re.findall(r"\d+", there))
    if numbers < lowest:
        return f"too old: {requirement(lowest, too_high)} is supported"
    if too_high is not None and numbers >= too_high:
        return f"too new: {requirement(lowest, too_high)} is supported"
    return ""


CHECKS: tuple[Check, ...] = (
    ProjectCheck(
        "versions",
        "Versions",
        "Other versions than the tested ones may behave in other ways.",
        run=check_versions,
    ),
)
