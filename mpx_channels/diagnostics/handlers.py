"""Which messages the project's consumers have handlers for, as far as that can be known here."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from inspect import getattr_static

from channels.consumer import AsyncConsumer, SyncConsumer, get_handler_name
from django.conf import settings
from django.utils.module_loading import import_string

from mpx_channels.consumers.dispatch import Dispatch

__all__ = ["unhandled"]

# Those that have no handlers of a project's.
LIBRARIES = ("channels.", "mpx_channels.", "django.")
# How a message comes to its handler, where that is known.
KNOWN = (AsyncConsumer, SyncConsumer, Dispatch)


def unhandled(type_: str) -> str | None:
    """Why nobody could handle a message of this type, in a sentence; None if somebody may.

    Imports the project's ASGI_APPLICATION, which imports its consumers. None as well where that
    fails, where there are no consumers, and where one has a `dispatch` of its own.
    """
    try:
        import_string(settings.ASGI_APPLICATION)
        name = get_handler_name({"type": type_})
    except Exception:  # whatever a module raises when it is imported
        return None
    consumers = list(_consumers(AsyncConsumer))
    known = [getattr_static(each, "dispatch") for each in KNOWN]
    if not consumers or any(getattr_static(each, "dispatch") not in known for each in consumers):
        return None
    if any(callable(getattr(each, name, None)) for each in consumers):
        return None
    handlers = {found for each in consumers for found in _public(each)}
    near = difflib.get_close_matches(name, handlers, n=1)
    meant = f"; one has {near[0]}" if near else ""
    return f"no consumer of this project has a handler {name} for {type_!r}{meant}"


def _consumers(base: type) -> Iterator[type]:
    """The project's subclasses."""
    class_: type
    for class_ in base.__subclasses__():
        if not f"{class_.__module__}.".startswith(LIBRARIES):
            yield class_
        yield from _consumers(class_)


def _public(class_: type) -> Iterator[str]:
    for name in dir(class_):
        if not name.startswith("_") and not hasattr(AsyncConsumer, name):
            yield name
