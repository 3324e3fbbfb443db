"""The last minute of a number, as a line of bars."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

__all__ = ["Trace"]

BARS = "▁▂▃▄▅▆▇█"
# For terminals without these.
ASCII_BARS = "_.-~=+*#"


class Trace:
    """The last ``length`` values; None is a moment at which nothing was known."""

    def __init__(self, length: int, values: Iterable[float | None] = ()) -> None:
        self.length = length
        self._values: deque[float | None] = deque(maxlen=length)
        # Of all values there ever were.
        self._count = 0
        for value in values:
            self.add(value)

    def add(self, value: float | None) -> None:
        self._values.append(value)
        self._count += 1

    @property
    def peak(self) -> float:
        """The largest value; 0 if there is none."""
        return max((value for value in self._values if value is not None), default=0.0)

    def bars(self, width: int, top: float | None = None, *, ascii: bool = False) -> str:
        """`width` characters, the latest at the right; ``top`` is what the largest bar stands for.

        Where several values share a bar it shows the largest of them, so no peak is lost. Which
        values share one does not change as time goes by: a bar once drawn moves, and stays.
        """
        return self.chart(width, 1, top, ascii=ascii)[0]

    def chart(
        self, width: int, height: int, top: float | None = None, *, ascii: bool = False
    ) -> list[str]:
        """As `bars`, in so many lines; the highest comes first."""
        if width <= 0:
            return [""] * height
        bars = ASCII_BARS if ascii else BARS
        highest = self.peak if top is None else top
        size = -(-self.length // width)
        first = self._count - len(self._values)
        buckets: dict[int, float | None] = {}
        for index, value in enumerate(self._values, first):
            known = buckets.get(index // size)
            both = [each for each in (known, value) if each is not None]
            buckets[index // size] = max(both, default=None)
        levels = [_level(value, highest, height * len(bars)) for value in buckets.values()]
        lines = []
        for below in range((height - 1) * len(bars), -1, -len(bars)):
            line = "".join(_bar(level - below, bars) for level in levels)
            lines.append(line[-width:].rjust(width))
        return lines


def _level(value: float | None, highest: float, levels: int) -> int:
    """How high a value stands, from 1; 0 is unknown."""
    if value is None:
        return 0
    if value <= 0 or highest <= 0:
        return 1
    # Something is never drawn as nothing.
    return min(levels, 2 + int(value / highest * (levels - 2)))


def _bar(level: int, bars: str) -> str:
    return bars[min(level, len(bars)) - 1] if level > 0 else " "
