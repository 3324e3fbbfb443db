"""`mpx bench`: how fast this layer is on this server, from here."""

from .command import Bench

__all__ = ["Bench"]
