"""The benchmarks' library: assets whose served line has about 650 bytes, the same in every run. Pure."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from typing import Any, Final
from uuid import UUID, uuid5

import msgspec

from ledger.positions import iso_from_us

TYPE: Final = "AssetV2"
REQUEST_TYPE: Final = "AssetsV2"
OWNER: Final = str(UUID(int=0x5EED))
START_US: Final = 1_577_836_800_000_000  # 2020-01-01T00:00:00Z
STEP_US: Final = 1_000_003  # no two assets share a second
_NAMES: Final = UUID(int=0xBE7C)


def asset(number: int) -> dict[str, Any]:
    """The payload of one asset, all 20 keys of `AssetV2`."""
    asset_id = str(uuid5(_NAMES, str(number)))
    digest = sha1(asset_id.encode(), usedforsecurity=False).digest()
    taken_at = iso_from_us(START_US + number * STEP_US)[:23] + "Z"
    return {
        "id": asset_id,
        "ownerId": OWNER,
        "originalFileName": f"IMG_{number:08}.HEIC",
        "checksum": b64encode(digest).decode(),
        "thumbhash": b64encode(digest + digest[:5]).decode(),
        "type": "IMAGE",
        "visibility": "timeline",
        "isFavorite": number % 10 == 0,
        "isEdited": False,
        "duration": None,
        "fileCreatedAt": taken_at,
        "fileModifiedAt": taken_at,
        "createdAt": taken_at,
        "localDateTime": taken_at,
        "deletedAt": None,
        "livePhotoVideoId": None,
        "stackId": None,
        "libraryId": None,
        "width": 4032,
        "height": 3024,
    }


def owner() -> bytes:
    """The assets' owner as they are imported: one line."""
    data = {
        "id": OWNER,
        "name": "Bench",
        "email": "bench@example.test",
        "hasProfileImage": False,
        "profileChangedAt": "2020-01-01T00:00:00.000Z",
        "avatarColor": None,
        "deletedAt": None,
    }
    return msgspec.json.encode({"type": "UserV1", "id": OWNER, "data": data}) + b"\n"


def ndjson(start: int, end: int) -> bytes:
    """The assets from `start` to before `end` as they are imported: a line `{"type", "id", "data"}` each."""
    lines = ({"type": TYPE, "id": data["id"], "data": data} for data in map(asset, range(start, end)))
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def served_line(number: int) -> tuple[str, bytes]:
    """An asset's id and the whole line a device gets for it, LF included, as the floor stores it."""
    data = asset(number)
    ack = f"{TYPE}|{iso_from_us(START_US + number * STEP_US)}|{data['id']}"
    return data["id"], msgspec.json.encode({"type": TYPE, "data": data, "ack": ack}) + b"\n"
