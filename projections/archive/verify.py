"""Verify a partition's segments: each by itself, that one follows the other, and that the hot stream follows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from ledger.chain import link, previous_of
from ledger.errors import CorruptLedger
from ledger.log.append import pairs
from ledger.log.reader import last_id, parse_entry, read_raw
from projections.archive.catalog import Archive
from projections.archive.check import SegmentCheck
from projections.archive.errors import BadSegment, ObjectMissing
from projections.archive.fold import Fold
from projections.archive.format import Name, Previous, place
from projections.archive.record import Record, read_record
from projections.archive.segment import Segment

NAMED: Final = 1000
"""How many differences of a partition a report names: a report of all partitions has room for no more."""


class SegmentDifference(msgspec.Struct, frozen=True):
    """One thing in a partition's segments that is not as it should be."""

    partition: int
    segment: str
    what: str
    session: str = ""
    event: str = ""


class SegmentsReport(msgspec.Struct):
    """What of a partition's segments was checked, and what differs: all are counted, the first NAMED are named."""

    partition: int
    segments: int = 0
    events: int = 0
    bytes: int = 0
    different: int = 0
    differences: list[SegmentDifference] = []

    def note(self, difference: SegmentDifference) -> None:
        """Count a difference, and name it if there is room."""
        self.different += 1
        if len(self.differences) < NAMED:
            self.differences.append(difference)

    def add_differences(self, other: SegmentsReport) -> None:
        """Add the differences that another report counted and named."""
        self.different += other.different
        self.differences += other.differences[: NAMED - len(self.differences)]


async def verify_segments(
    archive: Archive, partition: int, *, on_progress: Callable[[SegmentsReport], None] = lambda _: None
) -> SegmentsReport:
    """Check a partition's segments and how the hot stream goes on behind them; never writes.

    Events may be archived and removed by retention meanwhile. Raises ArchiveUnavailable, StoreUnavailable.
    """
    check = _PartitionCheck(archive, partition, on_progress)
    done = ""
    while True:
        record = await read_record(archive.store, partition)
        if not record.floor:
            return check.report
        done = await check.segments(record, done)
        found = await check.hot_stream(record.floor)
        if (await read_record(archive.store, partition)).floor == record.floor:
            check.report.add_differences(found)
            return check.report


class _PartitionCheck:
    def __init__(self, archive: Archive, partition: int, on_progress: Callable[[SegmentsReport], None]) -> None:
        self.report = SegmentsReport(partition)
        self._archive = archive
        self._partition = partition
        self._on_progress = on_progress
        self._checking = ""
        self._check = SegmentCheck(self._note)

    async def segments(self, record: Record, done: str) -> str:
        """Check the segments behind the one named `done`; gives the name of the last one."""
        try:
            names = await self._archive.segments(self._partition, record)
        except CorruptLedger as error:
            self._checking = record.segment
            self._note(str(error), "", str(error.details.get("id", "")))
            self._check.begin_anew(whole=False)
            return record.segment
        for name in names:
            if not done or place(name.last) > place(_last(done)):
                await self._segment(name, record, first=not done)
                done = str(name)
        self._checking = record.segment
        last = self._check.previous
        if last is not None and last.digest != record.digest:
            self._note(f"its digest is {last.digest}, the ledger has noted {record.digest}", "", "")
        if len(names) != record.segments:
            self._note(f"there are {len(names)} segments, the ledger has noted {record.segments}", "", "")
        return done

    async def hot_stream(self, floor: str) -> SegmentsReport:
        """Tell where the hot stream does not go on as the newest segment ends: by each session's first event there."""
        held, self.report = self.report, SegmentsReport(self._partition)
        newest = await last_id(self._archive.store, self._partition)
        seen: set[bytes] = set()
        if newest is not None and place(newest) > place(floor):
            async for rows in read_raw(self._archive.store, self._partition, floor, newest):
                for row in rows:
                    fields = pairs(row[1])
                    sid = fields.get(b"sid", b"")
                    if sid not in seen:
                        seen.add(sid)
                        self._goes_on(row, sid.hex())
        found, self.report = self.report, held
        return found

    async def _segment(self, name: Name, record: Record, *, first: bool) -> None:
        self._checking = str(name)
        try:
            segment = await Segment.open(self._archive.objects, str(name))  # not one that was kept: it may differ now
            if first:
                self._begin((await segment.header()).previous, record)
            await self._check.check(segment, self._advance)
        except ObjectMissing:
            cut = (await read_record(self._archive.store, self._partition)).cut
            if not cut or place(name.last) > place(cut):
                self._note("it is not in the archive", "", "")
            self._check.begin_anew(whole=False)
        except BadSegment as error:
            self._note(str(error.details["what"]), "", "")
            self._check.begin_anew(whole=False)
        else:
            self.report.segments += 1
            self.report.bytes += sum(frame.length for frame in segment.footer.frames)

    def _begin(self, previous: Previous | None, record: Record) -> None:
        """Begin with the oldest segment; the one before it may be missing only if retention removed it."""
        self._check.begin_anew(whole=previous is None)
        if previous is not None and not (record.cut and place(_last(previous.name)) <= place(record.cut)):
            self._note(f"it follows {previous.name}, which is not in the archive", "", "")

    def _advance(self, events: int) -> None:
        self.report.events += events
        self._on_progress(self.report)

    def _goes_on(self, row: list[Any], sid: str) -> None:
        """Compare a session's first event above the floor with how the session stood there."""
        fold = self._check.folds.get(sid, Fold())
        if sid in self._check.broken or not (self._check.whole or fold.state):
            return
        state, stream_id = fold.state, row[0].decode()
        seq, digest = (0, b"") if state is None else (state.seq, state.hash)
        try:
            entry = parse_entry(row)
        except CorruptLedger as error:
            self._note(f"the stream's first event of the session cannot be read: {error}", sid, stream_id)
            return
        recorded = entry.recorded
        previous = previous_of(recorded, seq, digest)
        linked = link(previous or b"", sid, recorded.seq, recorded.at_us, recorded.schema, recorded.raw)
        if previous is None or (entry.prev, recorded.hash) != (fold.head, linked):
            self._note("the stream's first event of the session does not follow its last one here", sid, stream_id)

    def _note(self, what: str, sid: str, event: str) -> None:
        self.report.note(SegmentDifference(self._partition, self._checking, what, sid, event))


def _last(name: str) -> str:
    """Tell the stream id of the last event of a segment from its name."""
    return name.rpartition("_")[2].removesuffix(".ndjson.zst")
