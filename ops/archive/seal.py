"""Sealing a partition: what is old enough goes into a segment, is read back, is noted as archived, and is trimmed.

Nothing is noted before it was read back, and nothing trimmed before it was noted. So at whatever point this ends, the
next one goes on: a segment that was written and not noted is adopted if it is what the stream holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from ledger import keys
from ledger.errors import CorruptLedger, UnknownEvent
from ledger.log import milestones
from ledger.log.append import MARK_EVERY
from ledger.log.reader import Entry, is_foreign, parse_entry, read_raw
from ledger.log.whole import mark_broken
from ledger.positions import iso_from_us
from ledger.store.interface import Store
from ops.archive.options import ArchiveOptions
from ops.archive.report import ArchiveReport
from projections.archive.catalog import Archive
from projections.archive.check import SegmentCheck
from projections.archive.errors import BadSegment, CannotSeal, ObjectExists
from projections.archive.fold import Fold, ended_line, read_fold, state_line
from projections.archive.format import EndedLine, IndexLine, Previous, folder, parse_name, place
from projections.archive.lease import Lease
from projections.archive.segment import Segment
from projections.archive.writer import Built, SegmentWriter
from projections.checking.aside import Aside, CannotSetAside, Decision, advice, broken_by, read_asides, set_aside
from projections.checking.findings import Finding

_MARKS_AT_ONCE = 100
"""Of how many sessions marks are removed in one script."""


class Sealer:
    """Seals one partition while its lease is held. Raises Fenced, CannotSeal, ArchiveUnavailable, StoreUnavailable."""

    def __init__(
        self,
        store: Store,
        archive: Archive,
        partition: int,
        lease: Lease,
        options: ArchiveOptions,
        now_us: int,
        report: ArchiveReport,
        on_progress: Callable[[ArchiveReport], None],
    ) -> None:
        self._store = store
        self._archive = archive
        self._partition = partition
        self._lease = lease
        self._options = options
        self._now_us = now_us
        self._report = report
        self._on_progress = on_progress
        self._folds: dict[str, Fold] | None = None
        self._stopped: CannotSeal | None = None
        self._held_up = False
        self._broken: dict[str, str] = {}
        self._findings: list[Finding] = []

    async def finish_earlier(self) -> None:
        """Finish what an earlier run left: trim what is noted, remove strays, adopt segments that were not noted."""
        if await self._holds_archived() and (newest := await self._archive.newest(self._partition)) is not None:
            await self._trim(newest)
        await self._sweep()
        await self._adopt()

    async def seal(self) -> None:
        """Seal what is old enough, segment by segment, up to what cannot be read."""
        hot_ms = (self._now_us - int(self._options.hot_s * 1_000_000)) // 1000
        while await self._hot_begins_before(hot_ms):
            try:
                if not await self._seal_one(hot_ms):
                    break
            except ObjectExists:
                before = self._lease.record.floor, self._report.swept
                await self._adopt()
                if (self._lease.record.floor, self._report.swept) == before:
                    raise
        self._report.held_up += self._held_up
        if self._stopped is not None:
            raise self._stopped

    async def _hot_begins_before(self, hot_ms: int) -> bool:
        """Tell whether there is anything to seal, without reading what it would go on from."""
        if await excess(self._store, self._partition, self._options) > 0:
            return True
        async for rows in read_raw(self._store, self._partition, self._lease.record.floor or "-", page=1):
            return place(rows[0][0].decode())[0] < hot_ms
        return False

    async def _seal_one(self, hot_ms: int) -> bool:
        """Seal one segment; False if nothing was old enough, or nothing more is."""
        folds = await self._base()
        beyond = await excess(self._store, self._partition, self._options)
        ended: dict[str, EndedLine] = {}
        with SegmentWriter(self._partition, self._previous(), self._options.spool) as writer:
            async for entry in self._old(hot_ms, beyond):
                self._fold(folds, entry, ended)
                writer.add(entry)
                if writer.count == self._options.segment_events:
                    break
            if not writer.count:
                return False
            await self._lease.hold()  # else what was read may have holes, where whoever took over trimmed
            asides = await self._asides_up_to(writer.last)
            for sid, event, what in await broken_by(self._store, self._partition, asides, folds):
                self._break(sid, folds[sid], event, what)
            await mark_broken(self._store, self._partition, self._broken)
            while self._findings:
                self._report.name(self._findings.pop(0))
            built = await asyncio.to_thread(
                writer.finish,
                [ended[sid] for sid in sorted(ended)],
                (state_line(sid, folds[sid]) for sid in sorted(folds)),
                iso_from_us(self._now_us),
            )
            self._folds = None  # until it is noted, these are ahead
            await self._archive.objects.create(str(built.name), built.file)
            segment = await self._read_back(built)
        await self._note(Previous(str(built.name), built.digest.hex()), built.name.last)
        self._folds = folds
        self._report.segments += 1
        self._report.bytes += built.size
        self._report.events += built.header.count
        await self._trim(segment)
        self._on_progress(self._report)
        return built.header.count == self._options.segment_events

    async def _old(self, hot_ms: int, beyond: int) -> AsyncIterator[Entry]:
        """Give the events above the floor that are old enough, or of which there are too many."""
        count = 0
        async for rows in read_raw(self._store, self._partition, self._lease.record.floor or "-"):
            for row in rows:
                if count >= beyond and place(row[0].decode())[0] >= hot_ms:
                    return
                if not self._options.may_go(self._partition, row[0].decode()):
                    self._held_up = True
                    return
                try:
                    entry = await self._read(row)
                except CannotSeal as error:
                    self._stopped = error
                    return
                if entry is not None:
                    count += 1
                    yield entry
            self._report.read += len(rows)
            self._on_progress(self._report)

    async def _read(self, row: Sequence[Any]) -> Entry | None:
        """Read a stream entry; what is none of ours is set aside, since it would be trimmed. Raises CannotSeal."""
        try:
            return parse_entry(row)
        except UnknownEvent as error:
            raise CannotSeal(f"stream entry {row[0].decode()}: {error}") from error
        except CorruptLedger as error:
            if not is_foreign(row):  # whose it was is for people to find out
                raise CannotSeal(f"{error}; {advice(self._partition, row[0].decode())}") from error
            why = "it is not an event, and archiving trims the stream"
            try:
                aside = await set_aside(self._store, self._partition, row, Decision(why, "archive", self._now_us))
            except CannotSetAside as refused:
                raise CannotSeal(str(refused)) from refused
            self._report.aside += 1
            self._report.name(aside.finding(self._partition, row[0].decode()))
            return None

    async def _asides_up_to(self, last: str) -> dict[str, Aside]:
        found = await read_asides(self._store, self._partition)
        return {name: each for name, each in found.items() if each.kind == "entry" and place(name) <= place(last)}

    def _break(self, sid: str, fold: Fold, event: str, what: str) -> None:
        """Follow a session no further: its events are sealed as they are, and its state cannot be told."""
        self._broken[sid] = fold.broken = f"{event} {what}"
        self._findings.append(Finding(self._partition, sid, what, event))

    def _fold(self, folds: dict[str, Fold], entry: Entry, ended: dict[str, EndedLine]) -> None:
        """Fold an event on; what does not follow breaks its session alone."""
        sid = entry.recorded.sid
        fold = folds.setdefault(sid, Fold())
        if fold.broken:
            return
        try:
            wrong = fold.take(entry)
        except UnknownEvent as error:
            raise CannotSeal(f"event {entry.id} of session {sid}: {error}") from error
        if wrong:
            self._break(sid, fold, entry.id, wrong)
        elif fold.state is not None and fold.state.ended is not None:
            ended[sid] = ended_line(sid, folds.pop(sid))

    async def _read_back(self, built: Built) -> Segment:
        """Read a segment back from where it was written, every frame; raises BadSegment."""
        segment = await Segment.open(self._archive.objects, str(built.name))
        if segment.digest != built.digest:
            raise BadSegment(segment.text, "it reads back otherwise than it was written")
        await segment.check_frames()
        return segment

    async def _holds_archived(self) -> bool:
        """Tell whether the stream still holds what is archived."""
        floor = self._lease.record.floor
        if not floor:
            return False
        async for _ in read_raw(self._store, self._partition, until=floor, page=1):
            return True
        return False

    async def _trim(self, segment: Segment) -> None:
        """Remove what is archived, of which `segment` is the newest: the marks first, the stream tells what is left."""
        async for lines in segment.index():
            for start in range(0, len(lines), _MARKS_AT_ONCE):
                page = lines[start : start + _MARKS_AT_ONCE]
                await self._lease.trim_marks([line.sid for line in page if _has_marks(line)])
        self._report.trimmed += await self._lease.trim()
        floor_us = int(self._lease.record.floor.partition("-")[0] or 0) * 1000
        await milestones.remove(self._store, self._partition, before_us=floor_us)

    async def _note(self, segment: Previous, last: str) -> None:
        """Note that all up to `last` is archived, of which the newest segment is `segment`."""
        record = self._lease.record
        await self._lease.advance(
            record._replace(floor=last, segment=segment.name, digest=segment.digest, segments=record.segments + 1)
        )

    async def _base(self) -> dict[str, Fold]:
        """Give the living sessions at the floor, which the newest segment keeps."""
        if self._folds is None:
            self._folds = {}
            if self._lease.record.segment:
                segment = await Segment.open(self._archive.objects, self._lease.record.segment)
                if segment.digest.hex() != self._lease.record.digest:
                    raise BadSegment(segment.text, "its digest is not the one that was noted")
                async for lines in segment.states():
                    self._folds |= {line.sid: read_fold(segment.text, line) for line in lines}
        return self._folds

    def _previous(self) -> Previous | None:
        record = self._lease.record
        return Previous(record.segment, record.digest) if record.segment else None

    async def _sweep(self) -> None:
        """Remove segments over events that another segment has: archivers wrote them that had lost the lease."""
        record = self._lease.record
        for path in self._archive.objects.leftovers(folder(self._partition)):
            await asyncio.to_thread(path.unlink, missing_ok=True)
        if not record.floor:
            return
        counted = set(await self._archive.segments(self._partition, record))
        cut = place(record.cut) if record.cut else (-1, -1)
        strays = [
            str(name)
            for name in await self._archive.objects_of(self._partition)
            if name not in counted and cut < place(name.last) and place(name.first) <= place(record.floor)
        ]
        await self._archive.objects.delete(strays)
        self._report.swept += len(strays)

    async def _adopt(self) -> None:
        """Note segments that were written and not noted, if they are what the stream holds; raises CannotSeal.

        Those of archivers that had lost the lease are removed: what they hold is sealed anew.
        """
        for name in await self._archive.objects_of(self._partition):
            record = self._lease.record
            if record.floor and place(name.first) <= place(record.floor):
                continue
            if not self._options.may_go(self._partition, name.last):
                self._held_up = True
                return
            segment, folds = await Segment.open(self._archive.objects, str(name)), await self._base()
            self._folds = None
            is_streams, differs = await self._compare(segment, folds, name.last)
            if differs:
                await self._lease.hold()
                if is_streams and self._is_late((await segment.header()).previous):
                    await self._archive.objects.delete([str(name)])
                    self._report.swept += 1
                    continue
                raise CannotSeal(f"{name} lies beyond what is archived and is not what the stream holds: {differs[0]}")
            await self._note(segment.as_previous, name.last)
            self._folds = folds
            self._report.adopted += 1
            await self._trim(segment)

    def _is_late(self, previous: Previous | None) -> bool:
        """Tell whether whoever wrote a segment beyond the floor had lost the lease: it does not follow the newest."""
        floor = self._lease.record.floor
        if not floor or previous is None:
            return bool(floor)
        name = parse_name(previous.name)
        return name is not None and place(name.last) < place(floor)

    async def _compare(self, segment: Segment, folds: dict[str, Fold], last: str) -> tuple[bool, list[str]]:
        """Tell whether a segment's events are those that the stream holds up to `last`, and how it first differs.

        Brings the folds there.
        """
        differs: list[str] = []
        rows = read_raw(self._store, self._partition, self._lease.record.floor or "-", last)
        held = (e async for page in rows for row in page if (e := await self._read(row)) is not None)
        async for page in segment.pages():
            there = [await anext(held, None) for _ in page]
            pairs = zip(page, there, strict=True)
            differs.extend(f"event {entry.id} is not the stream's" for entry, other in pairs if entry != other)
            if differs:
                return False, differs

        def note(what: str, sid: str, event: str) -> None:
            if sid not in check.broken:  # its events contradict themselves here as in the stream
                differs.append(" ".join(filter(None, (what, sid, event))))

        check = SegmentCheck(note, folds, self._previous())
        await check.check(segment)
        if await anext(held, None) is not None:
            return False, [*differs, "the stream has more events"]
        return True, differs


def _has_marks(line: IndexLine) -> bool:
    return line.runs[-1].last_seq // MARK_EVERY > (line.runs[0].first_seq - 1) // MARK_EVERY


async def excess(store: Store, partition: int, options: ArchiveOptions) -> int:
    """Tell how many events of a partition are more than may stay in its stream."""
    if options.hot_events is None:
        return 0
    name = keys.stream(partition)
    return max(0, int(await store.command("XLEN", name, key=name)) - options.hot_events)
