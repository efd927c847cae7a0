"""Jobs of their own processes write the log, and are killed, paused and overtaken at any moment, as their store is.

What an auditor sees meanwhile only ever grows; in the end each event is in it once, in its order.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import keys
from ledger.errors import LedgerError
from ledger.log.whole import mark_new
from ledger.store.interface import Store, open_store
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.merkle import check_consistency
from ledger.transparency.notes import parse_note
from projections.transparency import notary
from projections.transparency.place import CHECKPOINT
from projections.transparency.tree import TreeReader
from tests.contract.test_notary import PARTITIONS, is_all_of
from tests.support.ledger.given import offered
from tests.support.ledger.ledgers import Log, sid_of
from tests.support.ledger.logs import LEDGER, Audit, forget_lease, log_of, place_at, run
from tests.support.stores.servers import RedisServer, die_with_parent

JOBS: Final = 2
SESSIONS: Final = 8
PATIENCE_S: Final = 60.0
_PROCESSES: Final = multiprocessing.get_context("forkserver")


def keep_logging(url: str, place: str) -> None:
    """Run the job again and again, as a service does, whatever becomes of it."""
    die_with_parent()
    notary.BATCH_LEAVES, notary.RUN_EVENTS = 40, 90  # type: ignore[misc]

    async def work() -> None:
        store = await open_store(url, timeout_s=1)
        while True:
            with suppress(LedgerError, AssertionError):  # another one has its turn, or the store is away
                await run(log_of(store, place_at(place)), PARTITIONS)
            await asyncio.sleep(0.002)

    asyncio.run(work())


class Jobs:
    """Processes that log, of which any may end or stand still."""

    def __init__(self, url: str, place: str) -> None:
        self._args = (url, place)
        self.running = [self._start() for _ in range(JOBS)]
        self.paused: Any = None

    def _start(self) -> Any:
        process = _PROCESSES.Process(target=keep_logging, args=self._args, daemon=True)
        process.start()
        return process

    def kill(self, number: int) -> None:
        """End one at once, and begin another in its place."""
        self.running[number].kill()
        self.running[number].join()
        self.running[number] = self._start()

    def pause(self, number: int) -> None:
        """Let one stand still in whatever it is at."""
        self.paused = self.running[number]
        os.kill(self.paused.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the one that stands still go on."""
        os.kill(self.paused.pid, signal.SIGCONT)

    def end(self) -> None:
        """End all."""
        for process in self.running:
            process.kill()
            process.join()


class Auditor:
    """Who reads the published checkpoint again and again, and believes none that did not grow from the one before."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[Checkpoint] = []
        self._folder = folder

    async def look(self) -> None:
        file = self._folder / CHECKPOINT
        if not file.exists():
            return
        found = parse_checkpoint(parse_note(file.read_text()).text)
        if self.seen and found.size != self.seen[-1].size:
            old, new = sorted((self.seen[-1], found), key=lambda each: each.size)  # a copy may be late for a moment
            proof = await TreeReader(place_at(self._folder.as_uri()), new.size).consistency(old.size)
            check_consistency(old.size, old.root, new.size, new.root, proof)
        elif self.seen:
            assert found == self.seen[-1], "two trees of one size"
        self.seen.append(found)

    async def wait(self) -> None:
        """Wait until more is published than was seen."""
        size, until_s = self.seen[-1].size if self.seen else 0, time.monotonic() + PATIENCE_S
        while not self.seen or self.seen[-1].size <= size:
            assert time.monotonic() < until_s, "the jobs log nothing"
            await asyncio.sleep(0.01)
            await self.look()


@pytest.fixture
def jobs(valkey_server: RedisServer, tmp_path: Path) -> Iterator[Jobs]:
    _PROCESSES.set_forkserver_preload([__name__])
    jobs = Jobs(valkey_server.url, (tmp_path / "log").as_uri())
    yield jobs
    jobs.end()


async def write(store: Store, dice: random.Random, count: int) -> None:
    """Let sessions act; what is not answered may have happened."""
    for _ in range(count):
        name = f"s{dice.randrange(SESSIONS)}"
        partition = int(name[1:]) % PARTITIONS
        log = Log(store, partition)
        with suppress(LedgerError):
            state = await log.load(sid_of(name))
            if state is None:
                await log.create(name)
            else:
                await log.append(state, offered("AssetV1", snapshot_us=state.seq))


async def forget_what_is_left(store: Store) -> None:
    """Forget the lease of a job that was killed, or lost the store, as soon as that answers: else all wait for it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(LedgerError):
                return await forget_lease(store)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("seed", "turns"), [(1, 6), *(pytest.param(seed, 80, marks=pytest.mark.soak) for seed in range(2, 5))]
)
async def test_what_an_auditor_sees_only_grows(
    valkey_server: RedisServer, jobs: Jobs, tmp_path: Path, seed: int, turns: int
) -> None:
    dice, auditor = random.Random(seed), Auditor(tmp_path / "log")
    store = await open_store(valkey_server.url, timeout_s=2)
    await mark_new(store, PARTITIONS)
    await store.command("HSET", keys.meta(), "partitions", PARTITIONS, "id", LEDGER, key=keys.meta())
    killed = 0
    for _ in range(turns):
        await write(store, dice, dice.randrange(5, 60))
        await auditor.look()
        if dice.random() < 0.5:  # some turns are to come to an end
            await auditor.wait()
        what = dice.random()
        if what < 0.7:
            jobs.kill(dice.randrange(JOBS))
            killed += 1
        elif what < 0.9:
            jobs.pause(dice.randrange(JOBS))
            with suppress(LedgerError):
                await forget_lease(store)
            await write(store, dice, 30)
            await asyncio.sleep(dice.uniform(0, 0.1))
            jobs.resume()
        else:
            valkey_server.kill()
            await asyncio.to_thread(valkey_server.start)
        await forget_what_is_left(store)
        await asyncio.sleep(dice.uniform(0, 0.05))
        await auditor.look()
    jobs.end()
    await forget_lease(store)
    place = place_at((tmp_path / "log").as_uri())
    await run(log_of(store, place), PARTITIONS)
    audit = await Audit.of(place)
    assert await is_all_of(audit, store)
    await auditor.look()
    assert len({seen.size for seen in auditor.seen}) > turns / 4, "it was logged while they were killed"
    assert killed >= turns / 3
    await store.close()
