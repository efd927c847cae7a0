"""Connections that are gone, said or unsaid, and several hosts: what is asked gets its answer, in bounded time."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from projections.entities.postgres import pool
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.pool import ConnectionLost, Postgres
from projections.entities.postgres.source import SHARED_S, PostgresSource
from projections.entities.source import SourceUnavailable
from tests.support.sources.photo_database import MAPPING, PhotoDatabase
from tests.support.stores.forgetful_way import ForgetfulWay
from tests.support.stores.postgres_server import PASSWORD, PostgresServer

SIZE = 4


def by(way: ForgetfulWay, url: str) -> str:
    return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{way.port}/{url.rpartition('/')[2]}?sslmode=disable"


async def opened(url: str, *, wait_s: float = 5.0, statement_timeout_s: float = 10.0) -> Postgres:
    return await Postgres.open(url, size=SIZE, wait_s=wait_s, statement_timeout_s=statement_timeout_s)


async def pid(postgres: Postgres) -> int:
    """Ask by whatever connection is free."""
    return int(
        await postgres.ask(lambda connection: connection.fetchval("SELECT pg_backend_pid() FROM pg_sleep(0.02)"))
    )


async def fill(postgres: Postgres) -> set[int]:
    """Have all connections made."""
    found = set(await asyncio.gather(*(pid(postgres) for _ in range(SIZE))))
    assert len(found) == SIZE
    return found


async def test_unused_connections_that_were_forgotten_cost_one_short_wait(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "UNUSED_S", 0.0)
    monkeypatch.setattr(pool, "THERE_S", 0.3)
    async with ForgetfulWay(int(postgres_url.rpartition(":")[2].partition("/")[0])) as way:
        postgres = await opened(by(way, postgres_url))
        before = await fill(postgres)
        way.forget()
        began_s = time.monotonic()
        assert await pid(postgres) not in before
        assert time.monotonic() - began_s > 0.25, "it was asked whether it is there"
        made = way.made
        assert before.isdisjoint([await pid(postgres) for _ in range(2 * SIZE)]), "none of the others is waited for"
        assert way.made <= made + SIZE
        await postgres.close()


async def test_a_connection_that_is_silent_in_use_is_given_up_with_its_siblings(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SILENCE_S", 0.2)
    async with ForgetfulWay(int(postgres_url.rpartition(":")[2].partition("/")[0])) as way:
        postgres = await opened(by(way, postgres_url), statement_timeout_s=0.3)
        before = await fill(postgres)
        way.forget()
        assert await pid(postgres) not in before, "asked again on a new one"
        assert before.isdisjoint([await pid(postgres) for _ in range(2 * SIZE)])
        way.forget()
        monkeypatch.setattr(pool, "AGAIN_S", 0.1)
        with pytest.raises(ConnectionLost, match="did not answer in time"):
            await pid(postgres)  # who has waited long is told, and those who come next are served
        assert isinstance(await pid(postgres), int)
        await postgres.close()


async def test_what_may_write_is_not_done_twice(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SILENCE_S", 0.2)
    async with ForgetfulWay(int(postgres_url.rpartition(":")[2].partition("/")[0])) as way:
        postgres = await opened(by(way, postgres_url), statement_timeout_s=0.3)
        done = 0

        async def write() -> None:
            nonlocal done
            async with postgres.connection(writes=True) as connection:
                done += 1
                await connection.execute("CREATE TABLE t (id int)")
                way.forget()
                await connection.execute("SELECT 1")

        with pytest.raises(ConnectionLost):
            await write()
        assert done == 1
        assert await postgres.ask(lambda connection: connection.fetchval("SELECT to_regclass('t')::text")) is None
        await postgres.close()


async def test_backends_that_were_ended_fail_nobody(postgres: PostgresServer, postgres_url: str) -> None:
    database = postgres_url.rpartition("/")[2]
    reading = await opened(postgres_url)
    for _ in range(3):
        await fill(reading)
        asked = [asyncio.create_task(pid(reading)) for _ in range(3 * SIZE)]
        await asyncio.sleep(0.01)
        await asyncio.to_thread(
            postgres.psql,
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'",
        )
        assert len(await asyncio.gather(*asked)) == 3 * SIZE
    await reading.close()


async def test_a_server_that_stays_silent_is_told_in_bounded_time(postgres_url: str) -> None:
    async with ForgetfulWay(1) as way:
        way.silent = True
        postgres = await opened(by(way, postgres_url), wait_s=0.5)
        with pytest.raises(SourceUnavailable, match=r"made no connection within|did not answer in time"):
            await pid(postgres)
        await postgres.close()


async def test_the_system_watches_connections(postgres_url: str) -> None:
    query = "?keepalives_idle=31&keepalives_interval=7&keepalives_count=2&tcp_user_timeout=9000"
    for asked, wanted in ((query, [1, 31, 7, 2, 9000]), ("", [1, 60, 10, 3, 15000]), ("?keepalives=0", [0])):
        postgres = await opened(postgres_url + asked)
        async with postgres.connection() as connection:
            end = connection._transport.get_extra_info("socket")
            of_tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            found = [end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
            found += [end.getsockopt(socket.IPPROTO_TCP, name) for name in of_tcp]
        assert found[: len(wanted)] == wanted
        await postgres.close()


async def test_the_primary_is_found_among_hosts_and_found_again_after_a_failover(
    postgres: PostgresServer, postgres_url: str, postgres_server: PostgresServer
) -> None:
    standby = postgres_server
    standby.stop()
    (standby.home / "data" / "standby.signal").touch()
    standby.start()
    database = postgres_url.rpartition("/")[2]
    photos = await PhotoDatabase.build(postgres_url)
    await photos.close()
    async with ForgetfulWay(1) as dead, ForgetfulWay(postgres.port) as way:
        dead.silent = True
        hosts = f"127.0.0.1:{dead.port},127.0.0.1:{standby.port},127.0.0.1:{way.port}"
        url = f"postgresql://postgres:{PASSWORD}@{hosts}/{database}?target_session_attrs=read-write&sslmode=disable"
        opened_there = await opened(url, wait_s=3.0)
        source = PostgresSource(opened_there, read_mapping(MAPPING, "photos.toml"))
        assert await source.horizon("lib") > 0
        made = dead.made
        await opened_there.expire()
        await asyncio.sleep(SHARED_S * 1.5)
        assert await source.horizon("lib") > 0
        assert dead.made == made, "the host that was right is tried first"
        way.silent = True
        way.forget()
        await opened_there.expire()
        standby.psql("SELECT pg_promote(true, 30)")
        standby.psql(f"CREATE DATABASE {database}")
        found = await opened_there.ask(lambda connection: connection.fetchval("SELECT inet_server_port()"))
        assert found == standby.port
        await opened_there.close()


async def test_a_server_that_follows_another_one_now_is_left(postgres_server: PostgresServer) -> None:
    photos = await PhotoDatabase.build(postgres_server.url)
    await photos.close()
    reading = await opened(postgres_server.url)
    source = PostgresSource(reading, read_mapping(MAPPING, "photos.toml"))
    assert await source.horizon("lib") > 0
    postgres_server.stop()
    (postgres_server.home / "data" / "standby.signal").touch()
    postgres_server.start()
    await asyncio.sleep(SHARED_S * 1.5)
    first = await pid(reading)
    with pytest.raises(SourceUnavailable, match="use the address of the primary"):
        await source.horizon("lib")
    assert await pid(reading) != first, "its connections are not used again"
    assert not (await source.health()).ok
    postgres_server.psql("SELECT pg_promote(true, 30)")
    assert await source.horizon("lib") > 0
    await reading.close()
