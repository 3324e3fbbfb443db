"""A Django view that Prometheus can scrape."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from .collector import register

__all__ = ["metrics_view"]


@never_cache
@require_safe
def metrics_view(request: HttpRequest) -> HttpResponse:
    """Everything in prometheus-client's default registry, the layers of this process included.

    In the format that the request accepts: OpenMetrics, or Prometheus' text. Works under WSGI and
    ASGI, where Django runs it in a thread. Whoever may call it sees how busy the site is: leave it
    open to Prometheus only.
    """
    register()
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(REGISTRY), content_type=content_type)
