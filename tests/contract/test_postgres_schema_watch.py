"""A schema that changes while it is served: nothing is sent, everybody is told, and it heals by itself."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from ledger.store.interface import Store, open_store
from projections.entities.origins import Origins
from projections.entities.postgres import schema_watch
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import SHARED_S, PostgresSource
from tests.support.phones.http import Service, serving
from tests.support.sources.photo_database import MAPPING, PhotoDatabase

TYPES = ("AssetV2", "AlbumV2", "AlbumToAssetV1")
OWNER = "lib"

CHANGES = {
    "a column renamed": ("ALTER TABLE photo RENAME name TO named", "ALTER TABLE photo RENAME named TO name"),
    "a column dropped": (
        "ALTER TABLE album DROP title",
        "ALTER TABLE album ADD title text; UPDATE album SET title = 'Album'",
    ),
    "a column of another type": (
        "ALTER TABLE photo ALTER name TYPE bytea USING name::bytea",
        "ALTER TABLE photo ALTER name TYPE text USING encode(name, 'escape')",
    ),
    "a table renamed": ("ALTER TABLE photo RENAME TO photos", "ALTER TABLE photos RENAME TO photo"),
    "the schema renamed": ("ALTER SCHEMA public RENAME TO old", "ALTER SCHEMA old RENAME TO public"),
    "a right taken away": ("REVOKE SELECT ON photo FROM reader", "GRANT SELECT ON photo TO reader"),
}


class Scene:
    """The service on a small photo database, read by a role of its own, and one device."""

    def __init__(self, service: Service, photos: PhotoDatabase, token: str, pool: Postgres) -> None:
        self.service, self.photos, self.pool = service, photos, pool
        self._token = token

    async def stream(self, *, reset: bool = False) -> tuple[int, list[dict[str, Any]], str]:
        """Ask for a stream; returns status, lines, and Retry-After."""
        body = {"types": ["AssetsV2", "AlbumsV2", "AlbumToAssetsV1"], "reset": reset}
        transport = httpx.ASGITransport(self.service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {"Authorization": f"Bearer {self._token}"}
            answer = await client.post("/api/sync/stream", json=body, headers=headers)
        lines = [json.loads(line) for line in answer.text.splitlines()] if answer.status_code == 200 else []
        return answer.status_code, lines, answer.headers.get("retry-after", "")

    async def ready(self) -> dict[str, Any]:
        """Tell how the source is."""
        found: dict[str, Any] = (await self.service.ask("GET", "/readyz")).json["source"]
        return found


@pytest.fixture
async def scene(valkey_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(schema_watch, "LOOK_S", 0.05)
    store: Store = await open_store(valkey_url)
    photos = await PhotoDatabase.build(postgres_url)
    await photos.execute("DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    await photos.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; GRANT pg_read_all_stats TO reader")
    await photos.execute("GRANT USAGE ON SCHEMA public TO reader")
    await photos.put_photo(OWNER, "p1")
    await photos.put_album(OWNER, "b")
    await photos.link(OWNER, "b", "p1")
    await photos.settle()
    pool = await Postgres.open(f"{postgres_url}?options=-c%20role%3Dreader", size=2, wait_s=5, statement_timeout_s=10)
    source = PostgresSource(pool, read_mapping(MAPPING, "photos.toml"), None, Origins(store, settle_s=0.0))
    async with serving(store, source=source) as service:
        issued = await service.sign_in()
        yield Scene(service, photos, issued.token, pool)
    await pool.close()
    await photos.close()
    await store.close()


@pytest.mark.parametrize(
    ("change", "within_s"),
    [
        *((change, 1.5 * SHARED_S) for change in CHANGES),
        ("the schema renamed", 0.0),
        *(pytest.param(change, 0.0, marks=pytest.mark.soak) for change in ("a column renamed", "a table renamed")),
    ],
)
async def test_what_does_not_fit_is_503_and_told_until_it_does_again(
    scene: Scene, change: str, within_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    there, back = CHANGES[change]
    before = await scene.stream()
    assert before[0] == 200
    assert {line["type"] for line in before[1]} == {*TYPES, "SyncCompleteV1"}
    await scene.photos.execute(there)
    await asyncio.sleep(within_s)
    for _ in range(3):
        status, _, retry = await scene.stream(reset=True)
        assert (status, retry) == (503, "5")
    ready = await scene.ready()
    assert not ready["ok"]
    assert (await scene.stream())[0] == 503
    assert any(record.levelno == logging.ERROR and "503 POST" in record.getMessage() for record in caplog.records)
    await scene.photos.execute(back)
    await asyncio.sleep(1.5 * SHARED_S)
    status, lines, _ = await scene.stream(reset=True)
    while status == 503:  # where a table was gone, another origin is taken a moment later
        await asyncio.sleep(SHARED_S)
        status, lines, _ = await scene.stream(reset=True)
    assert status == 200
    if change != "a column dropped":  # its album is written anew, and stands above the horizon
        assert {line["type"] for line in lines} == {*TYPES, "SyncCompleteV1"}
    assert (await scene.ready())["ok"]


async def test_changes_that_do_no_harm_stop_nobody(scene: Scene) -> None:
    assert (await scene.stream())[0] == 200
    harmless = (
        "ALTER TABLE photo ADD extra int",
        "ALTER TABLE photo ALTER name TYPE varchar(200)",
        "ALTER TABLE photo ALTER id TYPE varchar(200), ALTER owner TYPE varchar(50)",
        "CREATE INDEX ON photo (name)",
        "VACUUM FULL photo",
        "ALTER TABLE photo DROP extra",
    )
    for sql in harmless:
        await scene.photos.execute(sql)
        for wait_s in (0.0, 1.5 * SHARED_S):
            await asyncio.sleep(wait_s)
            status, lines, _ = await scene.stream(reset=True)
            assert (status, [line["type"] for line in lines][:-1]) == (200, ["AssetV2", "AlbumV2", "AlbumToAssetV1"]), (
                sql
            )


async def test_a_row_of_a_column_that_changed_its_type_is_not_passed_by(scene: Scene) -> None:
    """Else each row would be unfit for a while, and devices be past it when it can be read again."""
    assert (await scene.stream())[0] == 200
    for _ in range(2):
        await scene.photos.execute("ALTER TABLE photo ALTER name TYPE bytea USING name::bytea")
        await asyncio.sleep(1.5 * SHARED_S)
        assert (await scene.stream(reset=True))[0] == 503
        await scene.photos.execute("ALTER TABLE photo ALTER name TYPE text USING encode(name, 'escape')")
        await asyncio.sleep(1.5 * SHARED_S)
        status, lines, _ = await scene.stream()
        assert (status, lines[0]["data"]["originalFileName"]) == (200, "IMG_1.jpg")


async def test_a_mapping_that_never_fitted_is_told_also_where_no_check_came_before(scene: Scene) -> None:
    await scene.photos.execute("ALTER TABLE album DROP title")
    assert not (await scene.ready())["ok"]
    with pytest.raises(asyncpg.PostgresError):
        await scene.photos.execute("SELECT title FROM album")
    assert "title" in (await scene.ready())["text"]
