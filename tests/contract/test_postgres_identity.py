"""Another database behind the address, or an older state of it: phones have what it has, whatever they had before.

Each scene is played on real servers, with the whole service in this process and phones that sync twice behind it.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from ledger.store.interface import Store
from ops.bench.postgres.server import account
from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import read_line
from projections.entities.origins import Origins
from projections.entities.postgres.identity import IdentityReader, table_names
from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.mapping.mapping import Mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import SHARED_S, PostgresSource
from tests.support.phones.http import Service, serving
from tests.support.sources.near_horizon import near_horizon
from tests.support.sources.photo_database import MAPPING, PhotoDatabase
from tests.support.sources.samples import sample
from tests.support.stores.postgres_server import PostgresServer, dumped
from tests.support.stores.servers import wait_until

__all__ = ["near_horizon"]

pytestmark = pytest.mark.usefixtures("near_horizon")

SETTLE_S = 0.2
TABLES = ["album", "album_photo", "deleted_photo", "photo"]
REQUESTS = ["AssetsV2", "AlbumsV2", "AlbumToAssetsV1"]
OWNER = "ann"


@pytest.fixture
def mapping(tmp_path: Path) -> Mapping:
    """The mapping of the small photo database."""
    file = tmp_path / "mapping.toml"
    file.write_text(MAPPING)
    return load_mapping(str(file))


# What a server tells of itself


async def read(url: str, mapping: Mapping, reader: IdentityReader | None = None) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await (reader or IdentityReader(mapping)).read(connection)
    finally:
        await connection.close()


@pytest.fixture
async def photos(postgres: PostgresServer) -> AsyncIterator[str]:
    """The address of a small photo database."""
    url = postgres.create_database()
    await (await PhotoDatabase.build(url)).close()
    yield url
    postgres.drop_database(url)


def test_every_table_that_rows_come_from_is_named(mapping: Mapping) -> None:
    assert table_names(mapping) == TABLES
    assert {"asset", "asset_exif", "album", '"user"'} <= set(table_names(load_mapping("immich")))


async def test_a_role_that_may_only_connect_sees_who_it_is(
    postgres: PostgresServer, photos: str, mapping: Mapping
) -> None:
    database = photos.rpartition("/")[2]
    postgres.psql("DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN PASSWORD 'only-for-tests'")
    reader = IdentityReader(mapping)
    found = await read(postgres.url_of(database, user="plain"), mapping, reader)
    assert reader.left_out == []
    assert found.system == postgres.psql("SELECT system_identifier FROM pg_control_system()")
    assert found.database == int(postgres.psql(f"SELECT oid FROM pg_database WHERE datname = '{database}'"))
    assert found.tables == {name: int(postgres.psql(f"SELECT '{name}'::regclass::oid", database)) for name in TABLES}
    assert found.keyed == ("album", "album_photo", "photo")
    assert (found.timeline, found.replayed, found.loading) == (1, 0, ())
    assert found.written > 0


async def test_what_leaves_the_rows_as_they_are_leaves_the_identity(
    postgres: PostgresServer, photos: str, mapping: Mapping
) -> None:
    before = await read(photos, mapping)
    postgres.psql(
        "VACUUM FULL photo; CLUSTER album USING album_pkey; ALTER TABLE photo ADD COLUMN extra int DEFAULT 7;"
        "ALTER TABLE photo ALTER COLUMN extra TYPE text; REINDEX TABLE photo; TRUNCATE album_photo; ANALYZE",
        photos.rpartition("/")[2],
    )
    after = await read(photos, mapping)
    assert after.written > before.written
    assert (after.system, after.database, after.tables) == (before.system, before.database, before.tables)


async def test_what_a_hoster_does_not_allow_is_left_out(
    postgres: PostgresServer, photos: str, mapping: Mapping
) -> None:
    database = photos.rpartition("/")[2]
    postgres.psql("DROP ROLE IF EXISTS hosted; CREATE ROLE hosted LOGIN PASSWORD 'only-for-tests'")
    postgres.psql("REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_current_wal_flush_lsn() FROM PUBLIC", database)
    reader = IdentityReader(mapping)
    found = await read(postgres.url_of(database, user="hosted"), mapping, reader)
    assert reader.left_out == ["system", "timeline", "written"]
    assert (found.system, found.timeline, found.written) == ("", 0, 0)
    assert found.tables.keys() == set(TABLES)


@pytest.mark.soak
async def test_it_only_grows_over_a_crash(postgres_server: PostgresServer, mapping: Mapping) -> None:
    url = postgres_server.create_database()
    photos = await PhotoDatabase.build(url)
    for number in range(20):
        await photos.put_photo(OWNER, f"p{number}")
    before = await read(url, mapping)
    postgres_server.kill()
    postgres_server.start()
    after = await read(url, mapping)
    assert after.written >= before.written
    assert (after.system, after.database, after.tables, after.timeline) == (
        *(before.system, before.database, before.tables),
        1,
    )


# Phones


class Phone:
    """A device: it keeps what it is sent, empties itself when told to, and acknowledges all."""

    def __init__(self, service: Service, token: str) -> None:
        self.service = service
        self.token = token
        self.rows: dict[tuple[str, str], Any] = {}
        self.resets = 0

    async def ask(self) -> httpx.Response:
        """Ask for a stream."""
        transport = httpx.ASGITransport(self.service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {"Authorization": f"Bearer {self.token}"}
            return await client.post("/api/sync/stream", json={"types": REQUESTS}, headers=headers)

    async def sync(self, wait_s: float = 15.0) -> None:
        """Sync once, as soon as a stream is served."""
        until = time.monotonic() + wait_s
        while (answer := await self.ask()).status_code != 200:
            assert answer.status_code == 503, answer.text
            assert time.monotonic() < until, (await self.service.look.health()).text
            await asyncio.sleep(0.05)
        lines = [msgspec.json.decode(line) for line in answer.content.splitlines()]
        for line in lines:
            kind, data = line["type"], line["data"]
            if kind == "SyncResetV1":
                self.resets += 1
                self.rows.clear()
            elif kind == "AssetDeleteV1":
                self.rows.pop(("AssetV2", data["assetId"]), None)
            elif kind != "SyncCompleteV1":
                self.rows[kind, data.get("id") or f"{data['albumId']}+{data['assetId']}"] = data
        sent = await self.service.ask("POST", "/api/sync/ack", self.token, json={"acks": [one["ack"] for one in lines]})
        assert sent.status_code == 204, sent.text

    def photos(self) -> dict[str, str]:
        """Return its photos by id, with their names."""
        return {key[1]: data["originalFileName"] for key, data in self.rows.items() if key[0] == "AssetV2"}


@asynccontextmanager
async def service_on(store: Store, url: str, mapping: Mapping) -> AsyncIterator[Service]:
    """Run the service on a database."""
    postgres = await Postgres.open(url, size=3, wait_s=5, statement_timeout_s=10)
    source = PostgresSource(postgres, mapping, None, Origins(store, settle_s=SETTLE_S))
    try:
        async with serving(store, source=source) as service:
            yield service
    finally:
        await postgres.close()


async def photos_in(url: str) -> dict[str, str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT id, name FROM photo WHERE owner = $1", OWNER)
    finally:
        await connection.close()
    return {row["id"]: row["name"] for row in rows}


async def has_the_library(phone: Phone, url: str, *, resets: int) -> None:
    """Assert that a phone has what the library has after two syncs, and how often it was asked to start over."""
    await phone.sync()
    await phone.sync()
    assert phone.photos() == await photos_in(url)
    assert phone.resets == resets
    await phone.sync()
    assert phone.resets == resets, "once"


async def begun(service: Service, url: str, count: int = 4) -> Phone:
    """Write a library and let a phone sync it."""
    photos = await PhotoDatabase.open(url)
    for number in range(count):
        await photos.put_photo(OWNER, f"p{number}", f"{number}.jpg")
    await photos.settle()
    await photos.close()
    return await another(service, url)


async def another(service: Service, url: str) -> Phone:
    """Let one more phone sync what is there."""
    phone = Phone(service, (await service.sign_in(OWNER, OWNER)).token)
    await has_the_library(phone, url, resets=0)
    return phone


async def write(url: str, *changes: tuple[str, str], deletes: str = "") -> None:
    photos = await PhotoDatabase.open(url)
    for photo, name in changes:
        await photos.put_photo(OWNER, photo, name)
    if deletes:
        await photos.delete_photo(OWNER, deletes)
    await photos.settle()
    await photos.close()


def copied(server: PostgresServer) -> Path:
    """Copy the data of a server that is stopped."""
    copy = server.home / "copy"
    subprocess.run(["cp", "-a", str(server.home / "data"), str(copy)], check=True)
    return copy


def brought_back(server: PostgresServer, copy: Path) -> None:
    """Put copied data in place of a stopped server's."""
    shutil.rmtree(server.home / "data")
    copy.rename(server.home / "data")


async def test_a_dump_restored_into_the_same_database(
    valkey_store: Store, postgres: PostgresServer, photos: str, mapping: Mapping
) -> None:
    """What the phone got since the dump is gone, what it saw deleted is back, and both lie below its checkpoints."""
    database = photos.rpartition("/")[2]
    async with service_on(valkey_store, photos, mapping) as service:
        phone = await begun(service, photos)
        dump = dumped(postgres, database)
        await write(photos, ("new", "new.jpg"), ("p1", "changed.jpg"), deletes="p0")
        await has_the_library(phone, photos, resets=0)
        fresh = await service.sign_in(OWNER, OWNER)  # signed in, and holds nothing

        postgres.psql("DROP SCHEMA public CASCADE; CREATE SCHEMA public", database)
        await asyncio.sleep(1.5 * SHARED_S)
        answer = await phone.ask()
        assert answer.status_code == 503
        told = await service.look.health()
        assert not told.ok
        assert "was there before and is missing" in told.text

        before_data, _, rest = dump.partition("COPY public.photo ")
        data, end, behind = rest.partition("\n\\.\n")
        rows, last = data.rsplit("\n", 1)
        postgres.psql(before_data, database)
        assert (await phone.ask()).status_code == 503
        assert "had a primary key before" in (await service.look.health()).text
        await asyncio.sleep(2 * SETTLE_S)
        assert (await phone.ask()).status_code == 503, "however long it takes"
        postgres.psql(f"SET search_path = public; COPY public.photo {rows}\n{last}{end}{behind}", database)

        told = await service.look.health()
        assert not told.ok
        assert "made anew" in told.text
        assert "start over" in told.text, "told before it begins"
        await has_the_library(phone, photos, resets=1)
        assert phone.photos().keys() == {"p0", "p1", "p2", "p3"}
        told = await service.look.health()
        assert told.ok
        assert "each device that synced before starts over" in told.text
        other = Phone(service, fresh.token)
        await has_the_library(other, photos, resets=0)


async def test_another_database_behind_the_address_and_back_again(
    valkey_store: Store, postgres: PostgresServer, photos: str, mapping: Mapping
) -> None:
    other_url = postgres.create_database()
    await (await PhotoDatabase.build(other_url)).close()
    await write(other_url, ("p1", "of the other.jpg"), ("q", "q.jpg"))
    async with service_on(valkey_store, photos, mapping) as service:
        phone, away = await begun(service, photos), await another(service, photos)
    async with service_on(valkey_store, other_url, mapping) as service:
        phone.service = service
        await has_the_library(phone, other_url, resets=1)
    async with service_on(valkey_store, photos, mapping) as service:
        phone.service = away.service = service
        await has_the_library(phone, photos, resets=2)
        await has_the_library(away, photos, resets=0)  # it never was at the other
    postgres.drop_database(other_url)


async def test_a_library_of_the_catalog_made_anew_and_a_source_of_another_kind(
    valkey_store: Store, photos: str, mapping: Mapping
) -> None:
    """What was wiped left no delete markers; and what a catalog's stamps are, no database's are."""
    await write(photos, ("p1", "of the database.jpg"))
    catalog = Catalog(valkey_store, origins=Origins(valkey_store, settle_s=SETTLE_S))

    async def put(*ids: str) -> None:
        rows = [{"type": "UserV1", "data": sample("UserV1", id=OWNER)}]
        rows += [
            {
                "type": "AssetV2",
                "data": sample("AssetV2", id=one, ownerId=OWNER, checksum=f"{one:=<28}", originalFileName=one),
            }
            for one in ids
        ]
        written = await catalog.put(OWNER, [read_line(msgspec.json.encode(row)) for row in rows])
        assert not written.refused

    async with serving(valkey_store, source=catalog) as service:
        await put("a", "b", "c")
        phone = Phone(service, (await service.sign_in(OWNER, OWNER)).token)
        for _ in range(3):
            await phone.sync()
        assert (sorted(phone.photos()), phone.resets) == (["a", "b", "c"], 0)
        for name in [one for names in await valkey_store.each_primary("KEYS", f"{{l{OWNER}}}:*") for one in names]:
            await valkey_store.command("DEL", name, key=name)
        await put("a", "d")
        await phone.sync()
        await phone.sync()
        assert (sorted(phone.photos()), phone.resets) == (["a", "d"], 1)
        await phone.sync()
        assert phone.resets == 1
    async with service_on(valkey_store, photos, mapping) as service:
        phone.service = service
        assert (await phone.ask()).status_code == 503
        assert "it was catalog, and is postgres" in (await service.look.health()).text
        await has_the_library(phone, photos, resets=2)


@pytest.mark.soak
async def test_a_snapshot_of_the_volume_brought_back(
    valkey_store: Store, postgres_server: PostgresServer, mapping: Mapping
) -> None:
    url = postgres_server.create_database()
    await (await PhotoDatabase.build(url)).close()
    async with service_on(valkey_store, url, mapping) as service:
        phone = await begun(service, url)
        postgres_server.stop()
        copy = copied(postgres_server)
        postgres_server.start()
        await write(url, ("new", "new.jpg"), deletes="p0")
        await has_the_library(phone, url, resets=0)
        postgres_server.stop()
        brought_back(postgres_server, copy)
        postgres_server.start()
        await has_the_library(phone, url, resets=1)
        assert phone.photos().keys() == {"p0", "p1", "p2", "p3"}


@pytest.mark.soak
async def test_a_crash_asks_nobody_to_start_over(
    valkey_store: Store, postgres_server: PostgresServer, mapping: Mapping
) -> None:
    url = postgres_server.create_database()
    await (await PhotoDatabase.build(url)).close()
    async with service_on(valkey_store, url, mapping) as service:
        phone = await begun(service, url)
        await write(url, ("new", "new.jpg"))
        await phone.sync()
        postgres_server.kill()
        postgres_server.start()
        await has_the_library(phone, url, resets=0)
        await write(url, ("later", "later.jpg"))
        await has_the_library(phone, url, resets=0)


# A replica takes over


def standby_of(server: PostgresServer, folder: Path) -> PostgresServer:
    """Make a server that follows another one, stopped."""
    standby = PostgresServer(folder)
    standby.start()
    standby.stop()
    shutil.rmtree(standby.home / "data")
    subprocess.run(
        [
            *("pg_basebackup", "-h", str(server.home), "-p", str(server.port), "-U", "postgres"),
            *("-D", str(standby.home / "data"), "-R", "--checkpoint=fast", "--no-sync"),
        ],
        check=True,
        cwd=standby.home,
        **account(),
    )
    return standby


def follows_to(server: PostgresServer, standby: PostgresServer) -> None:
    """Wait until a standby has all that its server has written."""
    written = server.psql("SELECT pg_current_wal_flush_lsn()")
    ask = f"SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"
    wait_until(lambda: standby.psql(ask) == "t", "the standby to follow")


@pytest.mark.soak
@pytest.mark.parametrize("lags", [False, True], ids=["with all that was written", "with a loss"])
async def test_a_replica_that_takes_over(
    valkey_store: Store, postgres_server: PostgresServer, mapping: Mapping, tmp_path: Path, lags: bool
) -> None:
    """Only who saw what it had not got starts over: not the phone that last synced before."""
    url = postgres_server.create_database()
    await (await PhotoDatabase.build(url)).close()
    with standby_of(postgres_server, tmp_path / "standby") as standby:
        async with service_on(valkey_store, url, mapping) as service:
            phone, away = await begun(service, url), await another(service, url)
            follows_to(postgres_server, standby)
            if lags:
                standby.stop()
            await write(url, ("new", "new.jpg"), ("p1", "changed.jpg"), deletes="p0")
            await has_the_library(phone, url, resets=0)
            if not lags:
                follows_to(postgres_server, standby)
            postgres_server.kill()
        if lags:
            standby.start()
        standby.psql("SELECT pg_promote(true, 30)")
        promoted = standby.url_of(url.rpartition("/")[2])
        await write(promoted, ("later", "later.jpg"))
        async with service_on(valkey_store, promoted, mapping) as service:
            phone.service = away.service = service
            await has_the_library(phone, promoted, resets=int(lags))
            await has_the_library(away, promoted, resets=0)
            assert ("new" in phone.photos()) is not lags
            assert (await service.look.health()).ok
