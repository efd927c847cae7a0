"""Which segments a partition has, in order, and reading in them."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Final

from ledger.errors import CorruptLedger
from ledger.log.reader import PAGE_BYTES, Entry
from ledger.store.interface import Store
from projections.archive.errors import ArchiveNotGiven, BadSegment, ObjectMissing
from projections.archive.fold import Fold, read_fold
from projections.archive.format import EndedLine, Name, after, folder, parse_name, place
from projections.archive.objects import Objects
from projections.archive.record import Record, read_record
from projections.archive.segment import Frames, Segment

_AT_ONCE: Final = 1024
_LOOKED_AT: Final = 16
"""Of how many partitions the newest segment is asked for, before the archive is another one."""
KEPT_CATALOGS: Final = 512
KEPT_SEGMENTS: Final = 128
"""How many footers are kept, of up to 50 KB each."""


class Archive:
    """The segments of all partitions of a ledger. Reads only; what differs raises BadSegment."""

    def __init__(self, store: Store, objects: Objects) -> None:
        self.store = store
        self.objects = objects
        self._frames = Frames()
        self._catalogs: OrderedDict[int, tuple[Record, list[Name]]] = OrderedDict()
        self._segments: OrderedDict[str, Segment] = OrderedDict()

    async def segments(self, partition: int, record: Record | None = None) -> list[Name]:
        """List a partition's segments in order, oldest first: those up to the floor that retention has not removed.

        They follow each other without a gap. Raises BadSegment if the newest one is not there.
        """
        record = await read_record(self.store, partition) if record is None else record
        kept = self._catalogs.get(partition)
        if kept is not None and kept[0] == record:
            self._catalogs.move_to_end(partition)
            return kept[1]
        names = await self._chain(partition, record)
        self._catalogs[partition] = (record, names)
        if len(self._catalogs) > KEPT_CATALOGS:
            self._catalogs.popitem(last=False)
        return names

    async def objects_of(self, partition: int) -> list[Name]:
        """List all segments in a partition's folder, in the order of their names, whether they count or not."""
        found = [
            name
            async for page in self.objects.names(folder(partition))
            for info in page
            if (name := parse_name(info.name)) is not None and name.partition == partition
        ]
        return sorted(found, key=str)

    async def open(self, name: Name) -> Segment:
        """Open a segment; raises ObjectMissing."""
        text = str(name)
        segment = self._segments.get(text)
        if segment is None:
            segment = self._segments[text] = await Segment.open(self.objects, text, self._frames)
            if len(self._segments) > KEPT_SEGMENTS:
                self._segments.popitem(last=False)
        self._segments.move_to_end(text)
        return segment

    async def newest(self, partition: int) -> Segment | None:
        """Open a partition's newest segment, whose states are those at the floor; None if it has none."""
        record = await read_record(self.store, partition)
        return None if not record.segment else await self.newest_of(record)

    async def newest_of(self, record: Record) -> Segment:
        """Open the newest segment that a record names; raises BadSegment if it is another one, ObjectMissing."""
        segment = await self.open(_recorded(record))
        if segment.digest.hex() != record.digest:
            raise BadSegment(record.segment, "its digest is not the one that was noted: is LEDGER_ARCHIVE another one?")
        return segment

    async def states(self, partition: int) -> AsyncIterator[list[tuple[str, Fold]]]:
        """Read the sessions alive at a partition's floor, some at a time, in the order of their ids."""
        segment = await self.newest(partition)
        if segment is not None:
            async for lines in segment.states():
                yield [(line.sid, read_fold(segment.text, line)) for line in lines]

    async def ended(self, partition: int) -> AsyncIterator[list[EndedLine]]:
        """Read the sessions that ended at or below a partition's floor and whose history is kept, oldest segment first.

        Raises what `segments` does.
        """
        for name in await self.segments(partition):
            async for lines in (await self.open(name)).ended():
                yield lines

    async def events(self, partition: int, record: Record, stream_id: str) -> AsyncIterator[list[Entry]]:
        """Read a partition's archived events behind a stream id, in order, a frame of a segment at a time.

        Raises what `segments` does, BadSegment, ObjectMissing.
        """
        names = await self.segments(partition, record)
        for name in names[_behind(names, after(stream_id)) :]:
            async for entries in (await self.open(name)).behind(stream_id):
                yield entries

    async def walk(
        self,
        partition: int,
        record: Record,
        sid: str,
        next_id: str,
        page: list[Entry],
        *,
        top_seq: int,
        top_at_us: int,
        count: int,
        page_bytes: int = PAGE_BYTES,
    ) -> str:
        """Add a session's events from the one at `next_id` backwards to `page`, until it has `count` or `page_bytes`.

        Only those up to a seq and a time. Returns where older ones were that retention removed, '' if none were. Raises
        CorruptLedger behind what could be read.
        """
        names = await self.segments(partition, record)
        while True:
            if record.cut and place(next_id) <= place(record.cut):
                return next_id
            at = _behind(names, next_id)
            if at == len(names) or place(next_id) < place(names[at].first):
                raise CorruptLedger(f"event {next_id} is neither in the stream nor in a segment", sid=sid, id=next_id)
            segment = await self.open(names[at])
            found = await segment.find(sid)
            if found is None:
                what = f"it has no events of session {sid}, though event {next_id} must be there"
                raise BadSegment(segment.text, what)
            is_full = await segment.of_session(page, sid, found, next_id, top_seq, top_at_us, count, page_bytes)
            if is_full or not found.prev:
                return ""
            if place(found.prev) >= place(next_id):
                raise BadSegment(segment.text, f"its index leads from event {next_id} of session {sid} to a later one")
            next_id = found.prev

    async def state_before(self, partition: int, sid: str, entry: Entry) -> Fold:
        """Give a session at the end of the segment before `entry`: few events lead from there.

        An empty fold, onto which all events from the first are to be folded, where there is no such segment or the
        session did not live then.
        """
        names = await self.segments(partition)
        at = _behind(names, entry.id)
        found = await (await self.open(names[at - 1])).state(sid) if at > 0 else None
        return Fold() if found is None else found

    async def _chain(self, partition: int, record: Record) -> list[Name]:
        """Find the segments that lead to the newest one, each behind the one before."""
        if not record.floor:
            return []
        floor, cut = place(record.floor), place(record.cut) if record.cut else (-1, -1)
        found = [
            name for name in await self.objects_of(partition) if place(name.last) <= floor and place(name.last) > cut
        ]
        newest = _recorded(record)
        if newest not in found:
            raise BadSegment(record.segment, "the newest segment is not in the archive: is LEDGER_ARCHIVE another one?")
        if len(found) == record.segments and _apart(found):
            return found
        # Somebody who lost the lease left a segment over the same events: then the headers tell which one counts.
        chain, by_name = [newest], {str(name): name for name in found}
        while (previous := (await (await self.open(chain[-1])).header()).previous) is not None:
            name = parse_name(previous.name)
            if name is None or place(name.last) <= cut:
                break
            if previous.name not in by_name:
                raise ObjectMissing(f"segment {previous.name} is not in the archive", object=previous.name)
            chain.append(name)
        return chain[::-1]


async def check_given(store: Store, partitions: int, archive: Archive | None) -> None:
    """Raise ArchiveNotGiven where events are archived and no archive is given, or none that holds newest segments.

    Where one is there, those that are missing are damage, which verify names. Raises CorruptLedger, ArchiveUnavailable.
    """
    looked_at = 0
    for start in range(0, partitions, _AT_ONCE):
        some = range(start, min(start + _AT_ONCE, partitions))
        for record in await asyncio.gather(*(read_record(store, partition) for partition in some)):
            if not record.floor:
                continue
            if archive is None:
                raise ArchiveNotGiven
            try:
                await archive.newest_of(record)
            except ObjectMissing:
                looked_at += 1
                if looked_at >= _LOOKED_AT:
                    break
            except BadSegment:  # it is there, at least
                return
            else:
                return
    if looked_at:
        raise ArchiveNotGiven(
            "LEDGER_ARCHIVE does not hold this ledger's segments: it is another place, or was emptied. Set it as it is "
            "set where syncledger archive runs, or bring the segments back"
        )


def _recorded(record: Record) -> Name:
    name = parse_name(record.segment)
    if name is None:
        raise BadSegment(record.segment, "the name of the newest segment is none of a segment")
    return name


def _behind(names: list[Name], stream_id: str) -> int:
    """Tell the number of the segment that holds a stream id, or else of the first one behind it."""
    return bisect_left(names, place(stream_id), key=lambda name: place(name.last))


def _apart(names: list[Name]) -> bool:
    """Tell whether each segment begins behind the one before."""
    return all(place(one.last) < place(other.first) for one, other in pairwise(names))
