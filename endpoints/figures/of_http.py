"""What is counted of requests: by route and status, and how long until their answer began."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Final

from ledger.figures.families import LATENCY_S, Family, Part, Times

OTHER: Final = "other"
STATUSES: Final = (
    *("200", "201", "202", "204", "206", "207", "302", "303", "304", "307"),
    *("400", "401", "403", "404", "405", "406", "408", "409", "410", "412", "413", "415", "422", "429", "431"),
    *("500", "501", "503", OTHER),
)
"""The values of a status; an answer that has another one counts as `other`."""
_STATUS_AT: Final = {status: at for at, status in enumerate(STATUSES)}
_OTHER_AT: Final = _STATUS_AT[OTHER]


class Begun:
    """What a route's requests of one method are counted in: statuses one behind the other, from a place on."""

    __slots__ = ("first", "times")

    def __init__(self, first: int, times: Times) -> None:
        self.first = first
        self.times = times


class HttpFigures(Part):
    """The requests of one worker; one whose path is no route, or whose method it has not, counts as `other`."""

    def __init__(self, operations: Sequence[tuple[str, str]]) -> None:
        """`operations`: every method and path template."""
        operations = [*dict.fromkeys(operations), (OTHER, OTHER)]
        self._requests = Family(
            "http_requests_total",
            "counter",
            "Requests that were answered, by route and status.",
            ("method", "route", "status"),
            [(*operation, status) for operation in operations for status in STATUSES],
            sparse=True,
        )
        self._times = Family(
            "http_request_seconds",
            "histogram",
            "How long until the answer began; a stream's goes on behind that.",
            ("method", "route"),
            operations,
            LATENCY_S,
            sparse=True,
        )
        super().__init__(self._requests, self._times)
        self._begun = {(route, method): self._of(method, route) for method, route in operations}
        self._other = self._begun[OTHER, OTHER]

    def answered(self, method: str, route: str | None, status: str | int, began_s: float) -> None:
        """Count an answer; `status` as Falcon has it, like `204 No Content`, `began_s` by `perf_counter`."""
        begun = self._begun.get((route, method), self._other)  # type: ignore[arg-type] # None is in no pair
        self.values[begun.first + _STATUS_AT.get(str(status)[:3], _OTHER_AT)] += 1
        begun.times.note(perf_counter() - began_s)

    def _of(self, method: str, route: str) -> Begun:
        first = self.place(self._requests.name, method, route, STATUSES[0])
        return Begun(first, self.times(self._times.name, method, route))
