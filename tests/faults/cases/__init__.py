"""The cases: a function each, by its name. All do nothing but faults: `stage.run` counts."""

from .registry import CASES, Case

from . import links, processes, servers, histories, clusters  # isort: skip  # they register themselves

__all__ = ["CASES", "Case", "clusters", "histories", "links", "processes", "servers"]
