"""What `explain` asks the source of a session's library: how it is, how much lies ahead, and which rows wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from ledger.commands import Origin
from ledger.entity_types import types_in
from ledger.positions import Position
from ledger.starting_over import outdated
from ledger.state import State
from projections.bounded_tasks import each
from projections.entities.source import Ahead, EntitySource, HeldBack, SourceHealth, SourceUnavailable

ANSWER_S: Final = 10.0
"""How long a source may take to answer at all."""
COUNT_S: Final = 20.0
"""How long it may count rows: large libraries are counted row by row."""
AT_ONCE: Final = 2
"""Questions to a source at one time: most of its connections are for streams."""


class Library(NamedTuple):
    """A library as of now; all but `health` is empty where the source does not answer.

    `ahead` has what of each type lies beyond its checkpoint, `offered` the part of it that was offered, `held_back`
    what no stream sends for now; `whole` tells whether all could be counted in time. `again` are the types that lie
    ahead from their beginning, since the source sends them otherwise than when the device got them. `lags_us` is how
    far a horizon that should follow the clock lies behind; 0 for one that stays where the last change was. `origin` is
    what devices are streamed from now. `known` is false for a library of which there is nothing at all.
    """

    health: SourceHealth
    horizon_us: int = 0
    floor_us: int = 0
    lags_us: int = 0
    ahead: Mapping[str, Ahead] = {}
    offered: Mapping[str, Ahead] = {}
    held_back: Sequence[HeldBack] = ()
    again: tuple[str, ...] = ()
    whole: bool = True
    origin: Origin = Origin()
    known: bool = True


UNASKED: Final = Library(SourceHealth("", ok=True, text="not asked"))


async def look(source: EntitySource, state: State, types: Sequence[str], now_us: int) -> Library:
    """Ask all that concerns a session; a source that does not answer in time is an answer too.

    Raises Unavailable if it is the ledger's own store that does not answer.
    """
    source, library = source.of_session(state.user, state.sid), state.library
    health = UNASKED.health
    try:
        async with asyncio.timeout(ANSWER_S):
            health = await source.health()
            if not health.ok:
                return Library(health)
            horizon_us, floor_us = await asyncio.gather(source.horizon(library), source.tombstone_floor(library))
            origin = await source.origin(library, horizon_us)
            known = await source.knows(library) is not False
        lags_us = 0 if source.steady else max(now_us - horizon_us, 0)
        again = types_in(outdated(state, source.resends))
        found = Library(health, horizon_us, floor_us, lags_us, {}, {}, again=again, origin=origin, known=known)
        return await _count(source, found, state, types)
    except SourceUnavailable as error:
        return Library(SourceHealth(health.kind, ok=False, text=str(error)))
    except TimeoutError:
        return Library(SourceHealth(health.kind, ok=False, text=f"it gave no answer within {ANSWER_S:g} s"))


async def _count(source: EntitySource, found: Library, state: State, types: Sequence[str]) -> Library:
    """Count what lies ahead and what is held back, as far as there is time."""
    ahead: dict[str, Ahead] = {}
    offered: dict[str, Ahead] = {}

    async def count(entity_type: str) -> None:
        position = position_in(state, entity_type)
        offered_us = max(state.offered_us(entity_type), 0)
        part = await source.ahead(state.library, entity_type, position, offered_us)
        begin = None if entity_type in found.again else position
        ahead[entity_type] = await source.ahead(state.library, entity_type, begin, found.horizon_us)
        offered[entity_type] = part

    held_back: Sequence[HeldBack] = ()
    whole = False
    with suppress(TimeoutError):
        async with asyncio.timeout(COUNT_S):
            await each(types, count, AT_ONCE)
            held_back = await source.held_back(state.library)
            whole = True
    return found._replace(ahead=ahead, offered=offered, held_back=held_back, whole=whole)


def position_in(state: State, entity_type: str) -> Position | None:
    """Tell how far one entity type was acknowledged."""
    held = state.checkpoints.get(entity_type)
    return None if held is None else held.position
