"""A partition folded anew from its events, link by link: what verify compares with and rebuild writes.

It begins with the states that an archive sealed and reads the stream from there on. The fold can be brought forward
again and again to what was appended meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from typing import Any, Final, Protocol

import msgspec

from ledger.errors import CorruptLedger, UnknownEvent
from ledger.events import HistoryLost, SessionResumed
from ledger.evolve import left_of
from ledger.log.append import MARK_EVERY, Ended, pairs
from ledger.log.milestones import MOST, passes
from ledger.log.reader import (
    PAGE_BYTES,
    SID_BYTES,
    Entry,
    is_foreign,
    parse_entry,
    read_raw,
    sid_bytes,
    size_of,
    walk,
)
from ledger.state import State
from ledger.store.interface import Store
from projections.archive.errors import ArchiveNotGiven, ObjectMissing
from projections.archive.fold import Fold
from projections.archive.format import EndedLine, place
from projections.archive.record import read_record
from projections.checking.aside import Aside, advice, broken_by, read_asides
from projections.checking.findings import Finding

_PAGE: Final = 1000
_CATCH_UP_PAGE: Final = 200


class Folded(msgspec.Struct):
    """A session as its events tell it: the fold while it lives, what is kept of it once it has ended.

    `marks` are those of the events read from the stream, oldest first.
    """

    fold: Fold
    kept: Ended | None = None
    marks: list[str] = []

    @property
    def broken(self) -> str:
        """The first event that could not be folded and why, '' for none; what came before it is no state to go by."""
        return self.fold.broken

    @property
    def state(self) -> State | None:
        """The state of a session that lives."""
        return self.fold.state

    @property
    def head(self) -> str:
        """The stream id of its last event; empty without any."""
        return self.fold.head if self.kept is None else self.kept.head

    @property
    def seq(self) -> int:
        """The seq of its last event; 0 without any."""
        if self.kept is not None:
            return self.kept.seq
        return 0 if self.fold.state is None else self.fold.state.seq

    @property
    def hash(self) -> bytes:
        """The hash of its last event, which proves all; empty without any."""
        return self.fold.tip.hash if self.kept is None else self.kept.hash

    @property
    def user(self) -> str | None:
        """Whose session it is; None without any event."""
        if self.kept is not None:
            return self.kept.user
        return None if self.fold.state is None else self.fold.state.user


class Sealed(Protocol):
    """What an archive holds of a partition up to its floor."""

    def states(self, partition: int) -> AsyncIterator[list[tuple[str, Fold]]]:
        """Read the sessions alive at the floor, some at a time."""
        ...

    def ended(self, partition: int) -> AsyncIterator[list[EndedLine]]:
        """Read the sessions that ended at or below it, some at a time."""
        ...


class PartitionFold:
    """The fold of one partition, of all its sessions or `only` some.

    `faults` are the events at which folds stopped. `lost`: of one of them it cannot be told whose it is, so no
    session's fold is sure to be complete. `asides` was set aside. `events` counts what was read. `milestones` are what
    is stored of states on the way, by session and seq, until they are passed: `unlike` those that are not what they
    should be. `passed` are the states that should be stored.
    """

    def __init__(
        self,
        store: Store,
        partition: int,
        *,
        sealed: Sealed | None = None,
        only: Collection[str] | None = None,
        on_events: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`on_events` is told how many more events were read; fewer when it has to begin again."""
        self.sessions: dict[str, Folded] = {}
        self.faults: list[Finding] = []
        self.asides: dict[str, Aside] = {}
        self.lost = False
        self.events = 0
        self.milestones: dict[tuple[str, int], State | None] = {}
        self.unlike: list[tuple[str, int]] = []
        self.passed: dict[str, list[State]] = {}
        self._store = store
        self._partition = partition
        self._sealed = sealed
        self._only = None if only is None else {bytes.fromhex(sid) for sid in only if is_sid(sid)}
        self._on_events = on_events
        self._at: str | None = None
        self._unfolded: set[str] = set()  # events of broken sessions: no session has one of them as its head

    async def forward(self, until: str = "+") -> None:
        """Fold what lies behind what was folded before, up to the stream id `until`.

        Raises ArchiveNotGiven if what lies before the stream is in an archive that is not given, CorruptLedger if it is
        in one that is damaged or not all there, ArchiveUnavailable.
        """
        while True:
            begins = self._at is None
            since = await self._begin() if self._at is None else self._at
            at = since or "-"
            async for rows in read_raw(self._store, self._partition, at, until, _PAGE):
                for row in rows:
                    self._fold_row(row, begins)
                at = rows[-1][0].decode()
                self._count(len(rows))
            self._at = "" if at == "-" else at
            await self._take_asides()
            floor = (await read_record(self._store, self._partition)).floor
            if not floor or not behind(floor, since):
                return
            # Somebody archived and trimmed meanwhile, perhaps what was not read yet.
            self._begin_again()

    @property
    def is_empty(self) -> bool:
        """Tell whether there is no event, neither in the stream nor sealed."""
        return self.events == 0 and not any(folded.seq for folded in self.sessions.values())

    def of(self, sid: str) -> Folded:
        """Return a session's fold, an empty one if it has no event."""
        folded = self.sessions.get(sid)
        if folded is None:
            folded = self.sessions[sid] = Folded(Fold())
        return folded

    def take(self, entry: Entry) -> None:
        """Fold an entry onto its session; a broken chain is a fault once and followed no further."""
        sid = entry.recorded.sid
        folded = self.of(sid)
        if folded.broken:
            self._unfolded.add(entry.id)
            return
        if (kept := folded.kept) is not None:
            if not isinstance(entry.recorded.event, SessionResumed):
                self._break(sid, "an event follows the session's end", entry.id, entry.prev)
                return
            folded.fold, folded.kept = Fold(left_of(sid, kept.user, kept.seq, kept.hash), kept.head), None
        fold, before = folded.fold, folded.seq
        try:
            wrong = fold.take(entry)
        except UnknownEvent as error:
            wrong = str(error)
        if wrong:
            self._break(sid, wrong, entry.id, entry.prev)
            return
        self._pass(sid, before, fold.state)
        if entry.recorded.seq // MARK_EVERY > before // MARK_EVERY:
            folded.marks += [entry.id] * (entry.recorded.seq // MARK_EVERY - before // MARK_EVERY)
        if fold.state is not None and fold.state.ended is not None:
            # No more is asked of it: of a long history far more sessions have ended than live.
            folded.kept = Ended(fold.head, fold.state.seq, fold.state.hash, fold.state.user)
            folded.fold = Fold()

    def _pass(self, sid: str, before: int, state: State | None) -> None:
        """Compare a state with what is stored of it, and keep it where it is a milestone."""
        if state is None or state.ended is not None:
            return
        if self.milestones and (sid, state.seq) in self.milestones and self.milestones.pop((sid, state.seq)) != state:
            self.unlike.append((sid, state.seq))
        if passes(before, state.seq):
            several = self.passed.setdefault(sid, [])
            several.append(state)
            del several[:-MOST]

    async def catch_up(self, sid: str, version: int) -> str:
        """Fold what a session did since along its own chain, up to a stored version.

        Returns what is wrong if the chain does not lead there; '' if it does, or is a fault. Raises CorruptLedger.
        """
        folded, seq = self.of(sid), self.of(sid).seq
        window = _CATCH_UP_PAGE
        while seq < version and not folded.broken:
            top = min(seq + window, version)
            entries = await self._walked(sid, top, top - seq, seq)
            if window > 1 and len(entries) < top - seq and size_of(entries) >= PAGE_BYTES:
                window = max(1, min(window // 2, len(entries)))  # long events: the page ended early
                continue
            last = entries if top == version else await self._walked(sid, version, 1, seq)
            if not (last and last[-1].recorded.seq == version and are_consecutive(entries, folded.seq)):
                return f"events {folded.seq + 1} to {top} cannot be reached from its head"
            for entry in entries:
                self.take(entry)
            self._count(len(entries))
            seq = top
        return ""

    async def _walked(self, sid: str, top: int, count: int, seq: int) -> list[Entry]:
        """Read events of a session behind `seq` up to event `top`, oldest first."""
        page = await walk(self._store, self._partition, sid, top_seq=top, count=count)
        return [entry for entry in reversed(page.entries if page else []) if entry.recorded.seq > seq]

    async def _begin(self) -> str:
        """Take over what is sealed and return behind which stream id to read on; '' for from the beginning."""
        while True:
            record = await read_record(self._store, self._partition)
            if not record.floor:
                return ""
            if self._sealed is None:
                raise ArchiveNotGiven(
                    f"Events of partition {self._partition} up to {record.floor} are in the archive: set LEDGER_ARCHIVE"
                )
            try:
                await self._take_sealed(self._sealed)
            except ObjectMissing:
                if record == await read_record(self._store, self._partition):
                    raise  # else retention removed it meanwhile
            else:
                if record.floor == (await read_record(self._store, self._partition)).floor:
                    return record.floor
            self._begin_again()

    async def _take_sealed(self, sealed: Sealed) -> None:
        async for states in sealed.states(self._partition):
            for sid, fold in states:
                if self._wants(sid):
                    self.sessions[sid] = Folded(fold)
                    if fold.broken:
                        event, _, what = fold.broken.partition(" ")
                        self.faults.append(Finding(self._partition, sid, what, event))
        async for lines in sealed.ended(self._partition):
            for line in lines:
                if self._wants(line.sid):
                    kept = Ended(line.head, line.seq, bytes.fromhex(line.hash), line.user)
                    self.sessions[line.sid] = Folded(Fold(), kept)

    def _begin_again(self) -> None:
        self._count(-self.events)
        self.sessions.clear()
        self._unfolded.clear()
        self.faults.clear()
        self.passed.clear()
        self.asides, self.lost, self._at = {}, False, None

    def _count(self, more: int) -> None:
        self.events += more
        self._on_events(more)

    def _wants(self, sid: str) -> bool:
        return self._only is None or bytes.fromhex(sid) in self._only

    def _fold_row(self, row: list[Any], begins: bool) -> None:
        if self._only is not None and len(whose := sid_bytes(row)) == SID_BYTES and whose not in self._only:
            return
        try:
            entry = parse_entry(row)
        except CorruptLedger as error:
            self._unreadable(row, error)
            return
        if begins or behind(entry.id, self.of(entry.recorded.sid).head):
            self.take(entry)

    def _unreadable(self, row: list[Any], error: CorruptLedger) -> None:
        """Break the session of an event that cannot be read: were it left out, an older state would come back."""
        what, event = str(error), row[0].decode()
        if not isinstance(error, UnknownEvent):
            what = f"{what}; {advice(self._partition, event)}"
        if is_foreign(row):
            self.faults.append(Finding(self._partition, "", what, event))
            return
        prev = pairs(row[1]).get(b"prev", b"").decode(errors="replace")
        self._break(sid_bytes(row).hex(), what, event, prev)

    async def _take_asides(self) -> None:
        """Break the sessions whose last events may have been set aside."""
        found = await read_asides(self._store, self._partition)
        new = {name: aside for name, aside in found.items() if name not in self.asides}
        self.asides = found
        if new:
            folds = {sid: folded.fold for sid, folded in self.sessions.items() if folded.kept is None}
            for sid, event, what in await broken_by(self._store, self._partition, new, folds):
                self._break(sid, what, event, "")

    def _break(self, sid: str, what: str, event: str, prev: str) -> None:
        """Stop a session's fold, and that of another one if the event follows its last: it may have been that one's."""
        owners = self._owners(sid, prev)
        broken = [sid, *owners] if is_sid(sid) else owners
        self.lost = self.lost or not broken
        if not broken:
            self.faults.append(Finding(self._partition, "", what, event))
        self._unfolded.add(event)
        for each in dict.fromkeys(broken):
            folded = self.of(each)
            if not folded.broken:
                folded.fold.broken = f"{event} {what}"
                self.faults.append(Finding(self._partition, each, what, event))

    def _owners(self, sid: str, prev: str) -> list[str]:
        """Find the sessions whose last event is `prev`.

        PERF: where all events of a kind cannot be read, as behind a downgrade, each is its own session's, which is
        looked at first, and follows one that could not be folded either.
        """
        if not prev or prev in self._unfolded:
            return []
        own = self.sessions.get(sid)
        if own is not None and own.head == prev:
            return [sid]
        return [other for other, folded in self.sessions.items() if folded.head == prev]


def are_consecutive(entries: Iterable[Entry], seq: int) -> bool:
    """Tell whether events follow one another behind event `seq` without a gap but those that they tell of."""
    for entry in entries:
        event = entry.recorded.event
        if entry.recorded.seq != seq + 1 and not (isinstance(event, HistoryLost) and event.from_seq == seq + 1):
            return False
        seq = entry.recorded.seq
    return True


def behind(stream_id: str, other: str) -> bool:
    """Tell whether a stream id lies behind another one, or behind nothing ('')."""
    return not other or place(stream_id) > place(other)


def pages_of(sids: Collection[str], size: int = 200) -> Iterator[list[str]]:
    """Cut sessions into pages."""
    every = list(sids)
    for start in range(0, len(every), size):
        yield every[start : start + size]


def is_sid(sid: str) -> bool:
    """Tell whether a text can be a session's id."""
    return len(sid) == 2 * SID_BYTES and all(char in "0123456789abcdef" for char in sid)
