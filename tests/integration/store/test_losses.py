"""A worker learns by itself that another server answers, or that a replica was made the primary, and compares then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from ledger.commands import CreateSession, OfferStream
from ledger.entity_types import mask_of
from ledger.errors import LedgerError
from ledger.log.losses import Compared
from ledger.log.service import Ledger
from ledger.log.whole import mark_new
from ledger.store.interface import open_store
from projections.checking.verify import verify
from tests.support.ledger.given import NOW
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.stores.replicated import Replicated
from tests.support.stores.servers import RedisServer, valkey_binary

PARTITIONS = 2
SID = sid_of("phone")


async def when_it_answers(ledger: Ledger) -> Compared | None:
    """Ask again until the store answers."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await ledger.losses.compare_if_another()
            except LedgerError:
                await asyncio.sleep(0.02)


async def lives(ledger: Ledger, lose: Callable[[], None]) -> None:
    """Have a worker see what is lost then."""
    await mark_new(ledger.store, PARTITIONS)
    await ledger.execute("ann", SID, CreateSession("ann", "photos"))
    assert await ledger.losses.compare_if_another() is None
    await asyncio.to_thread(lose)
    for number in range(3):
        await ledger.execute("ann", SID, OfferStream(NOW + number, mask_of(["AssetV2"])))


async def assert_found_once(ledger: Ledger) -> None:
    assert await when_it_answers(ledger) == Compared(sessions=1, lost=1)
    assert await ledger.losses.compare_if_another() is None
    assert (await ledger.load("ann", SID)).pending_reset
    assert not (await verify(ledger.store, PARTITIONS)).different


async def test_a_server_that_lost_its_newest_events_and_came_back(tmp_path: Path) -> None:
    folder = tmp_path / "valkey"
    options = ("--appendonly", "yes", "--appendfsync", "no")
    with RedisServer(valkey_binary(), folder, options=options) as server:
        store = await open_store(server.url)
        try:
            ledger, before = Ledger(store, PARTITIONS, Clock()), list[int]()
            (log,) = (folder / "appendonlydir").glob("*.incr.aof")
            await lives(ledger, lambda: before.append(log.stat().st_size))
            server.kill()
            with log.open("r+b") as file:
                file.truncate(before[0])
            server.start()
            await assert_found_once(ledger)
            server.kill()
            server.start()
            assert await when_it_answers(ledger) == Compared(sessions=1), "another server that has lost nothing"
        finally:
            await store.close()


async def test_a_replica_that_was_behind_and_became_the_primary(tmp_path: Path) -> None:
    with Replicated(valkey_binary(), tmp_path) as servers:
        store = await open_store(servers.primary.url)
        replica = servers.replicas[0]
        try:
            ledger = Ledger(store, PARTITIONS, Clock())

            def part() -> None:
                replica.command("REPLICAOF", "NO", "ONE")

            await lives(ledger, part)
            port = servers.primary.port
            servers.primary.kill()
            replica.command("CONFIG", "SET", "port", port)  # as a name, or a proxy, that leads there from now on
            await assert_found_once(ledger)
        finally:
            await store.close()
