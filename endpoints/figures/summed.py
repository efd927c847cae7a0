"""The figures of all workers of a service together, as single numbers and percentiles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from endpoints.figures.printed import joined
from endpoints.figures.worker import WorkerFigures
from ledger.figures.families import Family

_REQUEST: Final = "http_request_seconds"
_LATENCIES: Final = {
    "append": "append_seconds",
    "load": "load_seconds",
    "store round trip": "store_round_trip_seconds",
    "first line of a stream": "stream_first_line_seconds",
    "stream": "stream_seconds",
}


class Latency(msgspec.Struct, frozen=True):
    """How long something took, in seconds, of all workers of this service since it was started; null without any.

    Percentiles are the upper bounds of the classes that are counted; null too where it took longer than the last one.
    """

    what: str
    count: int
    p50: float | None
    p90: float | None
    p99: float | None


class Summed:
    """The numbers as they are at this moment; families that a worker does not have are 0."""

    def __init__(self, figures: WorkerFigures) -> None:
        self._workers = figures.all_workers()
        self._families = {family.name: (family, at) for family, at in figures.families()}

    def number(self, name: str) -> float:
        """Tell the one number of a family without labels."""
        if name not in self._families:
            return 0.0
        return joined(*self._families[name], self._workers)[0]

    def troubles(self) -> list[str]:
        """Name what is the matter, as the workers last looked."""
        if "trouble" not in self._families:
            return []
        family, at = self._families["trouble"]
        return [what for (what,), on in zip(family.values, joined(family, at, self._workers), strict=True) if on]

    def latencies(self) -> list[Latency]:
        """Tell percentiles of what somebody waits for."""
        found = [self._latency("request", _REQUEST), self._latency("ack", _REQUEST, is_ack=True)]
        return found + [self._latency(what, name) for what, name in _LATENCIES.items()]

    def _latency(self, what: str, name: str, *, is_ack: bool = False) -> Latency:
        if name not in self._families:
            return Latency(what, 0, None, None, None)
        family, at = self._families[name]
        numbers, width = joined(family, at, self._workers), family.width
        places = [
            place
            for place, labels in enumerate(family.values)
            if not is_ack or (labels[0] == "POST" and labels[1].endswith("/sync/ack"))
        ]
        classes = [sum(numbers[place * width + each] for place in places) for each in range(width - 1)]
        return Latency(what, int(sum(classes)), *(_percentile(family, classes, part) for part in (0.5, 0.9, 0.99)))


def _percentile(family: Family, classes: Iterable[float], part: float) -> float | None:
    counts = list(classes)
    wanted, below = part * sum(counts), 0.0
    for bound, count in zip((*family.bounds, None), counts, strict=True):
        below += count
        if count and below >= wanted:
            return bound
    return None
