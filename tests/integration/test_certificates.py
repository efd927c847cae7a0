"""Until when certificates are good, as a worker finds out, of every address that is named or that the store has."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ledger.figures.families import Part
from ledger.store.interface import Store, open_store
from ops.bench.postgres.server import account
from ops.figures.certificates import EXPIRES, Look, Place, other_places, places_of
from ops.settings.settings import Settings, read_settings
from tests.support.stores.certificates import write_certificate
from tests.support.stores.postgres_server import PostgresServer
from tests.support.stores.servers import RedisServer, free_port, valkey_binary, wait_until

DAY_S = 86_400.0


class Shows:
    """A server that shows a certificate, and is told of nothing else."""

    def __init__(self, file: Path, days: float) -> None:
        self.port = 0
        self.asked = 0
        self._file = file
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.renew(days)

    def renew(self, days: float) -> None:
        """Show another one from now on."""
        self._context.load_cert_chain(write_certificate(self._file, days=days))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Shows]:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.asked += 1
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self._context) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    store = await open_store(valkey_url)
    yield store
    await store.close()


def days_left(part: Part, place: str) -> float:
    """Tell for how many days more the certificates of a place are said to be good."""
    return (part.values[part.place(EXPIRES.name, place)] - time.time()) / DAY_S


def settings_of(tmp_path: Path, **settings: str) -> Settings:
    named = {f"LEDGER_{name.upper()}": value for name, value in settings.items()}
    return read_settings({"LEDGER_DATA_DIR": str(tmp_path / "data"), **named})


async def test_of_all_addresses_the_one_that_ends_first_counts_and_a_renewed_one_is_told_soon(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with Shows(tmp_path / "a.pem", 60).running() as a, Shows(tmp_path / "b.pem", 3).running() as b:
        nowhere = free_port()
        hosts = f"127.0.0.1:{nowhere},127.0.0.1:{a.port},127.0.0.1:{b.port}"
        settings = settings_of(
            tmp_path, redis=f"rediss+cluster://{hosts}", external_domain=f"https://localhost:{a.port}"
        )
        part = Part(EXPIRES)
        look = Look(settings, part)
        await look.look(store)
        assert days_left(part, "store") == pytest.approx(3, abs=0.1)
        assert days_left(part, "external_domain") == pytest.approx(60, abs=0.1)
        assert f"store, 127.0.0.1:{b.port}, will be over within two weeks" in caplog.text
        assert f"store, 127.0.0.1:{nowhere}, cannot be looked at" in caplog.text

        b.renew(-1)
        await look.look(store)
        assert days_left(part, "store") == pytest.approx(-1, abs=0.1)
        assert caplog.text.count(f"127.0.0.1:{b.port}, ") == 1, "it is told once"
        b.renew(90)
        await look.look(store)
        assert days_left(part, "store") == pytest.approx(60, abs=0.1)
        asked = a.asked
        await look.look(store)
        assert a.asked == asked, "while all are good it has time"


async def test_postgres_is_asked_for_its_certificate_as_its_clients_do(
    tmp_path: Path, store: Store, postgres_server: PostgresServer
) -> None:
    settings = settings_of(tmp_path, postgres=f"{postgres_server.url}?sslmode=require")
    part = Part(EXPIRES)
    await Look(settings, part).look(store)
    assert part.values[part.place(EXPIRES.name, "source")] == 0, "it does no TLS"

    postgres_server.stop()
    data = postgres_server.home / "data"
    written = write_certificate(tmp_path / "db.pem", days=20)
    for name in ("server.crt", "server.key"):
        shutil.copy(written, data / name)
        (data / name).chmod(0o600)
        if owner := account():
            shutil.chown(data / name, owner["user"], owner["group"])
    with (data / "postgresql.auto.conf").open("a") as config:
        config.write("ssl = on\n")
    postgres_server.start()
    await Look(settings, part).look(store)
    assert days_left(part, "source") == pytest.approx(20, abs=0.1)
    assert not [*places_of(settings_of(tmp_path, postgres=f"{postgres_server.url}?sslmode=disable"))]


async def test_replicas_of_a_primary_are_looked_at_too(tmp_path: Path) -> None:
    with RedisServer(valkey_binary(), tmp_path / "primary") as primary:
        options = ("--replicaof", f"127.0.0.1 {primary.port}")
        with RedisServer(valkey_binary(), tmp_path / "replica", options=options) as replica:
            store = await open_store(primary.url)
            wait_until(lambda: "slave0" in primary.command("INFO", "replication"), "the replica to be known")
            named = settings_of(tmp_path, redis=f"rediss://127.0.0.1:{primary.port}")
            assert await other_places(named, store) == [Place("store", "127.0.0.1", replica.port)]
            assert await other_places(settings_of(tmp_path, redis=primary.url), store) == []
            await store.close()


async def test_of_a_cluster_every_node_is_looked_at(tmp_path: Path, cluster_url: str) -> None:
    store = await open_store(cluster_url)
    named = settings_of(tmp_path, redis=cluster_url.replace("redis", "rediss", 1))
    places = await other_places(named, store)
    assert len(places) == 3
    assert {place.name for place in places} == {"store"}
    await store.close()


def test_sentinels_are_a_place_of_their_own(tmp_path: Path) -> None:
    named = settings_of(tmp_path, redis="rediss+sentinel://a,b:1/main")
    assert [*places_of(named)] == [Place("sentinel", "a", 26379), Place("sentinel", "b", 1)]
