"""What our role needs in Immich's database, what is too much, and that the statements printed are enough."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count

import asyncpg
import pytest

from projections.entities.postgres.check.check import check
from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.source_check import Problem
from projections.immich.grants import grant_problems
from projections.immich.tables import ImmichSession, ImmichTables
from tests.immich.database import SCHEMA
from tests.support.stores.postgres_server import PASSWORD, PostgresServer

NOBODY = "00000000-0000-4000-8000-000000000001"
MAPPING = load_mapping("immich")
_roles = count(1)


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[str]:
    """The name of a database with Immich's schema, and what of its secrets a sync needs nothing of."""
    url = postgres.create_database()
    name = url.rpartition("/")[2]
    postgres.psql(SCHEMA.read_text(), name)
    postgres.psql("CREATE TABLE system_metadata (key varchar PRIMARY KEY, value jsonb NOT NULL)", name)
    yield name
    postgres.drop_database(url)


@pytest.fixture
def role(postgres: PostgresServer, database: str) -> Iterator[str]:
    """A role that may do nothing yet."""
    role = f"ledger_{next(_roles)}"
    postgres.psql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'", database)
    yield role
    postgres.psql(f"DROP OWNED BY {role}; DROP ROLE {role}", database)


@pytest.fixture
async def pool(postgres: PostgresServer, database: str, role: str) -> AsyncIterator[Postgres]:
    """The service's connections as that role."""
    opened = await Postgres.open(postgres.url_of(database, user=role), size=2, wait_s=5, statement_timeout_s=10)
    yield opened
    await opened.close()


def of_weight(problems: list[Problem], weight: str) -> set[str]:
    """Name the columns of the problems of one weight, or what they say where they are about none."""
    return {f"{each.table}.{each.column}" if each.column else each.says for each in problems if each.weight == weight}


async def test_the_statements_printed_give_a_role_all_it_needs_and_no_more(
    postgres: PostgresServer, database: str, role: str, pool: Postgres
) -> None:
    first, *others = await grant_problems(pool, MAPPING)
    assert {"session.token", "api_key.key", "user.id", "session_sync_checkpoint.ack", "asset.ownerId"} <= of_weight(
        [first, *others], "problem"
    )
    assert not {"session.oauthBearerToken", "user.password"} & of_weight([first, *others], "problem")
    assert [each.index for each in others] == [""] * len(others)
    assert "ALTER DEFAULT PRIVILEGES" in first.index
    postgres.psql(first.index, database)

    assert await grant_problems(pool, MAPPING) == []
    report = await check(pool, MAPPING)
    assert [problem for problem in report.problems if problem.weight == "problem"] == []
    tables = ImmichTables(pool)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _read(pool, 'SELECT "oauthBearerToken" FROM session')
    postgres.psql("INSERT INTO cluster_group DEFAULT VALUES", database)
    postgres.psql('INSERT INTO "user" (email, "clusterGroupId") SELECT $$a@b$$, id FROM cluster_group', database)
    looked = await tables.sessions([b"\0" * 32])
    assert (looked.sessions, looked.touches, looked.clears) == ({}, True, True)
    assert await tables.user_of("a@b") == str(await _value(pool, 'SELECT id FROM "user"'))
    assert await tables.user_of("c@b") is None
    await tables.touch([NOBODY])
    assert await tables.permissions([b"\0" * 32]) == {}
    nobody = ImmichSession(b"", NOBODY, NOBODY, None, 0, None, False, "", "", "", False, NOBODY, 0, 0)
    assert (await tables.stand(nobody, 7)) == (nobody, 7, (), (), ())
    assert (await tables.sanity()).wrong == "it has no sessions"
    postgres.psql("CREATE TABLE of_an_update (id int)", database)
    await _read(pool, "SELECT id FROM of_an_update")
    postgres.psql("DROP TABLE of_an_update", database)


async def _value(pool: Postgres, sql: str) -> object:
    return await pool.ask(lambda connection: connection.fetchval(sql))


async def _read(pool: Postgres, sql: str) -> None:
    connection = await pool._pool.acquire()
    try:
        await connection.fetch(sql)
    finally:
        await pool._pool.release(connection)


@pytest.mark.parametrize(
    ("granted", "warned", "noted"),
    [
        (
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
            {"session.oauthBearerToken", "user.password", "system_metadata.value"},
            {"session.isPendingSyncReset", "session.updatedAt"},
        ),
        (
            "GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}",
            {
                "session.oauthBearerToken", "user.password", "system_metadata.value",
                "{role} may write more than it needs to (album.id)",
            },
            set[str](),
        ),
        (
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; GRANT DELETE ON asset TO {role}",
            {
                "session.oauthBearerToken", "user.password", "system_metadata.value",
                "{role} may write more than it needs to (whole tables)",
            },
            {"session.isPendingSyncReset", "session.updatedAt"},
        ),
    ],
)  # fmt: skip
async def test_what_a_role_may_do_beyond_its_needs_is_warned_of(
    postgres: PostgresServer, database: str, role: str, pool: Postgres, granted: str, warned: set[str], noted: set[str]
) -> None:
    postgres.psql(granted.format(role=role), database)
    problems = await grant_problems(pool, MAPPING)
    assert of_weight(problems, "problem") == set()
    assert of_weight(problems, "warning") == {text.format(role=role) for text in warned}
    assert of_weight(problems, "note") == noted
    postgres.psql(problems[0].index, database)
    assert await grant_problems(pool, MAPPING) == []


async def test_a_superuser_is_told_to_make_a_role(postgres: PostgresServer, database: str) -> None:
    pool = await Postgres.open(postgres.url_of(database), size=1, wait_s=5, statement_timeout_s=10)
    try:
        (problem,) = await grant_problems(pool, MAPPING)
    finally:
        await pool.close()
    assert (problem.weight, "superuser" in problem.says) == ("warning", True)
    assert problem.index.startswith("CREATE ROLE ledger LOGIN PASSWORD '…';")


async def test_what_is_not_immichs_database_is_told(postgres_url: str) -> None:
    pool = await Postgres.open(postgres_url, size=1, wait_s=5, statement_timeout_s=10)
    try:
        problems = await grant_problems(pool, MAPPING)
    finally:
        await pool.close()
    missing = {problem.table for problem in problems if problem.weight == "problem"}
    assert {"session", "user", "api_key", "session_sync_checkpoint", "version_history"} <= missing
