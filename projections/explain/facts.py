"""What `explain` is given: all that is known of a session, its library, and what of it lies ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ledger.entity_types import COMPLETE, RESET, mask_of, types_in
from ledger.errors import CorruptLedger
from ledger.events import Event, StreamOffered
from ledger.log.reader import Entry
from ledger.log.service import Ledger
from ledger.positions import Position
from ledger.state import State
from projections.entities.registry import ROWS
from projections.entities.source import EntitySource
from projections.explain.library import UNASKED, Library, look, position_in
from projections.history.event_pages import EventPages
from projections.history.state_at import fold_at
from projections.sent.record import Sent, newest
from projections.unknown_types import UnknownType, UnknownTypes

LOOKED_AT: Final = 1000
"""How many of a session's newest events are looked at."""


class Facts(NamedTuple):
    """A session as of now, its newest events (newest first), and its library, UNASKED for an ended one.

    `seen_us` is when a request of it was last noted, at most hourly; None for one that does not live. `types` are those
    it last asked for, in the order of the stream, empty if that is not known. `damage` tells what is wrong with the
    event behind `entries`; '' if nothing is. `unknown` are types that apps ask for and this version does not know.
    `sent` are its last streams, newest first.
    """

    state: State
    entries: Sequence[Entry]
    seen_us: int | None
    types: tuple[str, ...]
    library: Library
    damage: str = ""
    unknown: Sequence[UnknownType] = ()
    sent: Sequence[Sent] = ()

    def position(self, entity_type: str) -> Position | None:
        """Tell behind which position the next stream begins with one entity type: where it was acknowledged up to."""
        return None if entity_type in self.library.again else position_in(self.state, entity_type)


async def gather(ledger: Ledger, past: EventPages, source: EntitySource, partition: int, sid: str) -> Facts:
    """Gather the facts of a session, living or ended; raises NoSuchSession. Asks the source nothing of an ended one."""
    now_us = ledger.clock()
    state = await ledger.look(partition, sid)
    seen_us = None
    if state is None:
        state = (await fold_at(past, partition, sid, now_us)).state
    elif (seen_ms := (await ledger.sessions.seen_ms(state.user, [sid]))[0]) > 0:
        seen_us = seen_ms * 1000
    entries, damage = await _newest(past, partition, state)
    types = last_asked_for(entries, state)
    library = UNASKED if state.ended is not None else await look(source, state, types, now_us)
    unknown = await UnknownTypes(ledger.store).all(now_us)
    sent = await newest(ledger, partition, sid)
    return Facts(state, entries, seen_us, types, library, damage, unknown, sent)


async def _newest(past: EventPages, partition: int, state: State) -> tuple[list[Entry], str]:
    """Read the newest events, newest first, and tell what is wrong with the next one, if that is why it is so few."""
    entries: list[Entry] = []
    try:
        async for run in past.runs(partition, state.sid, beyond_seq=state.seq + 1, size=LOOKED_AT):
            entries += run.entries
            if len(entries) >= LOOKED_AT:
                break
    except CorruptLedger as error:
        return entries, str(error)
    return entries, ""


def last_asked_for(entries: Sequence[Entry], state: State) -> tuple[str, ...]:
    """Tell the entity types a device last asked for, in the order of the stream; none if it never asked.

    Its last offer tells it; where that lies too far back, all that it was offered.
    """
    mask = next(
        (int.from_bytes(event.types, "big") for event in map(_event, entries) if isinstance(event, StreamOffered)),
        0,
    )
    for offer in () if mask else state.offered:
        mask |= offer.mask
    asked_for = set(types_in(mask & ~mask_of((COMPLETE, RESET))))
    return tuple(row.name for row in ROWS if row.name in asked_for)


def _event(entry: Entry) -> Event:
    return entry.recorded.event
