"""Rows of any PostgreSQL database that no device can read, and what refers to them: both wait, and come together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from ledger.positions import Position
from ledger.store.interface import Store
from projections.entities.lines import data_of, position_of
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from projections.entities.postgres.unfit_parents import KEPT, Known, OfProcess, Stored
from tests.support.sources.near_horizon import near_horizon
from tests.support.sources.photo_database import MAPPING, PhotoDatabase

__all__ = ["near_horizon"]

pytestmark = pytest.mark.usefixtures("near_horizon")

ANN = "ann"
TYPES = ("AssetV2", "AlbumV2", "AlbumToAssetV1")
SETTINGS = {
    "extra_float_digits": "-10", "DateStyle": "German, DMY", "TimeZone": "Asia/Tokyo", "IntervalStyle": "sql_standard",
    "bytea_output": "escape", "standard_conforming_strings": "off", "transform_null_equals": "on",
}  # fmt: skip


class Device:
    """What a device has of a library: the ids of its rows, and how far it is."""

    def __init__(self, source: PostgresSource) -> None:
        self.source = source
        self.at: dict[str, Position | None] = dict.fromkeys(TYPES)
        self.has: dict[str, set[str]] = {name: set() for name in TYPES}

    async def sync(self) -> None:
        """Take all that is new; a link to what the device has not got would stop the app."""
        horizon_us = await self.source.horizon(ANN)
        changed = await self.source.changed(ANN, self.at, horizon_us)
        for name in TYPES:
            if name not in changed:
                continue
            async for page in self.source.pages(ANN, name, self.at[name], horizon_us, 2):
                for line in page.lines:
                    data = json.loads(data_of(line))
                    if name == "AlbumToAssetV1":
                        assert data["albumId"] in self.has["AlbumV2"]
                        assert data["assetId"] in self.has["AssetV2"]
                    self.has[name].add(data["id"] if "id" in data else f"{data['albumId']}+{data['assetId']}")
                    self.at[name] = position_of(line)


@pytest.fixture
async def photos(postgres_url: str) -> AsyncIterator[PhotoDatabase]:
    """A library of three photos, two of them in an album."""
    database = await PhotoDatabase.build(postgres_url)
    await database.execute("ALTER TABLE photo ALTER name DROP NOT NULL")
    await database.put_album(ANN, "trip")
    for name in ("a", "b", "c"):
        await database.put_photo(ANN, name)
    yield database
    await database.close()


@asynccontextmanager
async def source_of(url: str, kept: OfProcess | None = None) -> AsyncIterator[PostgresSource]:
    """Open a source as a process does."""
    postgres = await Postgres.open(url, size=2, wait_s=20, statement_timeout_s=60)
    try:
        yield PostgresSource(postgres, read_mapping(MAPPING, "photos.toml"), kept)
    finally:
        await postgres.close()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("name = NULL", "originalFileName"),
        ("changed_at = 'infinity'", "updated_at"),
        ("changed_at = '-infinity'", "updated_at"),
        ("changed_at = '1969-12-31'", "updated_at"),
        ("changed_at = '12024-06-01'", "updated_at"),
        ("changed_at = '2400-01-01', created_at = 'infinity'", "updated_at"),
        ("name = NULL, created_at = '-infinity'", "originalFileName"),
    ],
)
async def test_what_refers_to_an_unfit_row_comes_when_it_is_mended(
    change: str, field: str, photos: PhotoDatabase, postgres_url: str
) -> None:
    kept = OfProcess()
    await photos.execute(f"UPDATE photo SET {change} WHERE id = 'b'")
    for name in ("b", "c"):
        await photos.link(ANN, "trip", name)
    await photos.settle()
    async with source_of(postgres_url, kept) as source:
        device = Device(source)
        await device.sync()
        assert device.has == {"AssetV2": {"a", "c"}, "AlbumV2": {"trip"}, "AlbumToAssetV1": {"trip+c"}}
        held = [(one.entity_type, one.reason, one.parent) for one in await source.held_back(ANN)]
        assert held == [("AssetV2", "unfit", field), ("AlbumToAssetV1", "missing_parent", "asset|b")]
        assert (await source.ahead(ANN, "AssetV2", None, await source.horizon(ANN))).rows == 2 + (field != "updated_at")
    async with source_of(postgres_url, kept) as other:  # another process, which has not come across it
        assert [one.reason for one in await other.held_back(ANN)] == ["unfit", "missing_parent"]
        device.source = other
        await photos.execute(
            "UPDATE photo SET name = 'b.jpg', created_at = clock_timestamp(), changed_at = clock_timestamp()"
            " WHERE id = 'b'"
        )
        await photos.settle()
        await device.sync()
        assert device.has["AlbumToAssetV1"] == {"trip+b", "trip+c"}
        assert list(await other.held_back(ANN)) == []
        fresh = Device(other)
        await fresh.sync()
        assert fresh.has == device.has


async def test_settings_of_a_role_change_nothing_that_is_printed(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    name = await connection.fetchval("SELECT current_database()")
    shown = "SELECT 1/3::float8, '\\d' LIKE '_d', now()::text, '1 day'::interval::text, '\\x00'::bytea::text"

    async def printed() -> str:
        postgres = await Postgres.open(postgres_url, size=1, wait_s=20, statement_timeout_s=60)
        try:
            async with postgres.connection() as ours:
                values = list(await ours.fetchrow(shown))
                return " ".join(map(str, (values[0], values[1], values[2][-3:], values[3], values[4])))
        finally:
            await postgres.close()

    before = await printed()
    for setting, value in SETTINGS.items():
        await connection.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")
    await connection.close()
    assert await printed() == before == "0.3333333333333333 True +00 1 day \\x00"


async def test_unfit_parents_are_kept_for_all_processes_and_bounded(store: Store) -> None:
    one, other = Known(Stored(store)), Known(Stored(store))
    await one.note({"asset|a", "person|p"})
    await other.refresh()
    assert other.tables == {"asset": ["a"], "person": ["p"]}
    for part in range(3):
        await other.note({f"asset|{part}-{at}" for at in range(KEPT // 2)})
    await one.refresh()
    assert one.tables == {"asset": None, "person": ["p"]}
    await one.note({"asset|yet another"})
    assert await store.command("HLEN", b"ledger:unfit-parents", key=b"ledger:unfit-parents") <= KEPT * 3 // 2 + 3
