"""Expiry: idle and expired sessions are ended, delete markers nobody needs any more are purged.

Rows of a catalog that wait for nothing any more, because a writer died, go on their way too.

Idleness and age are counted in time that passed while the ledger was served: no clock that jumps ends anybody, and no
time in which nobody could be heard.

Safe with any number of workers: a session is ended at the version its idleness was decided on, so exactly once, and a
device that acts in that moment stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from ledger import keys
from ledger.commands import ExpireSession
from ledger.errors import Rebuilding, SessionEnded
from ledger.log.passed import Passed, note_time
from ledger.log.service import Ledger
from ledger.log.whole import is_whole
from ledger.store.interface import Script, scan
from projections.entities.catalog.catalog import Catalog

_CLAIM: Final = Script.load("projections", "claim.lua", allow_oom=True)  # what it is for frees memory
_AT_ONCE: Final = 32
"""How many sessions are ended at the same time: requests of the same worker share the connection."""
JOB: Final = "expire_claimed_at_ms"


class ExpiryReport(msgspec.Struct):
    """What one run looked at and did."""

    sessions: int = 0
    idle: int = 0
    expired: int = 0
    delete_markers: int = 0
    partitions_not_whole: int = 0


async def claim(ledger: Ledger, every_us: int) -> bool:
    """Claim the background run: True for one worker in `every_us`."""
    args = (JOB, ledger.clock() // 1000, every_us // 1000)
    return bool(await ledger.store.script(_CLAIM, [keys.meta()], args))


async def expire(
    ledger: Ledger,
    catalog: Catalog | None,
    *,
    idle_us: int,
    tombstones_us: int,
    on_progress: Callable[[ExpiryReport], None] = lambda _: None,
) -> ExpiryReport:
    """End sessions unheard of for `idle_us` or past their expiry; purge delete markers older than `tombstones_us`.

    Without a catalog only sessions end: other sources keep delete markers as they see fit.
    Partitions that are not whole are left for a later run: what belongs to a session may be missing there.
    """
    report, passed = ExpiryReport(), await note_time(ledger.store, ledger.clock())
    for partition in range(ledger.partitions):
        if not await is_whole(ledger.store, partition):
            report.partitions_not_whole += 1
            continue
        async for page in _seen(ledger, partition):
            for start in range(0, len(page), _AT_ONCE):
                turn = page[start : start + _AT_ONCE]
                await asyncio.gather(
                    *(_expire_one(ledger, partition, sid, seen, passed, idle_us, report) for sid, seen in turn)
                )
                on_progress(report)
    if catalog is not None:
        for library in await catalog.libraries():
            report.delete_markers += await catalog.purge_tombstones(library, passed.before(tombstones_us))
            await catalog.release(library)  # what a writer that died has left; nothing is looked at where none did
            on_progress(report)
    return report


async def _expire_one(
    ledger: Ledger, partition: int, sid: str, seen_us: int, passed: Passed, idle_us: int, report: ExpiryReport
) -> None:
    """Look at one session without noting it as seen, and end it if its time is over."""
    report.sessions += 1
    name = keys.session(partition, sid)
    user, at_us, *ends = await ledger.store.command(
        "HMGET", name, "user", "at_us", "expires_at_us", "token_expires_at_us", key=name
    )
    idle_before_us = passed.before(idle_us)
    expired = any(us is not None and passed.reached(int(us)) for us in ends)  # or may be: a newer token may last longer
    if user is None or not (expired or max(int(at_us), seen_us) < idle_before_us):
        return
    try:
        state = await ledger.execute(user.decode(), sid, ExpireSession(idle_before_us, seen_us))
    except (SessionEnded, Rebuilding):
        return  # somebody else ended it first, or the partition is not whole any more
    report.idle += state.ended == "idle"
    report.expired += state.ended == "expired"


async def _seen(ledger: Ledger, partition: int) -> AsyncIterator[list[tuple[str, int]]]:
    """Yield the sessions of a partition's activity index in pages, each with when it was last seen, in µs."""
    async for rows in scan(ledger.store, "ZSCAN", keys.activity(partition)):
        yield [(sid.decode(), int(float(ms)) * 1000) for sid, ms in rows]
