"""Filling the index of devices: with what versions left out that did not keep it, and after a restore.

A partition says that it is filled once all its sessions have been looked at; what happens meanwhile is kept by the
scripts that write. As long as a process of a version runs that does not keep the index, no partition is taken to be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ledger import keys
from ledger.entity_types import COMPLETE
from ledger.errors import CorruptLedger, LedgerError, StoreUnavailable
from ledger.log.append import load
from ledger.log.formats import Formats
from ledger.log.order import FILLED, INDEXED, INDEXED_FROM, Placing, is_filled, mark_filled, place
from ledger.log.stored_sessions import indexed_sids
from ledger.log.whole import is_whole
from ledger.store.interface import Script, Store
from projections.bounded_tasks import each
from projections.checking.partition_fold import is_sid, pages_of
from projections.sent.judgement import judge
from projections.sent.record import parsed, stored

log = logging.getLogger(__name__)

JOB: Final = "index_claimed_at_ms"
EVERY_S: Final = 60.0
_PAGE: Final = 100
_ATTEMPTS: Final = 16
_AT_ONCE: Final = 4
_LOOK: Final = Script.load("projections.devices", "look.lua", allow_oom=True)
_FIELDS: Final = 4


class FillReport(msgspec.Struct):
    """What was filled. `waits`: an older version may run, so nothing was. `failed` were passed over, with why."""

    waits: bool = False
    partitions: int = 0
    sessions: int = 0
    unreadable: int = 0
    failed: dict[int, str] = {}


async def fill(store: Store, partitions: int, formats: Formats, now_us: int) -> FillReport:
    """Fill the partitions that do not say that they are; those that fail are named, and tried again the next time.

    Raises StoreUnavailable where the store does not answer at all.
    """
    report = FillReport()
    if formats.current < INDEXED_FROM:
        report.waits = True
        return report
    meta = keys.meta()
    if not await store.command("HEXISTS", meta, INDEXED, key=meta):
        # A rebuild may have said so while an older version wrote beside it.
        for partition in range(partitions):
            name = keys.sids(partition)
            await store.command("ZREM", name, FILLED, key=name)
        await store.command("HSETNX", meta, INDEXED, now_us, key=meta)

    async def one(partition: int) -> None:
        try:
            if await is_filled(store, partition) or not await is_whole(store, partition):
                return
            await fill_partition(store, partition, report)
        except LedgerError as error:
            report.failed[partition] = str(error)
            log.error("the index of devices of partition %d is not filled: %s", partition, error)

    await each(range(partitions), one, _AT_ONCE)
    if len(report.failed) == partitions:
        raise StoreUnavailable(next(iter(report.failed.values())), maybe_done=False)
    return report


async def fill_partition(store: Store, partition: int, report: FillReport | None = None) -> None:
    """Put all sessions of a partition that is whole in their places in the index, and say that they are there.

    Sessions that cannot be read are left out, and counted: whoever mends them puts them there. Raises LedgerError.
    """
    report = report or FillReport()
    sids = [sid for sid in await indexed_sids(store, partition) if is_sid(sid)]
    for page in pages_of(sids, _PAGE):
        left = page
        for _ in range(_ATTEMPTS):
            placings = [found for found in await _look(store, partition, left, report) if found is not None]
            left = await place(store, partition, placings) if placings else []
            if not left:
                break
        report.sessions += len(page)
    await mark_filled(store, partition)
    report.partitions += 1


async def _look(store: Store, partition: int, sids: Sequence[str], report: FillReport) -> list[Placing | None]:
    names = [of(partition, sid) for sid in sids for of in (keys.session, keys.checkpoints, keys.sent)]
    flat = await store.script(_LOOK, names, (COMPLETE,))
    rows = [flat[at : at + _FIELDS] for at in range(0, len(flat), _FIELDS)]
    found = [_placing(sid, row) for sid, row in zip(sids, rows, strict=True)]
    streamed = [at for at, row in enumerate(rows) if row[3] and found[at] is not None and row[0] is not None]
    judged = await asyncio.gather(*(_judged(store, partition, sids[at]) for at in streamed))
    for at, placing in zip(streamed, judged, strict=True):
        found[at] = placing
    report.unreadable += sum(one is None for one in found)
    return found


def _placing(sid: str, row: Sequence[Any]) -> Placing | None:
    """Tell where a session without streams belongs; None where what is stored of it cannot be read."""
    seq, created_us, complete, _ = row
    if seq is None:
        return Placing(sid, 0)
    try:
        counts_us = int(created_us) if complete is None else int(complete.split(b"|")[2])
        return Placing(sid, int(seq), counts_us // 1000, None)
    except (TypeError, ValueError, IndexError):
        return None


async def _judged(store: Store, partition: int, sid: str) -> Placing | None:
    """Tell where a session belongs whose streams may show that it is stuck."""
    try:
        entries, state = await asyncio.gather(stored(store, partition, sid), load(store, partition, sid, 0, seen=False))
    except CorruptLedger:
        return None
    if state is None:
        return Placing(sid, 0)
    stuck = judge(parsed(entries), state)
    return Placing.of(state, None if stuck is None else stuck.since_us, entries)
