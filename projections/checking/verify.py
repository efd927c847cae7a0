"""Verify: every projection against its fold, every chain link by link, every index in both directions, while in use.

A partition is read up to the entry that was its newest at the start. What a session did since is then read back along
its own chain and folded on, up to the version at which its hashes were read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from ledger.errors import CorruptLedger, StoreReplyError
from ledger.log import milestones
from ledger.log.append import parse_ended, provider_member
from ledger.log.reader import last_id
from ledger.log.stored_sessions import (
    RawSession,
    Strays,
    device_sids,
    find_strays,
    indexed_sids,
    mistyped,
    provider_members,
    read_raw_session,
)
from ledger.log.whole import is_whole
from ledger.store.interface import Store
from projections.archive.catalog import Archive
from projections.archive.record import read_record
from projections.archive.verify import CheckedSegments
from projections.bounded_tasks import each
from projections.checking.compare import ENDED_NOWHERE, INDEX_ONLY, LIVES_NOWHERE, differences, stored_seq, unlike
from projections.checking.findings import REPORTED, Finding
from projections.checking.partition_fold import Folded, PartitionFold, Sealed, behind, is_sid, pages_of
from projections.transparency.monitor.findings import LogReport

NOT_WHOLE: Final = "is not whole: syncledger rebuild makes it so"


_COUNTS: Final = (
    "partitions", "events", "archived", "segments", "sessions", "ended", "aside", "repairable", "different",
)  # fmt: skip


class Report(msgspec.Struct):
    """What was checked, and what differs. `events` are those of the streams, `archived` those of segments.

    Of what is `different`, so many are `repairable`, and so many were set `aside` by somebody's decision. `log`: what
    the comparison with the transparency log found; None where there was none.
    """

    partitions: int = 0
    events: int = 0
    archived: int = 0
    segments: int = 0
    sessions: int = 0
    ended: int = 0
    aside: int = 0
    repairable: int = 0
    different: int = 0
    differences: list[Finding] = []
    differing_partitions: set[int] = set()
    log: LogReport | None = None

    def note(self, difference: Finding) -> None:
        """Count a difference, and name it if there is room."""
        self.different += 1
        self.repairable += difference.repairable
        self.differing_partitions.add(difference.partition)
        if len(self.differences) < REPORTED:
            self.differences.append(difference)

    def add(self, other: Report) -> None:
        """Add what another report counted and named."""
        for field in _COUNTS:
            setattr(self, field, getattr(self, field) + getattr(other, field))
        self.differences += other.differences[: REPORTED - len(self.differences)]
        self.differing_partitions |= other.differing_partitions


async def verify(
    store: Store,
    partitions: int,
    *,
    only: Collection[int] | None = None,
    strays: Strays | None = None,
    archive: Archive | None = None,
    sealed: Sealed | None = None,
    on_progress: Callable[[Report], None] = lambda _: None,
    at_once: int = 4,
) -> Report:
    """Check I1 and I2 over all partitions or `only` some, `at_once` of them interleaved.

    Never writes, never stops at a difference. `strays` are looked for unless they are given. Where events are archived,
    all segments of `archive` are checked, or `sealed` is believed what they fold into; where that is damaged, the
    partition differs. Raises ArchiveNotGiven where neither is, ArchiveUnavailable.
    """
    report = Report()
    found = await find_strays(store, partitions) if strays is None else strays

    async def one(partition: int) -> None:
        await _Partition(store, partition, report, archive, sealed, found, on_progress).verify()
        report.partitions += 1
        on_progress(report)

    await each(range(partitions) if only is None else only, one, at_once)
    return report


class _Partition:
    """Verifies one partition."""

    def __init__(
        self,
        store: Store,
        partition: int,
        report: Report,
        archive: Archive | None,
        sealed: Sealed | None,
        strays: Strays,
        on_progress: Callable[[Report], None],
    ) -> None:
        self._store = store
        self._partition = partition
        self._report = report
        self._on_progress = on_progress
        self._stray_sids = strays.sids.get(partition, set())
        self._stray_users = strays.users.get(partition, set())
        self._segments: CheckedSegments | None = None
        if archive is not None:
            self._segments = CheckedSegments(archive, partition, report.note, self._count_archived)
        self._fold = PartitionFold(store, partition, sealed=self._segments or sealed, on_events=self._count)

    async def verify(self) -> None:
        newest = await last_id(self._store, self._partition)
        try:
            self._fold.milestones = await milestones.read_all(self._store, self._partition)
            await self._fold.forward("+" if newest is None else newest)
            self._note_milestones()
            if not self._fold.is_empty and not await is_whole(self._store, self._partition):
                self._stale("", NOT_WHOLE)
            self._note_faults()
            for name, aside in self._fold.asides.items():
                self._report.note(aside.finding(self._partition, name))
            self._report.aside += len(self._fold.asides)
            await self._compare_all(await self._sids())
            await self._compare_devices()
            await self._compare_providers()
        except StoreReplyError as error:  # an index of another type: the other partitions go on
            for what in await mistyped(self._store, self._partition) or [str(error)]:
                self._note("", what)
        except CorruptLedger as error:  # an archive that is damaged or not all there
            if self._segments is None or not self._segments.is_damaged:  # else it was noted
                self._note("", str(error))
        self._note_faults()
        self._report.segments += 0 if self._segments is None else self._segments.segments

    def _note_milestones(self) -> None:
        """Note those that are not what their events fold into, or cannot be read at all.

        Others that were not passed are of events that are archived, or were written since.
        """
        unread = [(sid, at) for (sid, at), state in self._fold.milestones.items() if state is None]
        for sid, at in (*self._fold.unlike, *unread):
            self._stale(sid, f"its milestone {at} is not what its events say")

    async def _sids(self) -> set[str]:
        indexed = await indexed_sids(self._store, self._partition)
        for odd in sorted(sid for sid in indexed if not is_sid(sid)):
            self._stale(odd, INDEX_ONLY)
            indexed.remove(odd)
        return indexed | self._fold.sessions.keys() | self._stray_sids

    async def _compare_all(self, sids: Collection[str]) -> None:
        """Compare sessions; those without a fold signed in since, or are in an index only: their own chain tells."""
        for page in pages_of(sids):
            await asyncio.gather(*map(self._compare, page))

    async def _compare(self, sid: str) -> None:
        """Compare a session with its fold, brought to the stored version, and count it."""
        folded = self._fold.of(sid)
        try:
            await self._compare_stored(sid, folded)
        except (CorruptLedger, StoreReplyError) as error:  # what is stored cannot be read, or is of another type
            self._note(sid, str(error), str(error.details.get("id", "")) if isinstance(error, CorruptLedger) else "")
        if folded.kept is not None:
            self._report.ended += 1
        else:
            self._report.sessions += 1

    async def _compare_stored(self, sid: str, folded: Folded) -> None:
        """Read a session, fold on to the version that was read, and compare; what it does meanwhile does not matter."""
        while not folded.broken:
            seq = folded.seq
            stored = await self._read(sid, folded)
            try:
                version = stored_seq(stored)
            except CorruptLedger as error:
                what = unlike(folded, stored)
                self._note(sid, what) if what else self._stale(sid, str(error))
                return
            if version is None:
                if seq or not stored.is_nowhere:  # else it was on its way out of an index
                    self._stale(sid, (LIVES_NOWHERE if folded.state else ENDED_NOWHERE) if seq else INDEX_ONLY)
                return
            if version < seq:
                if what := unlike(folded, stored):
                    self._note(sid, what)
                else:
                    self._stale(sid, f"stored at seq {version}, behind its events at {seq}")
                return
            if wrong := await self._fold.catch_up(sid, version):
                if not await self._is_forgotten(stored):
                    self._note(sid, wrong)
                return
            if seq and (what := unlike(folded, stored)):
                self._note(sid, what)
                return
            if seq:
                for what in differences(folded, stored):
                    self._stale(sid, what)
                return
            # Only now is known whose session it is, and so which index of devices to look at.

    async def _is_forgotten(self, stored: RawSession) -> bool:
        """Tell whether retention removed all of a session, and is about to forget how it ended."""
        cut = (await read_record(self._store, self._partition)).cut
        return bool(cut and stored.ended) and not behind(parse_ended(stored.ended or b"").head, cut)

    async def _read(self, sid: str, folded: Folded) -> RawSession:
        member = b"" if folded.state is None else provider_member(folded.state)
        return await read_raw_session(self._store, self._partition, sid, folded.user, member)

    async def _compare_devices(self) -> None:
        """Compare the devices of all users with whose sessions they are; what a session lacks there was noted."""
        users = {user for folded in self._fold.sessions.values() if (user := folded.user)} | self._stray_users
        for page in pages_of(users):
            listed = await asyncio.gather(*(self._devices_of(user) for user in page))
            await self._compare_all(set().union(*listed) - self._fold.sessions.keys())
            await asyncio.gather(
                *(self._compare_device(user, sid) for user, sids in zip(page, listed, strict=True) for sid in sids)
            )

    async def _devices_of(self, user: str) -> set[str]:
        try:
            return await device_sids(self._store, self._partition, user)
        except StoreReplyError as error:
            self._note("", f"the devices of {user}: {error}")
            return set()

    async def _compare_device(self, user: str, sid: str) -> None:
        folded = self._fold.of(sid)
        if folded.user == user or folded.broken:
            return
        stored = await read_raw_session(self._store, self._partition, sid, user)
        if stored.device is None or stored.session.get(b"user") == user.encode():
            return  # it ended meanwhile, or signed in
        self._stale(sid, f"is among the devices of {user}, whose it is not" if folded.user else INDEX_ONLY)

    async def _compare_providers(self) -> None:
        """Compare the sessions of providers with whose they are; what a session lacks there was noted."""
        async for members in provider_members(self._store, self._partition):
            await asyncio.gather(*(self._compare_member(member, sid) for member, sid in members))

    async def _compare_member(self, member: bytes, sid: str) -> None:
        folded = self._fold.of(sid)
        if folded.broken or (folded.state is not None and provider_member(folded.state) == member):
            return
        stored = await read_raw_session(self._store, self._partition, sid, None, member)
        if not stored.provider or stored.session.get(b"provider_session", b"").hex().encode() == member[:-65]:
            return  # it ended meanwhile, or signed in
        if folded.kept is not None or stored.ended is not None:
            self._stale(sid, "ended, but still has provider session")
        else:
            self._stale(sid, "is among the sessions of a provider that is not its own" if folded.seq else INDEX_ONLY)

    def _count(self, events: int) -> None:
        self._report.events += events
        self._on_progress(self._report)

    def _note_faults(self) -> None:
        faults, self._fold.faults = self._fold.faults, []
        for fault in faults:
            if self._segments is None or fault.session not in self._segments.broken:  # else it was noted
                self._report.note(fault)

    def _count_archived(self, events: int) -> None:
        self._report.archived += events
        self._on_progress(self._report)

    def _note(self, sid: str, what: str, event: str = "") -> None:
        self._report.note(Finding(self._partition, sid, what, event))

    def _stale(self, sid: str, what: str) -> None:
        self._report.note(Finding(self._partition, sid, what, repairable=True))
