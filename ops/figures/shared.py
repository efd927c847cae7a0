"""The numbers of all workers of a service, in memory that the arbiter and its workers share.

Each worker has a slot, into which it copies its list once a second and when it ends. What a worker that has ended had
counted is added to the past by the arbiter, so no counter ever falls while the arbiter lives; of a worker that was
killed the last second is lost.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from endpoints.figures.printed import metric_of
from ledger.figures.families import Family

MOST: Final = 16_384
"""How many numbers a worker has, at most; memory that is not written takes none."""
_LOOKS: Final = 1000
"""How often a reader looks again while a worker's numbers go to the past, which takes the arbiter microseconds."""
_PID, _NUMBERS, _ENDED = range(3)
_CHANGES, _STARTED, _ENDED_IN_ORDER, _ENDED_OTHERWISE = range(4)

STARTED: Final = Family("workers_started_total", "counter", "Workers that were started.")
OVER: Final = Family(
    "workers_ended_total",
    "counter",
    "Workers that ended: in order, or killed or crashed.",
    ("how",),
    [("in_order",), ("lost",)],
)
LIVING: Final = Family("workers", "gauge", "Workers that run.")


class SharedFigures(Collector):
    """The shared memory; made by the arbiter before it forks. Tells what the arbiter counted."""

    def __init__(self, slots: int) -> None:

        shared = memoryview(mmap.mmap(-1, 8 * (4 + (slots + 2) * (MOST + 3)))).cast("d")
        self._arbiter, rest = shared[:4], shared[4:]
        self._heads = [rest[slot * 3 : slot * 3 + 3] for slot in range(slots)]
        rest = rest[slots * 3 :]
        parts = [rest[index * MOST : (index + 1) * MOST] for index in range(slots + 2)]
        self._numbers, self._past, self._kept = parts[:slots], parts[slots], parts[slots + 1]

    def begin(self, slot: int) -> None:
        """Note, in the arbiter, that a worker is about to be started."""
        self._heads[slot][_ENDED] = 0
        self._arbiter[_STARTED] += 1

    def end(self, slot: int) -> None:
        """Take a worker that has ended, in the arbiter, out of its slot, and add what it counted to the past."""
        head, numbers, past, kept = self._heads[slot], self._numbers[slot], self._past, self._kept
        self._arbiter[_CHANGES] += 1  # odd: readers look again
        for place in range(int(head[_NUMBERS])):
            if kept[place]:
                past[place] += numbers[place]
        self._arbiter[_ENDED_IN_ORDER if head[_ENDED] else _ENDED_OTHERWISE] += 1
        head[_PID] = head[_NUMBERS] = 0
        self._arbiter[_CHANGES] += 1

    def hand_over(self, slot: int, pid: int, numbers: array[float]) -> None:
        """Copy a worker's numbers into its slot."""
        self._numbers[slot][: len(numbers)] = memoryview(numbers)
        self._heads[slot][_NUMBERS] = len(numbers)
        self._heads[slot][_PID] = pid

    def lay_out(self, families: Sequence[tuple[Family, int]]) -> None:
        """Tell which numbers stay when a worker has ended: all but gauges. Every worker tells the same."""
        for family, at in families:
            for place in range(at, at + family.width * len(family.values)):
                self._kept[place] = family.kind != "gauge"

    def ends_in_order(self, slot: int) -> None:
        """Note, in a worker, that it ends because it was told to."""
        self._heads[slot][_ENDED] = 1

    def pids(self) -> dict[int, int]:
        """Tell the process of each slot that has one."""
        return {slot: int(head[_PID]) for slot, head in enumerate(self._heads) if head[_PID]}

    def all_workers(self, own_slot: int, own: Sequence[float]) -> list[Sequence[float]]:
        """Read the numbers of all workers and of the past, `own` in the place of one's own slot."""
        found: list[Sequence[float]] = []
        count = len(own)
        for _ in range(_LOOKS):
            changes = self._arbiter[_CHANGES]
            others = [slot for slot in self.pids() if slot != own_slot]
            found = [self._past[:count].tolist(), *(self._numbers[slot][:count].tolist() for slot in others)]
            if changes % 2 == 0 and changes == self._arbiter[_CHANGES]:
                break
        return [own, *found]

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of what the arbiter counted."""
        arbiter = self._arbiter
        yield metric_of(STARTED, [arbiter[_STARTED]])
        yield metric_of(OVER, [arbiter[_ENDED_IN_ORDER], arbiter[_ENDED_OTHERWISE]])
        yield metric_of(LIVING, [len(self.pids())])


class Slot:
    """A worker's own place in the shared memory."""

    def __init__(self, shared: SharedFigures, number: int) -> None:
        self.shared = shared
        self.number = number
