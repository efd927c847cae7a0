"""The background jobs of one worker: what each does, how often, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Final, NamedTuple, cast
from uuid import uuid4

import msgspec

from endpoints.services import Services
from ledger.clocks.passed import note_time
from ledger.clocks.steady import LOOK_EVERY_S
from ledger.errors import InvalidInput, LedgerError, StoreFull, StoreUnavailable
from ledger.log.store_check import eviction_text, read_promise
from ledger.store.interface import check_writes
from ops.figures import certificates
from ops.figures.of_worker import LookedAt
from ops.figures.watching import CENSUS_S, LOOK_S, RATES_S, Watch
from ops.opening.identity_provider import elsewhere
from ops.opening.ledger import SECOND_US, Opened
from ops.opening.proof import new_origin
from ops.settings.settings import Settings
from projections.archive.errors import ArchiveUnavailable
from projections.census.taking import Census
from projections.counters import Counters
from projections.devices import filling
from projections.entities.source import EntitySource
from projections.expiry import claim, expire
from projections.live import feeds
from projections.live.feeds import Feeds
from projections.live.watching import TURN_S, Watching
from projections.transparency.errors import LogContradicts, LogRefused
from projections.transparency.going_on import make_good
from projections.transparency.going_on import told as what_was_made_good
from projections.transparency.job import JOB as NOTARIZE
from projections.transparency.job import LogOf, notarize, told

if TYPE_CHECKING:
    from endpoints.live.sockets import Sockets
    from projections.immich.tables import ImmichTables
    from projections.live.feeds import Feed
    from projections.live.watching import Watched

log = logging.getLogger("syncledger.app")

NOTED_S: Final = 60.0
"""How often a worker notes that it runs, and learns in which format the ledger is written."""
COMPARED_S: Final = 1.0
"""How often a worker looks whether another server answers."""
_LOOK_WITHIN_S: Final = 10.0
"""How long is looked whether the store lost what is logged, before a worker serves or goes on."""


class Job(NamedTuple):
    """What is done about every `every_s` seconds; `now`: for the first time at once. The metrics know its `name`."""

    name: str
    every_s: float
    run: Callable[[], Awaitable[None]]
    now: bool = False


async def again_and_again(job: Job, counters: Counters, looked: LookedAt | None = None) -> None:
    """Do a job for ever, whatever becomes of it; `looked`: where it is noted that it succeeded.

    One that fails is logged with its traceback, counted, and tried again: it never ends but with the worker.
    """
    now = job.now
    while True:
        if not now:
            await asyncio.sleep(job.every_s * random.uniform(0.5, 1))  # noqa: S311 - spreads workers, guards nothing
        now, began_s = False, time.monotonic()
        try:
            await job.run()
            if looked is not None:
                looked.succeeded(job.name, time.monotonic() - began_s, time.time())
        except StoreUnavailable as error:
            log.error("the background job %r will be tried again: %s", job.name, error)
        except Exception:
            log.exception("the background job %r failed, and will be tried again", job.name)
            await counters.note("job_failed", job=job.name)


class Jobs:
    """The jobs of a worker, on what it opened. Those that concern the whole ledger are done by who claims a turn."""

    def __init__(self, settings: Settings, found: Opened, proof: LogOf | None) -> None:
        """`proof` is what the ledger's transparency log is written with; None without one."""
        self._settings = settings
        self._found = found
        self._proof = proof
        self._worker = uuid4().hex[:12]

    def of_every_worker(self, services: Services, watch: Watch, census: Census) -> Iterator[Job]:
        """List what each worker does, wherever its rows and users come from."""
        found = self._found
        yield Job("expire", self._settings.expire_interval_s, self._expire)
        yield Job("version", NOTED_S, self._note_version, now=True)
        yield Job("compare", COMPARED_S, self._compare, now=True)
        yield Job("clock", LOOK_EVERY_S, self._keep_time)
        yield Job("look", LOOK_S, partial(watch.look, services, services.source), now=True)
        yield Job("census", CENSUS_S, partial(watch.census, found, census), now=True)
        yield Job("certificates", certificates.SOON_S, partial(watch.certificates, found), now=True)
        yield Job("rates", RATES_S, partial(watch.rates, found))
        yield Job("index", filling.EVERY_S, self._fill_index, now=True)
        if self._proof is not None:
            yield Job("notarize", self._settings.proof.interval_s, partial(self._notarize, self._proof))

    def beside_immich(self, tables: ImmichTables) -> Job:
        """Give the job that ends what Immich has no more."""
        return Job("gone", self._settings.expire_interval_s, partial(self._end_gone, tables))

    def for_sockets(self, source: EntitySource, sockets: Sockets) -> Iterator[Job]:
        """List what asks the source for what is new while there are sockets; none for the catalog, which tells it."""
        if self._settings.source == "gumnut":
            yield Job("watch", feeds.TURN_S, Feeds(cast("Feed", source), sockets.libraries, sockets.written).turn)
        elif self._settings.source != "catalog":
            watching = Watching(self._found.ledger, cast("Watched", source), sockets.signals)

            async def turn() -> None:
                if sockets.count:
                    await watching.turn()

            yield Job("watch", TURN_S, turn)

    async def make_good(self) -> None:
        """Make good what the store lost of what is logged, before devices speak; where that fails it is told.

        The log's own job looks again with each run. Raises StoreUnavailable.
        """
        if self._proof is None:
            return
        ledger, place = self._found.ledger, self._proof.place
        try:
            async with asyncio.timeout(_LOOK_WITHIN_S):
                identity = await place.identity()
            if identity is None or identity.ledger != self._proof.ledger_id:
                return
            verifiers = [key.public for key in self._proof.keys(identity.origin, False)]
            report = await make_good(ledger, place, identity.origin, verifiers, within_s=_LOOK_WITHIN_S)
        except StoreUnavailable:
            raise
        except (LedgerError, TimeoutError) as error:
            what = error.told if isinstance(error, LedgerError) else f"no answer within {_LOOK_WITHIN_S:g} s"
            log.error("not compared with the transparency log: %s", what)
            return
        if report is not None:
            log.error("%s", what_was_made_good(report))

    async def _expire(self) -> None:
        """End what is over."""
        settings, found = self._settings, self._found
        if not await claim(found.ledger, int(settings.expire_interval_s * SECOND_US)):
            return
        report = await expire(
            found.ledger,
            found.catalog if settings.source == "catalog" else None,
            idle_us=int(settings.idle_s * SECOND_US),
            tombstones_us=int(settings.tombstones_s * SECOND_US),
            elsewhere=elsewhere(settings),
        )
        if report.idle or report.expired or report.delete_markers or report.failed:
            log.info("expired: %s", msgspec.json.encode(report).decode())
        for what, count in Counter(one.what for one in report.passed_over).items():
            await Counters(found.store).note("passed_over", count, what=what)

    async def _note_version(self) -> None:
        """Note that this version runs, so that nothing newer is written than all who run can read.

        And how late it is, so that what is not served counts for nobody's idleness. Told is, too, what the server was
        set to since that it must not be.
        """
        found = self._found
        if evicts := eviction_text((await read_promise(found.store)).eviction):
            log.critical("%s", evicts)
        await found.formats.note(self._worker, metadata.version("syncledger"), found.ledger.clock())
        await note_time(found.store, found.ledger.clock())

    async def _compare(self) -> None:
        """Compare what is remembered and logged with the store, where another server answers, or was made primary."""
        found = self._found
        with suppress(StoreUnavailable):  # looked at again in a second
            with suppress(StoreFull):
                await check_writes(found.store)  # a server that became a replica is left though nobody writes
            compared = await found.ledger.losses.compare_if_another(self.make_good)
            if compared is not None:
                log.info("compared with another server: %s", msgspec.json.encode(compared).decode())

    async def _keep_time(self) -> None:
        """Compare the clocks."""
        with suppress(StoreUnavailable):  # time goes on as it did
            await self._found.clock.look()

    async def _fill_index(self) -> None:
        """Fill the index of devices where it is not."""
        found = self._found
        if not await claim(found.ledger, int(filling.EVERY_S * SECOND_US), filling.JOB):
            return
        report = await filling.fill(found.store, found.ledger.partitions, found.formats, found.ledger.clock())
        if report.partitions or report.failed:
            log.info("the index of devices is filled: %s", msgspec.json.encode(report).decode())
        for _ in report.failed:
            await Counters(found.store).note("passed_over", what="partition")

    async def _notarize(self, proof: LogOf) -> None:
        """Log what happened since."""
        found = self._found
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
            log.error("nothing is logged: %s", error.told)
            await Counters(found.store).note("job_failed", job="notarize")
            return
        if report is not None and report.made_good is not None:
            log.error("%s", what_was_made_good(report.made_good))
        if report is not None and (wrong := told(report)):
            log.error("the log: %s", wrong)

    async def _end_gone(self, tables: ImmichTables) -> None:
        """End what is gone at Immich."""
        from projections.immich.gone import (
            JOB,
            end_gone,
            widest_gap_us,
        )  # PERF: only who is beside Immich waits for this

        every_s = self._settings.expire_interval_s
        if not await claim(self._found.ledger, int(every_s * SECOND_US), JOB):
            return
        report = await end_gone(self._found.ledger, tables, gap_us=widest_gap_us(every_s))
        if report.ended or report.failed or report.wrong:
            log.info("gone at Immich: %s", msgspec.json.encode(report).decode())
