"""How one device is: its state, how far it has each entity type, its last streams, and what `explain` says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec

from ledger.errors import Unavailable
from ledger.log.service import Ledger
from projections.bounded_tasks import each
from projections.entities.source import EntitySource
from projections.explain.answer import Explanation, explain
from projections.explain.facts import Facts, gather
from projections.history.event_pages import EventPages
from projections.history.state_at import Moment, StateThen, describe, fold_at

TOTALS_S: Final = 5.0
"""How long a source may take to count how much there is of all types."""
AT_ONCE: Final = 2


class TypeHealth(msgspec.Struct, frozen=True, rename="camel"):
    """How far a device has one entity type, against its library.

    `total`: rows of it that the library has, delete markers for delete types; `behind`: those of them beyond its
    checkpoint; `has` the rest. All are at most so many, and null where they were not counted in time. `upTo` is the
    time of the last row that it acknowledged, `newest` that of the last one there is beyond it. `stale` and `refused`
    count acks that moved nothing since the type last advanced.
    """

    type: str
    ack: str | None
    acknowledged_at: str | None
    up_to: str | None
    offered_up_to: str | None
    newest: str | None
    total: int | None
    has: int | None
    behind: int | None
    stale: int
    refused: int


class DeviceHealth(msgspec.Struct, frozen=True, rename="camel"):
    """All that is known of how a device is. `state` is as of now; `explanation` has its last streams too."""

    session_id: str
    at: str
    state: StateThen
    types: list[TypeHealth]
    explanation: Explanation


async def health(ledger: Ledger, past: EventPages, source: EntitySource, partition: int, sid: str) -> DeviceHealth:
    """Look at a device, living or ended; raises NoSuchSession, and LayoutError where its events are not here."""
    now_us = ledger.clock()
    facts = await gather(ledger, past, source, partition, sid)
    moment = await _moment(past, partition, facts, now_us)
    explanation = explain(facts, now_us)
    totals = await _totals(source, facts)
    state = describe(moment, now_us, await ledger.sealing.key_of(facts.state.user))
    types = []
    for figures in explanation.types:
        total, held = totals.get(figures.type), facts.state.checkpoints.get(figures.type)
        behind = figures.rows_ahead
        types.append(
            TypeHealth(
                type=figures.type,
                ack=figures.ack,
                acknowledged_at=figures.acknowledged_at,
                up_to=None if held is None else figures.ack.split("|")[1] if figures.ack else None,
                offered_up_to=figures.offered_up_to,
                newest=figures.newest,
                total=total,
                has=None if total is None or behind is None else max(total - behind, 0),
                behind=behind,
                stale=figures.stale,
                refused=figures.refused,
            )
        )
    return DeviceHealth(sid, explanation.at, state, types, explanation)


async def _moment(past: EventPages, partition: int, facts: Facts, now_us: int) -> Moment:
    """Tell the state with its last event; a long history is not folded for that where its device lives."""
    state = facts.state
    last = next((entry for entry in facts.entries if entry.recorded.seq == state.seq), None)
    return await fold_at(past, partition, state.sid, now_us) if last is None else Moment(state, last)


async def _totals(source: EntitySource, facts: Facts) -> Mapping[str, int]:
    """Count how much there is of each type that a device asks for, as far as there is time."""
    library, totals = facts.library, dict[str, int]()
    if not library.health.ok or not library.horizon_us:
        return totals
    asked = source.of_session(facts.state.user, facts.state.sid)

    async def count(entity_type: str) -> None:
        found = await asked.ahead(facts.state.library, entity_type, None, library.horizon_us)
        totals[entity_type] = found.rows

    with suppress(TimeoutError, Unavailable):
        async with asyncio.timeout(TOTALS_S):
            await each(facts.types, count, AT_ONCE)
    return totals
