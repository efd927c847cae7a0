"""The one place where the service is put together."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import msgspec

from endpoints.routes import App, build
from ledger.clocks.passed import note_time
from ledger.clocks.steady import LOOK_EVERY_S
from ledger.errors import InvalidInput, LedgerError, StoreUnavailable
from ledger.events import IMMICH
from ops.opening.identity_provider import elsewhere, open_immich_tables
from ops.opening.ledger import SECOND_US, Opened, waiting_text
from ops.opening.services import open_services
from ops.opening.sockets import open_sockets, watcher
from ops.settings.settings import Settings
from projections.counters import Counters
from projections.expiry import claim, expire

if TYPE_CHECKING:
    from endpoints.live.sockets import Sockets
    from projections.immich.tables import ImmichTables

log = logging.getLogger("syncledger.app")

NOTED_S: Final = 60.0
"""How often a worker notes that it runs, and learns in which format the ledger is written."""
COMPARED_S: Final = 1.0
"""How often a worker looks whether another server answers."""


class Application:
    """The ASGI application of one worker: opens its store when the server starts it, and runs the background job."""

    def __init__(self, settings: Settings, redis_url: str, ledger_id: str) -> None:
        """Take the settings, the address of the store, embedded or not, to connect to on start, and its ledger's id."""
        self._ledger_id = ledger_id
        self._settings = settings
        self._redis_url = redis_url
        self._app: App | None = None
        self._sockets: Sockets | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        assert self._app is not None, "the server must run the lifespan protocol"
        if self._sockets is not None and self._sockets.takes(scope):
            await self._sockets(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        async with AsyncExitStack() as closing:
            try:
                found, services = await open_services(self._redis_url, self._settings, closing, self._ledger_id)
                self._app = build(services)
                if self._settings.has_sockets:
                    self._sockets = open_sockets(found, services, self._settings)
                    closing.push_async_callback(self._sockets.close)
            except LedgerError as error:
                await send({"type": "lifespan.startup.failed", "message": _told(error)})
                return
            waits = await waiting_text(found, self._settings)
            log.info("store: %s, %s%s", found.promise.server, found.promise.text, waits)
            worker, version = uuid4().hex[:12], metadata.version("syncledger")
            expire_s, counters = self._settings.expire_interval_s, services.counters
            work = [
                again_and_again(partial(self._expire, found), "expire", expire_s, counters),
                again_and_again(partial(_note_version, found, worker, version), "version", NOTED_S, counters, now=True),
                again_and_again(partial(_compare, found), "compare", COMPARED_S, counters, now=True),
                again_and_again(partial(_keep_time, found), "clock", LOOK_EVERY_S, counters),
            ]
            if self._settings.identity == IMMICH:
                tables = await open_immich_tables(self._settings, connections=1)
                closing.push_async_callback(tables.close)
                work.append(again_and_again(partial(self._end_gone, found, tables), "gone", expire_s, counters))
            if self._sockets is not None:
                watch = watcher(found, self._settings, services.source, self._sockets)
                if watch is not None:
                    work.append(again_and_again(watch.job, "watch", watch.every_s, counters))
            jobs = [asyncio.create_task(job) for job in work]
            # PERF: what is built now lives as long as the worker; requests leave no cycles, so young garbage is rare.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 100)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        await send({"type": "lifespan.shutdown.complete"})

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

    async def _end_gone(self, found: Opened, tables: ImmichTables) -> None:
        """End what is gone at Immich; of all workers the one that claims a turn does it."""
        from projections.immich.gone import JOB, end_gone, gap_us  # PERF: only who is beside Immich waits for this

        every_s = self._settings.expire_interval_s
        if not await claim(found.ledger, int(every_s * SECOND_US), JOB):
            return
        report = await end_gone(found.ledger, tables, gap_us=gap_us(every_s))
        if report.ended or report.failed or report.wrong:
            log.info("gone at Immich: %s", msgspec.json.encode(report).decode())


async def again_and_again(
    job: Callable[[], Awaitable[None]], name: str, every_s: float, counters: Counters, *, now: bool = False
) -> None:
    """Do a background job about every so often, whatever becomes of it; `now`: for the first time at once.

    One that fails is logged with its traceback, counted, and tried again: it never ends but with the worker.
    """
    while True:
        if not now:
            await asyncio.sleep(every_s * random.uniform(0.5, 1))  # noqa: S311 - spreads workers, guards nothing
        now = False
        try:
            await job()
        except StoreUnavailable as error:
            log.error("the background job %r will be tried again: %s", name, error)
        except Exception:
            log.exception("the background job %r failed, and will be tried again", name)
            await counters.note("job_failed", job=name)


async def _note_version(found: Opened, worker: str, version: str) -> None:
    """Note that this version runs, so that nothing newer is written than all who run can read.

    And how late it is, so that what is not served counts for nobody's idleness.
    """
    await found.formats.note(worker, version, found.ledger.clock())
    await note_time(found.store, found.ledger.clock())


async def _compare(found: Opened) -> None:
    """Compare what this worker remembers with the store, where another server answers, or was made the primary."""
    with suppress(StoreUnavailable):  # looked at again in a second
        compared = await found.ledger.losses.compare_if_another()
        if compared is not None:
            log.info("compared with another server: %s", msgspec.json.encode(compared).decode())


async def _keep_time(found: Opened) -> None:
    """Compare the clocks."""
    with suppress(StoreUnavailable):  # time goes on as it did
        await found.clock.look()


def _told(error: LedgerError) -> str:
    """Tell what keeps the service from starting."""
    if not isinstance(error, InvalidInput):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, path))}: {message}" for path, message in error.problems)


def create_app(settings: Settings, redis_url: str | None = None, ledger_id: str = "") -> Application:
    """Build the application; `redis_url` is the embedded server's where the settings name no other.

    `ledger_id`: the ledger to serve, which is waited for where the store has lost it; '' for the one that is there.
    """
    url = settings.redis_url or redis_url
    assert url is not None, "somebody must run the embedded server before its workers"
    return Application(settings, url, ledger_id)
