"""Connections to PostgreSQL: bounded in number and in waiting, whatever the server does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
import traceback
from collections.abc import AsyncGenerator, Callable
from functools import partial

import asyncpg
import pytest

from ledger.errors import InvalidInput
from projections.entities.postgres.pool import Postgres
from projections.entities.source import SourceUnavailable
from tests.support.stores.postgres_server import PASSWORD, PostgresServer


@contextlib.asynccontextmanager
async def pool(
    url: str, *, size: int = 2, wait_s: float = 2.0, statement_timeout_s: float = 10.0
) -> AsyncGenerator[Postgres]:
    postgres = await Postgres.open(url, size=size, wait_s=wait_s, statement_timeout_s=statement_timeout_s)
    try:
        yield postgres
    finally:
        await postgres.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)


async def value(postgres: Postgres, statement: str) -> object:
    async with postgres.connection() as connection:
        return await connection.fetchval(statement)


async def test_sessions_only_read_in_utc_without_jit_under_our_name(postgres_url: str) -> None:
    async with pool(postgres_url, statement_timeout_s=1.5) as postgres, postgres.connection() as connection:
        names = ("default_transaction_read_only", "timezone", "jit", "application_name", "statement_timeout")
        values = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
        assert values == ["on", "UTC", "off", "syncledger", "1500ms"]
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("CREATE TABLE t (id int)")


async def test_a_connection_is_used_again_and_keeps_its_statements(postgres_url: str) -> None:
    async with pool(postgres_url) as postgres:
        first, second = [await value(postgres, "SELECT pg_backend_pid()") for _ in range(2)]
        assert first == second
        count = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT pg_backend_pid()'"
        assert await value(postgres, count) == 1


async def test_statements_need_not_be_kept(postgres_url: str) -> None:
    async with pool(f"{postgres_url}?statement_cache_size=0&sslmode=disable") as postgres:
        for _ in range(2):
            assert await value(postgres, "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0


async def test_an_address_of_nonsense_is_refused_without_its_password() -> None:
    for bad in ("postgresql://u:secret@[h/db", "postgresql://u:secret@h:x/db", "mysql://u:secret@h/db"):
        with pytest.raises(InvalidInput) as refused:
            await Postgres.open(bad, size=1, wait_s=1, statement_timeout_s=1)
        told = "".join(traceback.format_exception(refused.value)) + str(refused.value.problems)
        assert "secret" not in told
        assert "LEDGER_POSTGRES" in told


async def test_waiting_for_a_connection_is_bounded(postgres_url: str) -> None:
    async with pool(postgres_url, size=2, wait_s=0.3) as postgres:
        async with postgres.connection(), postgres.connection():
            assert postgres.in_use == 2
            began = time.monotonic()
            with pytest.raises(SourceUnavailable, match=r"All 2 connections to PostgreSQL were in use for 0\.3 s"):
                await value(postgres, "SELECT 1")
            assert 0.25 < time.monotonic() - began < 3
        assert postgres.in_use == 0
        assert await value(postgres, "SELECT 1") == 1


async def test_those_who_wait_get_it_in_turn(postgres_url: str) -> None:
    async with pool(postgres_url, size=2, wait_s=10) as postgres:
        most = 0

        async def one() -> None:
            nonlocal most
            async with postgres.connection() as connection:
                most = max(most, postgres.in_use)
                await connection.fetchval("SELECT 1")

        await asyncio.gather(*[one() for _ in range(200)])
        assert (most, postgres.in_use) == (2, 0)


async def test_a_server_that_is_down_is_told_of_and_used_once_it_is_back(postgres_server: PostgresServer) -> None:
    postgres_server.stop()
    async with pool(postgres_server.url) as postgres:
        for end in (postgres_server.stop, postgres_server.kill):
            with pytest.raises(SourceUnavailable, match="cannot be reached"):
                await value(postgres, "SELECT 1")
            postgres_server.start()
            assert await value(postgres, "SELECT 1") == 1
            async with postgres.connection() as held:
                end()
                with pytest.raises(asyncpg.PostgresError):
                    await held.fetchval("SELECT 1")
        assert postgres.in_use == 0


async def test_a_lost_connection_is_told_of_and_replaced(postgres: PostgresServer, postgres_url: str) -> None:
    async with pool(postgres_url, size=1) as opened:
        for idle in (False, True):
            pid = await value(opened, "SELECT pg_backend_pid()")
            if idle:
                postgres.psql(f"SELECT pg_terminate_backend({pid}, 5000)")
            else:
                task = asyncio.create_task(value(opened, "SELECT pg_sleep(20)"))
                await until(lambda: opened.in_use == 1, "the statement to run")
                await asyncio.sleep(0.05)
                postgres.psql(f"SELECT pg_terminate_backend({pid}, 5000)")
                with pytest.raises(SourceUnavailable, match=r"terminating connection|lost"):
                    await task
            await until(lambda: opened.in_use == 0, "the connection to be given up")
            await asyncio.sleep(0.05)  # an idle one learns of it by its socket
            assert await value(opened, "SELECT pg_backend_pid()") != pid


async def test_the_server_ends_a_statement_that_takes_too_long(postgres_url: str) -> None:
    async with pool(postgres_url, size=1, statement_timeout_s=0.2) as postgres:
        with pytest.raises(SourceUnavailable, match=r"statement timeout") as refused:
            await value(postgres, "SELECT pg_sleep(20)")
        assert refused.value.retry_after_s > 0
        assert await value(postgres, "SELECT 1") == 1


async def test_a_server_that_says_nothing_is_given_up(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.entities.postgres.pool.SILENCE_S", 0.2)
    async with pool(postgres_server.url, size=1, wait_s=0.5, statement_timeout_s=0.3) as postgres:
        pid = int(str(await value(postgres, "SELECT pg_backend_pid()")))
        assert postgres_server.process is not None
        stopped = (pid, postgres_server.process.pid)
        for one in stopped:
            os.kill(one, signal.SIGSTOP)
        try:
            with pytest.raises(SourceUnavailable, match="did not answer in time"):
                await value(postgres, "SELECT 1")
            await until(lambda: postgres.in_use == 0, "the connection to be given up")
            with pytest.raises(SourceUnavailable, match=r"made no connection within 0\.5 s"):
                await value(postgres, "SELECT 1")
        finally:
            for one in stopped:
                os.kill(one, signal.SIGCONT)
        assert await value(postgres, "SELECT 1") == 1


async def test_cancelling_cancels_the_statement_and_gives_the_connection_back(
    postgres: PostgresServer, postgres_url: str
) -> None:
    def runs(pid: object) -> bool:
        return postgres.psql(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'") == "1"

    async with pool(postgres_url, size=1) as opened:
        pid = await value(opened, "SELECT pg_backend_pid()")
        for _ in range(5):
            task = asyncio.create_task(value(opened, "SELECT pg_sleep(60)"))
            await until(partial(runs, pid), "the statement to run")
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 1, "the one who cancels does not wait"
            await until(lambda: opened.in_use == 0, "the connection to be back")
            assert not runs(pid)
        assert await value(opened, "SELECT pg_backend_pid()") == pid


async def test_cancelling_at_any_moment_loses_no_connection(postgres_url: str) -> None:
    async with pool(postgres_url, size=2, wait_s=5) as postgres:
        for turn in range(60):
            tasks = [asyncio.create_task(value(postgres, "SELECT pg_sleep(0.002)")) for _ in range(4)]
            await asyncio.sleep(turn * 0.0002)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: postgres.in_use == 0, "all connections to be back")
        async with postgres.connection(), postgres.connection():
            pass


async def test_errors_of_ours_pass_and_give_the_connection_back(postgres_url: str) -> None:
    async with pool(postgres_url, size=1) as postgres:
        with pytest.raises(ZeroDivisionError):
            async with postgres.connection():
                raise ZeroDivisionError
        with pytest.raises(asyncpg.DataError):
            async with postgres.connection() as connection:
                await connection.fetchval("SELECT $1::int", "x")
        await until(lambda: postgres.in_use == 0, "the connection to be back")


async def test_what_the_server_refuses_is_told_without_rows(postgres: PostgresServer, postgres_url: str) -> None:
    database = postgres_url.rpartition("/")[2]
    postgres.psql("CREATE TABLE t (id int); INSERT INTO t VALUES (4711)", database)
    async with pool(postgres_url) as opened:
        with pytest.raises(SourceUnavailable, match=r'column "name" does not exist \(42703\)'):
            await value(opened, "SELECT name FROM t")
        with pytest.raises(SourceUnavailable, match=r"42P01"):
            await value(opened, "SELECT id FROM nowhere")


async def test_no_more_connections_than_the_server_allows(postgres: PostgresServer, postgres_url: str) -> None:
    database = postgres_url.rpartition("/")[2]
    postgres.psql(
        f"CREATE ROLE few LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 1; GRANT CONNECT ON DATABASE {database} TO few"
    )
    try:
        async with pool(postgres.url_of(database, user="few")) as opened, opened.connection():
            with pytest.raises(SourceUnavailable, match=r"too many connections for role"):
                await value(opened, "SELECT 1")
    finally:
        postgres.psql(f"REVOKE ALL ON DATABASE {database} FROM few; DROP ROLE few")


async def test_nothing_tells_the_password(postgres: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    for url in (
        postgres.url_of("postgres", password="pass-word"),
        postgres.url_of("nowhere", password=PASSWORD),
        f"postgresql://postgres:pass-word@127.0.0.1:1/postgres?password={PASSWORD}",
        f"postgresql://postgres:{PASSWORD}@localhost:{postgres.port}/postgres?sslmode=verify-full",
        f"postgresql://postgres:{PASSWORD}@no.such.host.invalid/postgres",
    ):
        async with pool(url) as opened:
            with pytest.raises(SourceUnavailable) as refused:
                await value(opened, "SELECT 1")
            said += [repr(opened), *traceback.format_exception(refused.value)]
    said += [record.getMessage() for record in caplog.records]
    assert "pass-word" not in "".join(said)
    assert PASSWORD not in "".join(said)


async def test_a_closed_pool_says_so(postgres_url: str) -> None:
    async with pool(postgres_url) as postgres:
        pass
    with pytest.raises(SourceUnavailable, match="shutting down"):
        await value(postgres, "SELECT 1")
