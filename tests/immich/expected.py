"""What a device of one user must hold, worked out in Python from whole tables: no SQL is shared with the preset.

Rows are compared with a device's copy as they came over the wire. Times are compared to the millisecond.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

from ops.simulate.copy import Copy
from ops.simulate.tables import TABLES, TYPES_V2
from tests.immich.database import ImmichDatabase

Key = tuple[str, ...]
Row = dict[str, Any]
Tables = dict[str, dict[Key, Row]]

KEYS: Final = ("preferences", "license", "onboarding")
"""What a user may keep at the server, as the app knows it; it stops at any other."""

# Columns whose names on the wire differ, by the device's table.
_RENAMED: Final[Mapping[str, Mapping[str, str]]] = {
    "album": {"name": "albumName", "thumbnailAssetId": "albumThumbnailAssetId"},
    "person": {"id": "personGroupId"},
    "face": {"personId": "personGroupId"},
    "memory_asset": {"memoryId": "memoriesId"},
}


class Immich:
    """All of the database at one moment, and what of it one user sees."""

    def __init__(self, database: ImmichDatabase) -> None:
        names = (
            "user", "user_metadata", "partner", "asset", "asset_exif", "asset_edit", "asset_metadata", "asset_ocr",
            "album", "album_user", "album_asset", "stack", "person", "asset_face", "memory", "memory_asset",
            "asset_audit",
        )  # fmt: skip
        self.rows = {name: database.fetch(f'SELECT * FROM "{name}"') for name in names}
        for name, own in (
            ("person", "id"),
            ("asset_face", "personId"),
            ("user", "id"),
        ):  # before 3.2 there are no groups
            for row in self.rows[name]:
                row.setdefault("clusterGroupId" if name == "user" else "personGroupId", row.get(own))

    def of(self, user: UUID, types: Collection[str] = TYPES_V2) -> Tables:
        """List what a device of this user holds that asks for these types: by table, then by key."""
        rows = self.rows
        partners = {row["sharedById"] for row in rows["partner"] if row["sharedWithId"] == user}
        albums = {row["albumId"] for row in rows["album_user"] if row["userId"] == user}
        links = [row for row in rows["album_asset"] if row["albumId"] in albums]
        linked = {row["assetId"] for row in links}
        owners = {row["id"]: row["ownerId"] for row in rows["asset"]}
        own = {asset for asset, owner in owners.items() if owner == user}
        visible = {asset for asset, owner in owners.items() if owner == user or owner in partners or asset in linked}
        memories = {
            row["id"]
            for row in rows["memory"]
            if row["ownerId"] == user and ("MemoriesV2" in types or row["type"] == "on_this_day")
        }
        people = {row["personGroupId"] for row in rows["person"] if row["ownerId"] == user}

        def kept(table: str, keep: Callable[[Row], bool]) -> list[Row]:
            return [dict(row) for row in rows[table] if keep(row)]

        assets = kept("asset", lambda row: row["id"] in visible)
        for asset in assets:
            asset["isFavorite"] = asset["isFavorite"] and asset["ownerId"] == user  # protocol.md, 7: hearts are private
        if "AssetFacesV3" in types:
            groups = {row["id"]: row["clusterGroupId"] for row in rows["user"]}
            faces = kept("asset_face", lambda row: groups[owners[row["assetId"]]] == groups[user])
        else:
            faces = kept("asset_face", lambda row: row["assetId"] in own)
            for face in faces:
                face["personGroupId"] = face["personGroupId"] if face["personGroupId"] in people else None
        auth_user = kept("user", lambda row: row["id"] == user)
        for row in auth_user:
            row["oauthId"] = row["oauthId"] or (None if "AuthUsersV2" in types else "")
        return {
            "auth_user": _wire("auth_user", auth_user),
            "user": _wire("user", rows["user"]),
            "user_metadata": _wire(
                "user_metadata", kept("user_metadata", lambda row: row["userId"] == user and row["key"] in KEYS)
            ),
            "partner": _wire("partner", kept("partner", lambda row: user in (row["sharedById"], row["sharedWithId"]))),
            "asset": _wire("asset", assets),
            "exif": _wire("exif", kept("asset_exif", lambda row: row["assetId"] in visible)),
            "asset_edit": _wire("asset_edit", kept("asset_edit", lambda row: row["assetId"] in own)),
            "asset_metadata": _wire("asset_metadata", kept("asset_metadata", lambda row: row["assetId"] in own)),
            "ocr": _wire("ocr", kept("asset_ocr", lambda row: row["assetId"] in own)),
            "album": _wire("album", kept("album", lambda row: row["id"] in albums)),
            "album_user": _wire("album_user", kept("album_user", lambda row: row["albumId"] in albums)),
            "album_asset": _wire("album_asset", links),
            "stack": _wire("stack", kept("stack", lambda row: row["ownerId"] == user or row["ownerId"] in partners)),
            "person": _wire("person", kept("person", lambda row: row["ownerId"] == user)),
            "face": _wire("face", faces),
            "memory": _wire("memory", kept("memory", lambda row: row["id"] in memories)),
            "memory_asset": _wire(
                "memory_asset",
                kept("memory_asset", lambda row: row["memoriesId"] in memories and row["assetId"] in visible),
            ),
        }


def differences(copy: Copy, immich: Immich, user: UUID, types: Collection[str] = TYPES_V2) -> list[str]:
    """Compare a device's copy with what it must hold; one line for each row that differs, none when all is right.

    Rows of what this user saw only through a share that ended may stay, as may texts of an asset that were replaced,
    and with the app of 3.3 faces of assets that were deleted.
    An album's thumbnail is the album's own, or null where it was not visible when the album was sent.
    """
    expected, held = immich.of(user, types), _held(copy)
    unbound = {str(row["assetId"]) for row in immich.rows["asset_audit"]} if "AssetFacesV3" in types else set()
    thumbnails = {str(row["id"]): row["albumThumbnailAssetId"] for row in immich.rows["album"]}
    found = []
    for table, rows in expected.items():
        found += [f"missing: {table} {' '.join(key)}" for key in rows.keys() - held[table].keys()]
        found += [
            f"extra: {table} {' '.join(key)}"
            for key in held[table].keys() - rows.keys()
            if not _may_stay(table, held[table][key], held, expected, str(user))
            and not (table == "face" and held[table][key]["assetId"] in unbound)
        ]
        for key in rows.keys() & held[table].keys():
            right, there = dict(rows[key]), dict(held[table][key])
            if table == "album" and there["thumbnailAssetId"] in (None, str(thumbnails[key[0]])):
                del right["thumbnailAssetId"], there["thumbnailAssetId"]
            fields = [name for name in right if right[name] != there[name]]
            if fields:
                told = ", ".join(f"{name} is {there[name]!r}, not {right[name]!r}" for name in fields)
                found.append(f"different: {table} {' '.join(key)}: {told}")
    return found


def _may_stay(table: str, row: Row, held: Tables, expected: Tables, user: str) -> bool:
    """Tell whether the app would drop a row by itself, or may keep it for good as with Immich's own server."""
    if table == "ocr":
        return True
    if table in ("asset", "stack"):
        key = (str(row["id"]),)
        linked = {link["assetId"] for link in expected["album_asset"].values()}
        shared = {p["sharedById"] for p in expected["partner"].values() if p["sharedWithId"] == user}
        return key not in expected[table] and row["ownerId"] not in (user, *shared) and row["id"] not in linked
    if table in ("exif", "memory_asset"):
        asset = held["asset"].get((str(row["assetId"]),))
        return asset is not None and _may_stay("asset", asset, held, expected, user)
    return False


def _held(copy: Copy) -> Tables:
    held: Tables = {}
    for name, table in TABLES.items():
        cursor = copy.db.execute(f'SELECT * FROM "{name}"')
        columns = [column[0] for column in cursor.description]
        rows = [{c: _comparable(v) for c, v in zip(columns, row, strict=True)} for row in cursor]
        held[name] = {tuple(str(row[part]) for part in table.key): row for row in rows}
    return held


def _wire(table: str, rows: Iterable[Row]) -> dict[Key, Row]:
    described = TABLES[table]
    names = [part.split()[0].removesuffix("?") for part in described.fields.split(",")]
    renamed = _RENAMED.get(table, {})
    made = [{name: _plain(name, row, renamed.get(name, name)) for name in names} for row in rows]
    return {tuple(str(row[part]) for part in described.key): row for row in made}


def _plain(name: str, row: Row, column: str) -> Any:
    """Convert a column as a device keeps it."""
    if name == "hasProfileImage":
        return int(row["profileImagePath"] != "")
    value = row[column]
    if name == "description" and "albumName" in row:
        return value or ""
    match value:
        case UUID():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
        case bool():
            return int(value)
        case float():
            return _comparable(value)
        case datetime():
            return _comparable(value.astimezone(UTC).isoformat())
        case date():
            return _comparable(f"{value.isoformat()}T00:00:00Z")
        case dict():
            return json.dumps(value, separators=(",", ":"), sort_keys=True)
    return value


def _comparable(value: Any) -> Any:
    """Cut a time off at its milliseconds and leave the rest as it is; numbers of 32 bits are rounded."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, str) and len(value) >= 20 and value[4] == value[7] == "-" and value[10] == "T":
        try:
            moment = datetime.fromisoformat(value).astimezone(UTC)
        except ValueError:
            return value
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000).isoformat()
    return value
