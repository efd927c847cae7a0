"""What a check of a PostgreSQL source finds: wrong names and types, rows that break the rules, a horizon held back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from projections.entities.postgres.check.check import check, check_schema
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.mapping.mapping import Mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.source_check import Problem

SCHEMA = """
CREATE TYPE memory_kind AS ENUM ('on_this_day', 'trip');
CREATE FUNCTION uuid7(at timestamptz DEFAULT clock_timestamp()) RETURNS uuid LANGUAGE sql VOLATILE AS $$
  SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000a' ||
          substr(replace(gen_random_uuid()::text, '-', ''), 18))::uuid $$;
CREATE TABLE owner (id uuid PRIMARY KEY, name text);
CREATE TABLE stack (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner uuid NOT NULL, cover uuid, pile int, sha bytea,
  created timestamptz NOT NULL DEFAULT now(), "updateId" uuid DEFAULT uuid7()
);
CREATE TABLE stack_gone (marker uuid DEFAULT uuid7(), "stackId" text, owner uuid, at timestamptz DEFAULT now());
CREATE TABLE memory (id uuid, kind memory_kind, owner uuid, at timestamptz);
"""
USER = "00000000-0000-4000-8000-000000000001"

STACKS = {
    "from": "'stack s'",
    "where": "'s.owner = :library'",
    "uuid7": "'s.\"updateId\"'",
    "id": "'s.id'",
    "ownerId": "'s.owner'",
    "primaryAssetId": "'s.cover'",
    "createdAt": "'s.created'",
    "updatedAt": "'s.created'",
}


def stacks(**changed: str) -> str:
    """The mapping of StackV1, with some of its pieces changed."""
    piece = STACKS | {key: f"'{sql}'" for key, sql in changed.items()}
    data = ", ".join(f"{key} = {piece[key]}" for key in ("id", "ownerId", "primaryAssetId", "createdAt", "updatedAt"))
    return (
        f"[[entities.StackV1]]\nfrom = {piece['from']}\nwhere = {piece['where']}\nuuid7 = {piece['uuid7']}\n"
        f"data = {{ {data} }}\n"
    )


MARKERS = """
[[entities.StackDeleteV1]]
from = 'stack_gone g'
where = 'g.owner = :library'
updated_at = 'g.at'
id = 'g."stackId"'
data = { stackId = 'g."stackId"' }
"""


def mapping(text: str) -> Mapping:
    return read_mapping(text, "test.toml")


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the owner's to a database with the schema above."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(SCHEMA)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[Postgres]:
    """The service's pool to that database."""
    opened = await Postgres.open(postgres_url, size=2, wait_s=5, statement_timeout_s=10)
    yield opened
    await opened.close()


def told(problems: list[Problem], weight: str = "problem") -> list[tuple[str, str, str]]:
    return [(found.place, found.table, found.column) for found in problems if found.weight == weight]


async def test_a_mapping_that_fits_has_no_problems(database: asyncpg.Connection, pool: Postgres) -> None:
    assert await check_schema(pool, mapping(stacks() + MARKERS)) == []


@pytest.mark.parametrize(
    ("changed", "place", "table", "column", "says"),
    [
        ({"from": "stak s"}, "from", "stak", "", "does not exist"),
        ({"where": "s.library = :library"}, "where", "stack", "library", "does not exist"),
        ({"where": "s.created = :library"}, "where", "stack", "created", "operator does not exist"),
        ({"uuid7": 's."updateID"'}, "uuid7", "stack", "updateID", "Perhaps you meant"),
        ({"uuid7": "s.created"}, "uuid7", "stack", "created", "timestamptz"),
        ({"id": "s.no"}, "data.id", "stack", "no", "does not exist"),
        ({"id": "t.id"}, "data.id", "t", "", "missing FROM-clause"),
        ({"primaryAssetId": "s.sha"}, "data.primaryAssetId", "stack", "sha", "bytea"),
        ({"createdAt": "s.pile"}, "data.createdAt", "stack", "pile", "a device reads a time"),
        ({"updatedAt": "null"}, "data.updatedAt", "", "", "needs a value"),
        ({"id": "nothing(s.id)"}, "data.id", "stack", "id", "function nothing(uuid) does not exist"),
    ],
)
async def test_what_the_database_has_not_got_is_named(
    database: asyncpg.Connection, pool: Postgres, changed: dict[str, str], place: str, table: str, column: str,
    says: str,
) -> None:  # fmt: skip
    (found,) = await check_schema(pool, mapping(stacks(**changed) + MARKERS))
    assert (found.weight, found.entity_type) == ("problem", "StackV1")
    assert (found.place, found.table, found.column) == (f"entities.StackV1[0].{place}", table, column)
    assert says in found.says


async def test_all_that_is_wrong_is_told_at_once(database: asyncpg.Connection, pool: Postgres) -> None:
    broken = mapping(stacks(id="s.no", ownerId="s.nobody") + MARKERS.replace("stack_gone g", "stack_went g"))
    found = told(await check_schema(pool, broken))
    assert found == [
        ("entities.StackV1[0].data.id", "stack", "no"),
        ("entities.StackV1[0].data.ownerId", "stack", "nobody"),
        ("entities.StackDeleteV1[0].from", "stack_went", ""),
    ]


async def test_what_may_not_be_read_is_named(database: asyncpg.Connection, postgres_url: str) -> None:
    await database.execute(
        "CREATE ROLE reader LOGIN PASSWORD 'r'; GRANT SELECT ON stack TO reader; REVOKE ALL ON stack_gone FROM PUBLIC"
    )
    pool = await Postgres.open(
        postgres_url.replace("postgres:only-for-tests@", "reader:r@"), size=1, wait_s=5, statement_timeout_s=10
    )
    try:
        (found,) = await check_schema(pool, mapping(stacks() + MARKERS))
        assert (found.entity_type, found.table) == ("StackDeleteV1", "stack_gone")
        assert "permission denied" in found.says
        report = await check(pool, mapping(stacks()))
    finally:
        await pool.close()
        await database.execute("DROP OWNED BY reader; DROP ROLE reader")
    assert any("GRANT pg_read_all_stats" in problem.says for problem in report.problems)


async def test_values_no_device_knows_are_a_warning(database: asyncpg.Connection, pool: Postgres) -> None:
    memories = """
[[entities.MemoryV1]]
from = 'memory m'
where = 'm.owner = :library'
updated_at = 'm.at'
id = 'm.id'
[entities.MemoryV1.data]
id = 'm.id'
ownerId = 'm.owner'
type = 'm.kind'
createdAt = 'm.at'
updatedAt = 'm.at'
deletedAt = 'null'
isSaved = 'true'
memoryAt = 'm.at'
seenAt = 'null'
showAt = 'null'
hideAt = 'null'
data = "'{}'::jsonb"
"""
    found = await check_schema(pool, mapping(memories))
    assert [(each.weight, each.table, each.column) for each in found] == [("warning", "memory", "kind")]
    assert "can be trip" in found[0].says


async def test_rows_that_break_the_rules_are_counted(database: asyncpg.Connection, pool: Postgres) -> None:
    await database.execute(
        f"INSERT INTO stack (owner, cover) SELECT '{USER}', gen_random_uuid() FROM generate_series(1, 5)"
    )
    assert told((await check(pool, mapping(stacks() + MARKERS))).problems) == []
    await database.execute(f"""
        INSERT INTO stack (owner, cover) VALUES ('{USER}', NULL);
        INSERT INTO stack (owner, cover, "updateId") SELECT '{USER}', id, id FROM gen_random_uuid() id;
        INSERT INTO stack (owner, cover, "updateId") VALUES ('{USER}', gen_random_uuid(), NULL);
        INSERT INTO stack (owner, cover, "updateId") VALUES ('{USER}', '{USER}', uuid7(now() + interval '1 day'));
        INSERT INTO stack_gone ("stackId", at) VALUES ('a|b', '2020-01-01'), ('a|b', '2020-01-01'), ('c', NULL);
    """)  # fmt: skip
    problems = (await check(pool, mapping(stacks() + MARKERS))).problems
    says = {(each.weight, each.column, each.says) for each in problems}
    assert ("problem", "updateId", "is null (such a row is never sent) in 1 of the first 9 rows") in says
    assert any(
        weight == "problem" and "no UUID of version 7" in text and "1 of the first 9" in text
        for weight, _, text in says
    )
    assert any(weight == "warning" and "in the future" in text for weight, _, text in says)
    assert any(
        weight == "warning" and column == "cover" and "1 of the first 9" in text for weight, column, text in says
    )
    assert any(
        weight == "problem" and column == "stackId" and "2 of the first 3" in text for weight, column, text in says
    )
    assert any(weight == "problem" and "same place" in text and "1 of the first 3" in text for weight, _, text in says)


async def test_who_holds_the_horizon_back_is_named(
    database: asyncpg.Connection, pool: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.entities.postgres.check.check.LATE_US", 0)
    await database.execute("SET application_name = 'a long import'")
    async with database.transaction():
        await database.execute("CREATE TABLE made_meanwhile ()")
        await database.execute("SELECT pg_sleep(1.2)")
        report = await check(pool, mapping(stacks()))
    assert "a long import" in report.facts["horizon"]
    (late,) = (found for found in report.problems if "devices see nothing" in found.says)
    assert "a long import" in late.says
    assert report.ok


async def test_a_prepared_transaction_is_a_problem(database: asyncpg.Connection, pool: Postgres) -> None:
    await database.execute("BEGIN; CREATE TABLE later (); PREPARE TRANSACTION 'left behind'")
    try:
        report = await check(pool, mapping(stacks()))
    finally:
        await database.execute("ROLLBACK PREPARED 'left behind'")
    assert not report.ok
    assert any("left behind" in problem.says for problem in report.problems)


async def test_a_server_that_is_down_is_a_problem() -> None:
    pool = await Postgres.open("postgresql://u:very-secret@127.0.0.1:1/none", size=1, wait_s=2, statement_timeout_s=2)
    report = await check(pool, mapping(stacks()))
    await pool.close()
    (found,) = report.problems
    assert not report.ok
    assert "cannot be reached" in found.says
    assert "very-secret" not in repr(report)


async def test_the_index_that_a_page_needs_is_printed_and_helps(database: asyncpg.Connection, pool: Postgres) -> None:
    await database.execute(f"""
        INSERT INTO stack (owner, cover, created) SELECT CASE WHEN n % 20 = 0 THEN gen_random_uuid() ELSE '{USER}' END,
            gen_random_uuid(), now() - n * interval '1 s' FROM generate_series(1, 20000) n;
        INSERT INTO stack_gone ("stackId", owner, at) SELECT n, '{USER}', now() - n * interval '1 s'
            FROM generate_series(1, 20000) n;
        ANALYZE
    """)
    fits = mapping(stacks() + MARKERS)
    problems = (await check(pool, fits)).problems
    indexes = {(found.weight, found.entity_type, found.table, found.index) for found in problems}
    stack_index = 'CREATE INDEX CONCURRENTLY ON stack ("owner", "updateId");'
    gone_index = 'CREATE INDEX CONCURRENTLY ON stack_gone ("owner", "at", "stackId" COLLATE "C");'
    assert indexes == {
        ("problem", "StackV1", "stack", stack_index),
        ("problem", "StackDeleteV1", "stack_gone", gone_index),
    }
    for _, _, _, index in indexes:
        await database.execute(index)
    await database.execute("VACUUM ANALYZE")
    assert (await check(pool, fits)).problems == []


async def test_an_index_that_passes_over_other_libraries_is_a_warning(
    database: asyncpg.Connection, pool: Postgres
) -> None:
    await database.execute("""
        INSERT INTO stack (owner, cover) SELECT id_of, id_of FROM generate_series(1, 20000) n,
            LATERAL (SELECT ('00000000-0000-4000-8000-' || lpad((n % 3)::text, 12, '0'))::uuid) o (id_of);
        CREATE INDEX ON stack ("updateId"); ANALYZE
    """)
    (found,) = (await check(pool, mapping(stacks()))).problems
    assert (found.weight, found.index) == ("warning", 'CREATE INDEX CONCURRENTLY ON stack ("owner", "updateId");')
    assert "20,000 rows of all libraries" in found.says


async def test_tables_that_were_never_analyzed_are_told(database: asyncpg.Connection, pool: Postgres) -> None:
    async def told() -> list[tuple[str, str]]:
        problems = (await check(pool, mapping(stacks() + MARKERS))).problems
        return [(found.weight, found.table) for found in problems if "ANALYZE" in found.says]

    assert await told() == [], "there is nothing to plan for in an empty table"
    await database.execute(f"""
        INSERT INTO stack (owner, cover) VALUES ('{USER}', '{USER}');
        INSERT INTO stack_gone ("stackId", owner, at) VALUES (1, '{USER}', now())
    """)
    assert await told() == [("warning", "stack"), ("warning", "stack_gone")]


async def test_a_column_that_each_poll_would_read_whole_is_a_warning(
    database: asyncpg.Connection, pool: Postgres
) -> None:
    await database.execute("INSERT INTO stack (owner, cover) SELECT id, id FROM generate_series(1, 2000), uuid7() id")
    await database.execute("ANALYZE")
    (found,) = (await check(pool, mapping(stacks()))).problems
    assert (found.weight, found.table, found.column) == ("warning", "stack", "updateId")
    assert found.index == 'CREATE INDEX CONCURRENTLY ON stack ("updateId");'
    await database.execute(found.index)
    assert (await check(pool, mapping(stacks()))).problems == []
