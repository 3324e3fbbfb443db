"""Checks of the settings: CONFIG as it is understood, and Django's system checks of ours."""

from __future__ import annotations

from django.conf import settings
from django.core.checks import ERROR

from mpx_channels.checks import check_channel_layers
from mpx_channels.diagnostics.pages import page
from mpx_channels.diagnostics.session import entry
from mpx_channels.layer import InvalidConfig
from mpx_channels.layer.config import LayerConfig

from .examination import Check, Examination, ProjectCheck, Server
from .findings import Finding, info, ok, problem, warning

__all__ = ["CHECKS"]


async def check_settings(exam: Examination) -> list[Finding]:
    """CONFIG, checked; its servers, not yet reached."""
    alias = exam.session.alias
    todo = f"Correct CHANNEL_LAYERS[{alias!r}]['CONFIG']; all keys: {page('config')}"
    try:
        config = LayerConfig.parse(entry(alias).get("CONFIG", {}))
    except InvalidConfig as error:
        return [problem(each, todo=todo) for each in error.problems]
    try:
        config.check_embedded()
        nodes = exam.session.nodes()
    except Exception as error:
        # Whatever making a layer may raise: Channels' complaints, a server that does not start.
        return [problem(f"the layer cannot be made: {error}", todo=todo)]
    exam.config = config
    exam.servers = [Server(node, config) for node in nodes]
    return [ok(_described(config, [str(node) for node in nodes]))]


def _described(config: LayerConfig, nodes: list[str]) -> str:
    """What was understood; no password is in it."""
    encryption = "encrypted" if config.symmetric_encryption_keys else "not encrypted"
    if config.cluster:
        kind = "sharded" if config.sharded_pubsub else "classic"
        nodes = [f"a cluster with the seeds {', '.join(nodes)}; {kind} channels"]
    return (
        f"{', '.join(nodes)}; prefix {config.prefix!r}, capacity {config.capacity}, "
        f"expiry {config.expiry:g} s, max_message_size {config.max_message_size:,} bytes, "
        f"{config.serializer_format}, {encryption}"
    )


async def check_system(exam: Examination) -> list[Finding]:
    """What our system checks say of other layers, too, and of INSTALLED_APPS."""
    findings = []
    own = f"CHANNEL_LAYERS[{exam.session.alias!r}]: "
    for message in check_channel_layers():
        if message.id == "mpx_channels.E001" and message.msg.startswith(own):
            continue  # as the check of the settings has it
        make = problem if message.level >= ERROR else warning
        findings.append(make(f"{message.msg} ({message.id})", todo=message.hint or ""))
    if not getattr(settings, "ASGI_APPLICATION", None):
        findings.append(
            info(
                "ASGI_APPLICATION is not set",
                "runserver (Daphne's) and runworker look there for the application.",
                'Set it to the path of the project\'s, such as "mysite.asgi.application", if '
                "either is used.",
            )
        )
    return findings or [ok("CHANNEL_LAYERS and INSTALLED_APPS are in order")]


CHECKS: tuple[Check, ...] = (
    ProjectCheck(
        "settings",
        "Settings",
        "The layer cannot be made from wrong values; a misspelt key would be without effect.",
        run=check_settings,
    ),
    ProjectCheck(
        "system-checks",
        "System checks",
        "Django runs them at start-up, also for the other layers.",
        run=check_system,
    ),
)
