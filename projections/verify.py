"""Verify: every projection against its fold, every chain link by link, while the ledger is in use.

A partition is read up to the entry that was its newest at the start. What a session did since is then read back along
its own chain and folded on, up to the version at which its hashes were read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from typing import Final

import msgspec

from ledger.chain import GENESIS, link
from ledger.errors import CorruptLedger, StoreReplyError
from ledger.evolve import evolve
from ledger.fields import checkpoint_fields, session_fields
from ledger.log import skips
from ledger.log.append import parse_ended
from ledger.log.reader import Entry, last_id, parse_entry, read_raw, walk
from ledger.log.sessions import RawSession, device_sids, indexed_sids, read_raw_session
from ledger.log.store import Store
from ledger.state import State

REPORTED: Final = 1000
"""How many differences a report names; all are counted."""
_CATCH_UP_PAGE: Final = 200
_GONE: Final = ("no session, though its events do not end", "ended, but not kept as ended")


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not as the events say."""

    partition: int
    session: str
    what: str
    event: str = ""


class Report(msgspec.Struct):
    """What was checked, and what differs."""

    partitions: int = 0
    events: int = 0
    sessions: int = 0
    ended: int = 0
    different: int = 0
    differences: list[Difference] = []

    def note(self, difference: Difference) -> None:
        """Count a difference, and name it if there is room."""
        self.different += 1
        if len(self.differences) < REPORTED:
            self.differences.append(difference)


class _Folded(msgspec.Struct):
    """A session's fold so far: its state, and the stream ids of its last event and of its last marks."""

    state: State | None = None
    head: str = ""
    skip: str = ""
    broken: bool = False


async def verify(
    store: Store, partitions: int, *, on_progress: Callable[[Report], None] = lambda _: None, at_once: int = 4
) -> Report:
    """Check I1 and I2 over all partitions, `at_once` of them interleaved; never writes, never stops at a difference."""
    report = Report()
    gate = asyncio.Semaphore(at_once)

    async def one(partition: int) -> None:
        async with gate:
            await _Partition(store, partition, report, on_progress).verify()
            report.partitions += 1
            on_progress(report)

    async with asyncio.TaskGroup() as group:
        for partition in range(partitions):
            group.create_task(one(partition))
    return report


class _Partition:
    """Verifies one partition."""

    def __init__(self, store: Store, partition: int, report: Report, on_progress: Callable[[Report], None]) -> None:
        self._store = store
        self._partition = partition
        self._report = report
        self._on_progress = on_progress
        self._folded: dict[str, _Folded] = {}

    async def verify(self) -> None:
        newest = await last_id(self._store, self._partition)
        if newest is not None:
            async for rows in read_raw(self._store, self._partition, until=newest):
                for row in rows:
                    self._fold_row(row)
                self._report.events += len(rows)
                self._on_progress(self._report)
        await self._compare_all(await indexed_sids(self._store, self._partition) | self._folded.keys())
        users = {folded.state.user for folded in self._folded.values() if folded.state}
        for page in _pages(users):
            devices = await asyncio.gather(*(device_sids(self._store, self._partition, user) for user in page))
            await self._compare_all(set().union(*devices) - self._folded.keys())

    async def _compare_all(self, sids: Collection[str]) -> None:
        """Compare sessions; those without a fold signed in since, or are in an index only: their own chain tells."""
        for page in _pages(sids):
            folds = [self._folded.setdefault(sid, _Folded()) for sid in page]
            await asyncio.gather(*map(self._compare, page, folds))

    def _fold_row(self, row: list[object]) -> None:
        try:
            entry = parse_entry(row)
        except CorruptLedger as error:
            self._note("", str(error), str(error.details.get("id", "")))
            return
        self._fold(entry, self._folded.setdefault(entry.recorded.sid, _Folded()))

    def _fold(self, entry: Entry, folded: _Folded) -> None:
        """Fold an entry onto its session and check its links; a broken chain is named once and followed no further."""
        if folded.broken:
            return
        recorded, state = entry.recorded, folded.state
        seq, previous = (0, GENESIS) if state is None else (state.seq, state.hash)
        wrong = ""
        if recorded.seq != seq + 1:
            wrong = f"seq {recorded.seq} follows seq {seq}"
        elif entry.prev != folded.head:
            wrong = f"prev is {entry.prev or 'empty'}, the event before is {folded.head or 'none'}"
        elif not skips.fits(folded.skip, recorded.seq, entry.skip):
            wrong = f"skip is {entry.skip}, the last marks are {folded.skip}"
        elif recorded.hash != link(previous, recorded.sid, recorded.seq, recorded.at_us, recorded.schema, recorded.raw):
            wrong = "the hash does not match the event and the hash before it"
        else:
            try:
                folded.state = evolve(state, recorded)
            except CorruptLedger as error:
                wrong = str(error)
        if wrong:
            folded.broken = True
            self._note(recorded.sid, wrong, entry.id)
            return
        folded.head = entry.id
        folded.skip = skips.moved(folded.skip, recorded.seq, entry.id)

    async def _compare(self, sid: str, folded: _Folded) -> None:
        """Compare a session with its fold, brought to the stored version, and count it."""
        try:
            await self._compare_stored(sid, folded)
        except (CorruptLedger, StoreReplyError) as error:  # what is stored cannot be read, or is of another type
            self._note(sid, str(error), str(error.details.get("id", "")) if isinstance(error, CorruptLedger) else "")
        if folded.state is not None and folded.state.ended is not None:
            self._report.ended += 1
        else:
            self._report.sessions += 1

    async def _compare_stored(self, sid: str, folded: _Folded) -> None:
        """Read a session, fold on to the version that was read, and compare; what it does meanwhile does not matter."""
        while not folded.broken:
            state = folded.state
            stored = await read_raw_session(self._store, self._partition, sid, state)
            stored_seq = _seq(stored)
            if stored_seq is None:
                self._note(sid, "is in an index only" if state is None else _GONE[state.ended is not None])
                return
            if state is not None and stored_seq < state.seq:
                self._note(sid, f"stored at seq {stored_seq}, behind its events at {state.seq}")
                return
            if not await self._catch_up(sid, folded, stored_seq):
                return
            if state is not None and folded.state is not None:
                self._compare_equal(sid, folded, folded.state, stored)
                return
            # Only now is known whose session it is, and so which index of devices to look at.

    async def _catch_up(self, sid: str, folded: _Folded, stored_seq: int) -> bool:
        """Fold what happened since, up to `stored_seq`; False if the chain is broken or does not lead there."""
        known = folded.state.seq if folded.state else 0
        while known < stored_seq and not folded.broken:
            top = min(known + _CATCH_UP_PAGE, stored_seq)
            page = await walk(self._store, self._partition, sid, top_seq=top, count=top - known)
            entries = page.entries if page else []
            if [entry.recorded.seq for entry in entries] != list(range(top, known, -1)):
                self._note(sid, f"events {known + 1} to {top} cannot be reached from its head")
                return False
            for entry in reversed(entries):
                self._fold(entry, folded)
            self._report.events += len(entries)
            known = top
        return not folded.broken

    def _compare_equal(self, sid: str, folded: _Folded, state: State, stored: RawSession) -> None:
        """Compare a fold with what is stored of the same version."""
        if state.ended is not None:
            self._compare_ended(sid, folded, state, stored)
            return
        expected = session_fields(state) | {b"head": folded.head.encode(), b"skip": folded.skip.encode()}
        self._compare_fields(sid, "session", expected, stored.session)
        self._compare_fields(sid, "checkpoints", checkpoint_fields(state), stored.checkpoints)
        if stored.ended is not None:
            self._note(sid, "lives, and is kept as ended too")
        if stored.device != (state.parent or "").encode():
            self._note(sid, "is not among its user's devices")
        if not stored.active:
            self._note(sid, "is not in the activity index")
        if stored.provider != bool(state.provider_session):
            self._note(sid, "is not among its provider's sessions")

    def _compare_ended(self, sid: str, folded: _Folded, state: State, stored: RawSession) -> None:
        kept = None if stored.ended is None else parse_ended(stored.ended)
        if kept is None:
            self._note(sid, _GONE[True])
        elif (kept.head, kept.seq, kept.hash, kept.user) != (folded.head, state.seq, state.hash, state.user):
            self._note(sid, "what is kept of the ended session differs from its events")
        left = [
            ("session", stored.session),
            ("checkpoints", stored.checkpoints),
            ("activity", stored.active),
            ("provider session", stored.provider),
            ("credential", stored.credential),
        ]
        for name in [name for name, value in left if value] + (["devices"] if stored.device is not None else []):
            self._note(sid, f"ended, but still has {name}")

    def _compare_fields(self, sid: str, name: str, expected: dict[bytes, bytes], stored: dict[bytes, bytes]) -> None:
        if expected == stored:
            return
        fields = sorted(key for key in expected.keys() | stored.keys() if expected.get(key) != stored.get(key))
        self._note(sid, f"{name} differ from the fold in {', '.join(map(bytes.decode, fields))}")

    def _note(self, sid: str, what: str, event: str = "") -> None:
        self._report.note(Difference(self._partition, sid, what, event))


def _pages(sids: Collection[str]) -> Iterator[list[str]]:
    every = list(sids)
    for start in range(0, len(every), _CATCH_UP_PAGE):
        yield every[start : start + _CATCH_UP_PAGE]


def _seq(stored: RawSession) -> int | None:
    """Tell at which seq a session is stored, living or ended; None if neither. Raises CorruptLedger if it is none."""
    if stored.session:
        seq = stored.session.get(b"seq", b"nothing")
    elif stored.ended is not None:
        seq = b"%d" % parse_ended(stored.ended).seq
    else:
        return None
    if not seq.isdigit() or int(seq) < 1:
        raise CorruptLedger(f"a session at seq {seq!r}")
    return int(seq)
