"""Whose libraries something was written to, in Immich's own database: those who see it, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from tests.immich.database import ImmichDatabase
from tests.support.sources.near_horizon import near_horizon

__all__ = ["near_horizon"]

pytestmark = pytest.mark.usefixtures("near_horizon")


class Seen(NamedTuple):
    """A database, and a question about all its users' libraries since the last time."""

    database: ImmichDatabase
    users: dict[str, str]
    written: Callable[[], set[str]]


@pytest.fixture
def seen(postgres_url: str) -> Iterator[Seen]:
    with ImmichDatabase(postgres_url) as database, asyncio.Runner() as runner:
        database.build()
        users = {name: str(database.user(name)) for name in ("ann", "partner", "member", "stranger")}

        async def open_source() -> tuple[Postgres, PostgresSource]:
            postgres = await Postgres.open(postgres_url, size=2, wait_s=20, statement_timeout_s=60)
            return postgres, PostgresSource(postgres, load_mapping("immich"))

        postgres, source = runner.run(open_source())
        database.settle()
        since = runner.run(source.horizon(""))

        def ask() -> set[str]:
            nonlocal since
            database.settle()
            horizon = runner.run(_above(source, since))
            names = {user: name for name, user in users.items()}
            found = runner.run(source.written([*users.values(), "no uuid"], since, horizon))
            assert runner.run(source.written(list(users.values()), horizon, horizon + 1)) == []
            since = horizon
            assert len(found) == len(set(found))
            return {names[user] for user in found}

        yield Seen(database, users, ask)
        runner.run(postgres.close())


async def _above(source: PostgresSource, since: int) -> int:
    await asyncio.sleep(0.11)  # streams share a horizon for a moment
    return await source.horizon("")


def uuid_of(seen: Seen, name: str) -> Any:
    return seen.database.value('SELECT id FROM "user" WHERE id = $1::uuid', seen.users[name])


def test_who_sees_a_write_is_told_of_it(seen: Seen) -> None:
    database = seen.database
    ann, partner, member = (uuid_of(seen, name) for name in ("ann", "partner", "member"))
    assert seen.written() == set(), "nothing was written"
    first = database.asset(ann)
    assert seen.written() == {"ann"}
    database.partner(ann, partner)
    assert seen.written() == {"ann", "partner"}, "a share is news to both"
    album = database.album(ann, [member], [first])
    assert seen.written() == {"ann", "member"}
    database.update("asset", first, isFavorite=True)
    assert seen.written() == {"ann", "partner", "member"}
    database.delete("album_user", albumId=album, userId=member)
    assert seen.written() == {"ann", "member"}, "who was put out of it must let go of it"
    database.asset(ann)
    assert seen.written() == {"ann", "partner"}, "who shares all, shares what comes"
    database.delete("asset", id=first)
    assert "partner" in seen.written(), "a delete is news to who had it"


def test_what_everybody_is_sent_wakes_nobody(seen: Seen) -> None:
    """Uploading changes a user's row, by the quota; it comes along with the next sync."""
    seen.database.update("user", uuid_of(seen, "ann"), quotaUsageInBytes=5)
    assert seen.written() == {"ann"}, "it is ann's own profile too"
