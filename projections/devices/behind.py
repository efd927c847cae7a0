"""How many rows devices are behind their libraries, counted for those alone that are shown, and not for long."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from ledger.entity_types import COMPLETE, RESET, mask_of, types_in
from ledger.errors import Unavailable
from ledger.positions import Position
from ledger.state import State
from projections.bounded_tasks import each
from projections.entities.catalog.catalog import Catalog
from projections.entities.source import EntitySource

COUNT_S: Final = 2.0
"""How long counting may take for all devices of a page; of those that were not counted it is not known."""
AT_ONCE: Final = 2
"""Questions to a source at one time: most of its connections are for streams."""
OF_STORE: Final = 8
"""Devices that are counted at one time where rows lie in the store, whose link takes many questions in one write."""
_NO_ROWS: Final = ~mask_of((COMPLETE, RESET))


class Behind:
    """Counts the rows beyond the checkpoints of devices."""

    def __init__(self, source: EntitySource) -> None:
        self._source = source
        self._is_store = isinstance(source, Catalog)
        self._at_once = OF_STORE if self._is_store else AT_ONCE

    async def of(self, states: Sequence[State]) -> Mapping[str, int]:
        """Count rows by session; without devices that asked for nothing yet, or could not be counted in time.

        At most so many are behind.
        """
        found: dict[str, int] = {}
        horizons: dict[str, int] = {}

        async def ask(library: str) -> None:
            with suppress(Unavailable):
                horizons[library] = await self._source.horizon(library)

        async def count(state: State) -> None:
            with suppress(Unavailable):
                found[state.sid] = await self._count(state, horizons[state.library])

        with suppress(TimeoutError):
            async with asyncio.timeout(COUNT_S):
                await each(sorted({state.library for state in states}), ask, self._at_once)
                asked = [state for state in states if state.library in horizons and _has_asked(state)]
                await each(asked, count, self._at_once)
        return found

    async def _count(self, state: State, before: int) -> int:
        complete = state.checkpoints.get(COMPLETE)
        if complete is not None and complete.position.at_us >= before:
            return 0
        after = positions(state)
        changed = await self._source.changed(state.library, after, before)
        counted: list[int] = []

        async def count(entity_type: str) -> None:
            counted.append((await self._source.ahead(state.library, entity_type, after[entity_type], before)).rows)

        await each(changed, count, OF_STORE if self._is_store else 1)
        return sum(counted)


def _has_asked(state: State) -> bool:
    """Tell whether it is known which types a device wants."""
    return bool(state.offered) or COMPLETE in state.checkpoints


def positions(state: State) -> dict[str, Position | None]:
    """Tell what a device asked for last, and behind which position it goes on with each type."""
    newest_us = max((offer.snapshot_us for offer in state.offered), default=0)
    mask = 0
    for offer in state.offered:
        if offer.snapshot_us == newest_us:
            mask |= offer.mask
    held = state.checkpoints
    return {name: held[name].position if name in held else None for name in types_in(mask & _NO_ROWS)}
