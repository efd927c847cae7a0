"""Ends what Immich has no more: a session whose row has been gone for an hour, on a database that is in order.

A token without a row is refused at once; that its session is over is believed only after a while. A restore drops the
tables and brings them back, rows of its past included, and what is restored is as good as before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from ledger import keys
from ledger.commands import EndSession
from ledger.errors import LedgerError, SessionEnded, StoreReplyError
from ledger.events import IMMICH
from ledger.log.service import Ledger
from ledger.log.stored_sessions import text_of
from ledger.log.whole import is_whole
from ledger.session_ids import short_id
from ledger.store.interface import scan
from projections.expiry import living
from projections.immich.tables import ImmichTables

log = logging.getLogger(__name__)

GONE: Final = "gone"
"""Why such a session ended, in its event."""
JOB: Final = "gone_claimed_at_ms"
GONE_US: Final = 3_600_000_000
"""For how long a session's row must have been gone before it is believed."""
LOOK_GAP_US: Final = 900_000_000
"""Nobody knows what was between two looks that are further apart than this: the hour begins anew."""
KEPT_US: Final = 86_400_000_000
"""For how long behind that it stays noted that a row is gone, should its session not end."""
_TABLES: Final = "tables"
_LOOKED: Final = "looked"
_AT_ONCE: Final = 500


class GoneReport(msgspec.Struct):
    """What one run looked at and did; `wrong` is why nothing is believed to be gone, empty where something may be.

    `failed` counts sessions that were to end and did not; a later run tries again.
    """

    sessions: int = 0
    missing: int = 0
    ended: int = 0
    failed: int = 0
    partitions_not_whole: int = 0
    wrong: str = ""


def widest_gap_us(every_s: float) -> int:
    """Tell how far apart looks may be that are made every so many seconds."""
    return max(LOOK_GAP_US, int(every_s * 3_000_000))


async def end_gone(
    ledger: Ledger, tables: ImmichTables, *, gone_us: int = GONE_US, gap_us: int = LOOK_GAP_US
) -> GoneReport:
    """Note which sessions of Immich's have no row there now, and end those that had none for `gone_us`.

    Looks must be no further apart than `gap_us`. Raises SourceUnavailable where the database does not answer, or lacks
    tables: then too the time begins anew with the next look.
    """
    report = GoneReport()
    try:
        sanity = await tables.sanity()
    except LedgerError:
        await _forget_all(ledger)
        raise
    if sanity.wrong:
        await _forget_all(ledger)
        report.wrong = sanity.wrong
        return report
    await _look_begins(ledger, sanity.tables, gap_us)
    for partition in range(ledger.partitions):
        if not await is_whole(ledger.store, partition):
            report.partitions_not_whole += 1
            continue
        async for page in living(ledger, partition):
            sids = [sid for sid, _ in page]
            for start in range(0, len(sids), _AT_ONCE):
                await _look(ledger, tables, partition, sids[start : start + _AT_ONCE], gone_us, report)
        await _forget_pressed(ledger, partition)
    await _forget_old(ledger, gone_us)
    return report


async def _look_begins(ledger: Ledger, tables: str, gap_us: int) -> None:
    """Note a look; forget all that was missing if it was in other tables, or looked at too long ago."""
    name, now_us = keys.gone(), ledger.clock()
    were, looked = await ledger.store.command("HMGET", name, _TABLES, _LOOKED, key=name)
    if were != tables.encode() or looked is None or now_us - int(looked) * 1000 > gap_us:
        await _forget_all(ledger)
    await ledger.store.command("HSET", name, _TABLES, tables, _LOOKED, now_us // 1000, key=name)


async def _forget_all(ledger: Ledger) -> None:
    name = keys.gone()
    await ledger.store.command("DEL", name, key=name)


async def _look(
    ledger: Ledger, tables: ImmichTables, partition: int, sids: Sequence[str], gone_us: int, report: GoneReport
) -> None:
    """Look at some sessions of a partition."""
    users: dict[str, str] = {}
    names = [keys.session(partition, sid) for sid in sids]
    found = await asyncio.gather(
        *(ledger.store.command("HMGET", name, "user", "authenticated_by", key=name) for name in names),
        return_exceptions=True,
    )
    for sid, fields in zip(sids, found, strict=True):
        if isinstance(fields, StoreReplyError):
            report.failed += 1
            log.error("session %s… is passed over: %s", short_id(sid), fields)
        elif isinstance(fields, BaseException):
            raise fields
        elif fields[0] is not None and fields[1] == IMMICH.encode():
            users[sid] = text_of(fields[0])
    if not users:
        return
    report.sessions += len(users)
    there = await tables.there([bytes.fromhex(sid) for sid in users])
    name, now_ms = keys.gone(), ledger.clock() // 1000
    missed = await ledger.store.command("HMGET", name, *users, key=name)
    for (sid, user), since_ms in zip(users.items(), missed, strict=True):
        if bytes.fromhex(sid) in there:
            if since_ms is not None:
                await ledger.store.command("HDEL", name, sid, key=name)
            continue
        report.missing += 1
        if since_ms is None:
            await ledger.store.command("HSET", name, sid, now_ms, key=name)
        elif now_ms - int(since_ms) >= gone_us // 1000:
            await _end(ledger, user, sid, report)


async def _end(ledger: Ledger, user: str, sid: str, report: GoneReport) -> None:
    """End a session; one that fails is counted and named, and the others go on."""
    try:
        await ledger.execute(user, sid, EndSession(GONE))
        report.ended += 1
    except SessionEnded:
        pass  # somebody else ended it first
    except LedgerError as error:
        report.failed += 1
        log.error("session %s…, which is gone at Immich, is ended later: %s", short_id(sid), error)
        return
    name = keys.gone()
    await ledger.store.command("HDEL", name, sid, key=name)


async def _forget_old(ledger: Ledger, gone_us: int) -> None:
    """Forget what was noted so long ago that it must have ended otherwise; what is still missing is noted anew."""
    name, before_ms = keys.gone(), (ledger.clock() - gone_us - KEPT_US) // 1000
    async for rows in scan(ledger.store, "HSCAN", name):
        old = [sid for sid, ms in rows if ms.isdigit() and sid != _LOOKED.encode() and int(ms) < before_ms]
        if old:
            await ledger.store.command("HDEL", name, *old, key=name)


async def _forget_pressed(ledger: Ledger, partition: int) -> None:
    """Forget by which mark sessions were asked to start over that live no more."""
    name, living = keys.pressed(partition), keys.activity(partition)
    async for rows in scan(ledger.store, "HSCAN", name):
        sids = [sid for sid, _ in rows]
        scores = await ledger.store.command("ZMSCORE", living, *sids, key=living) if sids else []
        if over := [sid for sid, score in zip(sids, scores, strict=True) if score is None]:
            await ledger.store.command("HDEL", name, *over, key=name)
