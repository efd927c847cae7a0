"""A source in memory whose horizon follows a clock, and that is down, hangs, lags or holds rows back when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from ledger.positions import Position
from projections.entities.source import Ahead, HeldBack, Page, SourceHealth, SourceUnavailable
from tests.support.sources.memory_source import MemorySource

BEHIND_US = 1_000_000


class TroubledSource(MemorySource):
    """Its horizon is a second behind the clock; `keeps_us` is how long it keeps delete markers."""

    steady = False

    def __init__(self, clock: Callable[[], int], *, keeps_us: int | None = None) -> None:
        super().__init__()
        self.clock = clock
        self.keeps_us = keeps_us
        self.down = ""
        """Why it is down; empty while it is not."""
        self.hangs = False
        self.counts_slowly = False
        self.lags_us = BEHIND_US
        self.floor_us: int | None = None
        """Up to where delete markers are purged, whatever else says so."""
        self.passes_over: dict[str, int] = {}
        """How many rows of a type each of its pages holds back."""
        self.holds: list[HeldBack] = []

    async def horizon(self, library: str) -> int:
        await self._answers()
        return self.clock() - self.lags_us

    async def tombstone_floor(self, library: str) -> int:
        if self.floor_us is not None:
            return self.floor_us
        return 0 if self.keeps_us is None else await self.horizon(library) - self.keeps_us

    async def changed(self, library: str, after: Mapping[str, Position | None], before: int) -> frozenset[str]:
        await self._answers()
        return await super().changed(library, after, before)

    async def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        await self._answers()
        async for page in super().pages(library, entity_type, after, before, limit):
            await self._answers()
            page.held_back = self.passes_over.get(entity_type, 0)
            yield page

    async def ahead(self, library: str, entity_type: str, after: Position | None, before: int) -> Ahead:
        await self._answers()
        if self.counts_slowly:
            await asyncio.Event().wait()
        return await super().ahead(library, entity_type, after, before)

    async def held_back(self, library: str) -> Sequence[HeldBack]:
        await self._answers()
        return self.holds

    async def health(self) -> SourceHealth:
        if self.hangs:
            await asyncio.Event().wait()
        return SourceHealth("memory", ok=not self.down, text=self.down or "as a source should be")

    async def _answers(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.down:
            raise SourceUnavailable(self.down)
