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


class Begun:
    """What a route's requests of one method are counted in."""

    __slots__ = ("statuses", "times")

    def __init__(self, statuses: dict[str, int], times: Times) -> None:
        self.statuses = statuses
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
        place = begun.statuses.get(str(status)[:3])
        self.values[begun.statuses[OTHER] if place is None else place] += 1
        begun.times.note(perf_counter() - began_s)

    def _of(self, method: str, route: str) -> Begun:
        places = self.places(self._requests.name)
        return Begun(
            {status: places[method, route, status] for status in STATUSES}, self.times(self._times.name, method, route)
        )
