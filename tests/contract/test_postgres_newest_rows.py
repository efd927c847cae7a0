"""What a look at the newest rows rules out, what it is sure of, and when it does not know."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from ledger.positions import Position
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.newest_rows import NewestRows

ANN, BOB = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))
T_MS = 1_700_000_000_000
LATER_US = (T_MS + 1000) * 1000

SCHEMA = """
CREATE TABLE stack (id uuid PRIMARY KEY, owner uuid, "updateId" uuid);
CREATE INDEX ON stack ("updateId");
CREATE TABLE gone (id uuid PRIMARY KEY, owner uuid, at timestamptz);
CREATE TABLE share (by uuid, with_ uuid, "createId" uuid);
CREATE INDEX ON share ("createId");
"""
MAPPING = read_mapping(
    """
[payloads.stack]
id = 's.id'
ownerId = 's.owner'
primaryAssetId = 's.id'
createdAt = 'now()'
updatedAt = 'now()'
[[entities.StackV1]]
payload = "stack"
from = 'stack s'
where = 's.owner = :library'
uuid7 = 's."updateId"'
[[entities.StackDeleteV1]]
data = { stackId = 'g.id' }
from = 'gone g'
where = 'g.owner = :library'
updated_at = 'g.at'
id = 'g.id'
[[entities.PartnerStackBackfillV1]]
payload = "stack"
from = 'stack s'
where = 's.owner = p.by'
uuid7 = 's."updateId"'
[entities.PartnerStackBackfillV1.each]
from = 'share p'
where = 'p.with_ = :library'
uuid7 = 'p."createId"'
[[entities.PartnerStackV1]]
payload = "stack"
from = 'stack s'
where = 's.owner <> :library'
uuid7 = 'coalesce(s."updateId")'
""",
    "news",
)


def uuid7(ms: int, rest: int = 0) -> str:
    digits = f"{ms:012x}7{0:03x}8{rest:015x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def at(ms: int, rest: int | None = None) -> Position:
    return Position(ms * 1000, "" if rest is None else uuid7(ms, rest))


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(postgres_url)
    await opened.execute(SCHEMA)
    await opened.execute(f"INSERT INTO stack VALUES (gen_random_uuid(), '{ANN}', '{uuid7(T_MS, 5)}')")
    await opened.execute("ANALYZE")
    yield opened
    await opened.close()


@pytest.fixture
async def news(connection: asyncpg.Connection) -> NewestRows:
    """A look that was taken when the horizon was LATER_US."""
    found = NewestRows(MAPPING)
    found.passed(LATER_US)
    await found.look(connection)
    return found


async def test_nothing_behind_the_newest_row_is_ruled_out(news: NewestRows) -> None:
    for position, may in (
        (None, True),
        (at(T_MS - 1), True),
        (at(T_MS, 4), True),
        (at(T_MS, 5), False),
        (at(T_MS), False),
    ):
        assert news.may_have("StackV1", position, LATER_US) is may


async def test_an_empty_table_has_nothing(news: NewestRows) -> None:
    assert not news.may_have("StackDeleteV1", None, LATER_US)
    assert not news.may_have("PartnerStackBackfillV1", None, LATER_US)


async def test_whose_the_newest_row_is_is_known_below_the_snapshot(news: NewestRows) -> None:
    assert news.has("StackV1", ANN, None, LATER_US)
    assert news.has("StackV1", ANN, at(T_MS, 4), LATER_US)
    assert not news.has("StackV1", BOB, None, LATER_US)
    assert not news.has("StackV1", ANN, at(T_MS, 5), LATER_US)
    assert not news.has("StackV1", ANN, None, T_MS * 1000)  # it stands at the snapshot, not below
    assert not news.has("StackDeleteV1", ANN, None, LATER_US)


async def test_a_row_is_of_the_library_that_its_own_branch_names(connection: asyncpg.Connection) -> None:
    other = read_mapping(
        """
[payloads.stack]
id = 's.id'
ownerId = 's.owner'
primaryAssetId = 's.id'
createdAt = 'now()'
updatedAt = 'now()'
[[entities.StackV1]]
payload = "stack"
from = 'stack s'
where = 's.owner = :library'
uuid7 = 's."updateId"'
[[entities.PartnerStackV1]]
payload = "stack"
from = 'stack s'
where = 's.id = :library'
uuid7 = 's."updateId"'
""",
        "two",
    )
    news = NewestRows(other)
    news.passed(LATER_US)
    await news.look(connection)
    found = {name: news.has(name, ANN, None, LATER_US) for name in ("StackV1", "PartnerStackV1")}
    assert found == {"StackV1": True, "PartnerStackV1": False}
    assert not news.has("StackV1", "None", None, LATER_US)


async def test_a_later_snapshot_needs_a_later_look(news: NewestRows, connection: asyncpg.Connection) -> None:
    assert news.is_known(LATER_US)
    news.passed(LATER_US + 5000)
    assert not news.is_known(LATER_US + 5000)
    assert news.may_have("StackDeleteV1", None, LATER_US + 5000)
    await connection.execute(f"INSERT INTO gone VALUES (gen_random_uuid(), '{ANN}', to_timestamp({T_MS} / 1000.0))")
    assert not news.may_have("StackDeleteV1", None, LATER_US)
    await news.look(connection)
    assert news.may_have("StackDeleteV1", at(T_MS, 1), LATER_US + 5000)
    assert not news.may_have("StackDeleteV1", at(T_MS + 1), LATER_US + 5000)


async def test_what_is_no_horizon_is_not_known_and_needs_no_look(news: NewestRows) -> None:
    assert news.is_known(2**53)
    assert news.may_have("StackDeleteV1", None, 2**53)
    assert not news.has("StackV1", ANN, None, 2**53)


async def test_rows_of_the_newest_share_may_be_left(news: NewestRows, connection: asyncpg.Connection) -> None:
    await connection.execute(f"INSERT INTO share VALUES ('{BOB}', '{ANN}', '{uuid7(T_MS, 9)}')")
    news.passed(LATER_US + 1000)
    await news.look(connection)
    within = Position(T_MS * 1000, f"{uuid7(T_MS, 9)}:{uuid7(T_MS - 5, 1)}")
    assert news.may_have("PartnerStackBackfillV1", within, LATER_US)
    assert not news.may_have("PartnerStackBackfillV1", at(T_MS + 1), LATER_US)


async def test_an_order_that_is_more_than_a_column_is_always_asked_about(news: NewestRows) -> None:
    assert news.may_have("PartnerStackV1", at(T_MS + 500), LATER_US)
    assert not news.has("PartnerStackV1", BOB, None, LATER_US)


async def test_a_large_table_without_an_index_is_always_asked_about(connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO gone SELECT gen_random_uuid() FROM generate_series(1, 10500); ANALYZE gone")
    news = NewestRows(MAPPING)
    news.passed(LATER_US)
    await news.look(connection)
    assert news.may_have("StackDeleteV1", at(T_MS), LATER_US)
    await connection.execute("CREATE INDEX ON gone (at)")
    news = NewestRows(MAPPING)
    news.passed(LATER_US)
    await news.look(connection)
    assert not news.may_have("StackDeleteV1", at(T_MS), LATER_US)


async def test_a_look_that_began_before_a_horizon_does_not_answer_for_it(connection: asyncpg.Connection) -> None:
    class Slow:
        """A connection during whose look another stream reads a later horizon."""

        async def fetch(self, sql: str, *values: object) -> object:
            return await connection.fetch(sql, *values)

        async def fetchrow(self, sql: str) -> object:
            found = await connection.fetchrow(sql)
            looked.passed(LATER_US + 9000)
            return found

    looked = NewestRows(MAPPING)
    looked.passed(LATER_US)
    await looked.look(Slow())
    assert looked.is_known(LATER_US)
    assert not looked.is_known(LATER_US + 9000)
