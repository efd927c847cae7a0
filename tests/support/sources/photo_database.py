"""A small photo database in PostgreSQL, not Immich's, and its mapping: photos with their data, albums, and both linked.

There are no foreign keys, so rows can come before what they refer to.
"""

from __future__ import annotations

from typing import Any, Final, Self

import asyncpg

from projections.entities.postgres import horizon

SCHEMA: Final = """
CREATE TABLE photo (
    id text PRIMARY KEY, owner text NOT NULL, name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(), changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON photo (owner, changed_at, id);
CREATE TABLE deleted_photo (id text, owner text NOT NULL, deleted_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON deleted_photo (owner, deleted_at, id);
CREATE TABLE album (
    id text PRIMARY KEY, owner text NOT NULL, title text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(), changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON album (owner, changed_at, id);
CREATE TABLE album_photo (
    id text PRIMARY KEY, album text NOT NULL, photo text NOT NULL, owner text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON album_photo (owner, changed_at, id);
CREATE INDEX ON album_photo (photo);
CREATE INDEX ON photo (owner, created_at, id);
"""

MAPPING: Final = """
[source]
library = "text"
stamps = "clock"

[[entities.AssetDeleteV1]]
data = { assetId = 'd.id' }
from = 'deleted_photo d'
where = 'd.owner = :library'
updated_at = 'd.deleted_at'
id = 'd.id'

[[entities.AssetV2]]
from = 'photo p'
where = 'p.owner = :library'
updated_at = 'p.changed_at'
id = 'p.id'
[entities.AssetV2.data]
id = 'p.id'
ownerId = 'p.owner'
originalFileName = 'p.name'
checksum = "'2jmj7l5rSw0yVb/vlWAYkK/YBwk='"
thumbhash = 'null'
type = "'IMAGE'"
visibility = "'timeline'"
isFavorite = 'false'
isEdited = 'false'
duration = 'null'
fileCreatedAt = 'p.created_at'
fileModifiedAt = 'p.created_at'
createdAt = 'p.created_at'
localDateTime = 'p.created_at'
deletedAt = 'null'
livePhotoVideoId = 'null'
stackId = 'null'
libraryId = 'null'
width = 'null'
height = 'null'

[[entities.AlbumV2]]
from = 'album a'
where = 'a.owner = :library'
updated_at = 'a.changed_at'
id = 'a.id'
[entities.AlbumV2.data]
id = 'a.id'
name = 'a.title'
description = "''"
createdAt = 'a.created_at'
updatedAt = 'a.changed_at'
thumbnailAssetId = 'null'
isActivityEnabled = 'false'
order = "'desc'"

[[entities.AlbumToAssetV1]]
data = { albumId = 'l.album', assetId = 'l.photo' }
from = 'album_photo l'
where = 'l.owner = :library'
updated_at = 'l.changed_at'
id = 'l.id'
[[entities.AlbumToAssetV1.parents]]
table = "asset"
from = 'photo p'
on = 'p.id = l.photo'
updated_at = 'p.changed_at'
since = 'p.created_at'
[[entities.AlbumToAssetV1.parents]]
table = "album"
from = 'album a'
on = 'a.id = l.album'
updated_at = 'a.changed_at'
since = 'a.created_at'
"""


class PhotoDatabase:
    """Writes to such a database, each call a transaction of its own."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to one that is there."""
        return cls(await asyncpg.connect(url))

    @classmethod
    async def build(cls, url: str) -> Self:
        """Make the tables in an empty database."""
        made = await cls.open(url)
        await made.execute(SCHEMA)
        return made

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def put_photo(self, owner: str, photo: str, name: str = "IMG_1.jpg") -> None:
        """Write a photo, or change it."""
        await self.execute(
            "INSERT INTO photo (id, owner, name) VALUES ($1, $2, $3)"
            " ON CONFLICT (id) DO UPDATE SET changed_at = clock_timestamp(), name = excluded.name",
            photo, owner, name,
        )  # fmt: skip

    async def delete_photo(self, owner: str, photo: str) -> None:
        """Delete a photo and what hangs on it."""
        async with self._connection.transaction():
            await self.execute("DELETE FROM album_photo WHERE photo = $1", photo)
            await self.execute("DELETE FROM photo WHERE id = $1", photo)
            await self.execute("INSERT INTO deleted_photo (id, owner) VALUES ($1, $2)", photo, owner)

    async def put_album(self, owner: str, album: str) -> None:
        """Write an album."""
        await self.execute("INSERT INTO album (id, owner, title) VALUES ($1, $2, 'Album')", album, owner)

    async def link(self, owner: str, album: str, photo: str) -> None:
        """Put a photo into an album; neither needs to be there."""
        await self.execute(
            "INSERT INTO album_photo (id, album, photo, owner) VALUES ($1, $2, $3, $4)",
            f"{album}+{photo}", album, photo, owner,
        )  # fmt: skip

    async def settle(self) -> None:
        """Wait until the horizon, which is a margin behind the clock, is above all that was written."""
        await self.execute(f"SELECT pg_sleep({horizon.MARGIN_US / 1e6 + 0.05})")

    async def execute(self, sql: str, *values: Any) -> None:
        """Run a statement."""
        await self._connection.execute(sql, *values)
