"""All figures of one worker, laid out one part behind the other, and those of all workers of its service."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from prometheus_client.registry import Collector

from endpoints.figures.of_streams import StreamFigures
from ledger.figures.families import Family, Part
from ledger.figures.of_log import LogFigures
from ledger.figures.of_store import StoreFigures


class WorkerFigures:
    """The figures of this worker. `all_workers` gives the numbers of every worker, at first of this one alone.

    `collectors` tell what is not counted but looked at when it is asked for, in the words of the metrics library.
    Whoever adds a part does so in the same order in every worker.
    """

    def __init__(self) -> None:
        self.log, self.store, self.streams = LogFigures(), StoreFigures(), StreamFigures()
        self.parts: list[Part] = [self.log, self.store, self.streams]
        self.collectors: list[Collector] = []
        self.all_workers: Callable[[], Sequence[Sequence[float]]] = lambda: [self.numbers()]

    def take(self, part: Part) -> None:
        """Add a part behind the others."""
        self.parts.append(part)

    def numbers(self) -> array[float]:
        """Tell all numbers of this worker as they are now."""
        return array("d", chain.from_iterable(part.values for part in self.parts))

    def families(self) -> Iterator[tuple[Family, int]]:
        """List all families, each with where it begins in `numbers`."""
        at = 0
        for part in self.parts:
            for family in part.families:
                yield family, at
                at += family.width * len(family.values)
