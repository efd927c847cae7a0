"""Expiry: idle and expired sessions are ended, delete markers nobody needs any more are purged.

Who may be idle is found by when sessions were last seen, who may be expired by when they are over (`keys.due`): others
are not looked at. Once a day all of a partition's are: what an earlier version wrote is not in that index, and it may
have been damaged.

Rows of a catalog that wait for nothing any more, because a writer died, go on their way too.

Idleness and age are counted in time that passed while the ledger was served: no clock that jumps ends anybody, and no
time in which nobody could be heard.

Safe with any number of workers: a session is ended at the version its idleness was decided on, so exactly once, and a
device that acts in that moment stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

from ledger import keys
from ledger.clocks.passed import Passed, note_time
from ledger.errors import LedgerError, Rebuilding, StoreReplyError, StoreUnavailable
from ledger.log.service import Ledger
from ledger.log.whole import is_whole
from ledger.store.interface import Script, scan
from projections.entities.catalog.catalog import Catalog

T = TypeVar("T")

log = logging.getLogger(__name__)

_CLAIM: Final = Script.load("projections", "claim.lua", allow_oom=True)  # what it is for frees memory
_AT_ONCE: Final = 100
"""How many sessions are looked at at the same time: requests of the same worker share the connection."""
_PAGE: Final = 500
_LOOKED: Final = b"@looked"
"""The member of `keys.due` that tells when all sessions of a partition are looked at again."""
LOOK_MS: Final = 86_400_000
SILENT: Final = 3
"""How many partitions or libraries in a row may not be reached before a run gives up: each waits for a timeout."""
NAMED: Final = 100
"""How many of those that are passed over a report names."""
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
    """End sessions not heard of for `idle_us`, or expired; purge delete markers older than `tombstones_us`.

    Without a catalog only sessions end: other sources keep delete markers as they see fit. Sessions that
    another service authenticated (`elsewhere` names such) end only when that says so.
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
    await ledger.families.finish(partition)
    name, now_ms = keys.due(partition), due.passed.now_us // 1000
    look_ms = await ledger.store.command("ZSCORE", name, _LOOKED, key=name)
    # A clock that was ahead, and now is right, must not put the look off for as long as it was wrong.
    if looks := look_ms is None or not now_ms < float(look_ms) <= now_ms + 2 * LOOK_MS:
        pages = living(ledger, partition)
    else:
        pages = _candidates(ledger, partition, due)
    async for page in pages:
        for start in range(0, len(page), _AT_ONCE):
            await _expire_some(ledger, partition, page[start : start + _AT_ONCE], due, report)
            on_progress(report)
    if looks:  # not of all partitions in one run
        again_ms = now_ms + LOOK_MS + LOOK_MS * partition // (2 * ledger.partitions)
        await ledger.store.command("ZADD", name, again_ms, _LOOKED, key=name)


async def _candidates(ledger: Ledger, partition: int, due: _Due) -> AsyncIterator[list[tuple[str, int]]]:
    """Yield the sessions that may be expired or idle, in pages, each with when it was last seen, in µs."""
    activity = keys.activity(partition)
    async for page in _up_to(ledger, keys.due(partition), due.passed.now_us // 1000):
        sids = [sid for sid, _ in page if sid != _LOOKED.decode()]
        seen = await ledger.store.command("ZMSCORE", activity, *sids, key=activity) if sids else []
        yield [(sid, int(float(ms or 0)) * 1000) for sid, ms in zip(sids, seen, strict=True)]
    async for page in _up_to(ledger, activity, due.idle_before_us // 1000):
        yield [(sid, ms * 1000) for sid, ms in page]


async def _up_to(ledger: Ledger, name: bytes, most_ms: int) -> AsyncIterator[list[tuple[str, int]]]:
    """Yield the members of a sorted set up to a score, in pages, also where those of the page before are gone since."""
    after, done = 0, frozenset[bytes]()
    while True:
        limit = ("LIMIT", 0, _PAGE + len(done))
        flat = await ledger.store.command("ZRANGEBYSCORE", name, after, most_ms, "WITHSCORES", *limit, key=name)
        rows = [(sid, int(float(ms))) for sid, ms in zip(flat[::2], flat[1::2], strict=True) if sid not in done]
        if not rows:
            return
        yield [(sid.decode(), ms) for sid, ms in rows]
        last_ms = rows[-1][1]
        done = frozenset(sid for sid, ms in rows if ms == last_ms) | (done if last_ms == after else frozenset())
        after = last_ms


async def _expire_some(
    ledger: Ledger, partition: int, page: Sequence[tuple[str, int]], due: _Due, report: ExpiryReport
) -> None:
    """Look at sessions without noting them as seen, and end those whose time is over, user by user."""
    over: dict[str, dict[str, int]] = {}
    looked = await asyncio.gather(
        *(_look(ledger, partition, sid, seen_us, due) for sid, seen_us in page), return_exceptions=True
    )
    for (sid, seen_us), user in zip(page, looked, strict=True):
        report.sessions += 1
        if isinstance(user, StoreUnavailable) or not isinstance(user, str | Exception | None):
            raise user
        if isinstance(user, Exception):
            report.pass_over("session", sid, user)
        elif user is not None:
            over.setdefault(user, {})[sid] = seen_us
    for user, seen in over.items():
        try:
            ended, failed = await ledger.families.expire_these(user, seen, due.idle_before_us)
        except Rebuilding:
            return  # the partition is not whole any more
        report.idle += sum(state.ended == "idle" for state in ended)
        report.expired += sum(state.ended == "expired" for state in ended)
        for sid, error in failed.items():
            report.pass_over("session", sid, error)


async def _look(ledger: Ledger, partition: int, sid: str, seen_us: int, due: _Due) -> str | None:
    """Tell whose a session is if its time may be over; sees that it is listed by when that is. Raises CorruptLedger."""
    try:
        times = await _times(ledger, partition, sid)
    except (ValueError, TypeError, StoreReplyError):  # damaged: the whole of it is read, and mended by that
        state = await ledger.look(partition, sid)
        over = [] if state is None or state.over_at_us is None else [state.over_at_us]
        times = None if state is None else (state.user, state.authenticated_by, state.at_us, over)
    if times is None:
        name = keys.due(partition)
        await ledger.store.command("ZREM", name, sid, key=name)
        return None
    user, by, at_us, ends = times
    if by in due.elsewhere:
        return None
    if ends and not due.passed.reached(min(ends)):  # or later, where a newer token lasts longer: looked at once more
        name = keys.due(partition)
        await ledger.store.command("ZADD", name, "NX", -(-min(ends) // 1000), sid, key=name)
    expired = any(due.passed.reached(us) for us in ends)  # or may be: a newer token may last longer
    return user if expired or max(at_us, seen_us) < due.idle_before_us else None


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
