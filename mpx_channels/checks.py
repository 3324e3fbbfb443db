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
    """Check every entry of CHANNEL_LAYERS that uses our backend."""
    layers = getattr(settings, "CHANNEL_LAYERS", None) or {}
    return [message for alias, entry in layers.items() for message in _check_entry(alias, entry)]


def _check_entry(alias: str, entry: Mapping[str, Any]) -> Iterator[CheckMessage]:
    where = f"CHANNEL_LAYERS[{alias!r}]"
    try:
        backend = import_string(entry["BACKEND"])
    except (ImportError, KeyError, TypeError):
        return  # Channels itself says so, and in its own words.
    if not (isinstance(backend, type) and issubclass(backend, MpxChannelLayer)):
        return
    try:
        config = LayerConfig.parse(entry.get("CONFIG", {}))
        url = config.host.url
        if embedded.is_embedded(url):
            embedded.check(url)
    except InvalidConfig as error:
        yield Error(f"{where}: {error}", id="mpx_channels.E001")
    except (embedded.EmbeddedUnavailable, ValueError) as error:
        yield Error(f"{where}: {error}", id="mpx_channels.E002")
    else:
        if embedded.is_embedded(url) and not settings.DEBUG:
            yield Warning(
                f"{where} uses the embedded server, and DEBUG is off.",
                hint=(
                    "embedded:// is for development and tests: it keeps nothing and serves one "
                    'machine. In production run Redis or Valkey and set "hosts" to its URL.'
                ),
                id="mpx_channels.W001",
            )
