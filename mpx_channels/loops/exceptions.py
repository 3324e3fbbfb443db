"""What can go wrong with the thread for callers without an event loop."""

from mpx_channels.multiplexer import MpxError

__all__ = ["GreenletsUnsupported"]


class GreenletsUnsupported(MpxError, RuntimeError):
    """eventlet has patched Python's threads, which synchronous code of the layer needs."""
