"""A Redis channel layer for Django Channels, around a Pub/Sub multiplexer."""

__version__ = "0.1.0"

__all__ = ["__version__"]
