"""Phones whose library is at Gumnut: signed in to a service in this process, with foreign keys, and cut anywhere."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import httpx

from ledger.store.interface import Store
from ops.simulate.copy import Copy
from ops.simulate.parse import Run, parse_runs
from ops.simulate.tables import TYPES_V2
from projections.accounts.credentials import Cipher, Credentials
from projections.accounts.tokens import Issued
from projections.entities.gumnut.config import GumnutConfig
from projections.entities.gumnut.source import GumnutSource
from tests.support.gumnut.photos import Photos
from tests.support.gumnut.server import GumnutServer, library
from tests.support.phones.http import PARTITIONS, Service, serving

A: Final = "lib_a"
B: Final = "lib_b"
RESET: Final = "SyncResetV1"
COMPLETE: Final = "SyncCompleteV1"


class AtGumnut(NamedTuple):
    """A service whose libraries are at Gumnut."""

    service: Service
    source: GumnutSource
    credentials: Credentials


@asynccontextmanager
async def at_gumnut(store: Store, server: GumnutServer, **options: Any) -> AsyncIterator[AtGumnut]:
    """Serve the libraries A and B of a server; `options` are those of the source."""
    server.libraries = [library(A, 2020), library(B, 2021)]
    photos = server.photos
    credentials = Credentials(store, PARTITIONS, Cipher.from_keys([Cipher.make_key()]))
    config = GumnutConfig(server.url)
    now_us = lambda: round(photos.now.timestamp() * 1_000_000)  # noqa: E731
    source = GumnutSource(config, credentials, store, now_us=now_us, **options)
    try:
        async with serving(store, source=source) as service:
            yield AtGumnut(service, source, credentials)
    finally:
        await source.close()


@asynccontextmanager
async def another_process(at: AtGumnut, server: GumnutServer, store: Store, *phones: Phone) -> AsyncIterator[AtGumnut]:
    """Serve the same ledger with a source that has seen nothing yet; some phones go there from here on."""
    photos, config = server.photos, GumnutConfig(server.url)
    now_us = lambda: round(photos.now.timestamp() * 1_000_000)  # noqa: E731
    source = GumnutSource(config, at.credentials, store, now_us=now_us)
    try:
        async with serving(store, source=source) as service:
            for phone in phones:
                phone.goes_to(service)
            yield AtGumnut(service, source, at.credentials)
    finally:
        await source.close()


class Phone:
    """One phone in one library. `lines` counts what it was sent of each type, in all."""

    def __init__(self, service: Service, device: Issued, path: Path) -> None:
        self.service = service
        self.device = device
        self.copy = Copy(path)
        self.types: Sequence[str] = TYPES_V2
        self.lines: dict[str, int] = {}
        self._transport = httpx.ASGITransport(cast(Any, service.app))

    @classmethod
    async def sign_in(cls, at: AtGumnut, server: GumnutServer, path: Path, of: str = A) -> Phone:
        """Sign a phone in, with a JWT of its own."""
        device = await at.service.sign_in("ann", of, authenticated_by="gumnut")
        await at.credentials.hold("ann", device.sid, server.token())
        return cls(at.service, device, path)

    def goes_to(self, service: Service) -> None:
        """Ask another process from here on."""
        self.service = service
        self._transport = httpx.ASGITransport(cast(Any, service.app))

    async def post(self, path: str, body: Any) -> httpx.Response:
        """Send a request."""
        async with httpx.AsyncClient(transport=self._transport, base_url="http://test") as client:
            return await client.post(path, json=body, headers={"Authorization": f"Bearer {self.device.token}"})

    async def stream(self) -> list[Run]:
        """Read a whole stream."""
        answer = await self.post("/api/sync/stream", {"types": list(self.types)})
        assert answer.status_code == 200, answer.text
        return parse_runs(answer.content, 1)

    async def ack(self, ack: str) -> None:
        """Acknowledge a line."""
        answer = await self.post("/api/sync/ack", {"acks": [ack]})
        assert answer.status_code == 204, answer.text

    async def sync(self, cut: random.Random | None = None) -> bool:
        """Sync once; with `cut` it is left anywhere, also with rows stored that are not acknowledged. True if whole."""
        runs = await self.stream()
        left = sum(len(run.acks) for run in runs) if cut is None else cut.randrange(40)
        for run in runs:
            part = run._replace(rows=run.rows[:left], acks=run.acks[:left])
            left -= len(part.acks)
            if not part.acks:
                return False
            if run.type == RESET:
                self.copy.wipe()
            self.copy.apply(part)
            self.lines[run.type] = self.lines.get(run.type, 0) + len(part.acks)
            if cut is not None and left == 0 and cut.random() < 0.3:
                return False
            await self.ack(part.acks[-1])
            self.copy.confirm(run.type, part.acks[-1])
            if left == 0 and len(part.acks) < len(run.acks):
                return False
        if runs[-1].type == RESET:
            return await self.sync(cut)
        return runs[-1].type == COMPLETE

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Read the copy."""
        return sorted(self.copy.db.execute(sql))

    def holds(self) -> dict[str, Any]:
        """Tell what the phone shows: what hangs on an asset in the trash is not compared."""
        live = '(SELECT id FROM asset WHERE "deletedAt" IS NULL)'
        return {
            "asset": self.rows('SELECT id, checksum, "deletedAt" IS NOT NULL, "isFavorite", "stackId" FROM asset'),
            "exif": self.rows('SELECT "assetId", rating FROM exif'),
            "album": self.rows("SELECT id, name FROM album"),
            "album_user": self.rows('SELECT "albumId", "userId", role FROM album_user'),
            "album_asset": self.rows(f'SELECT "albumId", "assetId" FROM album_asset WHERE "assetId" IN {live}'),
            "person": self.rows("SELECT id, name FROM person"),
            "face": self.rows(f'SELECT id, "assetId", "personId" FROM face WHERE "assetId" IN {live}'),
            "stack": self.rows(
                f'SELECT id, "primaryAssetId" FROM stack WHERE id IN (SELECT "stackId" FROM asset WHERE id IN {live})'
            ),
        }


def held_at(photos: Photos, of: str) -> dict[str, Any]:
    """Tell what a phone of a library must show."""
    assets = {key: row for key, row in photos.assets.items() if row["library"] == of}
    live = {key for key, row in assets.items() if row["trashed_at"] is None}
    albums = {key: row for key, row in photos.albums.items() if row["library"] == of}
    links = {(row["album_id"], row["asset_id"]) for row in photos.links.values() if row["asset_id"] in live}
    people = {key: row for key, row in photos.people.items() if row["library"] == of}
    faces = [(key, row["asset_id"], row["person_id"]) for key, row in photos.faces.items() if row["asset_id"] in live]
    stacks = [(key, row["primary_asset_id"], photos.living_in(key)) for key, row in photos.stacks.items()]
    return {
        "asset": sorted(
            (key, row["sha1"], int(row["trashed_at"] is not None), int(row["rating"] == 5), row["stack_id"])
            for key, row in assets.items()
        ),
        "exif": sorted((key, row["rating"] or None) for key, row in assets.items()),
        "album": sorted((key, row["name"]) for key, row in albums.items()),
        "album_user": sorted((key, "ann", "owner") for key in albums),
        "album_asset": sorted(links),
        "person": sorted((key, row["name"] or "") for key, row in people.items()),
        "face": sorted(faces),
        "stack": sorted(
            (key, cover or living[0])
            for key, cover, living in stacks
            if living and photos.assets[living[0]]["library"] == of
        ),
    }


def by_type(runs: list[Run]) -> dict[str, list[str]]:
    """List the acks of a stream by the types of their lines; each type comes in one piece."""
    found = {name: [ack for run in group for ack in run.acks] for name, group in groupby(runs, lambda run: run.type)}
    assert len(found) == len({run.type for run in runs})
    return found
