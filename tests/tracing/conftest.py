"""Spans in memory, and the layers of other tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mpx_channels.tracing import TracedChannelLayer
from mpx_channels.tracing.handlers import uninstall
from tests.conftest import eventually
from tests.consumers.conftest import connected, install, opened
from tests.layer.conftest import make_layer, prefix

__all__ = ["Spans", "connected", "install", "make_layer", "opened", "prefix"]

_exporter = InMemorySpanExporter()


class Spans:
    """What was recorded."""

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return _exporter.get_finished_spans()

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    async def one(self, name: str) -> Any:
        """The only one of this name, when it has ended."""
        await eventually(lambda: self.of(name))
        (span,) = self.of(name)
        return span


@pytest.fixture(scope="session")
def provider() -> TracerProvider:
    """The process' only one: there cannot be another."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_exporter))
    trace.set_tracer_provider(provider)
    return provider


@pytest.fixture
def spans(provider: TracerProvider) -> Iterator[Spans]:
    _exporter.clear()
    yield Spans()
    uninstall()


@pytest.fixture
async def traced(
    redis_url: str, prefix: str, spans: Spans, install: Any
) -> AsyncIterator[TracedChannelLayer]:
    """A traced layer, as the project's default one."""
    layer = install(TracedChannelLayer(hosts=[redis_url], prefix=prefix))
    yield layer
    await layer.close()
