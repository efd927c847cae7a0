"""A partition's segments, all of them checked on the way to what they hold: each by itself, and that each follows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec

from ledger.errors import CorruptLedger
from projections.archive.catalog import Archive
from projections.archive.check import SegmentCheck
from projections.archive.errors import BadSegment, ObjectMissing
from projections.archive.fold import Fold
from projections.archive.format import EndedLine, Name, Previous, place
from projections.archive.record import Record, read_record
from projections.archive.segment import Segment
from projections.checking.findings import Finding


class CheckedSegments:
    """What an archive holds of one partition up to its floor, as `Archive` tells it, after all of it was checked.

    What differs goes to `note`. `broken` are sessions whose chains break in segments: noted here, and once. Segments
    that were checked are not read again, so events may be archived meanwhile. Never writes.
    """

    def __init__(
        self,
        archive: Archive,
        partition: int,
        note: Callable[[Finding], None],
        on_events: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`on_events` is told how many more events were looked at."""
        self.segments = 0
        self.is_damaged = False
        self._archive = archive
        self._partition = partition
        self._tell = note
        self._on_events = on_events
        self._checking = ""
        self._done = ""
        self._check = SegmentCheck(self._note)

    @property
    def broken(self) -> set[str]:
        """The sessions whose chains break."""
        return self._check.broken

    async def states(self, partition: int) -> AsyncIterator[list[tuple[str, Fold]]]:
        """Check what was not checked yet, then give the sessions that have not ended at the floor.

        Raises CorruptLedger if these cannot be told, ArchiveUnavailable.
        """
        record = await read_record(self._archive.store, partition)
        if record.floor:
            await self._check_up_to(record)
        if not self._check.whole:
            raise ObjectMissing("the sessions at the archive's floor cannot be told")  # unless it is another one by now
        yield [(sid, msgspec.structs.replace(fold)) for sid, fold in self._check.folds.items()]

    async def ended(self, partition: int) -> AsyncIterator[list[EndedLine]]:
        """Read the sessions that ended at or below the floor."""
        async for lines in self._archive.ended(partition):
            yield lines

    async def _check_up_to(self, record: Record) -> None:
        """Check the segments behind those that were."""
        try:
            names = await self._archive.segments(self._partition, record)
        except CorruptLedger as error:
            self._checking = record.segment
            self._note(str(error), "", str(error.details.get("id", "")))
            self._check.begin_anew(whole=False)
            return
        for name in names:
            if not self._done or place(name.last) > place(_last(self._done)):
                await self._segment(name, record)
                self._done = str(name)
        self._checking = record.segment
        last = self._check.previous
        if last is not None and last.digest != record.digest:
            self._note(f"its digest is {last.digest}, the ledger has noted {record.digest}", "", "")
        if len(names) != record.segments:
            self._note(f"there are {len(names)} segments, the ledger has noted {record.segments}", "", "")

    async def _segment(self, name: Name, record: Record) -> None:
        self._checking = str(name)
        try:
            segment = await Segment.open(self._archive.objects, str(name))  # not one that was kept: it may differ now
            if not self._done:
                self._begin((await segment.header()).previous, record)
            await self._check.check(segment, self._on_events)
        except ObjectMissing:
            cut = (await read_record(self._archive.store, self._partition)).cut
            if not cut or place(name.last) > place(cut):
                self._note("it is not in the archive", "", "")
            self._check.begin_anew(whole=False)
        except BadSegment as error:
            self._note(str(error.details["what"]), "", "")
            self._check.begin_anew(whole=False)
        else:
            self.segments += 1

    def _begin(self, previous: Previous | None, record: Record) -> None:
        """Begin with the oldest segment; the one before it may be missing only if retention removed it."""
        self._check.begin_anew(whole=previous is None)
        if previous is not None and not (record.cut and place(_last(previous.name)) <= place(record.cut)):
            self._note(f"it follows {previous.name}, which is not in the archive", "", "")

    def _note(self, what: str, sid: str, event: str) -> None:
        self.is_damaged = self.is_damaged or not sid
        self._tell(Finding(self._partition, sid, what, event, self._checking))


def _last(name: str) -> str:
    """Tell the stream id of the last event of a segment from its name."""
    return name.rpartition("_")[2].removesuffix(".ndjson.zst")
