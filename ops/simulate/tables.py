"""What the app keeps of each entity type: fields, tables, references and uniqueness.

Written from the wire protocol alone and not shared with the server's registry: the device would otherwise agree with
the server's mistakes. One line of `FORMS` is all that is known of an entity type's data.

Fields are `name kind`, the kinds being `s` string, `b` boolean, `i` integer, `f` number, `dt` date, `{}` object or the
values of an enum joined by `|`; `?` behind the kind allows null, `?` behind the name allows the key to be absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

ASSET: Final = """id s, ownerId s, originalFileName s, checksum s, thumbhash s?, type IMAGE|VIDEO|AUDIO|OTHER,
 visibility timeline|archive|hidden|locked, isFavorite b, isEdited b, duration {duration}, fileCreatedAt dt?,
 fileModifiedAt dt?, createdAt dt?, localDateTime dt?, deletedAt dt?, livePhotoVideoId s?, stackId s?, libraryId s?,
 width i?, height i?"""
ASSET_V1: Final = ASSET.format(duration="s?")
ASSET_V2: Final = ASSET.format(duration="i?")
EXIF: Final = """assetId s, description s?, exifImageWidth i?, exifImageHeight i?, fileSizeInByte i?, orientation s?,
 dateTimeOriginal dt?, modifyDate dt?, timeZone s?, latitude f?, longitude f?, projectionType s?, city s?, state s?,
 country s?, make s?, model s?, lensModel s?, fNumber f?, focalLength f?, iso i?, exposureTime s?,
 profileDescription s?, rating i?, fps f?"""
ALBUM_V2: Final = """id s, name s, description s, createdAt dt, updatedAt dt, thumbnailAssetId s?, isActivityEnabled b,
 order asc|desc"""
ALBUM_V1: Final = f"{ALBUM_V2}, ownerId s"
ALBUM_USER: Final = "albumId s, userId s, role editor|viewer|owner"
ALBUM_ASSET: Final = "albumId s, assetId s"
USER: Final = """id s, name s, email s, avatarColor? primary|pink|red|yellow|blue|green|purple|orange|gray|amber?,
 deletedAt dt?, hasProfileImage b, profileChangedAt dt"""
AUTH_USER: Final = f"""{USER}, isAdmin b, oauthId s, pinCode s?, storageLabel s?, quotaSizeInBytes i?,
 quotaUsageInBytes i"""
AUTH_USER_V2: Final = AUTH_USER.replace("oauthId s,", "oauthId s?,")
PERSON: Final = """id s, ownerId s, name s, createdAt dt, updatedAt dt, birthDate dt?, isHidden b, isFavorite b,
 color s?, faceAssetId s?"""
FACE_V1: Final = """id s, assetId s, personId s?, imageWidth i, imageHeight i, boundingBoxX1 i, boundingBoxY1 i,
 boundingBoxX2 i, boundingBoxY2 i, sourceType s"""
FACE_V2: Final = f"{FACE_V1}, isVisible b, deletedAt dt?"
STACK: Final = "id s, ownerId s, primaryAssetId s, createdAt dt, updatedAt dt"
MEMORY: Final = """id s, ownerId s, type on_this_day, data {}, createdAt dt, updatedAt dt, deletedAt dt?, isSaved b,
 memoryAt dt, seenAt dt?, showAt dt?, hideAt dt?"""
MEMORY_V2: Final = MEMORY.replace("type on_this_day,", "type on_this_day|birthday,")
OCR: Final = """id s, assetId s, text s, textScore f, boxScore f, isVisible b, x1 f, y1 f, x2 f, y2 f, x3 f, y3 f, x4 f,
 y4 f"""


class Table(NamedTuple):
    """A table of the copy: `references` maps a column to its parent table, `unique` holds index bodies.

    Deleting a parent deletes the row, or clears the column where it may be null.
    """

    name: str
    key: tuple[str, ...]
    fields: str
    references: Mapping[str, str] = MappingProxyType({})
    unique: tuple[str, ...] = ()
    defaults: Mapping[str, str] = MappingProxyType({})


TABLES: Final = {
    table.name: table
    for table in (
        Table("auth_user", ("id",), AUTH_USER_V2),
        Table("user", ("id",), USER),
        Table("partner", ("sharedById", "sharedWithId"), "sharedById s, sharedWithId s, inTimeline b",
              {"sharedById": "user", "sharedWithId": "user"}),
        Table("asset", ("id",), ASSET_V2, {"ownerId": "user"},
              ('("ownerId", "checksum") WHERE "libraryId" IS NULL',
               '("ownerId", "libraryId", "checksum") WHERE "libraryId" IS NOT NULL')),
        Table("stack", ("id",), STACK, {"ownerId": "user"}),
        Table("exif", ("assetId",), EXIF, {"assetId": "asset"}),
        Table("album", ("id",), ALBUM_V2, {"thumbnailAssetId": "asset"}),
        Table("album_user", ("albumId", "userId"), ALBUM_USER, {"albumId": "album", "userId": "user"}),
        Table("album_asset", ("albumId", "assetId"), ALBUM_ASSET, {"albumId": "album", "assetId": "asset"}),
        Table("memory", ("id",), MEMORY_V2, {"ownerId": "user"}),
        Table("memory_asset", ("memoryId", "assetId"), "memoryId s, assetId s",
              {"memoryId": "memory", "assetId": "asset"}),
        Table("person", ("id",), PERSON, {"ownerId": "user"}),
        Table("face", ("id",), FACE_V2, {"assetId": "asset", "personId": "person"}, defaults={"isVisible": "1"}),
        Table("user_metadata", ("userId", "key"), "userId s, key preferences|license|onboarding, value {}",
              {"userId": "user"}),
        Table("asset_metadata", ("assetId", "key"), "assetId s, key s, value {}", {"assetId": "asset"}),
        Table("asset_edit", ("id",), "id s, assetId s, action crop|rotate|mirror, parameters {}, sequence i",
              {"assetId": "asset"}),
        Table("ocr", ("id",), OCR, {"assetId": "asset"}),
    )
}  # fmt: skip


class Form(NamedTuple):
    """What a line of an entity type does: upserts `fields` into `table`, or deletes the row that `removes` points at.

    `removes` holds the data's fields in the order of the table's key. A form without a table changes nothing.
    """

    table: str
    fields: str
    removes: tuple[str, ...] = ()


def _upserts(table: str, fields: str, *names: str) -> dict[str, Form]:
    return dict.fromkeys(names, Form(table, fields))


def _delete(table: str, fields: str) -> Form:
    return Form(table, fields, tuple(part.split()[0] for part in fields.split(",")))


FORMS: Final[dict[str, Form]] = {
    **_upserts("auth_user", AUTH_USER, "AuthUserV1"),
    **_upserts("auth_user", AUTH_USER_V2, "AuthUserV2"),
    **_upserts("user", USER, "UserV1"),
    "UserDeleteV1": _delete("user", "userId s"),
    **_upserts("partner", TABLES["partner"].fields, "PartnerV1"),
    "PartnerDeleteV1": _delete("partner", "sharedById s, sharedWithId s"),
    **_upserts("asset", ASSET_V1, "AssetV1", "PartnerAssetV1", "PartnerAssetBackfillV1", "AlbumAssetCreateV1",
               "AlbumAssetUpdateV1", "AlbumAssetBackfillV1"),
    **_upserts("asset", ASSET_V2, "AssetV2", "PartnerAssetV2", "PartnerAssetBackfillV2", "AlbumAssetCreateV2",
               "AlbumAssetUpdateV2", "AlbumAssetBackfillV2"),
    "AssetDeleteV1": _delete("asset", "assetId s"),
    "PartnerAssetDeleteV1": _delete("asset", "assetId s"),
    **_upserts("stack", STACK, "StackV1", "PartnerStackV1", "PartnerStackBackfillV1"),
    "StackDeleteV1": _delete("stack", "stackId s"),
    "PartnerStackDeleteV1": _delete("stack", "stackId s"),
    **_upserts("exif", EXIF, "AssetExifV1", "PartnerAssetExifV1", "PartnerAssetExifBackfillV1",
               "AlbumAssetExifCreateV1", "AlbumAssetExifUpdateV1", "AlbumAssetExifBackfillV1"),
    **_upserts("album", ALBUM_V1, "AlbumV1"),
    **_upserts("album", ALBUM_V2, "AlbumV2"),
    "AlbumDeleteV1": _delete("album", "albumId s"),
    **_upserts("album_user", ALBUM_USER, "AlbumUserV1", "AlbumUserBackfillV1"),
    "AlbumUserDeleteV1": _delete("album_user", "albumId s, userId s"),
    **_upserts("album_asset", ALBUM_ASSET, "AlbumToAssetV1", "AlbumToAssetBackfillV1"),
    "AlbumToAssetDeleteV1": _delete("album_asset", "albumId s, assetId s"),
    **_upserts("memory", MEMORY, "MemoryV1"),
    **_upserts("memory", MEMORY_V2, "MemoryV2"),
    "MemoryDeleteV1": _delete("memory", "memoryId s"),
    **_upserts("memory_asset", "memoryId s, assetId s", "MemoryToAssetV1", "MemoryToAssetV2"),
    "MemoryToAssetDeleteV1": _delete("memory_asset", "memoryId s, assetId s"),
    **_upserts("person", PERSON, "PersonV1"),
    "PersonDeleteV1": _delete("person", "personId s"),
    **_upserts("face", FACE_V1, "AssetFaceV1"),
    **_upserts("face", FACE_V2, "AssetFaceV2", "AssetFaceV3"),
    "AssetFaceDeleteV1": _delete("face", "assetFaceId s"),
    **_upserts("user_metadata", TABLES["user_metadata"].fields, "UserMetadataV1"),
    "UserMetadataDeleteV1": _delete("user_metadata", "userId s, key preferences|license|onboarding"),
    **_upserts("asset_metadata", TABLES["asset_metadata"].fields, "AssetMetadataV1"),
    "AssetMetadataDeleteV1": _delete("asset_metadata", "assetId s, key s"),
    **_upserts("asset_edit", TABLES["asset_edit"].fields, "AssetEditV1"),
    "AssetEditDeleteV1": _delete("asset_edit", "editId s"),
    **_upserts("ocr", OCR, "AssetOcrV1"),
    "AssetOcrDeleteV1": Form("ocr", "id s, assetId s, deletedAt dt", ("id",)),
    **_upserts("", "", "SyncAckV1", "SyncResetV1", "SyncCompleteV1"),
}  # fmt: skip

REQUESTS: Final[dict[str, tuple[str, ...]]] = {
    "AuthUsersV1": ("AuthUserV1",),
    "AuthUsersV2": ("AuthUserV2",),
    "UsersV1": ("UserV1",),
    "PartnersV1": ("PartnerV1",),
    "AssetsV1": ("AssetV1",),
    "AssetsV2": ("AssetV2",),
    "StacksV1": ("StackV1",),
    "PartnerAssetsV1": ("PartnerAssetV1", "PartnerAssetBackfillV1"),
    "PartnerAssetsV2": ("PartnerAssetV2", "PartnerAssetBackfillV2"),
    "PartnerStacksV1": ("PartnerStackV1", "PartnerStackBackfillV1"),
    "AlbumAssetsV1": ("AlbumAssetCreateV1", "AlbumAssetUpdateV1", "AlbumAssetBackfillV1"),
    "AlbumAssetsV2": ("AlbumAssetCreateV2", "AlbumAssetUpdateV2", "AlbumAssetBackfillV2"),
    "AlbumsV1": ("AlbumV1",),
    "AlbumsV2": ("AlbumV2",),
    "AlbumUsersV1": ("AlbumUserV1", "AlbumUserBackfillV1"),
    "AlbumToAssetsV1": ("AlbumToAssetV1", "AlbumToAssetBackfillV1"),
    "AssetExifsV1": ("AssetExifV1",),
    "AlbumAssetExifsV1": ("AlbumAssetExifCreateV1", "AlbumAssetExifUpdateV1", "AlbumAssetExifBackfillV1"),
    "AssetOcrV1": ("AssetOcrV1",),
    "PartnerAssetExifsV1": ("PartnerAssetExifV1", "PartnerAssetExifBackfillV1"),
    "MemoriesV1": ("MemoryV1",),
    "MemoriesV2": ("MemoryV2",),
    "MemoryToAssetsV1": ("MemoryToAssetV1",),
    "MemoryToAssetsV2": ("MemoryToAssetV2",),
    "PeopleV1": ("PersonV1",),
    "AssetFacesV1": ("AssetFaceV1",),
    "AssetFacesV2": ("AssetFaceV2",),
    "AssetFacesV3": ("AssetFaceV3",),
    "UserMetadataV1": ("UserMetadataV1",),
    "AssetMetadataV1": ("AssetMetadataV1",),
    "AssetEditsV1": ("AssetEditV1",),
}
"""The upsert types that each request type asks for."""

TYPES_V2: Final = (
    "AuthUsersV1", "UsersV1", "AssetsV2", "AssetExifsV1", "AssetEditsV1", "AssetMetadataV1", "PartnersV1",
    "PartnerAssetsV2", "PartnerAssetExifsV1", "AlbumsV2", "AlbumUsersV1", "AlbumAssetsV2", "AlbumAssetExifsV1",
    "AlbumToAssetsV1", "MemoriesV1", "MemoryToAssetsV1", "StacksV1", "PartnerStacksV1", "UserMetadataV1", "PeopleV1",
    "AssetFacesV2", "AssetOcrV1",
)  # fmt: skip
"""What the app asks of a 3.2 server, in its order."""

_NEW_IN_3_3: Final = {
    "AuthUsersV1": "AuthUsersV2",
    "MemoriesV1": "MemoriesV2",
    "MemoryToAssetsV1": "MemoryToAssetsV2",
    "AssetFacesV2": "AssetFacesV3",
}
TYPES_V3: Final = tuple(_NEW_IN_3_3.get(name, name) for name in TYPES_V2)
"""What it asks of a 3.3 server."""

UNBOUND: Final = {"AssetFacesV3": "face"}
"""The table that an app keeps without foreign keys, by the request type that such an app asks for."""

TYPES_V1: Final = (
    "AuthUsersV1", "UsersV1", "AssetsV1", "AssetExifsV1", "AssetMetadataV1", "PartnersV1", "PartnerAssetsV1",
    "PartnerAssetExifsV1", "AlbumsV1", "AlbumUsersV1", "AlbumAssetsV1", "AlbumAssetExifsV1", "AlbumToAssetsV1",
    "MemoriesV1", "MemoryToAssetsV1", "StacksV1", "PartnerStacksV1", "UserMetadataV1", "PeopleV1", "AssetFacesV1",
)  # fmt: skip
"""What it asks of a server older than 2.6."""
