"""System checks: what is wrong in CHANNEL_LAYERS is said at start-up, without connecting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.utils.module_loading import import_string
from redis.asyncio.connection import AbstractConnection

from mpx_channels import embedded
from mpx_channels.layer import InvalidConfig, MpxChannelLayer
from mpx_channels.layer.config import LayerConfig
from mpx_channels.multiplexer import SentinelNode
from mpx_channels.multiplexer.tls_options import file_troubles, unverified

__all__ = ["check_channel_layers"]


def check_channel_layers(
    app_configs: Sequence[object] | None = None, **kwargs: object
) -> list[CheckMessage]:
    """Check every entry of CHANNEL_LAYERS that uses our backend; everything wrong in each."""
    layers = getattr(settings, "CHANNEL_LAYERS", None)
    if not isinstance(layers, Mapping):
        return []  # Channels itself says so, as of what cannot be imported.
    return [message for alias, entry in layers.items() for message in _check_entry(alias, entry)]


def _check_entry(alias: str, entry: Mapping[str, Any]) -> Iterator[CheckMessage]:
    try:
        backend = import_string(entry["BACKEND"])
    except (ImportError, KeyError, TypeError, AttributeError):
        return
    if not (isinstance(backend, type) and issubclass(backend, MpxChannelLayer)):
        return
    where = f"CHANNEL_LAYERS[{alias!r}]"
    yield from _check_config(where, entry.get("CONFIG", {}))
    if "TEST_CONFIG" in entry:
        yield from _check_config(f"{where}['TEST_CONFIG']", entry["TEST_CONFIG"])


def _check_config(where: str, values: Any) -> Iterator[CheckMessage]:
    try:
        config = LayerConfig.parse(values)
    except InvalidConfig as error:
        for problem in error.problems:
            yield Error(f"{where}: {problem}", id="mpx_channels.E001")
        return
    yield from _check_tls(where, config)
    urls = [host.url for host in config.parsed_hosts if embedded.is_embedded(host.url)]
    if not urls:
        return
    try:
        for url in urls:
            embedded.check(url)
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
                id="mpx_channels.W002",
            )


def _connections(config: LayerConfig) -> Iterator[tuple[AbstractConnection, str]]:
    """One for each host, not connected, and one for its Sentinels; and where its options are."""
    for host in config.parsed_hosts:
        if embedded.is_embedded(host.url):
            continue
        node = host.node()
        yield node.connection(), ""
        if isinstance(node, SentinelNode):
            yield node.sentinel_connection(0), "'s sentinel_kwargs"
