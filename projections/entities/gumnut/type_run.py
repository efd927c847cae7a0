"""One entity type's run in one stream: from a cursor, event by event, to the bound.

A row's position carries the cursor up to which all is done once a device has it: that of the last event before the
next row's. Its time only labels it: when the event's transaction began, or right behind the row before, since the
feed's order is not that of time. Times stay ROOM_US below the snapshot, so that rows never run out of them.

An entity is sent once in a run however many of its events come, for it was read after all of them: MAX_SENT ids are
remembered. Events behind the last row leave no trace on the device. So that they are not read again each time, the
process remembers where they end (`Tails`); and behind more than CARRIED of them, or behind entities that were sent
before, a SyncAckV1 line carries the cursor: an app acknowledges it and else ignores it. Of two such lines in a row it
acknowledges only the second, so the first type's cursor moves on with one of the next streams.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import msgspec

from ledger.positions import Position, iso_from_us
from projections.entities.gumnut.bulk_reads import is_id
from projections.entities.gumnut.feed import Events
from projections.entities.gumnut.held_back import PARENTS, Tails
from projections.entities.gumnut.payloads import Unfit
from projections.entities.gumnut.stream_library import View
from projections.entities.gumnut.type_reads import Kind, Made
from projections.entities.lines import escaped, head_of
from projections.entities.payloads.base import Payload
from projections.entities.registry import EntityTypeRow, upserts_of

ROOM_US: Final = 10_000_000
MAX_SENT: Final = 50_000
CARRIED: Final = 1_000
_encode: Final = msgspec.json.Encoder().encode


class Batch(NamedTuple):
    """The rows of one page of events, how many were left out, and whether the run ends before one that waits."""

    rows: list[tuple[bytes, Position]]
    held_back: int
    cut: bool = False


class _Row(NamedTuple):
    """A row at its event, or one that is not `sent`.

    `needs` are the names of notes without which no device may get past it; `stops` is one that could not be made.
    """

    at: int
    id: str
    made: Made
    needs: tuple[str, ...] = ()
    sent: bool = True
    stops: str = ""


class Run:
    """Reads one entity type from a position on; used once."""

    def __init__(self, view: View, library: str, served: EntityTypeRow, kind: Kind, tails: Tails) -> None:
        self._view = view
        self._notes = view.notes
        self._feed = kind.feed(view.notes)
        self._library = library
        self._served = served
        self._kind = kind
        self._tails = tails
        self._sent: dict[str, None] = {}
        self._at_us = 0
        self._owner = ""

    async def batches(self, after: Position | None, before: int) -> AsyncIterator[Batch]:
        """Yield the rows strictly after a position, page by page of events; an empty batch is left out."""
        if after is not None:
            self._at_us = after.at_us
        if self._served.needs_owner:
            self._owner = (await self._view.owner()).id
        done = "" if after is None else after.id  # all up to there is on the device
        cursor = reached = self._tails.end_of(self._library, self._notes.version, self._served.name, done)
        passed, repeated = 0, False
        while True:
            page = await self._view.feed.read(self._feed, cursor)
            rows, repeats, held_back = await self._rows(page)
            placed, whole, waits = await self._placed(page, rows, reached, before)
            await self._notes.keep()  # before a device can get past what is noted
            if page.events and whole:
                reached = page.events[-1].cursor
            if placed:
                done = placed[-1][1].id
                passed, repeated = 0, False
            elif whole:
                passed, repeated = passed + len(page.events), repeated or repeats
            if placed or held_back or waits:
                yield Batch(placed, held_back, waits)
            if not whole:
                self._view.cut(self._kind.table)
                return
            if not page.more:
                break
            cursor = page.next
        self._notes.goes_on(self._served.stored)
        await self._notes.keep()
        if passed and not repeated:  # what was left out as already sent was sent to this device only
            self._tails.note(self._library, self._notes.version, self._served.name, done, reached)
        if (repeated or passed > CARRIED) and self._at_us + 1 < before:
            yield Batch([self._carrier(reached)], 0)

    async def _rows(self, page: Events) -> tuple[list[_Row], bool, int]:
        """Make the rows of a page; tells also whether entities were left out as sent before, and how many as unfit.

        They end with one that may not be passed, if there is such a one.
        """
        kind = self._kind
        mattering = kind.mattering(self._notes, page.events)
        places = {id(event): at for at, event in enumerate(page.events)}
        named = await kind.names(self._view, mattering) if mattering else []
        wanted: dict[str, int] = {}
        repeats = False
        for event, ids in zip(mattering, named, strict=True):
            for entity_id in ids:
                if entity_id in self._sent:
                    repeats = True
                else:
                    wanted.setdefault(entity_id, places[id(event)])
        made = await kind.read(self._view, list(wanted)) if wanted else {}
        if kind.table:
            self._view.omitted(kind.table, wanted.keys() - made.keys())
            self._view.omitted(kind.table, (key for key in made if isinstance(made[key].data, Unfit)))
        rows = [row for entity_id, at in wanted.items() if (row := self._row(at, entity_id, made.get(entity_id)))]
        refused = await self._notes.keep()
        for index, row in enumerate(rows if refused else ()):
            if lacking := refused.intersection(row.needs):
                rows[index:] = [row._replace(sent=True, stops=min(lacking))]
                break
        return [row for row in rows if row.sent], repeats, sum(not row.sent for row in rows)

    def _row(self, at: int, entity_id: str, made: Made | None) -> _Row | None:
        """Note what is wrong with a row; None for one that is not there."""
        stored, notes = self._served.stored, self._notes
        shown = entity_id.replace("\n", "+")
        if made is None and (self._served.is_delete or is_id(entity_id)):
            notes.gone(stored, shown)
            return None
        if made is None or isinstance(made.data, Unfit):
            made = made or Made(Unfit("id"))
            name = notes.unfit(stored, shown, str(made.data))
            return _Row(at, entity_id, made, (name,) if stored in PARENTS.values() else (), sent=False)
        unfit = [ref for ref in made.refs if ref.unfit]
        needs = tuple(notes.unfit(PARENTS[ref.table], ref.id, ref.unfit) for ref in (*unfit, *made.lacks))
        if unfit:
            notes.waits(stored, shown, unfit[0].told)
        return _Row(at, entity_id, made, needs, sent=not unfit)

    async def _placed(
        self, page: Events, rows: list[_Row], reached: str, before: int
    ) -> tuple[list[tuple[bytes, Position]], bool, bool]:
        """Give rows their positions, up to the first whose parents are not surely there.

        Tells whether it was all, and whether one waits for a parent.
        """
        refs = [[self._view.dated(ref, page.events[row.at]) for ref in row.made.refs] for row in rows]
        unproven = await self._view.unproven(ref for row_refs in refs for ref in row_refs)
        placed: list[tuple[bytes, Position]] = []
        for index, row in enumerate(rows):
            waits_for = [ref.told for ref in refs[index] if ref in unproven]
            if row.stops or waits_for:
                told = row.stops or waits_for[0]
                self._notes.stops(self._served.stored, row.id.replace("\n", "+"), told)
                return placed, False, True
            at_us = max(self._at_us + 1, min(page.events[row.at].at_us, before - ROOM_US))
            if at_us >= before:
                return placed, False, False
            following = rows[index + 1].at if index + 1 < len(rows) else len(page.events)
            position = Position(at_us, page.events[following - 1].cursor if following else reached)
            self._at_us = at_us
            placed.append((self._line(row.made.data, position), position))
            self._remember(row)
        return placed, True, False

    def _remember(self, row: _Row) -> None:
        self._sent[row.id] = None
        if len(self._sent) > MAX_SENT:
            del self._sent[next(iter(self._sent))]
        if self._kind.table:
            self._view.sent(self._kind.table, row.id, row.made.stamp_us)
        if self._served.is_delete:
            self._forget(row.id)
        else:
            self._notes.sent(self._served.stored, row.id)

    def _forget(self, row_id: str) -> None:
        """Take notes away of what is deleted, and of what waited for it."""
        for name in upserts_of(self._served.stored):
            self._notes.deleted(name, row_id)

    def _line(self, data: Any, position: Position) -> bytes:
        served = self._served
        if served.from_stored is not None:
            data = served.from_stored(data, self._owner) if served.needs_owner else served.from_stored(data)
        return line_of(served.name, data, position)

    def _carrier(self, cursor: str) -> tuple[bytes, Position]:
        position = Position(self._at_us + 1, cursor)
        ack = b"%b|%b|%b" % (self._served.name.encode(), iso_from_us(position.at_us).encode(), escaped(cursor))
        return b'{"type":"SyncAckV1","data":{},"ack":"' + ack, position


def line_of(entity_type: str, data: Payload, position: Position) -> bytes:
    """Print a row's line without its end."""
    return b"%b%b|%b" % (head_of(entity_type, data), iso_from_us(position.at_us).encode(), escaped(position.id))
