"""What is counted of requests: by route and status, and how long until their answer began."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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


class Answers:
    """Answers of one route and method with one status.

    PERF: most requests are acks, so their place is found once and not with each of them.
    """

    __slots__ = ("_at", "_times", "_values")

    def __init__(self, values: list[float], at: int, times: Times) -> None:
        self._values = values
        self._at = at
        self._times = times

    def note(self, began_s: float) -> None:
        """Count one that begins now, to a request that began at `began_s`, by `perf_counter`."""
        self._values[self._at] += 1
        self._times.note(perf_counter() - began_s)


class _Operation(dict[str, Answers]):
    """The answers of one route and method by their status, as they come: most statuses never do."""

    def __init__(self, make: Callable[[str], Answers]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, status: str) -> Answers:
        """Begin to count a status; one that is not listed is not kept, so there are no more than are listed."""
        if status not in STATUSES:
            return self[OTHER]
        answers = self[status] = self._make(status)
        return answers


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
        self._operations: dict[tuple[str | None, str], _Operation] = {
            (route, method): _Operation(partial(self._make, method, route)) for method, route in operations
        }
        self._other = self._operations[OTHER, OTHER]

    def answered(self, method: str, route: str | None, status: str | int, began_s: float) -> None:
        """Count an answer; `status` as Falcon has it, like `204 No Content`, `began_s` by `perf_counter`."""
        self.answers(method, route, str(status)[:3]).note(began_s)

    def answers(self, method: str, route: str | None, status: str) -> Answers:
        """Find where answers are counted, by the three digits of their status."""
        return self._operations.get((route, method), self._other)[status]

    def _make(self, method: str, route: str, status: str) -> Answers:
        at = self.place(self._requests.name, method, route, status)
        return Answers(self.values, at, self.times(self._times.name, method, route))
