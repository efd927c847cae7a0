"""Rebuild: fresh projections from the events, partition by partition, while the service runs.

From its beginning to its end a partition says that it is not whole, so a session that is not found there is not told
that it ended. That is also what tells the next rebuild where an interrupted one stood. Nothing here writes an event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum
from typing import Final

import msgspec
from msgspec.structs import replace

from ledger import keys
from ledger.errors import Contended, CorruptLedger, LayoutError, StoreReplyError
from ledger.log import milestones, whole
from ledger.log.append import provider_member
from ledger.log.order import mark_filled
from ledger.log.reader import read_raw
from ledger.log.stored_sessions import Strays, device_sids, indexed_sids, mistyped, provider_members
from ledger.store.interface import Store
from projections.bounded_tasks import each
from projections.checking.aside import Decision
from projections.checking.findings import REPORTED, Finding
from projections.checking.partition_fold import PartitionFold, Sealed, is_sid
from projections.checking.rebuild_sessions import Misfiled, SessionWriter

_ATTEMPTS: Final = 3
_STREAM_LOST: Final = "there are sessions, but no event at all: is this the right store? nothing was removed"
_CONTRADICTED: Final = "left as it is: the transparency log contradicts its history"
_NOBODYS: Final = "this event may be the last one of any session, so none was written"


class RebuildReport(msgspec.Struct):
    """What was read and what was done. `not_whole`: partitions of which more than single sessions is missing.

    `mistyped`: how many of `broken` are so for a key of another type, which nobody but an operator deletes.
    """

    partitions: int = 0
    events: int = 0
    sessions: int = 0
    ended: int = 0
    written: int = 0
    unchanged: int = 0
    removed: int = 0
    broken: int = 0
    mistyped: int = 0
    named: list[Finding] = []
    not_whole: list[int] = []

    @property
    def is_complete(self) -> bool:
        """Tell whether everything is as its events say."""
        return not (self.broken or self.not_whole)

    def name(self, broken: Finding) -> None:
        """Count a broken session, and name it if there is room."""
        self.broken += 1
        if len(self.named) < REPORTED:
            self.named.append(broken)


class _Settled(Enum):
    """How much of a partition is what its events say."""

    ALL = "all but single sessions"
    UNTOUCHED = "nothing was written, since its events cannot be told"
    NOT = "more than single sessions is missing"


class Rebuild:
    """A rebuild of some partitions; `token` names it in what they say while it runs.

    `leave`: sessions that are not to be written, by their partition, -1 where it is not known.
    """

    def __init__(
        self,
        store: Store,
        token: str,
        *,
        sealed: Sealed | None = None,
        leave: Mapping[str, int] | None = None,
        on_progress: Callable[[RebuildReport], None] = lambda _: None,
    ) -> None:
        self.report = RebuildReport()
        self._leave = leave or {}
        self._store = store
        self._token = token
        self._sealed = sealed
        self._on_progress = on_progress
        self._mistyped: set[int] = set()  # partitions with a key of another type

    async def partitions(self, which: Collection[int], strays: Strays, at_once: int = 2) -> None:
        """Rebuild partitions whole, `at_once` of them interleaved; those that end are whole, whatever comes after."""
        await each(which, lambda partition: self.partition(partition, strays), at_once)

    async def partition(self, partition: int, strays: Strays, copied: bytes = b"") -> None:
        """Rebuild a partition whole; `copied` is what it said while its events were restored.

        Raises LayoutError for one that is being restored, Contended if its projections are deleted again and again.
        """
        for _ in range(_ATTEMPTS):
            says, was_whole = await whole.begin(self._store, partition, self._token, copied)
            if says.startswith(whole.COPYING):
                raise LayoutError(f"Partition {partition} is not restored yet: run syncledger restore again")
            settled = await self._settle(partition, strays)
            if settled is _Settled.NOT or (settled is _Settled.UNTOUCHED and not was_whole):
                self.report.not_whole.append(partition)
                break
            if settled is _Settled.ALL:
                await mark_filled(self._store, partition)
            if await whole.finish(self._store, partition, says):
                break
        else:
            raise Contended(f"The projections of partition {partition} are deleted while they are rebuilt")
        self._done()

    async def repair(self, partition: int, strays: Strays) -> None:
        """Rebuild what differs in a partition; one that is not whole becomes so, another one stays so meanwhile."""
        if not await whole.is_whole(self._store, partition):
            if left := [sid for sid, where in self._leave.items() if where in (partition, -1)]:
                # Whole it would say that they ended.
                self.report.name(Finding(partition, left[0], _CONTRADICTED))
                self.report.not_whole.append(partition)
                return
            await self.partition(partition, strays)
            return
        await self._settle(partition, strays)
        self._done()

    async def session(self, partition: int, sid: str, accept: Decision | None = None) -> None:
        """Rebuild one session; `accept`: whose decision it is to give up a head that proves another history."""
        fold = self._fold(partition, only=[sid])
        await fold.forward()
        await self._write(partition, fold, {sid}, {}, accept)
        await self._write_milestones(partition, fold, sid)
        self._done()

    async def user(self, partition: int, user: str) -> None:
        """Rebuild all sessions of a user."""
        fold = self._fold(partition)
        await fold.forward()
        listed = await self._devices_of(partition, user)
        await fold.forward()
        misfiled = {sid: Misfiled([user]) for sid in listed if fold.of(sid).user != user}
        sids = {sid for sid, folded in fold.sessions.items() if folded.user == user} | listed
        await self._write(partition, fold, sids, misfiled)
        self._done()

    async def _settle(self, partition: int, strays: Strays) -> _Settled:
        """Make all of a partition what its events say."""
        fold = self._fold(partition)
        try:
            await fold.forward()
        except CorruptLedger as error:  # of the archive; what is damaged in the stream is a fault of its session
            self.report.name(Finding(partition, "", str(error)))
            return _Settled.UNTOUCHED
        try:
            return await self._settle_from(partition, fold, strays)
        except StoreReplyError as error:
            for what in await mistyped(self._store, partition) or [str(error)]:
                self.report.name(Finding(partition, "", what))
            return _Settled.NOT

    async def _settle_from(self, partition: int, fold: PartitionFold, strays: Strays) -> _Settled:
        """Make all of a partition what it folds into. Raises StoreReplyError."""
        sids = {sid for sid in await indexed_sids(self._store, partition) if is_sid(sid)}
        sids |= strays.sids.get(partition, set())
        users = {user for folded in fold.sessions.values() if (user := folded.user)}
        users |= strays.users.get(partition, set())
        marked = await self._marked_broken(partition)
        self._mistyped.discard(partition)
        listed = [(user, sid) for user in users for sid in await self._devices_of(partition, user)]
        members = [pair async for page in provider_members(self._store, partition) for pair in page]
        # Whatever was in an index until now has its events in the stream by now.
        await fold.forward()
        misfiled: dict[str, Misfiled] = {}
        for user, sid in listed:
            if fold.of(sid).user != user:
                misfiled.setdefault(sid, Misfiled()).users.append(user)
        for member, sid in members:
            state = fold.of(sid).state
            if state is None or provider_member(state) != member:
                misfiled.setdefault(sid, Misfiled()).members.append(member)
        if fold.is_empty and (sids or misfiled):
            self.report.name(Finding(partition, "", _STREAM_LOST))
            return _Settled.NOT
        await self._write(partition, fold, sids | fold.sessions.keys() | misfiled.keys() | marked, misfiled)
        await self._write_milestones(partition, fold)
        if fold.lost:
            return _Settled.UNTOUCHED
        return _Settled.NOT if partition in self._mistyped else _Settled.ALL

    async def _write(
        self,
        partition: int,
        fold: PartitionFold,
        sids: Collection[str],
        misfiled: dict[str, Misfiled],
        accept: Decision | None = None,
    ) -> None:
        """Write what differs of sessions, and keep on record which of them are broken."""
        report = self.report
        for sid in self._leave.keys() & set(sids):
            report.name(Finding(partition, sid, _CONTRADICTED))
        sids = set(sids) - self._leave.keys()
        if not fold.lost:
            settled = await SessionWriter(self._store, partition, fold, misfiled, accept).settle(sids)
            report.written += settled.written
            report.unchanged += settled.unchanged
            report.removed += settled.removed
            for sid, what in (*settled.unlike.items(), *settled.mistyped.items()):
                report.name(Finding(partition, sid, what))
            self._note_mistyped(partition, len(settled.mistyped))
            await self._mark_broken(partition, fold, sids)
        report.sessions += sum(fold.of(sid).state is not None for sid in sids)
        report.ended += sum(fold.of(sid).kept is not None for sid in sids)
        for fault in fold.faults:
            nobodys = fold.lost and not fault.session
            report.name(replace(fault, what=f"{fault.what}; {_NOBODYS}") if nobodys else fault)

    async def _write_milestones(self, partition: int, fold: PartitionFold, sid: str | None = None) -> None:
        """Make the milestones of a partition anew, or those of one session; broken ones get none."""
        await milestones.remove(self._store, partition, sid)
        for whose, states in fold.passed.items():
            if not fold.of(whose).broken:
                await milestones.write(self._store, partition, states)

    async def _mark_broken(self, partition: int, fold: PartitionFold, sids: Collection[str]) -> None:
        """Note which sessions are broken: where they are not found they must not be told that they ended."""
        name, marked = keys.broken(partition), await self._marked_broken(partition)
        mended = [sid for sid in sids if sid in marked and not fold.of(sid).broken]
        await whole.mark_broken(self._store, partition, {sid: what for sid in sids if (what := fold.of(sid).broken)})
        if mended:
            await self._store.command("HDEL", name, *mended, key=name)

    async def _marked_broken(self, partition: int) -> set[str]:
        name = keys.broken(partition)
        return {sid.decode() for sid in await self._store.command("HKEYS", name, key=name)}

    async def _devices_of(self, partition: int, user: str) -> set[str]:
        try:
            return await device_sids(self._store, partition, user)
        except StoreReplyError as error:
            what = await mistyped(self._store, partition, user=user) or [str(error)]
            self.report.name(Finding(partition, "", what[0]))
            self._note_mistyped(partition, 1)
            return set()

    def _note_mistyped(self, partition: int, count: int) -> None:
        self.report.mistyped += count
        if count:
            self._mistyped.add(partition)

    def _fold(self, partition: int, only: Collection[str] | None = None) -> PartitionFold:
        return PartitionFold(self._store, partition, sealed=self._sealed, only=only, on_events=self._count)

    def _count(self, events: int) -> None:
        self.report.events += events
        self._on_progress(self.report)

    def _done(self) -> None:
        self.report.partitions += 1
        self._on_progress(self.report)


async def not_whole(store: Store, partitions: int) -> list[int]:
    """List the partitions that are not whole and are not being restored; raises LayoutError if one is."""
    marks = await whole.read_marks(store, partitions)
    if any(mark is not None and mark.startswith(whole.COPYING) for mark in marks):
        raise LayoutError("This ledger is not restored yet: run syncledger restore again")
    return [partition for partition, mark in enumerate(marks) if mark != whole.WHOLE]


async def find_session(
    store: Store, partitions: int, sid: str, on_progress: Callable[[int], None] = lambda _: None
) -> int | None:
    """Find the partition of a session by its events, whatever is stored of it; None if no stream has one.

    Reads the streams until it is found; one whose events are all archived is found by what is stored of it only.
    `on_progress` is told how many partitions were read.
    """
    wanted = bytes.fromhex(sid)
    for partition in range(partitions):
        on_progress(partition)
        async for rows in read_raw(store, partition):
            if any(wanted in row[1] for row in rows):
                return partition
    return None
