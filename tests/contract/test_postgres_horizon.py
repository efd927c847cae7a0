"""The horizon of a PostgreSQL database, and each fact about PostgreSQL that it rests on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg
import pytest

from projections.entities.postgres.horizon import MARGIN_US, Horizon, HorizonReader, HorizonUnknown
from tests.support.stores.postgres_server import PASSWORD, PostgresServer

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
BOTH: Final[tuple[Literal["transaction", "clock"], ...]] = ("transaction", "clock")
both = pytest.mark.parametrize("stamps", BOTH)

Connect = Callable[..., Any]


def us(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def floored(at_us: int) -> int:
    return at_us - at_us % 1000


@contextlib.asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncGenerator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, server_settings={"application_name": "writer", **settings})
    try:
        yield connection
    finally:
        connection.terminate()


@pytest.fixture
async def reading(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Our own connection."""
    async with connected(postgres_url, application_name="syncledger") as connection:
        yield connection


@pytest.fixture
async def writing(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's connection, with a table to write into."""
    async with connected(postgres_url) as connection:
        await connection.execute("CREATE TABLE t (id int, at timestamptz DEFAULT clock_timestamp())")
        yield connection


async def passed(reading: asyncpg.Connection, since_us: int) -> None:
    """Wait until the margin of a second lies behind an instant of the server's clock."""
    now_us = us(await reading.fetchval("SELECT clock_timestamp()"))
    await asyncio.sleep(max(0, since_us + MARGIN_US + 2000 - now_us) / 1e6)


async def begin(connection: asyncpg.Connection) -> int:
    """Begin a transaction, and tell the instant that now() has in it."""
    await connection.execute("BEGIN")
    return us(await connection.fetchval("SELECT now()"))


async def began(connection: asyncpg.Connection, watching: asyncpg.Connection) -> int:
    pid = connection.get_server_pid()
    return us(await watching.fetchval("SELECT query_start FROM pg_stat_activity WHERE pid = $1", pid))


async def waits_for_lock(watching: asyncpg.Connection, connection: asyncpg.Connection) -> None:
    asking = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"
    for _ in range(2000):
        if await watching.fetchval(asking, connection.get_server_pid()):
            return
        await asyncio.sleep(0.005)
    raise TimeoutError("the statement never came to wait")


@both
async def test_a_quiet_database_can_be_read_up_to_a_second_ago(
    reading: asyncpg.Connection, stamps: Literal["transaction", "clock"]
) -> None:
    before = us(await reading.fetchval("SELECT clock_timestamp()"))
    found = await HorizonReader(stamps).read(reading)
    after = us(await reading.fetchval("SELECT clock_timestamp()"))
    assert before - MARGIN_US - 1000 < found.us <= after - MARGIN_US
    assert found.us % 1000 == 0
    assert MARGIN_US <= found.behind_us < MARGIN_US + 1000
    assert found.oldest is None


async def test_an_open_transaction_holds_it_at_its_start(
    reading: asyncpg.Connection, writing: asyncpg.Connection
) -> None:
    reader = HorizonReader("transaction")
    started = await begin(writing)
    await passed(reading, started)
    found = await reader.read(reading)
    assert found.us == floored(started)
    assert found.oldest is not None
    assert found.oldest.pid == writing.get_server_pid()
    assert (found.oldest.application, found.oldest.since_us) == ("writer", started)
    assert found.oldest.text.startswith(f"process {found.oldest.pid} (writer), idle in transaction, open since 20")
    assert found.behind_us > MARGIN_US
    await writing.execute("COMMIT")
    assert (await reader.read(reading)).us > started


async def test_what_it_stamps_is_never_below_it(reading: asyncpg.Connection, writing: asyncpg.Connection) -> None:
    """Facts 1 and 3: now() is xact_start to the microsecond, and rows are seen once the horizon is above them."""
    reader = HorizonReader("transaction")
    started = await begin(writing)
    shown = "SELECT xact_start FROM pg_stat_activity WHERE pid = $1"
    assert us(await reading.fetchval(shown, writing.get_server_pid())) == started
    await writing.execute("INSERT INTO t VALUES (1, now()), (2, statement_timestamp()), (3, clock_timestamp())")
    await passed(reading, started)
    assert (await reader.read(reading)).us <= started
    await writing.execute("COMMIT")
    assert (await reader.read(reading)).us > started
    stamps = [us(row["at"]) for row in await reading.fetch("SELECT at FROM t ORDER BY id")]
    assert stamps[0] == started
    assert len(stamps) == 3
    assert min(stamps) == started


async def test_a_transaction_inside_a_procedure_has_a_start_of_its_own(
    reading: asyncpg.Connection, writing: asyncpg.Connection
) -> None:
    await writing.execute(
        "CREATE PROCEDURE two() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (1, now()); COMMIT; "
        "INSERT INTO t VALUES (2, now()); PERFORM pg_advisory_lock(1); END $$"
    )
    await reading.execute("SELECT pg_advisory_lock(1)")
    task = asyncio.ensure_future(writing.execute("CALL two()"))
    await waits_for_lock(reading, writing)
    started = us(await reading.fetchval("SELECT xact_start FROM pg_stat_activity WHERE pid = $1",
                                        writing.get_server_pid()))  # fmt: skip
    assert started > us(await reading.fetchval("SELECT at FROM t"))
    await passed(reading, started)
    for stamps in BOTH:
        assert (await HorizonReader(stamps).read(reading)).us == floored(started)
    await reading.execute("SELECT pg_advisory_unlock(1)")
    await task
    assert us(await reading.fetchval("SELECT max(at) FROM t")) == started


async def test_statements_sent_at_once_count_from_when_they_came(
    reading: asyncpg.Connection, writing: asyncpg.Connection
) -> None:
    """The second transaction of one message has the message's instant for now(), though it begins later."""
    await reading.execute("SELECT pg_advisory_lock(1)")
    task = asyncio.ensure_future(
        writing.execute("BEGIN; SELECT pg_advisory_lock(1); COMMIT; INSERT INTO t VALUES (1, now())")
    )
    await waits_for_lock(reading, writing)
    came = await began(writing, reading)
    await passed(reading, came)
    for stamps in BOTH:
        assert (await HorizonReader(stamps).read(reading)).us == floored(came)
    await reading.execute("SELECT pg_advisory_unlock(1)")
    await task
    assert us(await reading.fetchval("SELECT at FROM t")) == came


async def test_by_the_clock_only_who_has_written_counts_from_its_start(
    reading: asyncpg.Connection, writing: asyncpg.Connection
) -> None:
    reader = HorizonReader("clock")
    started = await begin(writing)
    await passed(reading, started)
    assert (await reader.read(reading)).us > started
    await writing.execute("INSERT INTO t VALUES (1)")
    assert (await reader.read(reading)).us == floored(started)
    await writing.execute("ROLLBACK")
    assert (await reader.read(reading)).us > started


async def test_by_the_clock_a_running_statement_counts_from_its_own_start(
    reading: asyncpg.Connection, writing: asyncpg.Connection
) -> None:
    """Fact 4: a stamp can be taken before the transaction has its id, as in a trigger that then waits."""
    await writing.execute(
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "NEW.at = clock_timestamp(); PERFORM pg_advisory_lock(1); RETURN NEW; END $$; "
        "CREATE TRIGGER stamp BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION stamp()"
    )
    reader = HorizonReader("clock")
    await reading.execute("SELECT pg_advisory_lock(1)")
    started = await begin(writing)
    await passed(reading, started)
    task = asyncio.ensure_future(writing.execute("INSERT INTO t VALUES (1)"))
    await waits_for_lock(reading, writing)
    row = await reading.fetchrow(
        "SELECT query_start, backend_xid FROM pg_stat_activity WHERE pid = $1", writing.get_server_pid()
    )
    assert row["backend_xid"] is None
    await passed(reading, us(row["query_start"]))
    found = await reader.read(reading)
    assert found.us == floored(us(row["query_start"]))
    assert found.us > started
    await reading.execute("SELECT pg_advisory_unlock(1)")
    await task
    stamped = us(await writing.fetchval("SELECT at FROM t"))
    assert found.us <= stamped
    assert (await reader.read(reading)).us == floored(started), "it has an id now"


@both
async def test_an_idle_session_holds_nothing(
    reading: asyncpg.Connection, writing: asyncpg.Connection, stamps: Literal["transaction", "clock"]
) -> None:
    await passed(reading, await began(writing, reading))
    assert (await HorizonReader(stamps).read(reading)).oldest is None


async def test_other_databases_and_our_own_reading_hold_nothing(
    postgres: PostgresServer, postgres_url: str, reading: asyncpg.Connection
) -> None:
    async with connected(postgres.url) as elsewhere, connected(postgres_url, application_name="syncledger") as ours:
        for other in (elsewhere, ours):
            started = await begin(other)
        await passed(reading, started)
        assert (await HorizonReader("transaction").read(reading)).us > started
        await ours.execute("CREATE TABLE t (id int)")
        assert (await HorizonReader("transaction").read(reading)).us == floored(started), "who writes is not ours"


async def test_it_is_not_read_inside_a_transaction(reading: asyncpg.Connection) -> None:
    async with reading.transaction():
        with pytest.raises(AssertionError):
            await HorizonReader("transaction").read(reading)


async def test_a_prepared_transaction_holds_it_where_it_was(
    reading: asyncpg.Connection, writing: asyncpg.Connection
) -> None:
    """Fact 5: it is gone from pg_stat_activity, and listed with the time when it was prepared, not begun."""
    reader = HorizonReader("transaction")
    known = (await reader.read(reading)).us
    started = await begin(writing)
    await writing.execute("INSERT INTO t VALUES (1, now())")
    await passed(reading, started)
    await writing.execute("PREPARE TRANSACTION 'gid 1'")
    prepared = us(await reading.fetchval("SELECT prepared FROM pg_prepared_xacts WHERE gid = 'gid 1'"))
    assert prepared > started
    try:
        for _ in range(2):
            found = await reader.read(reading)
            assert found.us == known
            assert found.oldest is not None
            assert found.oldest.text.startswith("prepared transaction 'gid 1' (since 20")
        with pytest.raises(HorizonUnknown, match=r"'gid 1' .*when it began is not known: COMMIT PREPARED or"):
            await HorizonReader("transaction").read(reading)
    finally:
        await writing.execute("COMMIT PREPARED 'gid 1'")
    assert us(await reading.fetchval("SELECT at FROM t")) == started
    assert (await reader.read(reading)).us > started
    assert (await HorizonReader("transaction").read(reading)).us > started


async def test_prepared_transactions_one_after_another_let_it_go_on(
    reading: asyncpg.Connection, writing: asyncpg.Connection
) -> None:
    reader = HorizonReader("transaction")
    await reader.read(reading)
    for number in range(2):
        await writing.execute("BEGIN")
        await writing.execute(f"INSERT INTO t VALUES ({number}); PREPARE TRANSACTION 'chain {number}'")
        held = await reader.read(reading)
        if number:
            await writing.execute("COMMIT PREPARED 'chain 0'")
            freed = await reader.read(reading)
            assert freed.us >= held.us
            await writing.execute("COMMIT PREPARED 'chain 1'")
    assert (await reader.read(reading)).oldest is None


async def test_hidden_sessions_are_refused_until_they_may_be_seen(
    postgres: PostgresServer, postgres_url: str, writing: asyncpg.Connection
) -> None:
    """Fact 6, as a role without rights sees it."""
    database = postgres_url.rpartition("/")[2]
    postgres.psql(f"CREATE ROLE ours LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
    try:
        url = postgres.url_of(database, user="ours")
        async with connected(url, application_name="syncledger") as reading:
            for stamps in BOTH:
                with pytest.raises(HorizonUnknown, match=r"\(writer\) does is hidden .*: GRANT pg_read_all_stats to"):
                    await HorizonReader(stamps).read(reading)
            row = await reading.fetchrow(
                "SELECT query, state, xact_start FROM pg_stat_activity WHERE pid = $1", writing.get_server_pid()
            )
            assert tuple(row) == ("<insufficient privilege>", None, None)
            await writing.close()
            async with connected(postgres.url_of(database, user="ours")) as same_role:
                started = await begin(same_role)
                await passed(reading, started)
                assert (await HorizonReader("transaction").read(reading)).us == floored(started)
            postgres.psql("GRANT pg_read_all_stats TO ours")
            async with connected(postgres.url_of(database, user="app")) as other_role:
                started = await begin(other_role)
                await passed(reading, started)
                assert (await HorizonReader("transaction").read(reading)).us == floored(started)
    finally:
        postgres.psql("DROP ROLE ours; DROP ROLE app")


async def test_sessions_that_show_nothing_are_refused(postgres_url: str, reading: asyncpg.Connection) -> None:
    async with connected(postgres_url, track_activities="off") as silent:
        await begin(silent)
        with pytest.raises(HorizonUnknown, match=r"Session \d+ \(writer\) does not show .* set track_activities = on"):
            await HorizonReader("transaction").read(reading)
    async with connected(postgres_url, track_activities="off") as silent:
        with pytest.raises(HorizonUnknown, match=r"PostgreSQL does not show transactions"):
            await HorizonReader("transaction").read(silent)


async def test_a_replica_is_refused(postgres_server: PostgresServer) -> None:
    postgres_server.stop()
    (postgres_server.home / "data" / "standby.signal").touch()
    postgres_server.start()
    async with connected(postgres_server.url) as reading:
        with pytest.raises(HorizonUnknown, match="use the address of the primary"):
            await HorizonReader("transaction").read(reading)


class StubClock:
    """A connection to a database whose clock is set by the test; nothing else of it is asked."""

    def __init__(self) -> None:
        self.at = EPOCH + timedelta(days=20_000)

    def is_in_transaction(self) -> bool:
        return False

    async def fetchrow(self, query: str) -> dict[str, Any]:
        nothing = {"replica": False, "hidden": None, "state": None, "shown": "on", "since": None, "prepared": 0}
        return {"at": self.at, **nothing}


async def test_a_clock_set_back_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    clock, reader = StubClock(), HorizonReader("transaction")

    async def read(step_s: float) -> Horizon:
        clock.at += timedelta(seconds=step_s)
        return await reader.read(clock)

    with caplog.at_level(logging.ERROR):
        first = await read(0)
        await read(-0.9)
        assert not caplog.records, "the margin covers it"
        back = await read(-30)
        assert back.us < first.us
        await read(1)
    assert [record.getMessage()[:48] for record in caplog.records] == [
        "PostgreSQL's clock went back by 30.9 s: what is "
    ]


async def test_one_below_all_deletes_that_are_kept_is_refused_by_the_name_of_who_holds_it(
    reading: asyncpg.Connection, writing: asyncpg.Connection
) -> None:
    reader, kept_longer = HorizonReader("transaction", 2 * MARGIN_US), HorizonReader("transaction", 3600 * MARGIN_US)
    assert (await reader.read(reading)).oldest is None
    started = await begin(writing)
    await passed(reading, started + MARGIN_US)
    who = rf"process {writing.get_server_pid()} \(writer\), idle in transaction.* deletes are kept for 2 s"
    for _ in range(2):
        with pytest.raises(HorizonUnknown, match=who):
            await reader.read(reading)
    assert (await kept_longer.read(reading)).us == floored(started)
    await writing.execute("COMMIT")
    assert (await reader.read(reading)).us > started


@pytest.mark.parametrize(("ahead_s", "told"), [(-86_400, ""), (0, ""), (1799, ""), (1801, "1,801 s ahead")])
async def test_a_clock_by_which_all_deletes_seem_to_be_purged_is_refused(ahead_s: int, told: str) -> None:
    """Who set it ahead purged nothing; devices would start over for it."""
    clock = StubClock()
    ours_us = us(clock.at) - ahead_s * 1_000_000
    reader = HorizonReader("transaction", 3600 * 1_000_000, lambda: ours_us)
    if told:
        with pytest.raises(HorizonUnknown, match=told):
            await reader.read(clock)
    else:
        assert (await reader.read(clock)).us < us(clock.at)


@both
@pytest.mark.parametrize("readings", [20, pytest.param(60, marks=pytest.mark.soak)])
async def test_nothing_ever_appears_below_it(
    postgres_url: str, stamps: Literal["transaction", "clock"], readings: int
) -> None:
    """Writers commit out of order; whatever is below a horizon when it was read is all that ever is."""
    stamp = "now()" if stamps == "transaction" else "clock_timestamp()"
    async with contextlib.AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(connected(postgres_url)) for _ in range(6)]
        reading = await stack.enter_async_context(connected(postgres_url, application_name="syncledger"))
        await writers[0].execute("CREATE TABLE t (id bigserial, at timestamptz)")
        done = asyncio.Event()

        async def write(number: int) -> None:
            turn = 0
            while not done.is_set():
                turn += 1
                async with writers[number].transaction():
                    for _ in range(3):
                        await writers[number].execute(f"INSERT INTO t (at) SELECT {stamp} FROM generate_series(1, 20)")
                        await asyncio.sleep((number * turn) % 7 * 0.02)

        tasks = [asyncio.create_task(write(number)) for number in range(len(writers))]
        reader = HorizonReader(stamps)
        promised: list[tuple[int, int]] = []
        below = "SELECT count(*) FROM t WHERE at < $1"
        for _ in range(readings):
            horizon = (await reader.read(reading)).us
            promised.append((horizon, await reading.fetchval(below, EPOCH + timedelta(microseconds=horizon))))
            await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*tasks)
        for horizon, rows in promised:
            assert await reading.fetchval(below, EPOCH + timedelta(microseconds=horizon)) == rows
        assert promised[-1][1] > 100, "it was read past rows"


async def test_a_stream_of_replication_holds_nothing(postgres_server: PostgresServer, tmp_path: Path) -> None:
    postgres_server.stop()
    with (postgres_server.home / "data" / "postgresql.auto.conf").open("a") as settings:
        settings.write("wal_level = logical\n")
    postgres_server.start()
    postgres_server.psql("SELECT pg_create_logical_replication_slot('slot', 'test_decoding')")
    receiver = Path(postgres_server.binaries.psql).with_name("pg_recvlogical")
    streaming = await asyncio.create_subprocess_exec(
        *(str(receiver), "-h", str(postgres_server.home), "-p", str(postgres_server.port), "-U", "postgres"),
        *("-d", "postgres", "--slot", "slot", "--start", "-f", str(tmp_path / "received")),
    )
    try:
        async with connected(postgres_server.url, application_name="syncledger") as reading:
            asking = "SELECT query_start FROM pg_stat_activity WHERE query LIKE 'START_REPLICATION%'"
            for _ in range(1000):
                if (began := await reading.fetchval(asking)) is not None:
                    break
                await asyncio.sleep(0.01)
            await passed(reading, us(began))
            for stamps in BOTH:
                assert (await HorizonReader(stamps).read(reading)).oldest is None
    finally:
        streaming.kill()
        await streaming.wait()
