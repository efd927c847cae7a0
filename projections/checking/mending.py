"""Mending sessions on the way: one whose hashes cannot be read is made anew from its events, which are what counts.

Whoever meets such a session has it mended and goes on: its own device, a list of devices, what ends it. It takes the
fold of its partition, so those met in the meantime are mended together, one partition at a time, and what stays
damaged is looked at again a minute later at the earliest. A session of which an event is damaged, or which has none,
is never touched: `syncledger verify` and `rebuild` name it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Final

from ledger import keys
from ledger.errors import LedgerError, StoreUnavailable
from ledger.store.interface import Script, Store, key_types
from projections.checking.partition_fold import PartitionFold, Sealed
from projections.checking.rebuild_sessions import SessionWriter
from projections.counters import Counters

log = logging.getLogger(__name__)

AGAIN_S: Final = 60.0
REMEMBERED: Final = 4096
"""How many sessions that stay damaged are remembered for that long."""

_WANTED: Final = ("hash", "hash", "list")

# What is no hash or list holds nothing of the session, and everything of it is in its events.
_CLEAR: Final = Script(
    "clear_mistyped",
    """
for i, wanted in ipairs(ARGV) do
  if redis.call('TYPE', KEYS[i]).ok ~= wanted then
    redis.call('DEL', KEYS[i])
  end
end
""",
    allow_oom=True,
)


class Mending:
    """Mends sessions of one ledger; implements `ledger.log.stored.Mender`."""

    def __init__(self, store: Store, sealed: Sealed | None = None) -> None:
        self._store = store
        self._sealed = sealed
        self._counters = Counters(store)
        self._one_partition = asyncio.Lock()
        self._waiting: dict[int, set[str]] = {}
        self._rounds: dict[int, asyncio.Task[set[str]]] = {}
        self._given_up_s: dict[str, float] = {}
        self._cleared: set[str] = set()

    async def mend(self, partition: int, sid: str, why: str) -> bool:
        """Make a session's hashes anew from its events; False if it stays as it is, which is logged with `why`.

        Raises StoreUnavailable.
        """
        if time.monotonic() - self._given_up_s.get(sid, -AGAIN_S) < AGAIN_S:
            return False
        if partition not in self._waiting:
            self._waiting[partition] = set()
            self._rounds[partition] = asyncio.create_task(self._round(partition))
        self._waiting[partition].add(sid)
        mended = sid in await asyncio.shield(self._rounds[partition])
        if mended:
            log.warning("session %s was mended, made anew from its events: %s", sid, why)
            await self._counters.note("sessions_mended")
        else:
            if len(self._given_up_s) >= REMEMBERED:
                self._given_up_s.clear()
            self._given_up_s[sid] = time.monotonic()
            log.error("session %s is damaged: %s; run syncledger rebuild --session %s", sid, why, sid)
            await self._counters.note("sessions_damaged")
        return mended

    async def _round(self, partition: int) -> set[str]:
        """Mend those who wait by now; those who come later wait for the next round."""
        async with self._one_partition:
            sids = self._waiting.pop(partition)
            try:
                return await self._mend(partition, sids)
            except StoreUnavailable:
                raise
            except LedgerError as error:
                log.error("sessions of partition %d cannot be mended: %s", partition, error)
                return set()

    async def _mend(self, partition: int, sids: Collection[str]) -> set[str]:
        fold = PartitionFold(self._store, partition, sealed=self._sealed, only=sids)
        await fold.forward()
        told = {sid for sid in sids if fold.of(sid).seq and not fold.of(sid).broken} if not fold.lost else set()
        for sid in told:
            await self._clear(partition, sid)
        settled = await SessionWriter(self._store, partition, fold, {}).settle(told)
        mended = {sid for sid in told - settled.unlike.keys() - settled.mistyped.keys() if not fold.of(sid).broken}
        broken = keys.broken(partition)
        for sid in mended & self._cleared:
            await self._store.command("HDEL", broken, sid, key=broken)
        self._cleared -= mended
        return mended

    async def _clear(self, partition: int, sid: str) -> None:
        """Delete what is of another type where a session's hashes and marks belong."""
        names = (keys.session(partition, sid), keys.checkpoints(partition, sid), keys.marks(partition, sid))
        told = zip(names, await key_types(self._store, names), _WANTED, strict=True)
        wrong = [f"{name.decode()} (a {found})" for name, found, wanted in told if found not in ("none", wanted)]
        if not wrong:
            return
        broken = keys.broken(partition)
        if await self._store.command("HSETNX", broken, sid, "is being mended", key=broken):
            self._cleared.add(sid)  # until it is there again it must not be told that it ended
        await self._store.script(_CLEAR, names, _WANTED)
        log.warning("deleted, to make a session anew in its place: %s", ", ".join(wrong))
