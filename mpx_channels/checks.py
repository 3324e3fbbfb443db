"""System checks: what is wrong in CHANNEL_LAYERS is said at start-up, without connecting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.utils.module_loading import import_string

from mpx_channels import embedded
from mpx_channels.layer import InvalidConfig, MpxChannelLayer
from mpx_channels.layer.config import LayerConfig

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
    hosts = [host.url for host in config.parsed_hosts]
    urls = [url for url in hosts if embedded.is_embedded(url) or embedded.is_embedded_cluster(url)]
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
