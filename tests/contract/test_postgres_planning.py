"""For what statements are planned: a connection is told when that changes, and by nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from projections.entities.postgres.pool import Postgres


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[Postgres]:
    opened = await Postgres.open(postgres_url, size=1, wait_s=5, statement_timeout_s=10)
    yield opened
    await opened.close()


async def test_a_connection_keeps_how_it_plans_until_it_is_told_otherwise(pool: Postgres) -> None:
    for wanted, mode in ((False, "auto"), (True, "force_custom_plan"), (True, "force_custom_plan"), (False, "auto")):
        async with pool.connection() as connection:
            await connection.plan_for_values(wanted)
            assert await connection.fetchval("SHOW plan_cache_mode") == mode
    async with pool.connection() as connection:
        assert await connection.fetchval("SHOW plan_cache_mode") == "auto"
