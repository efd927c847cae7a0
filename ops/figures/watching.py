"""What one worker does for the figures: hands its numbers over, and looks at what is not counted by the way."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress

from endpoints.figures.rates import WorkerRates
from endpoints.figures.worker import WorkerFigures
from endpoints.services import Services
from ledger.errors import LedgerError, LedgerGone, StoreFull, StoreUnavailable
from ledger.store.error_replies import NotServing
from ops.figures import certificates
from ops.figures.of_worker import DISK_FREE, DISK_SIZE, POOL, LookedAt
from ops.figures.processes import Build, Processes, alone
from ops.figures.shared import MOST, Slot
from ops.opening.ledger import Opened
from ops.settings.settings import Settings
from projections.census import rates
from projections.census.taking import JOB as CENSUS
from projections.census.taking import Census
from projections.expiry import claim

TICK_S = 0.1
TICKS = 10
"""Every how many ticks the numbers are handed over."""
LOOK_S = 10.0
CENSUS_S = 60.0
RATES_S = 5.0


class Watch:
    """The figures of one worker, as far as nobody else sees to them."""

    def __init__(self, settings: Settings, looked: LookedAt, slot: Slot | None) -> None:
        """`slot` is the worker's place among its siblings; None where it is alone."""
        self._settings = settings
        self._looked = looked
        self._slot = slot
        self._figures = WorkerFigures()
        self._certificates = certificates.Look(settings, looked)
        self._rates = WorkerRates(self._figures)

    def begin(self, services: Services) -> None:
        """Take the figures of a service that is opened; they are laid out as they stay."""
        self._figures = figures = services.figures
        self._rates = WorkerRates(figures)
        slot = self._slot
        figures.collectors += [Processes(alone if slot is None else self._pids), Build()]
        if slot is None:
            return
        assert len(figures.numbers()) <= MOST, "a worker has more figures than there is room for"
        slot.shared.lay_out(list(figures.families()))
        figures.all_workers = lambda: slot.shared.all_workers(slot.number, figures.numbers())
        figures.collectors.append(slot.shared)
        self.hand_over()

    def hand_over(self) -> None:
        """Copy the numbers to where siblings read them."""
        if self._slot is not None:
            self._slot.shared.hand_over(self._slot.number, os.getpid(), self._figures.numbers())

    async def tick(self) -> None:
        """Look how late timers are, and hand over once a second, until cancelled; then once more."""
        clock = asyncio.get_running_loop().time
        count = 0
        try:
            while True:
                due_s = clock() + TICK_S
                await asyncio.sleep(TICK_S)
                self._looked.lag.note(max(clock() - due_s, 0.0))
                count += 1
                if count % TICKS == 0:
                    self.hand_over()
        finally:
            self.hand_over()

    async def look(self, services: Services, source: object) -> None:
        """Look at what `/readyz` tells, at the disk and the source's pool; raises nothing of theirs."""
        looked, found = self._looked, set[str]()
        with suppress(OSError):  # no such folder: there is nothing of ours
            usage = shutil.disk_usage(self._settings.data_dir)
            looked.set(DISK_FREE.name, to=usage.free)
            looked.set(DISK_SIZE.name, to=usage.total)
        pool = getattr(source, "pool_use", None)
        if pool is not None:
            for state, number in zip(("in_use", "most"), pool, strict=True):
                looked.set(POOL.name, state, to=number)
        try:
            told = await services.readiness()
        except LedgerGone:
            found.add("ledger_gone")
        except StoreFull:
            found.add("store_full")
        except NotServing:
            found.add("store_refuses_writes")
        except LedgerError:
            found.add("store_away")
        else:
            identity_ok = getattr(told.identity, "ok", True)
            wrong = {
                "source": not told.source.ok,
                "identity": not identity_ok,
                "archive": bool(told.archive),
                "clock": bool(told.clock),
                "eviction": bool(told.eviction),
            }
            looked.troubles({what for what, is_wrong in wrong.items() if is_wrong})
            return
        looked.troubles(found, keep=("source", "identity", "archive", "clock", "eviction"))

    async def census(self, found: Opened, census: Census) -> None:
        """Count the whole ledger; of all workers the one that claims a turn does it."""
        if await claim(found.ledger, int(CENSUS_S * 1_000_000), CENSUS):
            await census.take()

    async def certificates(self, found: Opened) -> None:
        """Look at the certificates of what settings name, and of what the store consists of."""
        await self._certificates.look(found.store)

    async def rates(self, found: Opened) -> None:
        """Add what this worker counted of late to what all of them did; raises StoreUnavailable."""
        counted = self._rates.taken()
        if not any(counted):
            return
        try:
            await rates.add(found.store, counted, found.ledger.clock())
        except StoreUnavailable as error:
            if not error.maybe_done:
                self._rates.give_back(counted)
            raise

    def _pids(self) -> Mapping[str, int]:
        assert self._slot is not None
        pids = {f"worker-{slot}": pid for slot, pid in self._slot.shared.pids().items()}
        return {**pids, "arbiter": os.getppid()}
