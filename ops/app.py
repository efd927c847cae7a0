"""The one place where the service is put together."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import msgspec

from endpoints.routes import build, build_waiting
from ledger.clocks.passed import note_time
from ledger.clocks.steady import LOOK_EVERY_S
from ledger.errors import InvalidInput, LedgerError, StoreFull, StoreUnavailable, Unavailable
from ledger.events import IMMICH
from ledger.log.store_check import eviction_text, read_promise
from ledger.store.interface import check_writes
from ops.figures import certificates
from ops.figures.of_worker import LookedAt
from ops.figures.shared import Slot
from ops.figures.watching import CENSUS_S, LOOK_S, RATES_S, Watch
from ops.opening.identity_provider import elsewhere, open_immich_tables
from ops.opening.ledger import SECOND_US, Opened, waiting_text
from ops.opening.observing import Observing
from ops.opening.proof import log_of, new_origin
from ops.opening.services import open_census, open_services
from ops.opening.sockets import open_sockets, watcher
from ops.opening.store import FIRST_PAUSE_S, MAX_PAUSE_S
from ops.settings.settings import Settings
from projections.archive.errors import ArchiveUnavailable
from projections.counters import Counters
from projections.devices import filling
from projections.expiry import claim, expire
from projections.transparency.errors import LogContradicts, LogRefused
from projections.transparency.going_on import make_good
from projections.transparency.going_on import told as what_was_made_good
from projections.transparency.job import JOB as NOTARIZE
from projections.transparency.job import LogOf, notarize, told

if TYPE_CHECKING:
    from endpoints.live.sockets import Sockets
    from projections.immich.tables import ImmichTables

log = logging.getLogger("syncledger.app")

NOTED_S: Final = 60.0
"""How often a worker notes that it runs, and learns in which format the ledger is written."""
COMPARED_S: Final = 1.0
"""How often a worker looks whether another server answers."""
_LOOK_WITHIN_S: Final = 10.0
"""How long a worker looks, before it serves, whether the store lost what is logged."""
OPENED_WITHIN_S: Final = 1.0
"""How long a worker that takes the place of another lets clients wait for it, before it tells them to come again."""


class Application:
    """The ASGI application of one worker: opens its store when the server starts it, and runs the background job."""

    def __init__(self, settings: Settings, redis_url: str, ledger_id: str) -> None:
        """Take the settings, the address of the store, embedded or not, to connect to on start, and its ledger's id."""
        self._ledger_id = ledger_id
        self._settings = settings
        self._redis_url = redis_url
        self._observing = Observing(settings)
        waiting = build_waiting(lambda: self._trouble, self._observing.middleware)
        self._app = self._observing.around(waiting)
        self._sockets: Sockets | None = None
        self._trouble: Unavailable = StoreUnavailable("the worker is starting", maybe_done=False)
        self.served_before = False
        """Whether the service has been ready: then a worker that cannot begin tries again, and ends no others."""
        self.takes_over = False
        """Whether others serve until this worker is ready: one that cannot begin then does not, whatever the reason."""
        self.slot: Slot | None = None
        """Its place among the workers of the service, for their figures; None where it is alone."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if self._sockets is not None and self._sockets.takes(scope):
            await self._sockets(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        async with AsyncExitStack() as closing:
            if self._settings.traces:
                from ops.tracing.sending import Sending  # PERF: only who traces waits for this

                try:
                    closing.push_async_callback(Sending.begin(self._settings).end)
                except InvalidInput as wrong:
                    await send({"type": "lifespan.startup.failed", "message": _told(wrong)})
                    return
            opening = asyncio.create_task(self._open(closing))
            # The parent has seen the store, so at first it is only a moment; later others must not be kept waiting.
            await asyncio.wait([opening], timeout=OPENED_WITHIN_S if self.served_before else None)
            if opening.done() and (error := opening.exception()) is not None:
                if not self._may_come(error):
                    if not isinstance(error, LedgerError):
                        raise error
                    await send({"type": "lifespan.startup.failed", "message": _told(error)})
                    return
                self._note(error)
                opening = asyncio.create_task(self._keep_opening(closing))
            elif not opening.done():
                first, opening = opening, asyncio.create_task(self._keep_opening(closing, opening))
                closing.push_async_callback(_end, [first])
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await _end([opening])
        await send({"type": "lifespan.shutdown.complete"})

    async def _keep_opening(self, closing: AsyncExitStack, first: asyncio.Task[None] | None = None) -> None:
        """Open again and again until that succeeds; until then everybody is told to come again."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await (first or self._open(closing))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and tried again
                self._note(error)
            else:
                log.info("the store is there: serving")
                return
            first = None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)

    def _may_come(self, error: BaseException) -> bool:
        """Tell whether opening is to be tried again: if what is missing may come, or others serve already."""
        if self.served_before:
            return isinstance(error, Exception)
        return isinstance(error, Unavailable) and not self.takes_over

    def _note(self, error: BaseException) -> None:
        """Keep what is in the way for those who ask, and log it, once as long as it is the same."""
        told = _told(error) if isinstance(error, LedgerError) else "the worker cannot begin, its log tells why"
        if told == str(self._trouble):
            return
        if isinstance(error, LedgerError):
            log.error("not serving yet: %s", told)
        else:
            log.error("not serving yet", exc_info=error)
        self._trouble = StoreUnavailable(told, maybe_done=False)

    async def _open(self, closing: AsyncExitStack) -> None:
        """Open all that the application needs and begin its jobs; what is opened goes with `closing`."""
        async with AsyncExitStack() as stack:
            looked = LookedAt()
            found, services = await open_services(
                self._redis_url, self._settings, stack, self._ledger_id, looked, self._observing
            )
            proof = await log_of(found, self._settings)
            if proof is not None:
                await self._make_good(found, proof)
            app, sockets = self._observing.around(build(services, self._observing.middleware)), None
            if self._settings.has_sockets:
                sockets = open_sockets(found, services, self._settings)
                stack.push_async_callback(sockets.close)
            watch, jobs = Watch(self._settings, looked, self.slot), partial(again_and_again, looked=looked)
            watch.begin(services)
            census = open_census(self._settings, found, services.source, proof)
            waits = await waiting_text(found, self._settings)
            log.info("store: %s, %s%s", found.promise.server, found.promise.text, waits)
            worker, version = uuid4().hex[:12], metadata.version("syncledger")
            expire_s, counters = self._settings.expire_interval_s, services.counters
            work = [
                watch.tick(),
                jobs(partial(self._expire, found), "expire", expire_s, counters),
                jobs(partial(_note_version, found, worker, version), "version", NOTED_S, counters, now=True),
                jobs(partial(self._compare, found, proof), "compare", COMPARED_S, counters, now=True),
                jobs(partial(_keep_time, found), "clock", LOOK_EVERY_S, counters),
                jobs(partial(watch.look, services, services.source), "look", LOOK_S, counters, now=True),
                jobs(partial(watch.census, found, census), "census", CENSUS_S, counters, now=True),
                jobs(partial(watch.certificates, found), "certificates", certificates.SOON_S, counters, now=True),
                jobs(partial(watch.rates, found), "rates", RATES_S, counters),
                jobs(partial(_fill_index, found), "index", filling.EVERY_S, counters, now=True),
            ]
            if self._settings.identity == IMMICH:
                tables = await open_immich_tables(self._settings, connections=1)
                stack.push_async_callback(tables.close)
                work.append(jobs(partial(self._end_gone, found, tables), "gone", expire_s, counters))
            if proof is not None:
                every_s = self._settings.proof.interval_s
                work.append(jobs(partial(self._notarize, found, proof), "notarize", every_s, counters))
            if sockets is not None and (waker := watcher(found, self._settings, services.source, sockets)) is not None:
                work.append(jobs(waker.job, "watch", waker.every_s, counters))
            stack.push_async_callback(_end, [asyncio.create_task(job) for job in work])
            closing.push_async_exit(stack.pop_all())
        self._app, self._sockets = app, sockets

    async def _compare(self, found: Opened, proof: LogOf | None) -> None:
        """Compare what is remembered and logged with the store, where another server answers, or was made primary."""
        with suppress(StoreUnavailable):  # looked at again in a second
            with suppress(StoreFull):
                await check_writes(found.store)  # a server that became a replica is left though nobody writes
            logged = None if proof is None else partial(self._make_good, found, proof)
            compared = await found.ledger.losses.compare_if_another(logged)
            if compared is not None:
                log.info("compared with another server: %s", msgspec.json.encode(compared).decode())

    async def _expire(self, found: Opened) -> None:
        """End what is over; of all workers the one that claims a turn does it."""
        if not await claim(found.ledger, int(self._settings.expire_interval_s * SECOND_US)):
            return
        report = await expire(
            found.ledger,
            found.catalog if self._settings.source == "catalog" else None,
            idle_us=int(self._settings.idle_s * SECOND_US),
            tombstones_us=int(self._settings.tombstones_s * SECOND_US),
            elsewhere=elsewhere(self._settings),
        )
        if report.idle or report.expired or report.delete_markers or report.failed:
            log.info("expired: %s", msgspec.json.encode(report).decode())
        for what, count in Counter(one.what for one in report.passed_over).items():
            await Counters(found.store).note("passed_over", count, what=what)

    async def _notarize(self, found: Opened, proof: LogOf) -> None:
        """Log what happened since; of all workers the one that claims a turn does it."""
        if not await claim(found.ledger, int(self._settings.proof.interval_s * SECOND_US), NOTARIZE):
            return
        await found.presence.check()
        try:
            report = await notarize(
                proof,
                found.ledger.partitions,
                new_origin(),
                lambda: found.ledger.clock() // 1000,
                ledger=found.ledger,
            )
        except (LogRefused, LogContradicts, InvalidInput, ArchiveUnavailable) as error:
            log.error("nothing is logged: %s", _told(error))
            await Counters(found.store).note("job_failed", job="notarize")
            return
        if report is not None and report.made_good is not None:
            log.error("%s", what_was_made_good(report.made_good))
        if report is not None and (wrong := told(report)):
            log.error("the log: %s", wrong)

    async def _make_good(self, found: Opened, proof: LogOf) -> None:
        """Make good what the store lost of what is logged, before devices speak; where that fails it is told.

        The job looks again with each run.
        """
        try:
            async with asyncio.timeout(_LOOK_WITHIN_S):
                identity = await proof.place.identity()
            if identity is None or identity.ledger != proof.ledger_id:
                return
            verifiers = [key.public for key in proof.keys(identity.origin, False)]
            report = await make_good(found.ledger, proof.place, identity.origin, verifiers, within_s=_LOOK_WITHIN_S)
        except StoreUnavailable:
            raise
        except (LedgerError, TimeoutError) as error:
            what = _told(error) if isinstance(error, LedgerError) else f"no answer within {_LOOK_WITHIN_S:g} s"
            log.error("not compared with the transparency log: %s", what)
            return
        if report is not None:
            log.error("%s", what_was_made_good(report))

    async def _end_gone(self, found: Opened, tables: ImmichTables) -> None:
        """End what is gone at Immich; of all workers the one that claims a turn does it."""
        from projections.immich.gone import JOB, end_gone, gap_us  # PERF: only who is beside Immich waits for this

        every_s = self._settings.expire_interval_s
        if not await claim(found.ledger, int(every_s * SECOND_US), JOB):
            return
        report = await end_gone(found.ledger, tables, gap_us=gap_us(every_s))
        if report.ended or report.failed or report.wrong:
            log.info("gone at Immich: %s", msgspec.json.encode(report).decode())


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def again_and_again(
    job: Callable[[], Awaitable[None]],
    name: str,
    every_s: float,
    counters: Counters,
    *,
    now: bool = False,
    looked: LookedAt | None = None,
) -> None:
    """Do a background job about every so often, whatever becomes of it; `now`: for the first time at once.

    `looked`: where it is noted that it succeeded.

    One that fails is logged with its traceback, counted, and tried again: it never ends but with the worker.
    """
    while True:
        if not now:
            await asyncio.sleep(every_s * random.uniform(0.5, 1))  # noqa: S311 - spreads workers, guards nothing
        now, began_s = False, time.monotonic()
        try:
            await job()
            if looked is not None:
                looked.succeeded(name, time.monotonic() - began_s, time.time())
        except StoreUnavailable as error:
            log.error("the background job %r will be tried again: %s", name, error)
        except Exception:
            log.exception("the background job %r failed, and will be tried again", name)
            await counters.note("job_failed", job=name)


async def _note_version(found: Opened, worker: str, version: str) -> None:
    """Note that this version runs, so that nothing newer is written than all who run can read.

    And how late it is, so that what is not served counts for nobody's idleness. Told is, too, what the server was set
    to since that it must not be.
    """
    if evicts := eviction_text((await read_promise(found.store)).eviction):
        log.critical("%s", evicts)
    await found.formats.note(worker, version, found.ledger.clock())
    await note_time(found.store, found.ledger.clock())


async def _fill_index(found: Opened) -> None:
    """Fill the index of devices where it is not; of all workers the one that claims a turn does it."""
    if not await claim(found.ledger, int(filling.EVERY_S * SECOND_US), filling.JOB):
        return
    report = await filling.fill(found.store, found.ledger.partitions, found.formats, found.ledger.clock())
    if report.partitions or report.failed:
        log.info("the index of devices is filled: %s", msgspec.json.encode(report).decode())
    for _ in report.failed:
        await Counters(found.store).note("passed_over", what="partition")


async def _keep_time(found: Opened) -> None:
    """Compare the clocks."""
    with suppress(StoreUnavailable):  # time goes on as it did
        await found.clock.look()


def _told(error: LedgerError) -> str:
    """Tell what keeps the service from starting."""
    return error.told if isinstance(error, InvalidInput) else str(error)


def create_app(settings: Settings, redis_url: str | None = None, ledger_id: str = "") -> Application:
    """Build the application; `redis_url` is the embedded server's where the settings name no other.

    `ledger_id`: the ledger to serve, which is waited for where the store has lost it; '' for the one that is there.
    """
    url = settings.redis_url or redis_url
    assert url is not None, "somebody must run the embedded server before its workers"
    return Application(settings, url, ledger_id)
