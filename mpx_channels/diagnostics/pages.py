"""Where the documentation is, for whoever has installed this package and has no docs/."""

from __future__ import annotations

__all__ = ["DOCUMENTATION", "page"]

# As in pyproject.toml.
DOCUMENTATION = "https://mpx-channels.readthedocs.io/en/stable/"


def page(name: str, anchor: str = "") -> str:
    """The URL of docs/``name``.md."""
    return f"{DOCUMENTATION}{name}.html" + (f"#{anchor}" if anchor else "")
