"""An Immich database for tests: its schema, and rows written as Immich writes them, one statement at a time."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

import asyncpg
import msgspec

from ops.bench.postgres import immich_library
from projections.entities.postgres import horizon
from projections.entities.postgres.source import SHARED_S
from tests.immich.schemas import CHANGES, Version
from tests.support.stores.servers import wait_until

SCHEMA: Final = Path(immich_library.__file__).with_name("immich_schema.sql")
TAKEN: Final = datetime(2024, 6, 1, 12, 0, 0, 123456, UTC)

_numbers = count(1)


def sha1(text: str) -> bytes:
    """Return the checksum of a file with this content."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).digest()


class ImmichDatabase:
    """A connection of Immich's server; every method is one transaction and returns ids.

    `changes` names columns to set, as the schema calls them.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._settled = False
        self.apart_s = 0.0
        """How long each write waits: those of one millisecond have no order, since ids of it are random."""
        self._loop = asyncio.new_event_loop()
        self._connection: Any = None
        self.connect()

    def connect(self) -> None:
        """Connect, or once more: a connection knows the types that its tables had."""
        if self._connection is not None:
            self._loop.run_until_complete(self._connection.close())
        self._connection = self._loop.run_until_complete(asyncpg.connect(self.url))
        self._loop.run_until_complete(
            self._connection.set_type_codec(
                "jsonb", schema="pg_catalog", encoder=lambda value: msgspec.json.encode(value).decode(),
                decoder=msgspec.json.decode,
            )
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()

    def build(self, version: Version = "3.2") -> Self:
        """Make the schema of a version in an empty database, as a server of it leaves it."""
        self.execute(SCHEMA.read_text() + CHANGES[version])
        self.insert("version_history", version=f"{version}.0")
        return self

    def execute(self, sql: str, *values: Any) -> None:
        """Run a statement, or several without values."""
        self._write()
        self._loop.run_until_complete(self._connection.execute(sql, *values))

    def _write(self) -> None:
        self._settled = False
        time.sleep(self.apart_s)

    def fetch(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Read rows by the names of their columns."""
        return [dict(row) for row in self._loop.run_until_complete(self._connection.fetch(sql, *values))]

    def value(self, sql: str, *values: Any) -> Any:
        """Read one value."""
        return self._loop.run_until_complete(self._connection.fetchval(sql, *values))

    def settle(self) -> None:
        """Wait until each horizon still in use, the oldest shared one too, is beyond all that was written here."""
        if self._settled:
            return
        written_ms = self.value("SELECT ceil(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        behind_ms = horizon.MARGIN_US // 1000 + int(SHARED_S * 1000) + 50
        behind = f"SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - {behind_ms}"
        wait_until(lambda: self.value(behind) > written_ms, "the horizon to pass")
        self._settled = True

    # Writing

    def insert(self, table: str, **columns: Any) -> dict[str, Any]:
        """Insert a row and return it."""
        names = ", ".join(f'"{name}"' for name in columns)
        values = ", ".join(f"${at}" for at in range(1, len(columns) + 1))
        self._write()
        (row,) = self.fetch(f'INSERT INTO "{table}" ({names}) VALUES ({values}) RETURNING *', *columns.values())
        return row

    def update(self, table: str, key: UUID, **columns: Any) -> None:
        """Change columns of the row with this id."""
        sets = ", ".join(f'"{name}" = ${at}' for at, name in enumerate(columns, 2))
        self.execute(f'UPDATE "{table}" SET {sets} WHERE {_KEYS.get(table, "id")} = $1', key, *columns.values())

    def delete(self, table: str, **columns: Any) -> None:
        """Delete the rows that have these values."""
        where = " AND ".join(f'"{name}" = ${at}' for at, name in enumerate(columns, 1))
        self.execute(f'DELETE FROM "{table}" WHERE {where}', *columns.values())

    def user(self, name: str, **changes: Any) -> UUID:
        """Add a user, with a cluster group of their own where there are any and none is given."""
        columns = {"name": name, "email": f"{name}@example.test", **changes}
        if "clusterGroupId" not in changes and self.value("SELECT to_regclass('cluster_group') IS NOT NULL"):
            columns["clusterGroupId"] = self.insert("cluster_group", name=name)["id"]
        made: UUID = self.insert("user", **columns)["id"]
        return made

    def sign_in(self, user: UUID, **changes: Any) -> str:
        """Make a session of a user; returns its token, as Immich makes them."""
        token = re.sub(r"\W", "", base64.b64encode(secrets.token_bytes(32)).decode())
        device = {"deviceType": "Pixel 9", "deviceOS": "Android", "appVersion": "3.2.0"}
        self.insert("session", token=hashlib.sha256(token.encode()).digest(), userId=user, **{**device, **changes})
        return token

    def api_key(self, user: UUID, *permissions: str) -> str:
        """Make an API key of a user and return it."""
        key = secrets.token_urlsafe(32)
        digest = hashlib.sha256(key.encode()).digest()
        self.insert("api_key", name="script", key=digest, userId=user, permissions=list(permissions))
        return key

    def session(self, token: str) -> dict[str, Any]:
        """Read a session's row."""
        (row,) = self.fetch("SELECT * FROM session WHERE token = $1", hashlib.sha256(token.encode()).digest())
        return row

    def sign_out(self, token: str) -> None:
        """Delete a session with its checkpoints, as signing out does."""
        self.delete("session", token=hashlib.sha256(token.encode()).digest())

    def asset(self, owner: UUID, content: str = "", **changes: Any) -> UUID:
        """Upload a file: its row, the quota that it takes, and its exif."""
        number = next(_numbers)
        columns = {
            "ownerId": owner,
            "type": "IMAGE",
            "originalPath": f"/upload/{number}.jpg",
            "originalFileName": f"IMG_{number:05}.jpg",
            "fileCreatedAt": TAKEN,
            "fileModifiedAt": TAKEN,
            "localDateTime": TAKEN,
            "checksum": sha1(content or f"content {number}"),
            "checksumAlgorithm": "sha1",
            **changes,
        }
        made: UUID = self.insert("asset", **columns)["id"]
        self.insert("asset_exif", assetId=made, make="Canon", fileSizeInByte=number, latitude=52.5, fps=None)
        self.execute('UPDATE "user" SET "quotaUsageInBytes" = "quotaUsageInBytes" + 1 WHERE id = $1', owner)
        return made

    def album(self, owner: UUID, members: Sequence[UUID] = (), assets: Sequence[UUID] = (), **changes: Any) -> UUID:
        """Make an album with its owner; members and assets come afterwards."""
        made: UUID = self.insert("album", **{"albumName": f"Album {next(_numbers)}", **changes})["id"]
        self.insert("album_user", albumId=made, userId=owner, role="owner")
        for member in members:
            self.share(made, member)
        for asset in assets:
            self.link(made, asset)
        return made

    def share(self, album: UUID, user: UUID, role: str = "editor") -> None:
        """Let a user into an album."""
        self.insert("album_user", albumId=album, userId=user, role=role)

    def link(self, album: UUID, asset: UUID) -> None:
        """Put an asset into an album."""
        self.insert("album_asset", albumId=album, assetId=asset)

    def partner(self, shared_by: UUID, shared_with: UUID) -> None:
        """Let one user see all of another's assets."""
        self.insert("partner", sharedById=shared_by, sharedWithId=shared_with)

    def person(self, owner: UUID, group: UUID | None = None, **changes: Any) -> UUID:
        """Name a group of faces, a new one if none is given; returns the group."""
        if group is None:
            of = self.value('SELECT "clusterGroupId" FROM "user" WHERE id = $1', owner)
            group = self.insert("person_group", clusterGroupId=of)["id"]
        self.insert("person", ownerId=owner, personGroupId=group, **{"name": "Grace", **changes})
        return group

    def face(self, asset: UUID, person: UUID | None = None, **changes: Any) -> UUID:
        """Find a face in an asset."""
        made: UUID = self.insert("asset_face", assetId=asset, personGroupId=person, **changes)["id"]
        return made

    def stack(self, owner: UUID, assets: Sequence[UUID]) -> UUID:
        """Stack assets, the first one on top."""
        made: UUID = self.insert("stack", ownerId=owner, primaryAssetId=assets[0])["id"]
        self.execute('UPDATE asset SET "stackId" = $1 WHERE id = ANY($2)', made, list(assets))
        return made

    def memory(self, owner: UUID, assets: Sequence[UUID] = (), **changes: Any) -> UUID:
        """Make a memory of a day."""
        columns = {"type": "on_this_day", "data": {"year": 2020}, "memoryAt": TAKEN, **changes}
        made: UUID = self.insert("memory", ownerId=owner, **columns)["id"]
        for asset in assets:
            self.insert("memory_asset", memoriesId=made, assetId=asset)
        return made

    def ocr(self, asset: UUID, text: str) -> UUID:
        """Find a text in an asset."""
        corners = {f"{axis}{corner}": corner / 8 for corner in (1, 2, 3, 4) for axis in "xy"}
        made: UUID = self.insert("asset_ocr", assetId=asset, text=text, textScore=0.9, boxScore=0.75, **corners)["id"]
        return made

    def edit(self, asset: UUID, sequence: int = 0) -> UUID:
        """Crop an asset."""
        box = {"x": 0, "y": 0, "width": 10, "height": 10}
        made: UUID = self.insert("asset_edit", assetId=asset, action="crop", parameters=box, sequence=sequence)["id"]
        return made


_KEYS: Final = {"asset_exif": '"assetId"', "person": '"personGroupId"'}
