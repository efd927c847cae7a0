"""The store loses what is logged outside it: its folder is put back from a copy, a replica that was behind takes over.

Nobody who served before remembers anything. The log does: sessions go on behind it, a lost logout is out again, and two
syncs later a phone holds what its library does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from ledger.decide import FENCE
from ledger.log.store_check import read_id
from ledger.personal import plain
from ledger.store.interface import open_store
from projections.checking.verify import verify
from projections.mass_reset import MassReset, ask_to_reset, spoken_since
from projections.transparency.going_on import GoneOn, make_good
from projections.transparency.job import LogOf, notarize
from projections.transparency.monitor.monitor import monitor
from projections.transparency.place import LogPlace
from tests.faults.test_power_loss import (
    EVERYSEC,
    Library,
    Phone,
    SyncFailed,
    Worker,
    holes,
    log_of,
    server,
    settled,
)
from tests.support.ledger import logs
from tests.support.ledger.logs import KEY, ORIGIN, forget_lease, place_at
from tests.support.phones.http import PARTITIONS, SECOND_US, Service, serving
from tests.support.stores.servers import RedisServer, valkey_binary, wait_until

__all__ = ["server"]
PHONES: Final = 3
ACTS: Final = 10


class House:
    """A store, services on it, phones, guests and a library; its log lies elsewhere."""

    def __init__(self, place: LogPlace, seed: int) -> None:
        self.place = place
        self.dice = random.Random(seed)
        self.workers: list[Worker] = []
        self.phones: list[Phone] = []
        self.guests: list[str] = []
        self.out: set[str] = set()
        self.library: Library | None = None
        self._stack = AsyncExitStack()

    async def serve(self, url: str) -> None:
        """Have services that remember nothing serve what is at an address, in the place of others."""
        await self.close()
        for _ in range(2):
            store = await open_store(url, timeout_s=2)
            self._stack.push_async_callback(store.close)
            service = await self._stack.enter_async_context(serving(store))
            self.workers.append(Worker(service))
            await self.workers[-1].compare()  # as each begins with it
        for phone in self.phones:
            phone.workers = self.workers
        if self.library is not None:
            self.library.service = self.first

    async def close(self) -> None:
        await self._stack.aclose()
        self._stack = AsyncExitStack()
        self.workers.clear()

    @property
    def first(self) -> Service:
        return self.workers[0].service

    async def begin(self, url: str) -> None:
        await self.serve(url)
        self.library = Library(self.first, self.dice)
        await self.library.write(30)
        for number in range(PHONES):
            self.phones.append(Phone(self.workers, (await self.first.sign_in(f"user{number}")).token, self.dice))
        self.guests += [(await self.first.sign_in(f"guest{number}")).token for number in range(6)]

    async def live(self) -> None:
        """Let phones do what they do, and some guests sign out."""
        assert self.library is not None
        await self.library.write(10)
        for _ in range(ACTS):
            with suppress(SyncFailed):
                phone = self.dice.choice(self.phones)
                phone.wild = True
                await phone.sync()
        for token in self.dice.sample(self.guests, 2):
            if token not in self.out:
                assert (await self.workers[0].ask("POST", "/api/auth/logout", token)).status_code == 200
                self.out.add(token)

    async def of(self) -> LogOf:
        return logs.log_of(self.first.store, self.place, ledger=await read_id(self.first.store))

    async def log(self) -> None:
        await forget_lease(self.first.store)
        report = await logs.run(await self.of(), PARTITIONS)
        assert report.refusals == []

    async def look(self) -> GoneOn | None:
        """Do what each worker does before it serves; tells what the first one found."""
        first, *others = [await self.look_as(worker) for worker in self.workers]
        assert others == [None], "what one made good needs nobody else"
        return first

    async def look_as(self, worker: Worker) -> GoneOn | None:
        """Have a worker look."""
        return await make_good(worker.service.ledger, self.place, ORIGIN, [KEY.public])

    def set_library(self, names: dict[str, Any]) -> None:
        """Rows went back with the store."""
        assert self.library is not None
        self.library.names = dict(names)

    async def check(self, *, otherwise: int = 0) -> None:
        """Check what everybody is owed; `otherwise`: how many went on before anybody looked into the log."""
        for token in self.guests:
            status = (await self.workers[1].ask("GET", "/api/sync/ack", token)).status_code
            assert status == (401 if token in self.out else 200), "a lost logout is out again, and nobody else"
        assert self.library is not None
        for phone in self.phones:
            phone.wild = False
            for _ in range(2):
                await phone.sync()
            assert phone.copy == self.library.names
        assert (await verify(self.first.store, PARTITIONS)).differences == []
        await self.log()
        report = await monitor(await self.of(), [KEY.public], PARTITIONS)
        assert report is not None
        assert report.compared
        assert all("went on before anybody looked into the log" in each.what for each in report.differences)
        assert report.different <= otherwise


class Copied(NamedTuple):
    """What the store held at a moment: how long its file was, and what its library had."""

    bytes: int
    names: dict[str, Any]
    out: set[str]


def copied(house: House, server: RedisServer) -> Copied:
    """Remember a moment to go back to."""
    assert house.library is not None
    return Copied(settled(server), dict(house.library.names), set(house.out))


async def put_back(server: RedisServer, copy: Copied) -> None:
    """Kill the store, and start it with what it held then."""
    server.kill()
    with log_of(server).open("r+b") as file:
        file.truncate(copy.bytes)
    await asyncio.to_thread(server.start)


@pytest.fixture
async def house(server: RedisServer, tmp_path: Path) -> AsyncIterator[House]:
    """A house with a past that is logged."""
    house = House(place_at((tmp_path / "log").as_uri()), seed=1)
    await house.begin(server.url)
    await house.log()
    yield house
    await house.close()


LOSSES = pytest.mark.parametrize(
    ("seed", "losses"), [(1, 1), *(pytest.param(seed, 10, marks=pytest.mark.soak) for seed in range(2, 5))]
)


@LOSSES
async def test_a_folder_that_is_put_back_from_a_copy(house: House, server: RedisServer, seed: int, losses: int) -> None:
    house.dice.seed(seed)
    for _ in range(losses):
        copy = copied(house, server)
        await house.live()
        await house.log()
        await put_back(server, copy)
        await house.serve(server.url)
        house.set_library(copy.names)
        report = await house.look()
        assert report is not None
        assert (report.failed, report.lost > 0, report.ended) == (0, True, len(house.out - copy.out))
        await house.check()
    assert await holes(house.first) > 0


@pytest.mark.soak
@LOSSES
async def test_a_replica_that_was_behind_takes_over(
    house: House, server: RedisServer, tmp_path: Path, seed: int, losses: int
) -> None:
    house.dice.seed(seed)
    primary = server
    with ExitStack() as stack:
        for number in range(losses):
            replica = stack.enter_context(RedisServer(valkey_binary(), tmp_path / f"r{number}", options=EVERYSEC))
            primary.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
            replica.command("REPLICAOF", "127.0.0.1", primary.port)
            copy = copied(house, primary)
            wait_until(partial(has_all_of, replica, primary), "the replica to have all")
            replica.command("REPLICAOF", "NO", "ONE")  # from here on it is behind
            await house.live()
            await house.log()
            primary.kill()
            await house.serve(replica.url)
            house.set_library(copy.names)
            report = await house.look()
            assert report is not None
            assert (report.failed, report.ended) == (0, len(house.out - copy.out))
            await house.check()
            primary = replica


def has_all_of(replica: RedisServer, primary: RedisServer) -> bool:
    with replica.client() as mine, primary.client() as theirs:
        info = mine.info("replication")
        offset = theirs.info("replication")["master_repl_offset"]
    return bool(info.get("master_link_status") == "up" and info["slave_repl_offset"] >= offset)


@pytest.mark.soak
@LOSSES
async def test_a_store_that_is_killed_while_workers_live_on(
    house: House, server: RedisServer, seed: int, losses: int
) -> None:
    house.dice.seed(seed)
    for _ in range(losses):
        copy = copied(house, server)
        await house.live()
        if house.dice.random() < 0.5:
            await house.log()
            await house.live()  # what workers remember and nobody logged
        await put_back(server, copy)
        house.set_library(copy.names)
        for worker in house.workers:
            await worker.compare(partial(house.look_as, worker))
        await house.check()


async def test_what_nobody_knew_is_asked_for_by_the_fence(house: House, server: RedisServer) -> None:
    """The whole box loses power: what was done since the last run of the log nobody knows who lives on."""
    copy = copied(house, server)
    since_us = house.first.clock()
    for worker in house.workers:
        worker.service.clock.now_us += 3600 * SECOND_US
    await house.live()
    await put_back(server, copy)
    await house.serve(server.url)
    house.set_library(copy.names)
    house.out = copy.out
    assert await house.look() is None, "nothing tells of it"
    for worker in house.workers:
        worker.service.clock.now_us += 3600 * SECOND_US
    ledger, report = house.first.ledger, MassReset()
    who = spoken_since(ledger, since_us, report)
    await ask_to_reset(ledger, who, cause=FENCE, by=plain("operator"), report=report)
    assert (report.failed, report.asked >= PHONES) == (0, True)
    await house.check()


async def test_who_spoke_before_the_log_was_asked_goes_on_behind_it(house: House, server: RedisServer) -> None:
    """A service without LEDGER_PROOF ran first: what it put on record the log refuses, until it makes that good."""
    copy = copied(house, server)
    for _ in range(3):
        await house.live()
    await house.log()
    await put_back(server, copy)
    await house.serve(server.url)
    house.set_library(copy.names)
    for phone in house.phones[:2]:
        await phone.ask("DELETE", "/api/sync/ack", {})
    await forget_lease(house.first.store)
    of = await house.of()
    report = await notarize(of, PARTITIONS, ORIGIN, lambda: 1, ledger=house.first.ledger)
    assert report is not None
    assert report.made_good is not None
    assert (report.refusals, report.made_good.failed) == ([], 0)
    await house.check(otherwise=2)
