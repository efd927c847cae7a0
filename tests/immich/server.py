"""Immich's own server as a phone's sync meets it: its statements and rules on a real database, by its source (3.2).

Each type is one statement, of what is behind the type's ack and below the instant of the stream, in the order of
UUIDv7s. Nothing looks whether a row's parent is sent, and rows are printed as JavaScript prints them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from ops.simulate.parse import fields_of
from ops.simulate.tables import FORMS, TYPES_V2
from tests.immich.database import ImmichDatabase

RESET: Final = "SyncResetV1"
COMPLETE: Final = "SyncCompleteV1"
KEPT: Final = "30 days"
_ME: Final = "$1::uuid"
_PARTNERS: Final = f'(SELECT "sharedById" FROM partner WHERE "sharedWithId" = {_ME})'
_ALBUMS: Final = f'(SELECT "albumId" FROM album_user WHERE "userId" = {_ME})'
_MEMORIES: Final = f"""(SELECT id FROM memory WHERE "ownerId" = {_ME} AND type = 'on_this_day')"""
_ASSETS: Final = f'(SELECT id FROM asset WHERE "ownerId" = {_ME})'
_NOWHERE: Final = "00000000-0000-0000-0000-000000000000"


class _Rows(NamedTuple):
    """Rows of a type: from which tables, which of them, by which UUIDv7; `r` is what is sent."""

    table: str
    where: str
    mark: str = 'r."updateId"'


def _deleted(table: str, where: str) -> _Rows:
    return _Rows(f"{table}_audit r", where, "r.id")


def _linked(table: str, column: str) -> str:
    return f'{table} r JOIN album_asset l ON l."assetId" = r."{column}" JOIN album_user m ON m."albumId" = l."albumId"'


_PLAIN: Final[dict[str, _Rows]] = {
    "AuthUserV1": _Rows('"user" r', f"r.id = {_ME}"),
    "UserDeleteV1": _deleted("user", f"{_ME} IS NOT NULL"),
    "UserV1": _Rows('"user" r', f"{_ME} IS NOT NULL"),
    "PartnerDeleteV1": _deleted("partner", f'{_ME} IN (r."sharedById", r."sharedWithId")'),
    "PartnerV1": _Rows("partner r", f'{_ME} IN (r."sharedById", r."sharedWithId")'),
    "AssetDeleteV1": _deleted("asset", f'r."ownerId" = {_ME}'),
    "AssetV2": _Rows("asset r", f'r."ownerId" = {_ME}'),
    "StackDeleteV1": _deleted("stack", f'r."userId" = {_ME}'),
    "StackV1": _Rows("stack r", f'r."ownerId" = {_ME}'),
    "PartnerAssetDeleteV1": _deleted("asset", f'r."ownerId" IN {_PARTNERS}'),
    "PartnerStackDeleteV1": _deleted("stack", f'r."userId" IN {_PARTNERS}'),
    "AlbumDeleteV1": _deleted("album", f'r."userId" = {_ME}'),
    "AlbumV2": _Rows("album r", f"r.id IN {_ALBUMS}"),
    "AlbumUserDeleteV1": _deleted("album_user", f'r."albumId" IN {_ALBUMS}'),
    "AlbumToAssetDeleteV1": _deleted("album_asset", f'r."albumId" IN {_ALBUMS}'),
    "AssetExifV1": _Rows("asset_exif r", f'r."assetId" IN {_ASSETS}'),
    "AssetOcrDeleteV1": _deleted("asset_ocr", f'r."assetId" IN {_ASSETS}'),
    "AssetOcrV1": _Rows("asset_ocr r", f'r."assetId" IN {_ASSETS}'),
    "MemoryDeleteV1": _deleted("memory", f'r."userId" = {_ME}'),
    "MemoryV1": _Rows("memory r", f"r.id IN {_MEMORIES}"),
    "MemoryToAssetDeleteV1": _deleted("memory_asset", f'r."memoryId" IN {_MEMORIES}'),
    "MemoryToAssetV1": _Rows("memory_asset r", f'r."memoriesId" IN {_MEMORIES}'),
    "PersonDeleteV1": _deleted("person", f'r."ownerId" = {_ME}'),
    "PersonV1": _Rows("person r", f'r."ownerId" = {_ME}'),
    "AssetFaceDeleteV1": _deleted("asset_face", f'r."assetId" IN {_ASSETS}'),
    "AssetFaceV2": _Rows("asset_face r", f'r."assetId" IN {_ASSETS}'),
    "UserMetadataDeleteV1": _deleted("user_metadata", f'r."userId" = {_ME}'),
    "UserMetadataV1": _Rows("user_metadata r", f'r."userId" = {_ME}'),
    "AssetMetadataDeleteV1": _deleted("asset_metadata", f'r."assetId" IN {_ASSETS}'),
    "AssetMetadataV1": _Rows("asset_metadata r", f'r."assetId" IN {_ASSETS}'),
    "AssetEditDeleteV1": _deleted("asset_edit", f'r."assetId" IN {_ASSETS}'),
    "AssetEditV1": _Rows("asset_edit r", f'r."assetId" IN {_ASSETS}'),
}
_SHARED: Final[dict[str, tuple[str, str, _Rows]]] = {
    # main type: its backfill, what a share is of, and rows of the shares `{}`
    "PartnerAssetV2": ("PartnerAssetBackfillV2", "partners", _Rows("asset r", 'r."ownerId" IN {}')),
    "PartnerStackV1": ("PartnerStackBackfillV1", "partners", _Rows("stack r", 'r."ownerId" IN {}')),
    "PartnerAssetExifV1": (
        "PartnerAssetExifBackfillV1", "partners",
        _Rows('asset_exif r JOIN asset a ON a.id = r."assetId"', 'a."ownerId" IN {}'),
    ),
    "AlbumAssetCreateV2": (
        "AlbumAssetBackfillV2", "albums",
        _Rows('asset r JOIN album_asset l ON l."assetId" = r.id', 'l."albumId" IN {}', 'l."updateId"'),
    ),
    "AlbumAssetExifCreateV1": (
        "AlbumAssetExifBackfillV1", "albums",
        _Rows('asset_exif r JOIN album_asset l ON l."assetId" = r."assetId"', 'l."albumId" IN {}', 'l."updateId"'),
    ),
    "AlbumUserV1": ("AlbumUserBackfillV1", "albums", _Rows("album_user r", 'r."albumId" IN {}')),
    "AlbumToAssetV1": ("AlbumToAssetBackfillV1", "albums", _Rows("album_asset r", 'r."albumId" IN {}')),
}  # fmt: skip
_UPDATES: Final = {
    "AlbumAssetCreateV2": ("AlbumAssetUpdateV2", _linked("asset", "id")),
    "AlbumAssetExifCreateV1": ("AlbumAssetExifUpdateV1", _linked("asset_exif", "assetId")),
}
_SHARES: Final = {
    "partners": 'SELECT "createId", "sharedById" AS of FROM partner WHERE "sharedWithId" = $1::uuid',
    "albums": 'SELECT "createId", "albumId" AS of FROM album_user WHERE "userId" = $1::uuid',
}
_ORDER: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("AuthUsersV1", ("AuthUserV1",)),
    ("UsersV1", ("UserDeleteV1", "UserV1")),
    ("PartnersV1", ("PartnerDeleteV1", "PartnerV1")),
    ("AssetsV2", ("AssetDeleteV1", "AssetV2")),
    ("StacksV1", ("StackDeleteV1", "StackV1")),
    ("PartnerAssetsV2", ("PartnerAssetDeleteV1", "PartnerAssetV2")),
    ("PartnerStacksV1", ("PartnerStackDeleteV1", "PartnerStackV1")),
    ("AlbumAssetsV2", ("AlbumAssetCreateV2",)),
    ("AlbumsV2", ("AlbumDeleteV1", "AlbumV2")),
    ("AlbumUsersV1", ("AlbumUserDeleteV1", "AlbumUserV1")),
    ("AlbumToAssetsV1", ("AlbumToAssetDeleteV1", "AlbumToAssetV1")),
    ("AssetExifsV1", ("AssetExifV1",)),
    ("AlbumAssetExifsV1", ("AlbumAssetExifCreateV1",)),
    ("AssetOcrV1", ("AssetOcrDeleteV1", "AssetOcrV1")),
    ("PartnerAssetExifsV1", ("PartnerAssetExifV1",)),
    ("MemoriesV1", ("MemoryDeleteV1", "MemoryV1")),
    ("MemoryToAssetsV1", ("MemoryToAssetDeleteV1", "MemoryToAssetV1")),
    ("PeopleV1", ("PersonDeleteV1", "PersonV1")),
    ("AssetFacesV2", ("AssetFaceDeleteV1", "AssetFaceV2")),
    ("UserMetadataV1", ("UserMetadataDeleteV1", "UserMetadataV1")),
    ("AssetMetadataV1", ("AssetMetadataDeleteV1", "AssetMetadataV1")),
    ("AssetEditsV1", ("AssetEditDeleteV1", "AssetEditV1")),
)
assert {name for name, _ in _ORDER} == set(TYPES_V2)
_COLUMNS: Final[
    dict[str, dict[str, tuple[str, ...]]]
] = {  # names on the wire that are not the column's, by the phone's table; the first there is, is taken
    "album": {"name": ("albumName",), "thumbnailAssetId": ("albumThumbnailAssetId",)},
    "person": {"id": ("personGroupId", "id"), "personId": ("personGroupId", "personId")},
    "face": {"personId": ("personGroupId", "personId")},
    "memory_asset": {"memoryId": ("memoriesId", "memoryId")},
}
_FIELDS: Final = {name: tuple(field.name for field in fields_of(form.fields)) for name, form in FORMS.items()}


class ImmichServer:
    """Streams and acks of one phone's session, which has the token of `ImmichDatabase.sign_in`."""

    def __init__(self, database: ImmichDatabase, token: str) -> None:
        self._db = database
        self._token = token
        session = database.session(token)
        self._session: UUID = session["id"]
        self._user: UUID = session["userId"]

    def checkpoints(self) -> dict[str, str]:
        """Read the session's acks by type."""
        rows = self._db.fetch('SELECT type, ack FROM session_sync_checkpoint WHERE "sessionId" = $1', self._session)
        return {row["type"]: row["ack"] for row in rows}

    def ack(self, text: str) -> None:
        """Take an ack."""
        name = text.partition("|")[0]
        if name == RESET:
            self._db.delete("session_sync_checkpoint", sessionId=self._session)
            self._db.update("session", self._session, isPendingSyncReset=False)
            return
        self._db.execute(
            'INSERT INTO session_sync_checkpoint ("sessionId", type, ack) VALUES ($1, $2, $3) '
            'ON CONFLICT ("sessionId", type) DO UPDATE SET ack = excluded.ack',
            self._session, name, text,
        )  # fmt: skip

    def stream(self, types: Sequence[str] = TYPES_V2, *, before: UUID | None = None) -> Iterator[bytes]:
        """Yield a stream's lines; `before` is the instant of one that began earlier."""
        held = {name: text.split("|") for name, text in self.checkpoints().items()}
        if self._db.session(self._token)["isPendingSyncReset"] or self._away_too_long(held):
            yield _line(RESET, {}, f"{RESET}|reset")
            return
        now = before or self.instant()
        for request, names in _ORDER:
            if request not in types:
                continue
            for name in names:
                if name in _SHARED:
                    yield from self._shared(name, held, now)
                else:
                    yield from self._sent(name, _PLAIN[name], held, now)
        yield _line(COMPLETE, {}, f"{COMPLETE}|{now}")

    def instant(self) -> UUID:
        """Make the UUIDv7 of a millisecond ago, as each stream begins with."""
        made: UUID = self._db.value("SELECT immich_uuid_v7(clock_timestamp() - interval '1 ms')")
        return made

    def _away_too_long(self, held: dict[str, list[str]]) -> bool:
        if COMPLETE not in held:
            return False
        kept = f"SELECT $1::text::uuid < immich_uuid_v7(now() - interval '{KEPT}')"
        return bool(self._db.value(kept, held[COMPLETE][1]))

    def _sent(self, name: str, rows: _Rows, held: dict[str, list[str]], now: UUID) -> Iterator[bytes]:
        after = held[name][1] if name in held else _NOWHERE
        for row in self._rows(rows, "> $2::text::uuid", "< $3::uuid", after, now):
            yield _line(name, self._wire(name, row), f"{name}|{row['mark']}")

    def _rows(self, rows: _Rows, after: str, before: str, *values: Any) -> list[dict[str, Any]]:
        sql = (
            f"SELECT r.*, {rows.mark} AS mark FROM {rows.table} "
            f"WHERE {rows.where} AND {rows.mark} {after} AND {rows.mark} {before} ORDER BY {rows.mark}"
        )
        return self._db.fetch(sql, self._user, *values)

    def _shared(self, name: str, held: dict[str, list[str]], now: UUID) -> Iterator[bytes]:
        """Send what is shared: backfill of shares that are new, changes of what the phone has, and what is new."""
        backfill, kind, rows = _SHARED[name]
        shares = [row for row in self._db.fetch(_SHARES[kind], self._user) if str(row["createId"]) < str(now)]
        yield from self._backfill(name, backfill, rows, sorted(shares, key=lambda row: str(row["createId"])), held)
        mine = rows._replace(where=rows.where.format(_PARTNERS if kind == "partners" else _ALBUMS))
        marker = ""
        if name in _UPDATES:
            update, table = _UPDATES[name]
            marker = f"{update}|{now}"
            if name in held:
                known = _Rows(table, f'm."userId" = {_ME} AND l."updateId" <= \'{held[name][1]}\'')
                yield from self._sent(update, known, held, now)
        for line in self._sent(name, mine, held, now):
            if marker:
                yield _line("SyncAckV1", {}, marker)
                marker = ""
            yield line

    def _backfill(
        self, main: str, name: str, rows: _Rows, shares: list[dict[str, Any]], held: dict[str, list[str]]
    ) -> Iterator[bytes]:
        _, done, extra = (*held[name], "")[:3] if name in held else ("", "", "")
        new = [share for share in shares if str(share["createId"]) >= done]
        if main not in held:
            if new:
                self.ack(f"{name}|{new[-1]['createId']}|complete")
            return
        for share in new:
            within = str(share["createId"]) == done
            if within and extra == "complete":
                continue
            one = rows._replace(where=f"{_ME} IS NOT NULL AND {rows.where.format('($4)')}")
            after = extra if within and extra else _NOWHERE
            found = self._rows(one, ">= $2::text::uuid", "<= $3::text::uuid", after, held[main][1], share["of"])
            for row in found:
                yield _line(name, self._wire(name, row), f"{name}|{share['createId']}|{row['mark']}")
            yield _line("SyncAckV1", {}, f"{name}|{share['createId']}|complete")

    def _wire(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        columns = _COLUMNS.get(FORMS[name].table, {})
        made = {}
        for field in _FIELDS[name]:
            if field == "hasProfileImage":
                made[field] = row["profileImagePath"] != ""
                continue
            column = next(one for one in columns.get(field, (field,)) if one in row)
            made[field] = _printed(row[column])
        if "isFavorite" in made and "ownerId" in row and row["ownerId"] != self._user:
            made["isFavorite"] = False
        if name == "AlbumV2" or name == "AuthUserV1":
            empty = "description" if name == "AlbumV2" else "oauthId"
            made[empty] = made[empty] or ""
        return made


def _line(name: str, data: dict[str, Any], ack: str) -> bytes:
    return f'{{"type":"{name}","data":{json.dumps(data, separators=(",", ":"))},"ack":"{ack}"}}\n'.encode()


def _printed(value: Any) -> Any:
    """Print a value as JavaScript does: an instant that it cannot tell is null."""
    match value:
        case UUID():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
        case datetime():
            if value.year in (1, 9999):  # how the driver gives infinity
                return None
            return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case date():
            return f"{value.isoformat()}T00:00:00.000Z"
    return value
