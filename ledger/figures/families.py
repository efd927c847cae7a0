"""Families of figures, and the one plain list of numbers in which a part of the service counts them; pure.

PERF: a metrics library takes 2 to 5 µs for each thing it counts, which is some percent of an ack; a list takes 0.1.
All workers of a service lay the same families out in the same way, so that their lists can be added up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

LATENCY_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of how long things take that somebody waits for, in seconds."""
LONG_S: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0)
"""Upper bounds of how long things take that go on by themselves, in seconds."""

Kind = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """Figures of one name: `values` lists the values of its labels, all that there may be, each with a place.

    `bounds` are a histogram's, ascending, in the unit of what is noted. `join` tells how the gauges of several workers
    make one. `sparse`: children that counted nothing are not printed, for most of them never will.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    values: Sequence[tuple[str, ...]] = ((),)
    bounds: tuple[float, ...] = ()
    join: Literal["sum", "max"] = "sum"
    sparse: bool = False

    @property
    def width(self) -> int:
        """How many numbers one child takes: of a histogram its buckets, the one without bound, and the sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


class Times:
    """One histogram: how long something took, or how much it was."""

    __slots__ = ("_at", "_bounds", "_sum_at", "_values")

    def __init__(self, values: list[float], at: int, bounds: tuple[float, ...]) -> None:
        self._values = values
        self._at = at
        self._bounds = bounds
        self._sum_at = at + len(bounds) + 1

    def note(self, amount: float) -> None:
        """Count one."""
        values = self._values
        values[self._at + bisect_left(self._bounds, amount)] += 1
        values[self._sum_at] += amount


class Part:
    """The figures of one part of the service: its families, and their numbers in one list.

    A figure is counted by `part.values[place] += 1`, with the place found beforehand.
    """

    def __init__(self, *families: Family) -> None:
        self.families = families
        self.values: list[float] = []
        self._places: dict[str, Mapping[tuple[str, ...], int]] = {}
        for family in families:
            begin, width = len(self.values), family.width
            self.values += [0.0] * (width * len(family.values))
            self._places[family.name] = dict(zip(family.values, range(begin, len(self.values), width), strict=True))

    def place(self, name: str, *labels: str) -> int:
        """Tell where a figure is; raises KeyError for none that there is."""
        return self._places[name][labels]

    def places(self, name: str) -> Mapping[tuple[str, ...], int]:
        """Tell where each figure of a family is, by the values of its labels."""
        return self._places[name]

    def times(self, name: str, *labels: str) -> Times:
        """Give a histogram to count with."""
        family = next(family for family in self.families if family.name == name)
        return Times(self.values, self.place(name, *labels), family.bounds)

    def add(self, name: str, *labels: str, by: float = 1) -> None:
        """Count more, off the hot path."""
        self.values[self.place(name, *labels)] += by

    def set(self, name: str, *labels: str, to: float) -> None:
        """Set a gauge."""
        self.values[self.place(name, *labels)] = to
