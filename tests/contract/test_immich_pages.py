"""Pages of Immich's own database while it changes: what moves in the order must come all the same, and only once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from projections.entities.lines import data_of
from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from tests.immich.database import ImmichDatabase
from tests.support.sources.near_horizon import near_horizon
from tests.support.stores.postgres_server import PostgresServer

__all__ = ["near_horizon"]

pytestmark = pytest.mark.usefixtures("near_horizon")

ROWS = 2
"""A page's; a statement brings a few pages."""
MANY = 40


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[ImmichDatabase]:
    """A database for each test: users are everybody's."""
    url = postgres.create_database()
    with ImmichDatabase(url) as database:
        yield database.build()
    postgres.drop_database(url)


def ids_in_pages(
    database: ImmichDatabase, user: UUID, entity_type: str, field: str, change: Callable[[], None]
) -> list[str]:
    """Read an entity type in small pages, changing the database behind each of the first few; lists a field."""
    database.settle()

    async def read() -> list[str]:
        postgres = await Postgres.open(database.url, size=2, wait_s=5, statement_timeout_s=30)
        try:
            source = PostgresSource(postgres, load_mapping("immich"))
            horizon_us = await source.horizon(str(user))
            ids, pages = [], 0
            async for page in source.pages(str(user), entity_type, None, horizon_us, ROWS):
                ids += [json.loads(data_of(line))[field] for line in page.lines]
                pages += 1
                if pages == MANY // 4:  # by now it is decided which parts of the order have rows left
                    await asyncio.to_thread(change)
            assert pages >= MANY // ROWS
            return ids
        finally:
            await postgres.close()

    return asyncio.run(read())


def test_a_user_who_changes_while_users_are_sent_is_among_them(database: ImmichDatabase) -> None:
    users = [database.user(f"user-{number}") for number in range(MANY)]
    last = max(database.fetch('SELECT id, "updateId" FROM "user"'), key=lambda row: row["updateId"].int)["id"]
    sent = ids_in_pages(database, users[0], "UserV1", "id", lambda: database.update("user", last, avatarColor="red"))
    assert sorted(sent) == sorted(map(str, users))


def test_users_made_at_once_are_all_sent_while_one_changes(database: ImmichDatabase) -> None:
    database.execute(
        f"""INSERT INTO cluster_group (name) VALUES ('all'); INSERT INTO "user" (name, email, "clusterGroupId")
        SELECT '', n, (SELECT id FROM cluster_group) FROM generate_series(1, {MANY}) n, pg_sleep(0.005)"""
    )
    users = database.fetch('SELECT id, "updateId", "createdAt" FROM "user"')
    assert len({row["createdAt"] for row in users}) == 1
    last = max(users, key=lambda row: row["updateId"].int)["id"]
    sent = ids_in_pages(database, last, "UserV1", "id", lambda: database.update("user", last, avatarColor="red"))
    assert sorted(sent) == sorted(str(row["id"]) for row in users)


def test_a_memory_of_what_another_share_still_shows_is_sent(database: ImmichDatabase) -> None:
    ann, bob = database.user("ann"), database.user("bob")
    shown = database.asset(bob)
    memory = database.memory(ann, [database.asset(ann) for _ in range(MANY)])
    album = database.album(bob, assets=[shown])
    database.insert("memory_asset", memoriesId=memory, assetId=shown)
    database.partner(bob, ann)
    database.share(album, ann)
    sent = ids_in_pages(
        database,
        ann,
        "MemoryToAssetV1",
        "assetId",
        lambda: database.delete("partner", sharedById=bob, sharedWithId=ann),
    )
    assert len(sent) == len(set(sent)) == MANY + 1
    assert str(shown) in sent
