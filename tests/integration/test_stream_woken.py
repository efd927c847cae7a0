"""A phone that is woken finds what woke it, though a database can be read up to a second ago only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from endpoints.sync.idle_polls import IdlePolls
from endpoints.sync.stream import Waits
from ledger.positions import Position
from ops.simulate.tables import TYPES_V2
from projections.accounts.tokens import Issued
from projections.entities.postgres import source as source_module
from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from tests.immich.database import ImmichDatabase
from tests.support.phones.http import Service, serving
from tests.support.stores.fake_store import FakeStore

AT_ONCE_S = 0.6
"""Well below the second that the horizon is behind."""


class Counted(Postgres):
    """A pool that counts how often it was asked something."""

    asked = 0

    @asynccontextmanager
    async def connection(self, *, writes: bool = False) -> AsyncIterator[Any]:
        self.asked += 1
        async with super().connection(writes=writes) as connection:
            yield connection


class Scene:
    """A service on Immich's database, and a phone of a user that has all there was."""

    def __init__(self, service: Service, postgres: Counted, user: UUID, device: Issued) -> None:
        self.service, self.postgres, self.user, self._device = service, postgres, user, device
        self.took_s = 0.0
        self.asked = 0

    async def sync(self) -> list[str]:
        """Sync, and tell the entity types that came, with the questions that were asked and the time it took."""
        began_s, self.postgres.asked = time.monotonic(), 0
        lines = await self.service.stream(self._device.token, *TYPES_V2)
        self.took_s, self.asked = time.monotonic() - began_s, self.postgres.asked
        acks = {line["type"]: line["ack"] for line in lines}
        answer = await self.service.ask("POST", "/api/sync/ack", self._device.token, json={"acks": list(acks.values())})
        assert answer.status_code == 204, answer.text
        return [line["type"] for line in lines]


@pytest.fixture
def database(postgres_url: str) -> Iterator[ImmichDatabase]:
    with ImmichDatabase(postgres_url) as database:
        yield database.build()


def settle(database: ImmichDatabase) -> None:
    """Let the horizon pass all that was written, in a database that knows its tables."""
    database.execute("ANALYZE")
    database.settle()


@asynccontextmanager
async def scene_of(database: ImmichDatabase, user: UUID) -> AsyncIterator[Scene]:
    """Bring a phone to the state of the database, in which nothing was written for a second."""
    postgres = await Counted.open(database.url, size=4, wait_s=10, statement_timeout_s=10)
    try:
        async with serving(FakeStore(), source=PostgresSource(postgres, load_mapping("immich"))) as service:
            scene = Scene(service, postgres, user, await service.sign_in(str(user), str(user)))
            await scene.sync()
            while await scene.sync() != ["SyncCompleteV1"]:
                pass
            yield scene
    finally:
        await postgres.close()


def test_what_was_committed_before_a_stream_was_asked_for_is_in_it(database: ImmichDatabase) -> None:
    async def woken() -> None:
        async with scene_of(database, ann) as scene, asyncio.timeout(20):
            connection = await asyncpg.connect(database.url)
            await connection.execute('UPDATE asset SET "isFavorite" = NOT "isFavorite" WHERE id = $1', asset)
            assert await scene.sync() == ["AssetV2", "SyncCompleteV1"]
            assert scene.took_s < 2.5
            async with connection.transaction():  # one that held the horizon when others asked
                await connection.execute('UPDATE asset SET "isFavorite" = NOT "isFavorite" WHERE id = $1', asset)
                await asyncio.sleep(1.1)
                await scene.service.services.source.horizon(str(ann))
            assert await scene.sync() == ["AssetV2", "SyncCompleteV1"]
            await connection.close()

    ann = database.user("ann")
    asset = database.asset(ann)
    settle(database)
    asyncio.run(woken())


def test_who_has_nothing_to_wait_for_is_answered_at_once_and_asks_no_more_than_before(
    database: ImmichDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def idle() -> None:
        async with scene_of(database, ann) as scene:
            monkeypatch.setattr(IdlePolls, "keep", of_nothing)  # each poll asks all that one may
            asked = {}
            for name in ("waiting", "not"):
                for _ in range(3):
                    await asyncio.sleep(0.15)  # until the horizon is another
                    assert await scene.sync() == ["SyncCompleteV1"]
                    assert scene.took_s < AT_ONCE_S
                asked[name] = scene.asked
                monkeypatch.setattr(PostgresSource, "catches_up_in", not_at_all)
            assert asked["waiting"] == asked["not"], "a poll of an idle database costs nothing more"

    ann = database.user("ann")
    database.asset(ann)
    settle(database)
    asyncio.run(idle())


def test_what_no_index_tells_of_is_quiet_while_nothing_is_committed(database: ImmichDatabase) -> None:
    """Faces and stacks of a large library: their stamps have no index."""

    async def unanalysed() -> None:
        async with scene_of(database, ann) as scene:
            await asyncio.sleep(1.1)
            at_once = 0
            for _ in range(4):
                assert await scene.sync() == ["SyncCompleteV1"]
                at_once += scene.took_s < AT_ONCE_S
            assert at_once >= 2, "though the server itself commits something now and then"
            face = await asyncio.to_thread(database.face, asset)
            assert await scene.sync() == ["AssetFaceV2", "SyncCompleteV1"], face

    ann = database.user("ann")
    asset = database.asset(ann)
    database.settle()
    asyncio.run(unanalysed())


def of_nothing(self: IdlePolls, *what: Any) -> None:
    """Remember no poll."""


async def not_at_all(self: PostgresSource, library: str, types: Any, before: int, asked_s: float) -> float:
    """Wait for nothing, as if the horizon were the present."""
    return 0.0


def test_an_idle_poll_while_others_write_costs_one_look_and_one_question_more(
    database: ImmichDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def others_write() -> None:
        async with scene_of(database, ann) as scene:
            await asyncio.to_thread(database.asset, bob)
            assert await scene.sync() == ["UserV1", "SyncCompleteV1"], "their quota"
            await asyncio.sleep(0.15)  # until the horizon is another
            await asyncio.to_thread(database.update, "asset", theirs, isFavorite=True)
            assert await scene.sync() == ["SyncCompleteV1"]
            waiting, took_s = scene.asked, scene.took_s
            monkeypatch.setattr(PostgresSource, "catches_up_in", not_at_all)
            await asyncio.sleep(0.15)
            await asyncio.to_thread(database.update, "asset", theirs, isFavorite=False)
            assert await scene.sync() == ["SyncCompleteV1"]
            assert 0.9 < took_s < 2.5
            assert scene.asked == 3, "horizon, newest rows, and what of the rest is this user's"
            assert waiting in (6, 7), "once more with the later horizon"

    ann, bob = database.user("ann"), database.user("bob")
    theirs = database.asset(bob)
    settle(database)
    asyncio.run(others_write())


def test_who_has_something_to_send_and_whose_horizon_is_held_far_behind_do_not_wait(
    database: ImmichDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy() -> None:
        async with scene_of(database, ann) as scene:
            await asyncio.to_thread(database.update, "asset", asset, isFavorite=True)
            await asyncio.to_thread(database.settle)
            await asyncio.to_thread(database.asset, ann)
            assert await scene.sync() == ["AssetV2", "SyncCompleteV1"], "the first, of which the horizon is above"
            assert scene.took_s < AT_ONCE_S
            monkeypatch.setattr(source_module, "MOST_BEHIND_S", 0.5)
            assert "AssetV2" not in await scene.sync()
            assert scene.took_s < AT_ONCE_S

    ann = database.user("ann")
    asset = database.asset(ann)
    settle(database)
    asyncio.run(busy())


def test_looks_are_shared_by_all_who_ask_meanwhile(database: ImmichDatabase) -> None:
    async def many() -> tuple[int, set[float]]:
        postgres = await Counted.open(database.url, size=4, wait_s=10, statement_timeout_s=10)
        source = PostgresSource(postgres, load_mapping("immich"))
        try:
            before = await source.horizon(str(ann))
            await source.changed(str(ann), dict.fromkeys(("AssetV2",), Position(before, "")), before)
            postgres.asked, now_s = 0, time.monotonic()
            found = await asyncio.gather(
                *(source.catches_up_in(str(ann), ["AssetV2"], before, now_s) for _ in range(50))
            )
            return postgres.asked, {round(seconds) for seconds in found}
        finally:
            await postgres.close()

    ann = database.user("ann")
    database.asset(ann)
    asked, seconds = asyncio.run(many())
    assert asked <= 2, "the horizon where it was long ago, and the newest rows"
    assert seconds == {1}


async def test_a_bounded_number_of_streams_wait() -> None:
    waits = Waits(most=2)
    two = [asyncio.create_task(waits.pause(60)) for _ in range(2)]
    await asyncio.sleep(0)
    assert waits.count == 2
    assert not await waits.pause(60), "no room: at once"
    two[0].cancel()
    await asyncio.wait([two[0]])
    assert waits.count == 1, "who left makes room"
    assert await waits.pause(0)
    two[1].cancel()
    await asyncio.wait(two)
    assert waits.count == 0


async def test_a_catalog_has_nothing_to_wait_for() -> None:
    async with serving(FakeStore()) as service:
        device = await service.sign_in()
        await service.stream(device.token, *TYPES_V2)
        began_s = time.monotonic()
        await service.stream(device.token, *TYPES_V2)
        assert time.monotonic() - began_s < AT_ONCE_S
        assert await service.catalog.catches_up_in("lib", ["AssetV2"], 1, began_s) == 0
