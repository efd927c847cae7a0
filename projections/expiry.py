"""Expiry: idle and expired sessions are ended, delete markers nobody needs any more are purged.

Rows of a catalog that wait for nothing any more, because a writer died, go on their way too.

Idleness and age are counted in time that passed while the ledger was served: no clock that jumps ends anybody, and no
time in which nobody could be heard.

Safe with any number of workers: a session is ended at the version its idleness was decided on, so exactly once, and a
device that acts in that moment stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from typing import Final, NamedTuple, TypeVar

import msgspec

from ledger import keys
from ledger.clocks.passed import Passed, note_time
from ledger.commands import ExpireSession
from ledger.errors import LedgerError, Rebuilding, SessionEnded, StoreReplyError, StoreUnavailable
from ledger.log.service import Ledger
from ledger.log.whole import is_whole
from ledger.store.interface import Script, scan
from projections.entities.catalog.catalog import Catalog

T = TypeVar("T")

log = logging.getLogger(__name__)

_CLAIM: Final = Script.load("projections", "claim.lua", allow_oom=True)  # what it is for frees memory
_AT_ONCE: Final = 32
"""How many sessions are ended at the same time: requests of the same worker share the connection."""
SILENT: Final = 3
"""How many partitions or libraries in a row may not be reached before a run gives up: each waits for a timeout."""
NAMED: Final = 100
JOB: Final = "expire_claimed_at_ms"


class PassedOver(msgspec.Struct, frozen=True):
    """What could not be looked at: a `partition`, `session` or `library`, which one, and why."""

    what: str
    name: str
    why: str


class ExpiryReport(msgspec.Struct):
    """What one run looked at and did. `failed` counts what was passed over, of which some are named."""

    sessions: int = 0
    idle: int = 0
    expired: int = 0
    delete_markers: int = 0
    partitions_not_whole: int = 0
    failed: int = 0
    passed_over: list[PassedOver] = []

    def pass_over(self, what: str, name: str, error: Exception) -> None:
        """Count what could not be looked at, and name it if there is room."""
        self.failed += 1
        if len(self.passed_over) < NAMED:
            why = str(error) if isinstance(error, LedgerError) else repr(error)
            self.passed_over.append(PassedOver(what, name, why))
            log.error("%s %s is passed over: %s", what, name, why, exc_info=error)


async def claim(ledger: Ledger, every_us: int, job: str = JOB) -> bool:
    """Claim a background run: True for one worker in `every_us`."""
    args = (job, ledger.clock() // 1000, every_us // 1000)
    return bool(await ledger.store.script(_CLAIM, [keys.meta()], args))


async def expire(
    ledger: Ledger,
    catalog: Catalog | None,
    *,
    idle_us: int,
    tombstones_us: int,
    elsewhere: Collection[str] = (),
    on_progress: Callable[[ExpiryReport], None] = lambda _: None,
) -> ExpiryReport:
    """End sessions unheard of for `idle_us` or past their expiry; purge delete markers older than `tombstones_us`.

    Without a catalog only sessions end: other sources keep delete markers as they see fit. Sessions that were
    authenticated by one of `elsewhere` end only as that says.
    Partitions that are not whole are left for a later run: what belongs to a session may be missing there. What cannot
    be looked at is passed over and reported. Raises StoreUnavailable where the store, or most of it, does not answer.
    """
    report, passed = ExpiryReport(), await note_time(ledger.store, ledger.clock())
    due = _Due(passed, passed.before(idle_us), elsewhere)

    async def end(partition: int) -> None:
        await _expire_partition(ledger, partition, due, report, on_progress)

    async def purge(library: str) -> None:
        assert catalog is not None
        report.delete_markers += await catalog.purge_tombstones(library, passed.before(tombstones_us))
        await catalog.release(library)  # what a writer that died has left; nothing is looked at where none did
        on_progress(report)

    await _each(report, "partition", range(ledger.partitions), end)
    if catalog is not None:
        await _each(report, "library", await catalog.libraries(), purge)
    return report


class _Due(NamedTuple):
    """What makes a session's time over: how much passed, before when it is idle, and whose sessions end elsewhere."""

    passed: Passed
    idle_before_us: int
    elsewhere: Collection[str]


async def _each(report: ExpiryReport, what: str, names: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Work on each; what fails is passed over. Raises StoreUnavailable where several in a row do not answer."""
    silent = 0
    for name in names:
        try:
            await work(name)
        except StoreUnavailable as error:  # of a cluster it may be one server
            silent += 1
            if silent == SILENT:
                raise
            report.pass_over(what, str(name), error)
        except Exception as error:  # noqa: BLE001 - whatever is wrong here, the others are to go on
            report.pass_over(what, str(name), error)
        else:
            silent = 0


async def _expire_partition(
    ledger: Ledger, partition: int, due: _Due, report: ExpiryReport, on_progress: Callable[[ExpiryReport], None]
) -> None:
    if not await is_whole(ledger.store, partition):
        report.partitions_not_whole += 1
        return
    async for page in living(ledger, partition):
        for start in range(0, len(page), _AT_ONCE):
            turn = page[start : start + _AT_ONCE]
            ended = await asyncio.gather(
                *(_expire_one(ledger, partition, sid, seen, due, report) for sid, seen in turn), return_exceptions=True
            )
            for (sid, _), error in zip(turn, ended, strict=True):
                if isinstance(error, StoreUnavailable) or not isinstance(error, Exception | None):
                    raise error
                if error is not None:
                    report.pass_over("session", sid, error)
            on_progress(report)


async def _expire_one(ledger: Ledger, partition: int, sid: str, seen_us: int, due: _Due, report: ExpiryReport) -> None:
    """Look at one session without noting it as seen, and end it if its time is over; raises CorruptLedger."""
    report.sessions += 1
    try:
        times = await _times(ledger, partition, sid)
    except (ValueError, TypeError, StoreReplyError):  # damaged: the whole of it is read, and mended by that
        state = await ledger.look(partition, sid)
        over = [] if state is None or state.over_at_us is None else [state.over_at_us]
        times = None if state is None else (state.user, state.authenticated_by, state.at_us, over)
    if times is None:
        return
    user, by, at_us, ends = times
    if by in due.elsewhere:
        return
    expired = any(due.passed.reached(us) for us in ends)  # or may be: a newer token may last longer
    if not (expired or max(at_us, seen_us) < due.idle_before_us):
        return
    try:
        state = await ledger.execute(user, sid, ExpireSession(due.idle_before_us, seen_us))
    except (SessionEnded, Rebuilding):
        return  # somebody else ended it first, or the partition is not whole any more
    report.idle += state.ended == "idle"
    report.expired += state.ended == "expired"


async def _times(ledger: Ledger, partition: int, sid: str) -> tuple[str, str, int, list[int]] | None:
    """Read whose a session is, how it was authenticated, when it changed last and may be over, in µs; None without one.

    Raises ValueError, TypeError or StoreReplyError where that cannot be read.
    """
    name = keys.session(partition, sid)
    fields = ("user", "authenticated_by", "at_us", "expires_at_us", "token_expires_at_us")
    user, by, at_us, *ends = await ledger.store.command("HMGET", name, *fields, key=name)
    if user is None and not await ledger.store.command("EXISTS", name, key=name):
        return None
    if user is None:
        raise ValueError("a session of nobody")
    return user.decode(), (by or b"").decode(), int(at_us), [int(us) for us in ends if us is not None]


async def living(ledger: Ledger, partition: int) -> AsyncIterator[list[tuple[str, int]]]:
    """Yield the sessions of a partition's activity index in pages, each with when it was last seen, in µs."""
    async for rows in scan(ledger.store, "ZSCAN", keys.activity(partition)):
        yield [(sid.decode(), int(float(ms)) * 1000) for sid, ms in rows]
