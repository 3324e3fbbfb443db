"""Checks of the encryption keys, and whether all processes have the same."""

from __future__ import annotations

from collections.abc import Iterable

from mpx_channels.layer import ProcessStats
from mpx_channels.layer.config import LayerConfig

from .examination import Check, Examination, ProjectCheck
from .findings import Finding, info, ok, problem, warning
from .roundtrips import CONNECTED
from .versions import installed

__all__ = ["CHECKS"]

# Bytes: a shorter passphrase may be guessed by who has recorded a message.
SHORT = 16
# How Django's startproject begins the SECRET_KEY that it makes, as it stands in repositories.
INSECURE = b"django-insecure-"


async def check_keys(exam: Examination) -> list[Finding]:
    """The keys as such, and one message sealed and opened."""
    config = exam.config
    assert config is not None
    if not config.symmetric_encryption_keys:
        return [
            info(
                "no symmetric_encryption_keys: messages are not encrypted",
                "Whoever can read the server's memory or its connections can read the messages.",
                "If that matters, set symmetric_encryption_keys in CONFIG, in all processes.",
            )
        ]
    wrapping = config.wrapping()
    if wrapping.decode(wrapping.unwrap("doctor", wrapping.wrap("doctor", {"a": 1}))[1]) != {"a": 1}:
        return [problem("a message that was sealed could not be opened again")]
    keys = list(_as_bytes(config))
    findings = [
        ok(
            f"{len(keys)} key{'s' * (len(keys) > 1)}, cryptography {installed('cryptography')}; a "
            "message was sealed and opened"
        )
    ]
    for number, key in enumerate(keys):
        weak = (
            f"has {len(key)} bytes"
            if len(key) < SHORT
            else "is a SECRET_KEY of startproject (django-insecure-...)"
            if key.startswith(INSECURE)
            else ""
        )
        if weak:
            findings.append(
                warning(
                    f"symmetric_encryption_keys[{number}] {weak}",
                    "Keys can be guessed at full speed: whoever has one message can try all likely "
                    "keys on it.",
                    "Take 32 random bytes: python -c 'import secrets; "
                    "print(secrets.token_urlsafe(32))'. Add it at the end first, in all processes, "
                    "then move it to the front, then remove the old one.",
                )
            )
    return findings


def _as_bytes(config: LayerConfig) -> Iterable[bytes]:
    for key in config.symmetric_encryption_keys or ():
        yield key.encode() if isinstance(key, str) else key


async def check_processes(exam: Examination) -> list[Finding]:
    """The processes: all answer, have read all that came, and hear what they want to hear."""
    layer = exam.session.layer
    stats = await layer.fleet_stats()
    others = [each for each in stats.processes if each.process_id != layer.process_id]
    findings = []
    silent = [each for each in others if each.silent]
    if silent:
        findings.append(
            warning(
                f"{_number(silent)} did not answer: {_listed(silent)}",
                "A process that hangs delivers nothing; one with other encryption keys or another "
                "serializer_format cannot read our question, nor any message.",
                "Look at its log and its processor; compare its CONFIG with this one. If it is "
                "stuck, restart it.",
            )
        )
    unread = [each for each in stats.processes if _unreadable(each)]
    if unread:
        counts = ", ".join(
            f"{_where(each)} ({_unreadable(each):,})"
            if each in others
            else f"this one ({_unreadable(each):,})"
            for each in unread
        )
        findings.append(
            warning(
                f"{_number(unread)} dropped messages that could not be read: {counts}",
                "Somebody of this prefix sends with other encryption keys, none, another "
                "serializer_format, or a clock that is wrong.",
                "Give all processes the same symmetric_encryption_keys and serializer_format, and "
                "restart those that have older ones. The counts end with the processes.",
            )
        )
    refused = [each for each in stats.processes if each.names_refused]
    if refused:
        counts = ", ".join(f"{_where(each)} ({each.names_refused:,})" for each in refused)
        findings.append(
            problem(
                f"Redis refuses names that {_number(refused)} subscribed to: {counts}; "
                f"{refused[0].refusal}",
                "Their consumers hear nothing there. They ask again, every few seconds.",
                "See 'ACL permissions': let the layer's user subscribe to all names of the prefix.",
            )
        )
    if not findings:
        findings.append(
            ok(f"{_number(others)} of this prefix, all answer" if others else "no other process")
        )
    return findings


def _unreadable(process: ProcessStats) -> int:
    return sum(process.drops.get(cause, 0) for cause in ("undecryptable", "unreadable"))


def _number(processes: list[ProcessStats]) -> str:
    return "1 process" if len(processes) == 1 else f"{len(processes)} processes"


def _listed(processes: list[ProcessStats]) -> str:
    return ", ".join(map(_where, processes))


def _where(process: ProcessStats) -> str:
    return f"{process.host} pid {process.pid}"


CHECKS: tuple[Check, ...] = (
    ProjectCheck(
        "encryption",
        "Encryption",
        "Without the same keys everywhere, messages are dropped; weak keys protect nothing.",
        ("settings",),
        run=check_keys,
    ),
    ProjectCheck(
        "processes",
        "Processes",
        "All processes of a prefix must be able to read each other.",
        CONNECTED,
        run=check_processes,
    ),
)
