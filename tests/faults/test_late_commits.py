"""A row stamped before another but committed after it is never skipped, and readers hold few connections.

The horizon replaced by the time of day loses rows for ever: that is shown too, so that these tests are known to see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import asyncpg
import pytest

from endpoints.sync.stream_lines import chunks
from ledger.acks import parse_ack
from ledger.entity_types import COMPLETE
from ledger.state import Checkpoint, State
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import SHARED_S, PostgresSource
from projections.entities.registry import entity_types_for
from tests.support.phones.raw_stream import RawStream
from tests.support.sources.late_commits import (
    DEVICES,
    LIBRARY,
    SCHEMA,
    TYPES,
    LiveSource,
    Stamps,
    horizon_of,
    mapping_text,
    real_service,
    run,
)
from tests.support.stores.postgres_server import PostgresServer
from tests.support.stores.servers import wait_until

POOL = 4
MANY = 20_000
_ADD = "INSERT INTO item SELECT gen_random_uuid(), '{0}', '{0}', {1}, {2} FROM generate_series(1, {3})"
_STAMPS = {"transaction": "now()", "clock": "clock_timestamp()"}

readers_of = pytest.mark.parametrize("count", [15, pytest.param(200, marks=pytest.mark.soak)])
both = pytest.mark.parametrize("stamps", ["transaction", "clock"])


@pytest.fixture
def tables(postgres: PostgresServer, postgres_url: str) -> str:
    """The address of a database with the test's tables."""
    postgres.psql(SCHEMA, postgres_url.rpartition("/")[2])
    return postgres_url


class Phone:
    """A device that keeps the items it was sent, by their versions."""

    def __init__(self, source: PostgresSource) -> None:
        self._source = source
        self._rows = entity_types_for(TYPES)
        self.state = State(sid="s", user="u", library=str(LIBRARY), seq=1, at_us=0, hash=b"", created_at_us=0)
        self.items: dict[str, str] = {}
        self.lines = 0

    async def sync(self) -> int:
        """Sync to the end; tell the snapshot."""
        snapshot_us = await self._source.horizon(str(LIBRARY))
        async with contextlib.aclosing(chunks(self._source, self.state, self._rows, snapshot_us)) as made:
            body = b"".join([chunk async for chunk in made])
        for line in map(json.loads, body.splitlines()):
            ack = parse_ack(line["ack"])
            before = self.state.checkpoints.get(ack.type)
            assert ack.type == COMPLETE or before is None or ack.position.key > before.position.key
            if ack.type == "StackV1":
                self.items[line["data"]["id"]] = line["data"]["primaryAssetId"]
                self.lines += 1
            fields: dict[str, Any] = {name: getattr(self.state, name) for name in State.__struct_fields__}
            fields["checkpoints"] = {**self.state.checkpoints, ack.type: Checkpoint(ack.position, 0)}
            self.state = State(**fields)
        return snapshot_us

    @property
    def versions(self) -> list[str]:
        """What it holds, without the ids."""
        return sorted(self.items.values())


@contextlib.asynccontextmanager
async def source_of(url: str, stamps: Stamps) -> AsyncGenerator[tuple[Postgres, PostgresSource]]:
    """Open the test's source in this process."""
    postgres = await Postgres.open(url, size=POOL, wait_s=10, statement_timeout_s=10)
    try:
        yield postgres, PostgresSource(postgres, read_mapping(mapping_text(stamps), "late commits"))
    finally:
        await postgres.close()


@contextlib.asynccontextmanager
async def writer(url: str) -> AsyncGenerator[asyncpg.Connection]:
    """Connect as somebody who writes."""
    connection = await asyncpg.connect(url, server_settings={"application_name": "writer"})
    try:
        yield connection
    finally:
        connection.terminate()


@both
@pytest.mark.parametrize("horizon", ["safe", "now"])
async def test_a_row_committed_late_is_sent_and_by_the_time_of_day_lost_for_ever(
    tables: str, stamps: Stamps, horizon: Literal["safe", "now"]
) -> None:
    stamp = _STAMPS[stamps]
    async with source_of(tables, stamps) as (_, source), writer(tables) as slow, writer(tables) as quick:
        with horizon_of(horizon):
            phone = Phone(source)
            await slow.execute("BEGIN")
            await slow.execute(_ADD.format(LIBRARY, 1, stamp, 1))
            await quick.execute(_ADD.format(LIBRARY, 2, stamp, 1))
            await asyncio.sleep(1.2)  # so that the margin of a second is not what holds
            await phone.sync()
            assert phone.versions == ([] if horizon == "safe" else ["version 2"])
            await slow.execute("COMMIT")
            for _ in range(3):
                await asyncio.sleep(0.4)
                await phone.sync()
            assert phone.versions == (["version 1", "version 2"] if horizon == "safe" else ["version 2"])
            assert phone.lines == len(phone.versions)


async def test_a_row_updated_by_an_older_transaction_is_sent_as_it_ended(tables: str) -> None:
    """By now() a later version of a row may have an earlier stamp."""
    async with source_of(tables, "transaction") as (_, source), writer(tables) as old, writer(tables) as new:
        phone = Phone(source)
        await new.execute(_ADD.format(LIBRARY, 1, "now()", 1))
        await old.execute("BEGIN")
        first = await old.fetchval("SELECT now()")
        assert await new.fetchval("UPDATE item SET version = 2, at = now() RETURNING at") > first
        assert await old.fetchval("UPDATE item SET version = 3, at = now() RETURNING at") == first
        await asyncio.sleep(1.2)
        await phone.sync()
        assert phone.versions == []
        await old.execute("COMMIT")
        await asyncio.sleep(2 * SHARED_S)  # for so long streams begin with a horizon that was read for others
        await phone.sync()
        assert (phone.versions, phone.lines) == (["version 3"], 1)


@pytest.mark.parametrize(
    ("stamps", "seconds", "devices"),
    [
        ("transaction", 2.0, 6),
        pytest.param("transaction", 10.0, DEVICES, marks=pytest.mark.soak),
        pytest.param("clock", 10.0, DEVICES, marks=pytest.mark.soak),
    ],
)
def test_devices_end_with_exactly_what_writers_left(
    tmp_path: Path, tables: str, stamps: Stamps, seconds: float, devices: int
) -> None:
    """Eight writers that commit out of order, devices that sync all the time, over the real service.

    `python -m tests.support.sources.late_commits` does it for longer.
    """
    with real_service(tmp_path, tables, stamps) as service:
        tokens = service.sign_in_many(devices, "ann", str(LIBRARY))
        figures = asyncio.run(
            run(service.url, tokens, tables, tmp_path / "devices", stamps=stamps, seconds=seconds, seed=1)
        )
        assert not service.faults()
    print(figures)
    assert (figures.devices_wrong, figures.missing, figures.outdated, figures.left_over) == (0, 0, 0, 0), figures
    assert figures.duplicates == 0
    assert figures.late > 3, "nothing was put to the test"
    assert figures.rows > 100
    assert figures.lines >= figures.rows * devices
    assert figures.syncs > 3 * devices


@pytest.fixture
def full(postgres: PostgresServer, tables: str) -> str:
    """The tables with more rows than any buffer takes."""
    stamp = "now() - interval '1 hour'"
    postgres.psql(_ADD.format(LIBRARY, 1, stamp, MANY) + "; ANALYZE", tables.rpartition("/")[2])
    return tables


def ours(postgres: PostgresServer, url: str, state: str = "idle") -> int:
    """Count our connections in a state to a database."""
    database = url.rpartition("/")[2]
    return int(
        postgres.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'syncledger' "
            f"AND datname = '{database}' AND state LIKE '{state}'"
        )
    )


@readers_of
async def test_readers_that_wait_hold_no_connection(postgres: PostgresServer, full: str, count: int) -> None:
    async with source_of(full, "clock") as (pool, source), contextlib.AsyncExitStack() as stack:
        snapshot_us = await source.horizon(str(LIBRARY))
        state, rows = Phone(source).state, entity_types_for(TYPES)
        readers = [chunks(source, state, rows, snapshot_us) for _ in range(count)]
        for reader in readers:
            stack.push_async_callback(reader.aclose)
        firsts = await asyncio.gather(*[anext(reader) for reader in readers])
        assert all(firsts)
        phone = Phone(source)
        await phone.sync()
        assert len(phone.items) == MANY, "one who reads gets all, beside those who do not"
        await settles(lambda: pool.in_use == 0)  # all have their next page, and nobody holds anything
        assert ours(postgres, full, "%") <= POOL
        assert ours(postgres, full, "active") == 0


@readers_of
def test_slow_readers_hold_no_more_connections_than_the_pool(
    tmp_path: Path, postgres: PostgresServer, full: str, count: int
) -> None:
    with real_service(tmp_path, full, "clock", pool=POOL) as service:
        *tokens, quick = service.sign_in_many(count + 1, "ann", str(LIBRARY))
        readers = [RawStream(service.port, token, TYPES, receive_buffer_bytes=4096) for token in tokens]
        try:
            most = 0
            for reader in readers:
                reader.read(1000)
                assert reader.status == 200
                most = max(most, ours(postgres, full, "%"))
            with RawStream(service.port, quick, TYPES) as reader:
                while reader.clean is None:
                    reader.read()
                assert reader.clean
                assert len(reader.lines) == MANY + 2
            most = max(most, ours(postgres, full, "%"))
            assert 0 < most <= POOL
            wait_until(lambda: ours(postgres, full, "active") == 0, "all pages to be fetched")
        finally:
            for reader in readers:
                reader.close()
        assert not service.faults()


@pytest.fixture
def live(valkey_url: str, full: str) -> Iterator[LiveSource]:
    """The app in this process, where its pool can be looked at."""
    with LiveSource(valkey_url, full, "clock") as live:
        yield live


async def test_a_stream_that_is_closed_gives_its_connection_back_at_once(postgres: PostgresServer, full: str) -> None:
    """Also while its page is being read: here that waits for a lock, which it never gets."""
    async with source_of(full, "clock") as (pool, source), writer(full) as locking:
        snapshot_us = await source.horizon(str(LIBRARY))
        reader = chunks(source, Phone(source).state, entity_types_for(TYPES), snapshot_us)
        await anext(reader)
        await settles(lambda: pool.in_use == 0)
        await locking.execute("BEGIN; LOCK TABLE item")
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(drain(reader))
            await settles(lambda: pool.in_use == 1 and ours(postgres, full, "active") == 1)
            reading.cancel()
        await settles(lambda: pool.in_use == 0)
        assert ours(postgres, full, "active") == 0, "the statement was cancelled too"


def test_who_leaves_gives_the_connection_back_within_a_page(
    postgres: PostgresServer, live: LiveSource, full: str
) -> None:
    token = live.run(live.service.sign_in("ann", str(LIBRARY))).token
    before = live.tasks()
    with asyncio.Runner() as runner, RawStream(live.port, token, TYPES, receive_buffer_bytes=4096) as reader:
        reader.read_until(1000)
        wait_until(lambda: live.postgres.in_use == 0, "the next page")
        locking = runner.run(asyncpg.connect(full))
        runner.run(locking.execute("BEGIN; LOCK TABLE item"))

        def page_waits() -> bool:
            with contextlib.suppress(TimeoutError):  # nothing comes any more when the next page waits
                reader.read(timeout_s=0.05)
            return ours(postgres, full, "active") == 1

        wait_until(page_waits, "the page to wait for the lock")
        assert reader.clean is None, "it leaves in the middle"
        reader.close()
        runner.run(locking.execute("ROLLBACK"))
        wait_until(lambda: live.postgres.in_use == 0 and live.tasks() <= before, "the stream to end", 5)
        runner.run(locking.close())


async def drain(reader: AsyncGenerator[bytes]) -> None:
    """Read a stream to its end."""
    async for _ in reader:
        pass


async def settles(condition: Callable[[], bool]) -> None:
    """Wait until something is so, without holding up what makes it so."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError("it never came to be")
