"""Metrics for Prometheus: a collector over every layer of the process, and a view that shows it."""

try:
    from .collector import MpxCollector, register
    from .views import metrics_view
except ModuleNotFoundError as error:
    if error.name != "prometheus_client":
        raise
    raise ImportError(
        "mpx_channels.metrics needs the prometheus-client package: "
        "pip install 'mpx-channels[prometheus]'"
    ) from None

__all__ = ["MpxCollector", "metrics_view", "register"]
