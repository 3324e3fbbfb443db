"""OpenTelemetry: what is sent and what handles it as spans, linked across processes.

In CHANNEL_LAYERS, ``"BACKEND": "mpx_channels.tracing.TracedChannelLayer"`` in place of the layer's.
Whoever does not name it there pays nothing for it: none of this is imported.
"""

try:
    from .layer import TracedChannelLayer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise ImportError(
        "mpx_channels.tracing needs the opentelemetry-api package: pip install 'mpx-channels[otel]'"
    ) from None

__all__ = ["TracedChannelLayer"]
