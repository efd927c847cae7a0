"""A believable library made up from a seed: the same arguments give the same entities, byte for byte.

Everything about an entity follows from its kind and number, so a library of a million assets is generated without
holding any of it. Parents come before their children, and every type that a 3.2 device can receive occurs.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import blake2b, sha1
from typing import Any, Final, NamedTuple

import msgspec

DEFAULT_ASSETS: Final = 2000

_FIRST_SHOT: Final = datetime(2014, 5, 1, 8, 30, tzinfo=UTC)
_SPAN_S: Final = 11 * 365 * 86_400
_PLACES: Final = (
    ("Lisbon", "Lisboa", "Portugal", 38.7223, -9.1393, "Europe/Lisbon"),
    ("Bergen", "Vestland", "Norway", 60.3913, 5.3221, "Europe/Oslo"),
    ("Kyoto", "Kyoto", "Japan", 35.0116, 135.7681, "Asia/Tokyo"),
    ("Cusco", "Cusco", "Peru", -13.532, -71.9675, "America/Lima"),
    ("Marrakesh", "Marrakesh-Safi", "Morocco", 31.6295, -7.9811, "Africa/Casablanca"),
    ("Wellington", "Wellington", "New Zealand", -41.2866, 174.7756, "Pacific/Auckland"),
)
_CAMERAS: Final = (
    ("Google", "Pixel 8", "Pixel 8 back camera 6.9mm f/1.68", 1.68, 6.9),
    ("Apple", "iPhone 14", "iPhone 14 back dual wide camera 5.7mm f/1.5", 1.5, 5.7),
    ("FUJIFILM", "X-T4", "XF23mmF2 R WR", 2.0, 23.0),
    ("SONY", "ILCE-7M4", "FE 35mm F1.8", 1.8, 35.0),
)
_PEOPLE: Final = ("Ada", "Bruno", "Chiara", "Dev", "Emre", "Freya", "Gus", "Hana", "Ines", "Jonas", "Kaya", "")
_ALBUMS: Final = ("Summer", "Hiking", "Grandma's birthday", "The new flat", "Film rolls", "Snow", "Garden", "Receipts")
_SIGNS: Final = ("EXIT", "Pastelaria", "Platform 4", "No parking", "Menu do dia", "Total 18,40")
_COLORS: Final = ("blue", "green", "amber")
_encode: Final = msgspec.json.Encoder().encode

Data = dict[str, Any]


class Entity(NamedTuple):
    """One entity; a pair has no id of its own (the catalog derives it from its parts)."""

    type: str
    id: str | None
    data: Data


class _Account(NamedTuple):
    id: str
    name: str
    email: str
    color: str


class DemoLibrary:
    """One library. `user` is the id of its owner; `assets` counts the owner's own."""

    def __init__(self, *, user: str, name: str, assets: int = DEFAULT_ASSETS, seed: str = "demo") -> None:
        """Nothing is generated yet; raises ValueError for less than one asset."""
        if assets < 1:
            raise ValueError("a demo library has at least one asset")
        self.assets = assets
        self.partner_assets = max(8, assets // 20)
        self.friend_assets = max(8, assets // 50)
        self.people = max(3, assets // 200)
        self.albums = max(2, assets // 250)
        self.memories = max(2, assets // 400)
        self._seed = seed.encode()
        self._owner = _Account(user, name, f"{user}@example.test", _COLORS[0])
        self._partner = _Account(self._id("user", 1), "Robin", "robin@example.test", _COLORS[1])
        self._friend = _Account(self._id("user", 2), "Sasha", "sasha@example.test", _COLORS[2])
        self._club = self._id("club", 0)

    def __iter__(self) -> Iterator[Entity]:
        """Yield all entities, parents first."""
        yield from self._users()
        yield from self._all_assets()
        yield from self._all_exif()
        yield from self._stacks()
        yield from self._album_entities()
        yield from self._people_and_faces()
        yield from self._memories()
        yield from self._details()

    def lines(self) -> Iterator[bytes]:
        """Yield all entities as the NDJSON lines that `syncledger import` reads, each with its LF."""
        for entity_type, entity_id, data in self:
            known = {"id": entity_id} if entity_id is not None else {}
            yield _encode({"type": entity_type, **known, "data": data}) + b"\n"

    def _bytes(self, kind: str, number: int) -> bytes:
        return blake2b(b"%b %d" % (kind.encode(), number), key=self._seed[:64], digest_size=32).digest()

    def _id(self, kind: str, number: int) -> str:
        """Return the UUID of the n-th entity of a kind."""
        text = self._bytes(kind, number).hex()
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:32]}"

    def _shot_at(self, number: int, of: int) -> datetime:
        """Return when the n-th of so many was taken: a whole second, never the same twice."""
        return _FIRST_SHOT + timedelta(seconds=number * max(1, _SPAN_S // of))

    def _users(self) -> Iterator[Entity]:
        for account in (self._owner, self._partner, self._friend):
            user: Data = {
                "id": account.id, "name": account.name, "email": account.email, "avatarColor": account.color,
                "deletedAt": None, "hasProfileImage": False, "profileChangedAt": _iso(_FIRST_SHOT),
            }  # fmt: skip
            if account is self._owner:
                own = {"isAdmin": True, "oauthId": "", "pinCode": None, "storageLabel": "demo",
                       "quotaSizeInBytes": None, "quotaUsageInBytes": self.assets * 3_000_000}  # fmt: skip
                yield Entity("AuthUserV1", account.id, {**user, **own})
            yield Entity("UserV1", account.id, user)
        owner, partner = self._owner.id, self._partner.id
        yield Entity("PartnerV1", None, {"sharedById": partner, "sharedWithId": owner, "inTimeline": True})
        yield Entity("PartnerV1", None, {"sharedById": owner, "sharedWithId": partner, "inTimeline": False})
        for key, value in (
            ("preferences", {"memories": {"enabled": True, "duration": 5}, "people": {"enabled": True}}),
            ("onboarding", {"isOnboarded": True}),
            ("license", {"licenseKey": "IMCL-DEMO", "activationKey": "demo", "activatedAt": _iso(_FIRST_SHOT)}),
        ):
            yield Entity("UserMetadataV1", None, {"userId": owner, "key": key, "value": value})

    def _all_assets(self) -> Iterator[Entity]:
        for number in range(self.assets):
            yield self._asset("AssetV2", "asset", number, self.assets, self._owner.id)
        for number in range(self.partner_assets):
            yield self._asset(_variant(number, "PartnerAsset", "V2"), "partner-asset", number, self.partner_assets,
                              self._partner.id)  # fmt: skip
        for number in range(self.friend_assets):
            yield self._asset(_album_variant(number, "AlbumAsset", "V2"), "friend-asset", number, self.friend_assets,
                              self._friend.id)  # fmt: skip

    def _asset(self, entity_type: str, kind: str, number: int, of: int, owner: str) -> Entity:
        """Make a photo; every 12th is a video, and every 40th own one the moving part of the photo before it."""
        dice = self._bytes(f"{kind} dice", number)
        asset_id, shot = self._id(kind, number), self._shot_at(number, of)
        own = kind == "asset"
        moving = own and number % 40 == 39
        video = moving or number % 12 == 11
        stacked = kind != "friend-asset" and number % _every(of) < 3
        upright = dice[0] % 3 == 0
        data: Data = {
            "id": asset_id,
            "ownerId": owner,
            "originalFileName": f"{'VID' if video else 'IMG'}_{shot:%Y%m%d_%H%M%S}.{'mp4' if video else 'jpg'}",
            "checksum": b64encode(sha1(f"{kind} {number} {self._seed!r}".encode()).digest()).decode(),  # noqa: S324
            "thumbhash": b64encode(dice[:24]).decode(),
            "type": "VIDEO" if video else "IMAGE",
            "visibility": "hidden" if moving else "archive" if number % 97 == 96 else "timeline",
            "isFavorite": own and dice[1] % 16 == 0,  # hearts of others are not sent
            "isEdited": own and number % 40 == 7,
            "duration": 1000 + int.from_bytes(dice[2:4], "big") if video else None,
            "fileCreatedAt": _iso(shot),
            "fileModifiedAt": _iso(shot + timedelta(seconds=2)),
            "createdAt": _iso(shot + timedelta(hours=1)),
            "localDateTime": _iso(shot + timedelta(hours=dice[4] % 12)),
            "deletedAt": _iso(shot + timedelta(days=30)) if number % 211 == 210 else None,
            "livePhotoVideoId": self._id(kind, number + 1) if own and number % 40 == 38 and number + 1 < of else None,
            "stackId": self._id(f"{kind} stack", number // _every(of)) if stacked else None,
            "libraryId": None,
            "width": 3024 if upright else 4032,
            "height": 4032 if upright else 3024,
        }
        return Entity(entity_type, asset_id, data)

    def _all_exif(self) -> Iterator[Entity]:
        for number in range(self.assets):
            yield self._exif("AssetExifV1", "asset", number, self.assets)
        for number in range(self.partner_assets):
            yield self._exif(_variant(number, "PartnerAssetExif", "V1"), "partner-asset", number, self.partner_assets)
        for number in range(self.friend_assets):
            yield self._exif(_album_variant(number, "AlbumAssetExif", "V1"), "friend-asset", number, self.friend_assets)

    def _exif(self, entity_type: str, kind: str, number: int, of: int) -> Entity:
        dice = self._bytes(f"{kind} exif", number)
        asset_id, shot = self._id(kind, number), self._shot_at(number, of)
        city, state, country, latitude, longitude, zone = _PLACES[number * len(_PLACES) // of]
        make, model, lens, aperture, focal_length = _CAMERAS[dice[0] % len(_CAMERAS)]
        located = dice[1] % 5 > 0
        video = number % 12 == 11
        data: Data = {
            "assetId": asset_id,
            "description": "" if dice[2] % 10 else f"{city}, evening",
            "exifImageWidth": 4032,
            "exifImageHeight": 3024,
            "fileSizeInByte": 2_000_000 + int.from_bytes(dice[3:6], "big"),
            "orientation": "1" if dice[6] % 3 else "6",
            "dateTimeOriginal": _iso(shot),
            "modifyDate": _iso(shot + timedelta(seconds=1)),
            "timeZone": zone,
            "latitude": round(latitude + dice[7] / 2000, 6) if located else None,
            "longitude": round(longitude + dice[8] / 2000, 6) if located else None,
            "projectionType": None,
            "city": city if located else None,
            "state": state if located else None,
            "country": country if located else None,
            "make": make,
            "model": model,
            "lensModel": lens,
            "fNumber": aperture,
            "focalLength": focal_length,
            "iso": 50 << dice[9] % 7,
            "exposureTime": f"1/{30 << dice[10] % 6}",
            "profileDescription": "sRGB",
            "rating": dice[11] % 6 or None,
            "fps": 29.97 if video else None,
        }
        return Entity(entity_type, asset_id, data)

    def _stacks(self) -> Iterator[Entity]:
        for kind, of, owner in (
            ("asset", self.assets, self._owner.id),
            ("partner-asset", self.partner_assets, self._partner.id),
        ):
            for number, first in enumerate(range(0, of, _every(of))):
                stack_id, at = self._id(f"{kind} stack", number), _iso(self._shot_at(first, of))
                entity_type = "StackV1" if kind == "asset" else _variant(number, "PartnerStack", "V1")
                data = {"id": stack_id, "ownerId": owner, "primaryAssetId": self._id(kind, first),
                        "createdAt": at, "updatedAt": at}  # fmt: skip
                yield Entity(entity_type, stack_id, data)

    def _album_entities(self) -> Iterator[Entity]:
        """Yield the owner's albums with each 5th asset, some shared with the partner, and the club's of the friend."""
        for number in range(self.albums):
            name = f"{_ALBUMS[number % len(_ALBUMS)]} {2014 + number * 11 // self.albums}"
            cover = self._id("asset", min(self._first_of_album(number), self.assets - 1))
            yield self._album(self._id("album", number), name, cover, number)
        yield self._album(self._club, "Hiking club", self._id("friend-asset", 0), self.albums)
        owner, partner, friend = self._owner.id, self._partner.id, self._friend.id
        for number in range(self.albums):
            album = self._id("album", number)
            yield Entity("AlbumUserV1", None, {"albumId": album, "userId": owner, "role": "owner"})
            if number % 4 == 0:
                yield Entity("AlbumUserV1", None, {"albumId": album, "userId": partner, "role": "editor"})
        yield Entity("AlbumUserV1", None, {"albumId": self._club, "userId": friend, "role": "owner"})
        yield Entity("AlbumUserV1", None, {"albumId": self._club, "userId": owner, "role": "editor"})
        yield Entity("AlbumUserBackfillV1", None, {"albumId": self._club, "userId": partner, "role": "viewer"})
        for number in range(self.albums):
            for asset in range(self._first_of_album(number), min(self._first_of_album(number + 1), self.assets), 5):
                data = {"albumId": self._id("album", number), "assetId": self._id("asset", asset)}
                yield Entity("AlbumToAssetV1", None, data)
        for number in range(self.friend_assets):
            data = {"albumId": self._club, "assetId": self._id("friend-asset", number)}
            yield Entity(_variant(number, "AlbumToAsset", "V1"), None, data)

    def _first_of_album(self, number: int) -> int:
        return number * self.assets // self.albums

    def _album(self, album_id: str, name: str, cover: str, number: int) -> Entity:
        at = self._shot_at(number, self.albums + 1)
        data = {"id": album_id, "name": name, "description": "", "createdAt": _iso(at),
                "updatedAt": _iso(at + timedelta(days=2)), "thumbnailAssetId": cover, "isActivityEnabled": True,
                "order": "asc" if number % 3 == 1 else "desc"}  # fmt: skip
        return Entity("AlbumV2", album_id, data)

    def _people_and_faces(self) -> Iterator[Entity]:
        for number in range(self.people):
            person_id, at = self._id("person", number), self._shot_at(number, self.people)
            born = _iso(datetime(1950 + number % 70, 1 + number % 12, 1 + number % 28, tzinfo=UTC))
            data: Data = {
                "id": person_id, "ownerId": self._owner.id, "name": _PEOPLE[number % len(_PEOPLE)],
                "createdAt": _iso(at), "updatedAt": _iso(at + timedelta(seconds=1)),
                "birthDate": born if number % 3 == 0 else None, "isHidden": number % 11 == 10,
                "isFavorite": number == 0, "color": None,
                "faceAssetId": self._id("asset", number * 4 % self.assets),
            }  # fmt: skip
            yield Entity("PersonV1", person_id, data)
        for number in range(0, self.assets, 4):
            face_id, dice = self._id("face", number), self._bytes("face dice", number)
            left, top = int.from_bytes(dice[:2], "big") % 3000, int.from_bytes(dice[2:4], "big") % 2000
            data = {
                "id": face_id, "assetId": self._id("asset", number),
                "personId": self._id("person", number // 4 % self.people) if dice[4] % 8 else None,
                "imageWidth": 4032, "imageHeight": 3024, "boundingBoxX1": left, "boundingBoxY1": top,
                "boundingBoxX2": left + 400, "boundingBoxY2": top + 500, "sourceType": "machine-learning",
                "isVisible": dice[5] % 50 > 0, "deletedAt": None,
            }  # fmt: skip
            yield Entity("AssetFaceV2", face_id, data)

    def _memories(self) -> Iterator[Entity]:
        for number in range(self.memories):
            memory_id, at = self._id("memory", number), self._shot_at(number, self.memories)
            shown = at.replace(year=at.year + 1, day=min(at.day, 28), hour=0, minute=0, second=0)
            data: Data = {
                "id": memory_id, "ownerId": self._owner.id, "type": "on_this_day", "data": {"year": at.year},
                "createdAt": _iso(at), "updatedAt": _iso(at + timedelta(seconds=1)), "deletedAt": None,
                "isSaved": number % 5 == 0, "memoryAt": _iso(at), "seenAt": _iso(shown) if number % 2 else None,
                "showAt": _iso(shown), "hideAt": _iso(shown + timedelta(days=1)),
            }  # fmt: skip
            yield Entity("MemoryV1", memory_id, data)
        for number in range(self.memories):
            first = number * self.assets // self.memories
            for asset in range(first, min(first + 6, self.assets)):
                data = {"memoryId": self._id("memory", number), "assetId": self._id("asset", asset)}
                yield Entity("MemoryToAssetV1", None, data)

    def _details(self) -> Iterator[Entity]:
        """Yield what single assets have besides: a phone's own id for it, edits, texts found in it."""
        for number in range(0, self.assets, 10):
            value = {"iCloudId": self._id("icloud", number), "createdAt": _iso(self._shot_at(number, self.assets))}
            data: Data = {"assetId": self._id("asset", number), "key": "mobile-app", "value": value}
            yield Entity("AssetMetadataV1", None, data)
        for step, number in enumerate(range(7 % self.assets, self.assets, 40)):
            for sequence, (action, parameters) in enumerate(_EDITS[: 1 + step % 3]):
                edit_id = self._id("edit", number * 3 + sequence)
                data = {"id": edit_id, "assetId": self._id("asset", number), "action": action,
                        "parameters": parameters, "sequence": sequence}  # fmt: skip
                yield Entity("AssetEditV1", edit_id, data)
        for number in range(0, self.assets, 8):
            ocr_id, dice = self._id("ocr", number), self._bytes("ocr dice", number)
            x, y = round(dice[0] / 512, 4), round(dice[1] / 512, 4)
            data = {
                "id": ocr_id, "assetId": self._id("asset", number), "text": _SIGNS[dice[2] % len(_SIGNS)],
                "textScore": round(0.7 + dice[3] / 1000, 3), "boxScore": round(0.7 + dice[4] / 1000, 3),
                "isVisible": True, "x1": x, "y1": y, "x2": round(x + 0.2, 4), "y2": y, "x3": round(x + 0.2, 4),
                "y3": round(y + 0.05, 4), "x4": x, "y4": round(y + 0.05, 4),
            }  # fmt: skip
            yield Entity("AssetOcrV1", ocr_id, data)


_EDITS: Final[tuple[tuple[str, Data], ...]] = (
    ("crop", {"x": 100, "y": 80, "width": 2400, "height": 2400}),
    ("rotate", {"angle": 90}),
    ("mirror", {"axis": "horizontal"}),
)


def _every(of: int) -> int:
    """Return how many assets apart stacks begin; each is of the first three."""
    return 50 if of >= 100 else 4


def _variant(number: int, family: str, version: str) -> str:
    """Return the type of the n-th shared entity: the first was there before the sharing began."""
    return f"{family}Backfill{version}" if number == 0 else f"{family}{version}"


def _album_variant(number: int, family: str, version: str) -> str:
    return f"{family}{('Backfill', 'Update')[number] if number < 2 else 'Create'}{version}"


def _iso(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.000Z"
