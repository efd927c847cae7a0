"""Which assets a stream sends ahead of their turn, so that a device can store what comes: see `checksums`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Final

from ledger.positions import Position
from ledger.state import State
from projections.entities.checksums import TYPES, excludes, is_before, placeholder, suspects
from projections.entities.lines import position_of
from projections.entities.registry import EntityTypeRow
from projections.entities.source import EntitySource, Page

PAGE_ROWS: Final = 1000


class Ahead:
    """The lines sent ahead in one stream.

    A source that records whose checksum changed names just these. Of any other it is not known, so all are sent that
    may be: where a run is one page long, and where the device was offered the same before and has acknowledged nothing
    since. A longer run may stop a device that way once; ordinary changes of many rows do not send each of them twice.
    """

    def __init__(
        self,
        source: EntitySource,
        state: State,
        rows: Sequence[EntityTypeRow],
        snapshot_us: int,
        offered: Mapping[str, int],
    ) -> None:
        """`offered` tells up to when each entity type was offered before this stream."""
        self._source = source
        self._state = state
        self._rows = [row for row in rows if excludes(row)]
        self._snapshot_us = snapshot_us
        self._offered = offered
        self._done = False
        checkpoints = [held for name in TYPES if (held := state.checkpoints.get(name)) is not None]
        self._known_us = max((held.position.at_us for held in checkpoints), default=-1)
        self._has_rows = bool(checkpoints) or any(state.epochs.get(name) for name in TYPES)

    async def lead(self, row: EntityTypeRow, pages: AsyncIterator[Page]) -> AsyncIterator[Page | bytes]:
        """Yield the pages of a run, and before the first one what is to be sent ahead of it."""
        if not self._done and self._has_rows:
            async for text in self._recorded():
                yield text
        first = None if self._done or self._known_us < 0 or self._begins_anew(row) else await anext(pages, None)
        if first is None:
            async for page in pages:
                yield page
            return
        if self._was_offered(row) and is_before(first.lines, self._offered.get(row.name, -1)):
            self._done = True
            async for text in self._all(row):
                yield text
            yield first
        else:
            second = await anext(pages, None)
            if second is None:
                yield self._text(row, suspects(first.lines, self._known_us, after_others=True))
            yield first
            if second is None:
                return
            yield second
        async for page in pages:
            yield page

    async def _recorded(self) -> AsyncIterator[bytes]:
        """Yield what is to be sent ahead of all runs, where the source knows it."""
        after = [self._position(row) for row in self._rows]
        after_us = min((position.at_us for position in after if position is not None), default=0)
        found = self._source.rechecked(self._state.library, after_us if None not in after else 0)
        if found is None:
            return
        self._done = True
        served = {row.stored: row for row in reversed(self._rows)}
        async for lines in found:
            for stored, row in served.items():
                start = b'{"type":"%b"' % stored.encode()
                own = [line for line in lines if line.startswith(start) and self._is_ahead(row, line)]
                if own:
                    yield self._text(row, own)

    async def _all(self, first: EntityTypeRow) -> AsyncIterator[bytes]:
        """Yield all that the device may have of what is still to come, from an entity type on."""
        for row in self._rows[self._rows.index(first) :]:
            after = self._position(row)
            async for page in self._source.pages(self._state.library, row.name, after, self._snapshot_us, PAGE_ROWS):
                yield self._text(row, suspects(page.lines, self._known_us, after_others=False))

    def _begins_anew(self, row: EntityTypeRow) -> bool:
        """Tell whether the type was cleared since it was last offered: the device gets again what it has."""
        state, name = self._state, row.name
        return name not in state.checkpoints and state.epoch_of(name) > 1 and self._offered.get(name, -1) < 0

    def _was_offered(self, row: EntityTypeRow) -> bool:
        """Tell whether the entity type was offered and nothing of it acknowledged since.

        Snapshots are instants of the source's clock: one that is off by minutes tells it so much later, or too early.
        """
        held = self._state.checkpoints.get(row.name)
        return held is None or held.acked_at_us < self._offered.get(row.name, -1)

    def _is_ahead(self, row: EntityTypeRow, line: bytes) -> bool:
        after = self._position(row)
        return after is None or position_of(line).key > after.key

    def _position(self, row: EntityTypeRow) -> Position | None:
        held = self._state.checkpoints.get(row.name)
        return None if held is None else held.position

    def _text(self, row: EntityTypeRow, lines: Iterable[bytes]) -> bytes:
        epoch, after = self._state.epoch_of(row.name), self._position(row)
        return b"".join([placeholder(line, row, after, epoch) for line in lines])
