"""`mpx doctor`: checks one by one, with what was found, why it matters and what to do.

A file for each topic. A check never touches what is not its own: names in Redis are random, under
the layer's prefix, and gone afterwards.
"""

from .command import Doctor

__all__ = ["Doctor"]
