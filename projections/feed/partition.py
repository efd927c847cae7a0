"""Reading one partition forwards, across the segments of its archive and its stream, without a gap between them.

Where a feed stands is always the id of an entry it told, of the archive's floor, or the beginning. So what is behind it
in the stream is all that follows if that entry is still there; if it is not, either it was archived meanwhile, and what
follows it lies in segments up to the floor, or the store lost it with all that came after.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

from ledger import keys
from ledger.errors import CorruptLedger, UnknownEvent
from ledger.log.reader import FIRST_ROWS, MOST_ROWS, PAGE_BYTES, Entry, parse_entry
from ledger.store.interface import Store
from projections.archive.catalog import Archive
from projections.archive.errors import ArchiveNotGiven, ObjectMissing
from projections.archive.record import Record, read_record
from projections.feed.position import BEGINNING, StreamId, stream_id
from projections.feed.told import NoticeKind

BACK_MS: Final = 60_000
"""How far before a lost event a partition is read again: clocks of a store's servers differ by less."""
_ATTEMPTS: Final = 3


class Damaged(NamedTuple):
    """A stream entry that cannot be read, and what it is."""

    id: str
    what: str


class Read(NamedTuple):
    """Some entries in stream order, and where the feed stands behind them.

    `kind` and `what` tell what else is to be said there; `goes_back`: it stands before where it was.
    """

    entries: list[Entry | Damaged]
    last: StreamId
    kind: NoticeKind | None = None
    what: str = ""
    goes_back: bool = False


class PartitionReader:
    """Reads partitions of one ledger; `present` raises LedgerGone where the store has lost all of it.

    Raises Unavailable, CorruptLedger (of a segment, or UnknownEvent), ArchiveNotGiven, StoreReplyError.
    """

    def __init__(self, store: Store, archive: Archive | None, present: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._archive = archive
        self._present = present

    async def newest(self, partition: int) -> StreamId:
        """Tell the id of a partition's newest event; the archive's floor, or BEGINNING, where its stream is empty."""
        name = keys.stream(partition)
        rows = await self._store.command("XREVRANGE", name, "+", "-", "COUNT", 1, key=name)
        if rows:
            return stream_id(rows[0][0].decode())
        return (await self._bounds(partition))[0]

    async def has_more(self, partition: int, after: StreamId) -> bool:
        """Tell whether the stream has anything behind an id. PERF: asked of each partition in each turn."""
        name = keys.stream(partition)
        return bool(await self._store.command("XRANGE", name, f"({after}", "+", "COUNT", 1, key=name))

    async def read(self, partition: int, after: StreamId, until: StreamId | None = None) -> AsyncIterator[Read]:
        """Read what is behind `after`, up to `until` or what is the newest; at first it is seen that `after` is there.

        Where it is not, since the store lost it, the first of what is yielded goes back.
        """
        name = keys.stream(partition)
        end, count = "+" if until is None else str(until), FIRST_ROWS
        first = True
        while first or until is None or after < until:
            rows: list[Any] = []
            if until is None or after < until:
                start = "-" if after == BEGINNING else f"({after}"
                rows = await self._store.command("XRANGE", name, start, end, "COUNT", count, key=name)
            # Asked behind the rows: if `after` is there now, nothing behind it was gone from the stream before.
            is_there = await self._store.command("XRANGE", name, str(after), str(after), key=name)
            first = False
            if not is_there:
                floor, cut = await self._bounds(partition)
                if after < cut:
                    yield Read([], cut, "removed", f"retention removed what is behind {after} up to {cut}")
                    after = cut
                    continue
                if after < floor:
                    async for read in self._archived(partition, after):
                        yield read
                        after = read.last
                    continue
                if after > floor and not await self._was_aside(partition, after):
                    await self._present()
                    back = await self._before(partition, after, floor)
                    what = (
                        f"the store has lost event {after} and what came behind it; told again is what follows {back}"
                    )
                    yield Read([], back, "went_back", what, goes_back=True)
                    after = back
                    continue
            if rows:
                entries, unknown = _entries(rows)
                if entries:
                    after = stream_id(entries[-1].id)
                    yield Read(entries, after)
                if unknown is not None:
                    raise unknown
            if len(rows) < count:
                return
            longest = max(len(row[0]) + sum(map(len, row[1])) for row in rows)
            count = max(1, min(MOST_ROWS, 2 * count, PAGE_BYTES // longest))

    async def _archived(self, partition: int, after: StreamId) -> AsyncIterator[Read]:
        """Read what lies in segments behind `after`, up to the floor."""
        if self._archive is None:
            raise ArchiveNotGiven
        for attempt in range(_ATTEMPTS):
            record = await read_record(self._store, partition)
            if record.cut and after < stream_id(record.cut):  # removed meanwhile: that is told
                return
            try:
                async for entries in self._archive.events(partition, record, str(after)):
                    after = stream_id(entries[-1].id)
                    yield Read(list(entries), after)
            except ObjectMissing:
                if attempt < _ATTEMPTS - 1 and await read_record(self._store, partition) != record:
                    continue
                raise
            if after < (floor := stream_id(record.floor)):
                yield Read([], floor)
            return

    async def _bounds(self, partition: int) -> tuple[StreamId, StreamId]:
        """Tell a partition's floor, and up to where retention removed events; BEGINNING for none."""
        record: Record = await read_record(self._store, partition)
        return (
            stream_id(record.floor) if record.floor else BEGINNING,
            stream_id(record.cut) if record.cut else BEGINNING,
        )

    async def _before(self, partition: int, lost: StreamId, floor: StreamId) -> StreamId:
        """Find an entry that was told for sure, behind which all that the store has now follows."""
        name = keys.stream(partition)
        top = str(max(0, lost.ms - BACK_MS))
        rows = await self._store.command("XREVRANGE", name, top, "-", "COUNT", 1, key=name)
        return stream_id(rows[0][0].decode()) if rows else floor

    async def _was_aside(self, partition: int, lost: StreamId) -> bool:
        """Tell whether somebody put the entry aside, since it was no event."""
        name = keys.aside(partition)
        return bool(await self._store.command("HEXISTS", name, str(lost), key=name))


def _entries(rows: list[Any]) -> tuple[list[Entry | Damaged], UnknownEvent | None]:
    """Read stream entries up to one that only a newer version reads, which ends them."""
    found: list[Entry | Damaged] = []
    for row in rows:
        try:
            found.append(parse_entry(row))
        except UnknownEvent as error:
            return found, error
        except CorruptLedger as error:
            found.append(Damaged(row[0].decode(), str(error)))
    return found, None
