"""The events that are kept, in the stream and the archive, beside what the log knows of their sessions.

A hash in the log covers a session's whole history before it. So where the chain holds, which the fold tells, it is
enough that the event which is logged last is there and is that one. But for a history with a hole: the event behind it
links to what is logged whatever is kept in front of it, so there each event is compared.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final, NamedTuple

from ledger.errors import CorruptLedger
from ledger.store.interface import Store
from ledger.transparency.entries import KINDS, EventLeaf
from ledger.transparency.state_tree import Record
from projections.archive.catalog import Archive
from projections.archive.errors import ObjectMissing
from projections.archive.format import place
from projections.archive.record import read_record
from projections.transparency.monitor.findings import LogFinding, LogReport
from projections.transparency.monitor.log_check import Published
from projections.transparency.reading import Behind, Foreign, Row, kind_of, previous_of

NAMED: Final = 200
"""Of how many sessions the first entry is looked for that is not kept as it was logged; of others the last is named."""
NAMED_EVENTS: Final = 10_000
"""Of how many of a session's entries."""
HOLED: Final = 1000
"""How many histories with a hole are compared event by event; of a ledger with more, those that are met first."""
_TRIES: Final = 5
_LOST: Final = KINDS["history_lost"]
_ENDED: Final = KINDS["session_ended"]
_LOST_TAG: Final = b"history_lost"
_TAG_BYTES: Final = 2 + len(_LOST_TAG)
"""How far into an event its tag reaches, behind the heads of its array and of the tag."""
_REMOVED: Final = "none of its events is kept, though {seq:,} were logged: it was removed whole"
_CUT: Final = "event {seq:,}, which was logged there, is not kept, nor is what follows: its history was cut"
_HOLE: Final = "event {seq:,}, which was logged there, is not kept, and no history_lost tells of the hole"
_REWRITTEN: Final = "event {seq:,} is kept otherwise than it was logged there: its history was rewritten"
_OTHERWISE: Final = (
    "event {seq:,} is kept otherwise than it was logged there, in front of a hole that is told: the store lost it and "
    "went on before anybody looked into the log, or its history was rewritten"
)


class _Kept(NamedTuple):
    """Where an event lies, and what counts of it."""

    sid: bytes
    seq: int
    hash: bytes
    id: str


class StoreCheck:
    """Compares what is kept with a published log; memory grows by about 200 bytes with each session.

    All partitions are read first (`partition`), then all of the log's leaves are given (`leaf`), then `finish` names
    what differs.
    """

    def __init__(self, store: Store, archive: Archive | None, log: Published, report: LogReport) -> None:
        self._store = store
        self._archive = archive
        self._log = log
        self._report = report
        self._agree: set[bytes] = set()
        self._last: dict[bytes, int] = {}
        self._where: dict[bytes, int] = {}
        self._differ: dict[bytes, Record] = {}
        self._absent: dict[bytes, Record] = {}
        self._leaves: dict[bytes, list[tuple[int, EventLeaf]]] = {}
        self._holed: set[bytes] = set()
        self._ended: set[bytes] = set()
        self._oldest: dict[tuple[bytes, int], int] = {}
        self._kept_from = -1
        self._found = 0
        self._unlogged: dict[int, int] = {}
        self._strangers: set[tuple[int, str]] = set()

    async def partition(self, number: int) -> None:
        """Compare a partition's events; raises CorruptLedger, ArchiveUnavailable, StoreUnavailable."""
        cursor = self._log.cursors.get(number, "")
        async for kept in self._pages(number):
            known = await self._log.states.find({each.sid for each in kept})
            for each in kept:
                self._compare(number, each, known.get(each.sid), bool(cursor) and place(each.id) <= place(cursor))
        self._report.behind += self._unlogged.get(number, 0)
        record = await read_record(self._store, number)
        if record.cut and number not in self._oldest.values():
            self._kept_from = self._log.checkpoint.size

    async def absent(self) -> None:
        """Find the sessions that the log knows further than what is kept."""
        async for records in self._log.states.records():
            for record in records:
                self._report.sessions += 1
                if record.sid not in self._agree and record.sid not in self._differ:
                    self._absent[record.sid] = record
        for sid in [*[*self._differ, *self._absent][:NAMED], *self._holed]:
            self._leaves[sid] = []

    def leaf(self, at: int, leaf: EventLeaf) -> None:
        """Take an entry of the log."""
        held = self._leaves.get(leaf.sid)
        if held is not None and len(held) < NAMED_EVENTS:
            held.append((at, leaf))
        if leaf.kind == _ENDED and (record := self._absent.get(leaf.sid)) is not None and record.entry == at:
            self._ended.add(leaf.sid)
        if self._oldest and (leaf.sid, leaf.seq) in self._oldest:
            self._kept_from = max(self._kept_from, at)
            self._found += 1

    async def finish(self) -> None:
        """Name what differs, by the first entry that is not kept as it was logged."""
        if self._found < len(self._oldest):  # behind all that is logged, so retention may have removed any of it
            self._kept_from = self._log.checkpoint.size
        gone = {
            sid
            for sid, record in self._absent.items()
            if sid not in self._last
            and (sid in self._ended or record.entry < self._log.minimum)  # what is pruned does not tell how it ended
            and record.entry < self._kept_from
        }
        self._report.unkept = len(gone)
        kept = await self._kept_of({sid for sid in self._leaves if sid in self._last or sid in self._differ})
        for sid, record in (self._differ | self._absent).items():
            if sid not in gone:
                self._name(sid, record, kept.get(sid, {}))
        for sid in self._holed - self._differ.keys() - self._absent.keys():
            self._name_otherwise(sid, kept.get(sid, {}))

    def _name_otherwise(self, sid: bytes, kept: dict[int, bytes]) -> None:
        """Name the first event of a history with a hole that is kept otherwise than it was logged."""
        for at, leaf in sorted(self._leaves[sid]):
            if kept.get(leaf.seq, leaf.hash) != leaf.hash:
                what = _OTHERWISE.format(seq=leaf.seq)
                self._report.note(LogFinding(what, sid.hex(), at, partition=self._where[sid]))
                return

    def _name(self, sid: bytes, record: Record, kept: dict[int, bytes]) -> None:
        partition = self._where.get(sid, -1)
        entries = sorted(self._leaves.get(sid, []))
        first = next(((at, each) for at, each in entries if kept.get(each.seq, each.hash) != each.hash), None)
        if first is not None:
            what, at, seq = _REWRITTEN, first[0], first[1].seq
        elif sid in self._differ:
            what, at, seq = _REWRITTEN, record.entry, record.seq
        elif sid not in self._last:
            first = entries[0] if entries else None
            what, at, seq = _REMOVED, record.entry if first is None else first[0], record.seq
        else:
            at, seq = next(
                ((at, each.seq) for at, each in entries if each.seq > self._last[sid]), (record.entry, record.seq)
            )
            what = _CUT if self._last[sid] < record.seq else _HOLE
        self._report.note(LogFinding(what.format(seq=seq), sid.hex(), at, partition=partition))

    def _compare(self, partition: int, kept: _Kept | Row, known: Record | None, is_logged: bool) -> None:
        sid, seq = kept.sid, kept.seq
        self._where[sid] = partition
        self._last[sid] = max(seq, self._last.get(sid, 0))
        if isinstance(kept, Row) and _LOST_TAG in kept.raw[:_TAG_BYTES] and len(self._holed) < HOLED:
            self._holed.add(sid)
        if known is None or seq > known.seq:
            if is_logged and (partition, kept.id) not in self._strangers:
                self._strangers.add((partition, kept.id))
                what = f"event {seq:,} was never logged, though the log is past it: somebody put it there"
                finding = LogFinding(what, sid.hex(), -1 if known is None else known.entry, "", partition, kept.id)
                self._report.note(finding)
            elif not is_logged and isinstance(kept, Row):
                self._unlogged[partition] = self._unlogged.get(partition, 0) + 1
            if known is not None and isinstance(kept, Row) and sid not in self._agree and _tells(kept, known):
                self._agree.add(sid)
        elif seq == known.seq:
            if kept.hash == known.hash:
                self._agree.add(sid)
            else:
                self._differ[sid] = known

    async def _pages(self, number: int) -> AsyncIterator[Sequence[Row | _Kept]]:
        """Read what is kept of a partition, first how its sessions are said to be at the archive's floor."""
        for attempt in range(_TRIES):
            record, events = await read_record(self._store, number), 0
            self._unlogged[number] = 0
            try:
                if record.floor and self._archive is not None:
                    async for sealed in self._sealed(self._archive, number):
                        yield sealed
                async for rows in self._rows(number):
                    events += len(rows)
                    yield rows
            except ObjectMissing:  # unless retention removed it meanwhile
                if attempt == _TRIES - 1 or record == await read_record(self._store, number):
                    raise
            else:
                # Somebody may have archived and trimmed meanwhile what was not read yet.
                if attempt == _TRIES - 1 or record.floor == (await read_record(self._store, number)).floor:
                    return
            self._report.events -= events

    async def _sealed(self, archive: Archive, number: int) -> AsyncIterator[Sequence[Row | _Kept]]:
        async for states in archive.states(number):
            yield [
                _Kept(bytes.fromhex(sid), fold.state.seq, fold.state.hash, fold.head)
                for sid, fold in states
                if fold.state is not None and not fold.broken
            ]
        async for lines in archive.ended(number):
            yield [_Kept(bytes.fromhex(line.sid), line.seq, bytes.fromhex(line.hash), line.head) for line in lines]

    async def _rows(self, number: int) -> AsyncIterator[list[Row]]:
        behind = Behind(self._store, self._archive)
        record, first = await behind.first_page(number, "")
        is_first = bool(record.cut)
        async for page in behind.rows(number, record, first, ""):
            rows = [row for row in page if not isinstance(row, Foreign)]
            if is_first and rows:
                self._oldest[rows[0].sid, rows[0].seq] = number
                is_first = False
            self._report.events += len(rows)
            yield rows

    async def _kept_of(self, sids: set[bytes]) -> dict[bytes, dict[int, bytes]]:
        """Read which events are kept of some sessions, by seq their hashes."""
        found: dict[bytes, dict[int, bytes]] = {sid: {} for sid in sids}
        counted = self._report.events
        for number in sorted({self._where[sid] for sid in sids if sid in self._where}):
            try:
                async for rows in self._rows(number):
                    _take(found, rows)
            except (CorruptLedger, ObjectMissing):
                continue  # it was named when it was compared; the last entry is named instead of the first
        self._report.events = counted
        return found


def _take(found: dict[bytes, dict[int, bytes]], rows: Iterable[Row]) -> None:
    for row in rows:
        held = found.get(row.sid)
        if held is not None and (row.seq in held or len(held) < NAMED_EVENTS):
            held[row.seq] = row.hash


def _tells(row: Row, known: Record) -> bool:
    """Tell whether an event tells of the hole that what is logged last lies in."""
    try:
        return kind_of(row) == _LOST and previous_of(row, _LOST, known, "") is not None
    except (CorruptLedger, ValueError):
        return False
