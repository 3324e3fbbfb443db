"""System checks: what is wrong in CHANNEL_LAYERS is said at start-up, without connecting."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.utils.module_loading import import_string
from redis.asyncio.connection import AbstractConnection

from mpx_channels import embedded
from mpx_channels.layer import InvalidConfig, MpxChannelLayer
from mpx_channels.layer.config import LayerConfig
from mpx_channels.multiplexer import SentinelNode
from mpx_channels.multiplexer.tls_options import file_troubles, unverified

__all__ = ["OURS", "TRACED", "check_channel_layers", "is_meant_to_be_ours"]

OURS = "mpx_channels.layer.MpxChannelLayer"
TRACED = "mpx_channels.tracing.TracedChannelLayer"
# Packages that are there and have layers, of which none has our class's name.
OTHERS = ("channels", "channels_redis")
# All that Channels reads of an entry.
KEYS = ("BACKEND", "CONFIG", "TEST_CONFIG")


def check_channel_layers(
    app_configs: Sequence[object] | None = None, **kwargs: object
) -> list[CheckMessage]:
    """Check every entry of CHANNEL_LAYERS that uses our backend; everything wrong in each."""
    layers = getattr(settings, "CHANNEL_LAYERS", None)
    if not isinstance(layers, Mapping):
        return []  # Channels itself says so, as of what cannot be imported.
    messages = [found for alias, entry in layers.items() for found in _check_entry(alias, entry)]
    if any(_is_ours(entry) for entry in layers.values()):
        messages.extend(_check_order())
    return messages


def _is_ours(entry: Any) -> bool:
    backend = _imported(entry)
    return isinstance(backend, type) and issubclass(backend, MpxChannelLayer)


def _imported(entry: Any) -> object:
    """What BACKEND names, or None where it cannot be imported: Channels says that itself."""
    try:
        return import_string(entry["BACKEND"])
    except (ImportError, KeyError, TypeError, AttributeError, ValueError):
        return None


def _check_entry(alias: str, entry: Any) -> Iterator[CheckMessage]:
    if not isinstance(entry, Mapping):
        return
    where = f"CHANNEL_LAYERS[{alias!r}]"
    if _is_ours(entry):
        yield from _check_keys(where, entry)
        yield from _check_config(where, entry.get("CONFIG", {}))
        if "TEST_CONFIG" in entry:
            yield from _check_config(f"{where}['TEST_CONFIG']", entry["TEST_CONFIG"])
        return
    # A key that is written wrong hides the backend from Channels.
    backend = next((entry[key] for key in entry if str(key).upper() == "BACKEND"), None)
    if is_meant_to_be_ours(backend):
        if "BACKEND" in entry and backend != OURS:
            fix = f'Write "BACKEND": "{OURS}".'
            if backend == TRACED:
                fix = "Install it: pip install 'mpx-channels[otel]'"
            yield Warning(
                f"{where}: the BACKEND {backend!r} is no channel layer.",
                hint=fix,
                id="mpx_channels.W002",
            )
        yield from _check_keys(where, entry)


def is_meant_to_be_ours(backend: object) -> bool:
    """Whether what is no layer of ours names our package, or our class in none, or nearly."""
    if not isinstance(backend, str):
        return False
    package, _, path = backend.partition(".")
    if _is_nearly(package, "mpx_channels"):
        return True
    class_ = path.rpartition(".")[2] or package
    if not _is_nearly(class_, "MpxChannelLayer"):
        return False
    return package in OTHERS or not _is_there(package)


def _is_nearly(name: str, ours: str) -> bool:
    return bool(difflib.get_close_matches(name.strip().lower(), [ours.lower()], cutoff=0.9))


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # as of an empty name
        return False


def _check_keys(where: str, entry: Mapping[Any, Any]) -> Iterator[CheckMessage]:
    """What stands beside CONFIG is read by nobody."""
    for key in entry:
        if key in KEYS:
            continue
        near = difflib.get_close_matches(str(key).upper(), KEYS, n=1)
        if near:
            hint = f'Write "{near[0]}".'
        elif key in LayerConfig.__dataclass_fields__:
            hint = 'Move it into "CONFIG": {...}.'
        else:
            hint = f"Take it out: the keys are {', '.join(KEYS)}."
        yield Warning(f"{where}: nobody reads its key {key!r}.", hint=hint, id="mpx_channels.W003")


def _check_order() -> Iterator[CheckMessage]:
    names = [app.name for app in apps.get_app_configs()]
    if "mpx_channels" not in names or "channels" not in names:
        return
    if names.index("channels") < names.index("mpx_channels"):
        yield Warning(
            '"channels" comes before "mpx_channels" in INSTALLED_APPS, so "manage.py runworker" '
            "is Channels' own, which empties Redis into memory.",
            hint='Move "mpx_channels" before "channels".',
            id="mpx_channels.W004",
        )


def _check_config(where: str, values: Any) -> Iterator[CheckMessage]:
    try:
        config = LayerConfig.parse(values)
    except InvalidConfig as error:
        for problem in error.problems:
            yield Error(f"{where}: {problem}", id="mpx_channels.E001")
        return
    yield from _check_tls(where, config)
    kinds = (embedded.is_embedded, embedded.is_embedded_cluster)
    if not any(kind(host.url) for host in config.parsed_hosts for kind in kinds):
        return
    try:
        config.check_embedded()
    except (embedded.EmbeddedUnavailable, ValueError) as error:
        yield Error(f"{where}: {error}", id="mpx_channels.E002")
        return
    if not settings.DEBUG:
        yield Warning(
            f"{where} uses the embedded server, and DEBUG is off.",
            hint=(
                "embedded:// is for development and tests: it keeps nothing and serves one "
                'machine. In production run Redis or Valkey and set "hosts" to its URL.'
            ),
            id="mpx_channels.W001",
        )


def _check_tls(where: str, config: LayerConfig) -> Iterator[CheckMessage]:
    """The files that TLS needs, and whether it looks at certificates at all."""
    for connection, what in _connections(config):
        for trouble in file_troubles(connection):
            yield Error(f"{where}{what}: {trouble.found}: {trouble.todo}.", id="mpx_channels.E003")
        option = unverified(connection)
        if option and not settings.DEBUG:
            yield Warning(
                f"{where}{what} has {option!r} turned off, and DEBUG is off.",
                hint=(
                    "Whoever gets between this process and the server can show a certificate of "
                    "their own, and read the password and all messages. Name the authority of "
                    "the server's certificate with ssl_ca_certs instead."
                ),
                id="mpx_channels.W005",
            )


def _connections(config: LayerConfig) -> Iterator[tuple[AbstractConnection, str]]:
    """One for each host, not connected, and one for its Sentinels; and where its options are."""
    for host in config.parsed_hosts:
        if embedded.is_embedded(host.url) or embedded.is_embedded_cluster(host.url):
            continue
        node = host.node()
        yield node.connection(), ""
        if isinstance(node, SentinelNode):
            yield node.sentinel_connection(0), "'s sentinel_kwargs"
