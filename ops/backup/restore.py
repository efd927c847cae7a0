"""Restoring a ledger into an empty store: events and projections, a reset asked of every device, then verify."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import uuid4

import msgspec

from ledger import keys
from ledger.commands import RequestReset
from ledger.errors import Contended, SessionEnded
from ledger.log import whole
from ledger.log.service import Ledger
from ledger.log.stored_sessions import Strays
from ledger.personal import plain
from ledger.store.interface import Store, scan
from ops.backup import fill
from projections.accounts.erasure import erase_again
from projections.accounts.identities import Identities
from projections.accounts.user_keys import UserKeys
from projections.backup.origin import Origin
from projections.bounded_tasks import each
from projections.checking.findings import Finding
from projections.checking.rebuild import Rebuild
from projections.checking.verify import Report, verify
from projections.devices.filling import fill_partition
from projections.transparency.going_on import GoneOn

BY: Final = "restore"
"""Who asked the restored sessions to reset, as their history says."""


class RestoreReport(msgspec.Struct):
    """What was restored, and how it compares with its events.

    `doing`: the step it is at. `resets`: sessions asked to start over just now; others were before. `expired`: those
    that were over before they came back, which nobody needs to ask. `rows_refused`: rows of libraries that do not fit
    this version. `erased`: users who had been erased since, and were
    erased again. `logged`: what of this the transparency log knew further, None where it was not compared.
    """

    doing: str = ""
    resumed: bool = False
    partitions: int = 0
    events: int = 0
    sessions: int = 0
    resets: int = 0
    erased: int = 0
    expired: int = 0
    rows_refused: int = 0
    broken: list[Finding] = []
    not_whole: list[int] = []
    logged: GoneOn | None = None
    signing_keys: str = ""
    signing_keys_missing: bool = False
    """Whether the backup has signing keys that could not be opened: `signing_keys` tells why."""
    verified: Report = msgspec.field(default_factory=Report)

    @property
    def is_complete(self) -> bool:
        """Tell whether all was restored and nothing differs."""
        left_out = self.rows_refused or self.signing_keys_missing or (self.logged is not None and self.logged.failed)
        return not (self.broken or self.not_whole or left_out or self.verified.different)


Progress = Callable[[RestoreReport], None]


async def restore(
    store: Store,
    origin: Origin,
    clock: Callable[[], int],
    *,
    on_progress: Progress = lambda _: None,
    open_signing_keys: Callable[[bytes], tuple[bool, str]] = lambda _: (True, ""),
    user_keys: UserKeys | None = None,
    ledger_id: str = "",
    behind_log: Callable[[Ledger], Awaitable[GoneOn | None]] | None = None,
    at_once: int = 2,
) -> RestoreReport:
    """Restore into an empty store, or go on where an earlier run was interrupted.

    Whoever was erased since, as `user_keys` tell, is erased before anybody can open the ledger. What is restored must
    have been checked before. `behind_log` has sessions that the transparency log knows further go on behind that,
    before anything else is put on record of them: a log never goes back. Raises CannotRestore with nothing written,
    BadBackup, StoreFull, StoreUnavailable: then it may be run again. The ledger keeps its id; where none is in what is
    restored it gets `ledger_id`, or a new one.
    """
    restoring = _Restore(store, origin, clock, on_progress, open_signing_keys, user_keys, ledger_id, behind_log)
    return await restoring.run(at_once)


class _Restore:
    def __init__(
        self,
        store: Store,
        origin: Origin,
        clock: Callable[[], int],
        on_progress: Progress,
        open_signing_keys: Callable[[bytes], tuple[bool, str]],
        user_keys: UserKeys | None,
        ledger_id: str,
        behind_log: Callable[[Ledger], Awaitable[GoneOn | None]] | None,
    ) -> None:
        self._behind_log = behind_log
        self._ledger_id = ledger_id or uuid4().hex
        self._user_keys = user_keys
        self._store = store
        self._origin = origin
        self._clock = clock
        self._on_progress = on_progress
        self._open_signing_keys = open_signing_keys
        self._report = RestoreReport(doing="restoring partitions")
        self._rebuild = Rebuild(store, uuid4().hex, sealed=origin.sealed)
        self._ledger = Ledger(store, origin.partitions, clock)

    async def run(self, at_once: int) -> RestoreReport:
        report, partitions = self._report, self._origin.partitions
        report.resumed = await fill.claim(self._store, self._origin, self._clock())
        marks = await whole.read_marks(self._store, partitions)
        await each(enumerate(marks), self._partition, at_once)
        report.doing = "restoring what belongs to no partition"
        await self._others()
        if self._behind_log is not None:
            report.doing = "comparing with the transparency log"
            report.logged = await self._behind_log(self._ledger)
        report.doing = "asking devices to start over"
        for partition in range(partitions):
            await self._reset(partition)
        if self._user_keys is not None:
            report.doing = "erasing again who was erased"
            identities = Identities(self._store, partitions)
            report.erased = await erase_again(self._ledger, identities, self._user_keys)
        report.doing = "verifying"
        report.verified = await verify(
            self._store, partitions, sealed=self._origin.sealed, on_progress=lambda _: self._on_progress(report)
        )
        await fill.finish(self._store, self._origin, self._ledger_id)
        rebuilt = self._rebuild.report
        report.broken, report.not_whole = rebuilt.named, rebuilt.not_whole
        return report

    async def _partition(self, standing: tuple[int, bytes | None]) -> None:
        partition, says = standing
        mark = fill.mark_of(self._origin)
        if says == mark:
            await self._copy(partition, mark)
        if says != whole.WHOLE:
            await self._rebuild.partition(partition, Strays({}, {}), copied=mark)
        async for lines in self._origin.beside(partition):
            for line in lines:
                await fill.put_beside(self._store, partition, line)
        await fill_partition(self._store, partition)  # by when devices were last heard of
        self._report.partitions += 1
        self._on_progress(self._report)

    async def _copy(self, partition: int, mark: bytes) -> None:
        await fill.put_record(self._store, partition, self._origin.record(partition))
        last = await fill.last_event(self._store, partition)
        async for events in self._origin.events(partition):
            last = await fill.put_events(self._store, partition, mark, last, events)
            self._report.events += len(events)
            self._on_progress(self._report)

    async def _reset(self, partition: int) -> None:
        """Ask every session that lives again to start over: its device may be ahead of what was restored."""
        async for living in scan(self._store, "ZSCAN", keys.activity(partition)):
            done = await asyncio.gather(*(self._reset_one(partition, sid.decode()) for sid, _ in living))
            self._report.sessions += len(done)
            self._report.resets += sum(done)
            self._on_progress(self._report)

    async def _reset_one(self, partition: int, sid: str) -> bool:
        """Ask one session to start over; False if that was asked of it before."""
        name = keys.session(partition, sid)
        user, pending = await self._store.command("HMGET", name, "user", "pending_reset", key=name)
        if user is None:
            raise Contended(f"Session {sid} ended while it was restored: stop the service and run it again")
        if pending:
            return False
        try:
            await self._ledger.execute(user.decode(), sid, RequestReset(True, plain(BY)))
        except SessionEnded:
            self._report.expired += 1
            return False
        return True

    async def _others(self) -> None:
        async for lines in self._origin.others():
            for line in lines:
                if line.key == "signing-keys":
                    for _, sealed in line.pairs:
                        are_there, self._report.signing_keys = self._open_signing_keys(sealed)
                        self._report.signing_keys_missing = not are_there
                elif line.key == "lines":
                    found = await fill.put_rows(self._store, line)
                    self._report.rows_refused += found.refused
                else:
                    await fill.put_other(self._store, self._origin.partitions, line)
            self._on_progress(self._report)
