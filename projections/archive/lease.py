"""The right to archive a partition: a lease with a token that grows, so that whoever lost it can change nothing.

What changes a partition is a script that compares the token; the lease's time only says when another may take over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from ledger import keys
from ledger.errors import LedgerError, StoreUnavailable
from ledger.log.append import pairs
from ledger.store.interface import Arg, Script, Store
from projections.archive.errors import Fenced, PartitionBusy
from projections.archive.format import after
from projections.archive.record import Record, parse_record

TTL_S: Final = 60.0
_LONGEST_MS: Final = 3_600_000
"""Nobody leases a partition for longer: it is renewed."""
TRIMMED_AT_ONCE: Final = 10_000
"""How many events one script removes at most, so that nobody waits for it: about 1 ms."""
_LEASE: Final = Script.load("projections.archive", "lease.lua", allow_oom=True)  # archiving frees memory
_ADVANCE: Final = Script.load("projections.archive", "advance.lua", allow_oom=True)
_TRIM_MARKS: Final = Script.load("projections.archive", "trim_marks.lua", allow_oom=True)
_TRIM: Final = Script.load("projections.archive", "trim.lua", allow_oom=True)


class Lease:
    """The right to archive one partition; renewed in the background while it is held."""

    def __init__(self, store: Store, partition: int, ttl_s: float = TTL_S) -> None:
        self.record = Record()
        self.token = ""
        self._store = store
        self._partition = partition
        self._ttl_s = ttl_s
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Take it, and read how far the partition is; raises PartitionBusy."""
        reply = await self._lease("", self._ttl_s)
        if not reply:
            raise PartitionBusy(f"partition {self._partition} is being archived by somebody else")
        self.token, self.record = reply[0].decode(), parse_record(pairs(reply[1]))
        self._renewing = asyncio.create_task(self._renew())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        with suppress(StoreUnavailable):  # then it runs out by itself
            await self._lease(self.token, 0)

    async def hold(self) -> None:
        """Renew it; raises Fenced where it was lost: then another may have trimmed what was being read."""
        if not await self._lease(self.token, self._ttl_s):
            raise self._fenced()

    async def advance(self, record: Record, forget: Sequence[str] = ()) -> None:
        """Record how far the partition is now, and forget sessions whose history ended before the cut.

        Raises Fenced.
        """
        fields: list[Arg] = ["floor", record.floor, "segment", record.segment, "digest", record.digest]
        fields += ["segments", record.segments, "cut", record.cut]
        sent = (keys.sent(self._partition, sid) for sid in forget)
        names = (keys.archive(self._partition), keys.ended(self._partition), keys.sids(self._partition), *sent)
        args: list[Arg] = [self.token, self.record.floor, len(fields), *fields, *forget]
        if not await self._store.script(_ADVANCE, names, args):
            raise self._fenced()
        self.record = record

    async def trim_marks(self, sids: Sequence[str]) -> None:
        """Remove from sessions' marks those of archived events, whoever noted that they are."""
        if sids:
            names = [keys.archive(self._partition), *(keys.marks(self._partition, sid) for sid in sids)]
            await self._store.script(_TRIM_MARKS, names, ())

    async def trim(self) -> int:
        """Remove from the stream what is archived; gives how many events that were. Raises Fenced."""
        names, removed = (keys.archive(self._partition), keys.stream(self._partition)), 0
        if not self.record.floor:
            return 0
        while count := await self._store.script(_TRIM, names, (self.token, after(self.record.floor), TRIMMED_AT_ONCE)):
            if count < 0:
                raise self._fenced()
            removed += count
        return removed

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            with suppress(LedgerError):  # the next script tells whether it is still held
                if not await self._lease(self.token, self._ttl_s):
                    return

    async def _lease(self, token: str, ttl_s: float) -> Any:
        args = (token, int(ttl_s * 1000), _LONGEST_MS)
        return await self._store.script(_LEASE, [keys.archive(self._partition)], args)

    def _fenced(self) -> Fenced:
        return Fenced(f"partition {self._partition} was taken over by another archiver; it goes on there")
