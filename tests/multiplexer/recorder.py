"""A subscription's callbacks that write down what they hear."""

from __future__ import annotations

from typing import Any


class Recorder:
    """Pass ``*recorder.callbacks``; `events` has what came, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any, Any]] = []

    @property
    def callbacks(self) -> tuple[Any, Any, Any]:
        return (self.on_message, self.on_disconnect, self.on_activation)

    @property
    def async_callbacks(self) -> tuple[Any, Any, Any]:
        async def on_message(name: str, data: bytes) -> None:
            self.on_message(name, data)

        async def on_disconnect(error: Exception) -> None:
            self.on_disconnect(error)

        async def on_activation(name: str) -> None:
            self.on_activation(name)

        return (on_message, on_disconnect, on_activation)

    def on_message(self, name: str, data: bytes) -> None:
        self.events.append(("message", name, data))

    def on_disconnect(self, error: Exception) -> None:
        self.events.append(("disconnect", error, None))

    def on_activation(self, name: str) -> None:
        self.events.append(("activation", name, None))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.events]

    @property
    def messages(self) -> list[tuple[str, bytes]]:
        return [(name, data) for kind, name, data in self.events if kind == "message"]

    @property
    def activations(self) -> list[str]:
        return [name for kind, name, _ in self.events if kind == "activation"]

    @property
    def disconnects(self) -> list[Exception]:
        return [error for kind, error, _ in self.events if kind == "disconnect"]
