"""A library behind PgBouncer that shares connections by transactions: with `?pgbouncer=true` all works as without."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from ledger.errors import LedgerError
from projections.entities.lines import position_of
from projections.entities.postgres.check.check import check
from projections.entities.postgres.identity import IdentityReader
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.pool import PRINTING, Postgres
from projections.entities.postgres.source import PostgresSource
from projections.entities.source import SourceUnavailable
from tests.support.sources.photo_database import MAPPING, PhotoDatabase
from tests.support.stores.pgbouncer import PgBouncer
from tests.support.stores.postgres_server import PostgresServer

LIBRARY = "lib"
EVER = 2**52


@pytest.fixture(scope="module")
def bouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    if shutil.which("pgbouncer") is None and shutil.which("pgbouncer", path="/usr/sbin") is None:
        pytest.skip("PgBouncer is not installed")
    with PgBouncer(postgres) as running:
        yield running


@pytest.fixture
async def pooled(bouncer: PgBouncer, postgres_url: str) -> AsyncIterator[Postgres]:
    """A pool of more connections than PgBouncer has to the server."""
    url = bouncer.url_of(postgres_url) + "?pgbouncer=true"
    opened = await Postgres.open(url, size=6, wait_s=10, statement_timeout_s=10)
    yield opened
    await opened.close()


async def test_a_library_is_read_by_connections_that_others_share(postgres_url: str, pooled: Postgres) -> None:
    photos = await PhotoDatabase.build(postgres_url)
    for number in range(40):
        await photos.put_photo(LIBRARY, f"p{number:02}")
    await photos.put_album(LIBRARY, "b")
    await photos.link(LIBRARY, "b", "p01")
    await photos.settle()
    source = PostgresSource(pooled, read_mapping(MAPPING, "photos.toml"))

    async def sync() -> list[str]:
        horizon_us = await source.horizon(LIBRARY)
        types = dict.fromkeys(("AssetV2", "AlbumV2", "AlbumToAssetV1"))
        assert await source.changed(LIBRARY, types, horizon_us) == frozenset(types)
        pages = []
        for name in types:
            pages += [page async for page in source.pages(LIBRARY, name, None, horizon_us, 7)]
        return [position_of(line).id for page in pages for line in page.lines]

    alone = await sync()
    assert len(alone) == 42
    assert await asyncio.gather(*(sync() for _ in range(12))) == [alone] * 12
    report = await check(pooled, read_mapping(MAPPING, "photos.toml"))
    assert [problem.says for problem in report.problems if problem.weight == "problem"] == []
    await photos.close()


async def test_each_use_prints_as_wanted_and_only_reads(postgres_url: str, pooled: Postgres) -> None:
    names = [*PRINTING, "jit", "statement_timeout", "transaction_read_only"]
    async with pooled.connection() as connection:
        found = {name: await connection.fetchval("SELECT current_setting($1)", name) for name in names}
    assert found == {**PRINTING, "jit": "off", "statement_timeout": "10s", "transaction_read_only": "on"}
    with pytest.raises(SourceUnavailable, match="read-only"):
        async with pooled.connection() as connection:
            await connection.execute("CREATE TABLE t (id int)")
    async with pooled.connection(writes=True) as connection:
        await connection.execute("CREATE TABLE t (id int)")
    plain = await asyncpg.connect(postgres_url)
    assert await plain.fetchval("SELECT to_regclass('t')::text") == "t"
    await plain.close()


async def test_what_a_role_is_not_told_is_found_out_within_one_transaction(pooled: Postgres) -> None:
    reader = IdentityReader(read_mapping(MAPPING, "photos.toml"))
    reader._asked["system"] = "(SELECT 1 FROM nowhere)"
    found = await pooled.ask(reader.read)
    assert (reader.left_out, found.system != "") == ([], True)


async def test_who_writes_by_a_connection_of_ours_holds_the_horizon(
    bouncer: PgBouncer, postgres_url: str, pooled: Postgres
) -> None:
    mapping = read_mapping(MAPPING.replace('stamps = "clock"', 'stamps = "transaction"'), "photos.toml")
    source = PostgresSource(pooled, mapping)
    await source.horizon(LIBRARY)  # names the connections to the server as ours
    writer = await asyncpg.connect(
        bouncer.url_of(postgres_url), statement_cache_size=0, server_settings={"application_name": "syncledger"}
    )
    await writer.execute("BEGIN; SELECT now()")
    began_us = round((await writer.fetchval("SELECT now()")).timestamp() * 1_000_000)
    await asyncio.sleep(1.2)
    assert await source.horizon(LIBRARY) <= began_us
    await writer.execute("ROLLBACK")
    await writer.close()


@pytest.mark.parametrize("query", ["", "?statement_cache_size=0"])
async def test_without_the_parameter_it_is_told_what_to_add(bouncer: PgBouncer, postgres_url: str, query: str) -> None:
    opened = await Postgres.open(bouncer.url_of(postgres_url) + query, size=1, wait_s=5, statement_timeout_s=5)
    with pytest.raises(LedgerError, match=r"unsupported startup parameter: .*; .*add \?pgbouncer=true"):
        await opened.ask(lambda connection: connection.fetchval("SELECT 1"))
    await opened.close()
