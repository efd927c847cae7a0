"""Sources with what fills them, one way for all: what the contract of sources is held with."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final, Protocol

from ledger.store.interface import Store
from projections.accounts.credentials import Cipher, Credentials
from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import read_line
from projections.entities.gumnut.config import GumnutConfig
from projections.entities.gumnut.source import GumnutSource
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from projections.entities.source import EntitySource
from tests.support.gumnut.server import GumnutServer, library
from tests.support.phones.http import PARTITIONS
from tests.support.sources.photo_database import MAPPING, PhotoDatabase
from tests.support.sources.samples import USER_ID, sample
from tests.support.stores.postgres_server import PostgresServer

LIBRARY: Final = "lib_a"
OTHER: Final = "lib_b"


class Backend(Protocol):
    """A source, and the system behind it, with the libraries LIBRARY and OTHER. Ids are made up where rows are."""

    @property
    def source(self) -> EntitySource:
        """What is tested."""
        ...

    async def add_asset(self, library: str) -> str:
        """Add an asset and return its id."""
        ...

    async def change_asset(self, library: str, asset: str) -> None:
        """Change an asset."""
        ...

    async def delete_asset(self, library: str, asset: str) -> None:
        """Delete an asset with what hangs on it."""
        ...

    async def add_album(self, library: str) -> str:
        """Add an album and return its id."""
        ...

    async def link(self, library: str, album: str, asset: str) -> None:
        """Put an asset into an album."""
        ...

    async def orphan(self, library: str, album: str) -> str:
        """Put an asset into an album that no device may have yet, and return its id."""
        ...

    async def adopt(self, library: str, asset: str) -> None:
        """Let devices have that asset."""
        ...

    async def settle(self) -> None:
        """Wait until the horizon is above all that was written."""
        ...

    async def go_down(self) -> None:
        """Let the source answer nothing any more."""
        ...


class CatalogBackend:
    """The embedded catalog."""

    def __init__(self, store: Store) -> None:
        self.source = Catalog(store)
        self._store = store
        self._numbers = count(1)
        self._libraries: set[str] = set()

    async def add_asset(self, library: str) -> str:
        asset = f"a{next(self._numbers):06}"
        await self._put_asset(library, asset)
        return asset

    async def change_asset(self, library: str, asset: str) -> None:
        await self._put_asset(library, asset, originalFileName=f"IMG_{next(self._numbers)}.jpg")

    async def delete_asset(self, library: str, asset: str) -> None:
        await self._put(library, "AssetDeleteV1", {"assetId": asset})

    async def add_album(self, library: str) -> str:
        album = f"b{next(self._numbers):06}"
        await self._put(library, "AlbumV2", sample("AlbumV2", id=album, thumbnailAssetId=None))
        return album

    async def link(self, library: str, album: str, asset: str) -> None:
        await self._put(library, "AlbumToAssetV1", {"albumId": album, "assetId": asset})

    async def orphan(self, library: str, album: str) -> str:
        asset = f"a{next(self._numbers):06}"
        await self.link(library, album, asset)
        return asset

    async def adopt(self, library: str, asset: str) -> None:
        await self._put_asset(library, asset)

    async def settle(self) -> None:
        """Nothing to wait for: the horizon follows what is written."""

    async def go_down(self) -> None:
        await self._store.close()

    async def _put_asset(self, library: str, asset: str, **changes: Any) -> None:
        if library not in self._libraries:
            self._libraries.add(library)
            await self._put(library, "UserV1", sample("UserV1", id=USER_ID))
        data = sample("AssetV2", id=asset, ownerId=USER_ID, checksum=f"{asset:=<28}", **changes)
        await self._put(library, "AssetV2", data)

    async def _put(self, library: str, entity_type: str, data: dict[str, Any]) -> None:
        written = await self.source.put(library, [read_line(json.dumps({"type": entity_type, "data": data}).encode())])
        assert not written.refused, written.refused


class PostgresBackend:
    """PostgreSQL with a small mapping."""

    def __init__(self, server: PostgresServer, url: str, source: PostgresSource, database: PhotoDatabase) -> None:
        self.source = source
        self.database = database
        self._server, self._url = server, url
        self._numbers = count(1)

    @classmethod
    @asynccontextmanager
    async def opened(cls, server: PostgresServer, url: str) -> AsyncIterator[PostgresBackend]:
        """Open the source on an empty database."""
        database = await PhotoDatabase.build(url)
        pool = await Postgres.open(url, size=4, wait_s=5, statement_timeout_s=10)
        try:
            yield cls(server, url, PostgresSource(pool, read_mapping(MAPPING, "photos.toml")), database)
        finally:
            await pool.close()
            await database.close()

    async def add_asset(self, library: str) -> str:
        asset = f"a{next(self._numbers):06}"
        await self.database.put_photo(library, asset)
        return asset

    async def change_asset(self, library: str, asset: str) -> None:
        await self.database.put_photo(library, asset, f"IMG_{next(self._numbers)}.jpg")

    async def delete_asset(self, library: str, asset: str) -> None:
        await self.database.delete_photo(library, asset)

    async def add_album(self, library: str) -> str:
        album = f"b{next(self._numbers):06}"
        await self.database.put_album(library, album)
        return album

    async def link(self, library: str, album: str, asset: str) -> None:
        await self.database.link(library, album, asset)

    async def orphan(self, library: str, album: str) -> str:
        asset = f"a{next(self._numbers):06}"
        await self.database.link(library, album, asset)
        return asset

    async def adopt(self, library: str, asset: str) -> None:
        await self.database.put_photo(library, asset)

    async def settle(self) -> None:
        await self.database.settle()

    async def go_down(self) -> None:
        name = self._url.rpartition("/")[2]
        await self.database.close()
        self._server.psql(
            f"ALTER DATABASE {name} ALLOW_CONNECTIONS false;"
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )


class GumnutBackend:
    """Gumnut, spoken to with an API key. What devices may not have is in the trash."""

    def __init__(self, server: GumnutServer, source: GumnutSource) -> None:
        self.source = source
        self._server = server

    @classmethod
    @asynccontextmanager
    async def opened(cls, server: GumnutServer, store: Store) -> AsyncIterator[GumnutBackend]:
        """Open the source on a running server; the store holds no credentials, but what is not sent."""
        server.libraries = [library(LIBRARY, 2020), library(OTHER, 2021)]
        photos = server.photos
        source = GumnutSource(
            GumnutConfig(server.url, timeout_s=2.0),
            Credentials(store, PARTITIONS, Cipher.from_keys([Cipher.make_key()])),
            store,
            server.token(),
            now_us=lambda: round(photos.now.timestamp() * 1_000_000),
        )
        try:
            yield cls(server, source)
        finally:
            await source.close()

    async def add_asset(self, library: str) -> str:
        return self._server.photos.add_asset(library)

    async def change_asset(self, library: str, asset: str) -> None:
        self._server.photos.update_asset(asset)

    async def delete_asset(self, library: str, asset: str) -> None:
        self._server.photos.delete_asset(asset)

    async def add_album(self, library: str) -> str:
        return self._server.photos.add_album(library)

    async def link(self, library: str, album: str, asset: str) -> None:
        self._server.photos.link(album, asset)

    async def orphan(self, library: str, album: str) -> str:
        asset = self._server.photos.add_asset(library)
        self._server.photos.trash(asset)
        self._server.photos.link(album, asset)
        return asset

    async def adopt(self, library: str, asset: str) -> None:
        self._server.photos.restore(asset)

    async def settle(self) -> None:
        self._server.photos.tick(60)

    async def go_down(self) -> None:
        self._server.down = True
