"""Power is lost under `appendfsync everysec`, again and again: the store comes back without its newest writes.

Two workers go on, each with what it remembers. No chain is broken, who was signed in or out stays so, and two syncs
later a phone holds what its library does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from endpoints.sync.stream_guard import StreamBroken
from ledger.errors import LedgerError
from ledger.events import HistoryLost
from ledger.log.reader import read_partition
from ledger.store.interface import open_store
from projections.checking.verify import verify
from projections.entities.entity import read_line
from tests.support.phones.http import PARTITIONS, Service, serving
from tests.support.sources.samples import USER_ID, sample
from tests.support.stores.servers import RedisServer, valkey_binary

PHONES = 5
TYPES = ("UsersV1", "AssetsV2")
EVERYSEC = ("--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")
LOAD_S = 0.25


class SyncFailed(Exception):
    """A request was not answered as it must be for the app to go on."""


class Worker:
    """A service that is asked over a connection of its own each time."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def ask(self, method: str, path: str, token: str, json: Any = None) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            try:
                return await client.request(method, path, json=json, headers={"Authorization": f"Bearer {token}"})
            except (httpx.HTTPError, StreamBroken) as error:
                raise SyncFailed(str(error)) from error

    async def compare(self, first: Callable[[], Awaitable[Any]] | None = None) -> None:
        """Do what a worker does by itself each second, until nothing is left to compare; `first` looks into a log."""
        while True:
            with suppress(LedgerError):
                compared = await self.service.ledger.losses.compare_if_another(first)
                if compared is None or not compared.left:
                    return
            await asyncio.sleep(0.02)


class Phone:
    """A phone that syncs as the app does, and what it holds."""

    def __init__(self, workers: Sequence[Worker], token: str, dice: random.Random) -> None:
        self.workers, self.token, self.dice = workers, token, dice
        self.copy: dict[str, Any] = {}
        self.wild = True

    async def ask(self, method: str, path: str, json: Any = None) -> httpx.Response:
        answer = await self.dice.choice(self.workers).ask(method, path, self.token, json)
        assert answer.status_code != 401, "a device is never signed out by trouble in the store"
        if answer.status_code >= 300:
            raise SyncFailed(answer.text)
        return answer

    async def sync(self) -> None:
        """Sync once, and behind a reset once more; raises SyncFailed."""
        for _ in range(2):
            answer = await self.ask("POST", "/api/sync/stream", {"types": TYPES})
            lines = [msgspec.json.decode(line) for line in answer.content.splitlines()]
            for place, line in enumerate(lines):
                self.take(line["type"], line["data"])
                last = place + 1 == len(lines) or lines[place + 1]["type"] != line["type"]
                if last or (self.wild and self.dice.random() < 0.2):
                    await self.ask("POST", "/api/sync/ack", {"acks": [line["ack"]]})
                if self.wild and self.dice.random() < 0.02:
                    return  # the app is closed
            if lines[-1]["type"] != "SyncResetV1":
                assert lines[-1]["type"] == "SyncCompleteV1"
                return

    def take(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "SyncResetV1":
            self.copy.clear()
        elif kind == "AssetV2":
            self.copy[data["id"]] = data["originalFileName"]
        elif kind == "AssetDeleteV1":
            self.copy.pop(data["assetId"], None)

    async def live(self) -> None:
        """Do what phones and their owners do, until the store is gone."""
        with suppress(SyncFailed):
            while True:
                what = self.dice.random()
                if what < 0.8:
                    await self.sync()
                elif what < 0.9:
                    await self.ask("DELETE", "/api/sync/ack", {})
                else:
                    mine = next(each for each in (await self.ask("GET", "/api/sessions")).json() if each["current"])
                    await self.ask("PUT", f"/api/sessions/{mine['id']}", {"isPendingSyncReset": True})


class Guest:
    """Signs in and out again and again, and knows what was answered."""

    def __init__(self, workers: Sequence[Worker], dice: random.Random) -> None:
        self.workers, self.dice = workers, dice
        self.living: set[str] = set()
        self.ended: set[str] = set()

    async def live(self) -> None:
        with suppress(SyncFailed, LedgerError):
            while True:
                token = (await self.dice.choice(self.workers).service.sign_in("guest")).token
                self.living.add(token)
                if self.dice.random() < 0.5:
                    self.living.discard(token)  # whatever becomes of it
                    answer = await self.dice.choice(self.workers).ask("POST", "/api/auth/logout", token)
                    if answer.status_code != 200:
                        return
                    self.ended.add(token)

    async def check(self) -> None:
        for token in self.living:
            assert (await self.workers[0].ask("GET", "/api/sync/ack", token)).status_code == 200, "it signed in"
        for token in self.ended:
            assert (await self.workers[1].ask("GET", "/api/sync/ack", token)).status_code == 401, "it signed out"


class Library:
    """What is written to the library: assets by id, with their names."""

    def __init__(self, service: Service, dice: random.Random) -> None:
        self.service, self.dice = service, dice
        self.names: dict[str, str] = {}
        self.writes = 0

    async def write(self, count: int) -> None:
        lines = [{"type": "UserV1", "data": sample("UserV1", id=USER_ID)}] if not self.writes else []
        for _ in range(count):
            self.writes += 1
            asset, name = f"a{self.dice.randrange(150):03}", f"IMG_{self.writes}.jpg"
            if asset in self.names and self.dice.random() < 0.4:
                del self.names[asset]
                lines.append({"type": "AssetDeleteV1", "data": {"assetId": asset}})
            else:
                self.names[asset] = name
                made = sample("AssetV2", id=asset, ownerId=USER_ID, checksum=f"{asset:=<28}", originalFileName=name)
                lines.append({"type": "AssetV2", "data": made})
        for line in lines:
            written = await self.service.catalog.put("lib", [read_line(msgspec.json.encode(line))])
            assert not written.refused


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(valkey_binary(), tmp_path / "valkey", options=EVERYSEC) as server:
        yield server


def log_of(server: RedisServer) -> Path:
    """Find the append-only file that the server writes."""
    (log,) = (server.folder / "appendonlydir").glob("*.incr.aof")
    return log


def settled(server: RedisServer) -> int:
    """Have the server write all that it answered to its file, which it may put off for seconds; tells the size."""
    server.command("CONFIG", "SET", "appendfsync", "always")
    server.command("SET", "settled", "1")
    server.command("CONFIG", "SET", "appendfsync", "everysec")
    return log_of(server).stat().st_size


async def holes(service: Service) -> int:
    """Count the holes that sessions went on behind."""
    pages = [page for partition in range(PARTITIONS) async for page in read_partition(service.store, partition)]
    return sum(isinstance(entry.recorded.event, HistoryLost) for page in pages for entry in page)


@pytest.mark.parametrize(
    ("seed", "losses"), [(1, 3), *(pytest.param(seed, 25, marks=pytest.mark.soak) for seed in range(2, 6))]
)
async def test_no_chain_breaks_and_phones_hold_what_their_library_does(
    server: RedisServer, seed: int, losses: int
) -> None:
    dice = random.Random(seed)
    stores = [await open_store(server.url, timeout_s=2) for _ in range(2)]
    async with serving(stores[0]) as first, serving(stores[1]) as second:
        workers = [Worker(first), Worker(second)]
        library = Library(first, dice)
        await library.write(100)
        signed_in = [await first.sign_in(f"user{number}") for number in range(PHONES)]
        phones = [Phone(workers, issued.token, dice) for issued in signed_in]
        guest = Guest(workers, dice)
        await asyncio.gather(*(worker.compare() for worker in workers))  # as each begins with it
        for _ in range(losses):
            await library.write(10)
            kept = settled(server)
            living = [asyncio.create_task(life) for life in (guest.live(), *(phone.live() for phone in phones))]
            await asyncio.sleep(LOAD_S * dice.uniform(0.3, 1))
            server.kill()
            await asyncio.gather(*living)
            with log_of(server).open("r+b") as log:
                log.truncate(dice.randint(kept, log_of(server).stat().st_size))
            await asyncio.to_thread(server.start)
            await asyncio.gather(*(worker.compare() for worker in workers))
            await guest.check()
            for phone in phones:
                phone.wild = False
                for _ in range(2):
                    with suppress(SyncFailed):
                        await phone.sync()
                assert phone.copy == library.names
                phone.wild = True
            assert (await verify(first.store, PARTITIONS)).differences == []
        assert await holes(first) > 0, "something was lost"
    for store in stores:
        await store.close()
