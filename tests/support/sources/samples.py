"""One valid payload for each entity type that is stored, as it stands on the wire."""

from __future__ import annotations

from typing import Any, Final

USER_ID: Final = "6b5f3f0e-7a39-4c2e-9d51-0c8a3f1f0001"
PARTNER_ID: Final = "6b5f3f0e-7a39-4c2e-9d51-0c8a3f1f0002"
ASSET_ID: Final = "0d2c8a4e-1111-4a6b-8f6e-3a5c9d7e0001"
ALBUM_ID: Final = "0d2c8a4e-2222-4a6b-8f6e-3a5c9d7e0001"
PERSON_ID: Final = "0d2c8a4e-3333-4a6b-8f6e-3a5c9d7e0001"
MEMORY_ID: Final = "0d2c8a4e-4444-4a6b-8f6e-3a5c9d7e0001"
STACK_ID: Final = "0d2c8a4e-5555-4a6b-8f6e-3a5c9d7e0001"
FACE_ID: Final = "0d2c8a4e-6666-4a6b-8f6e-3a5c9d7e0001"
EDIT_ID: Final = "0d2c8a4e-7777-4a6b-8f6e-3a5c9d7e0001"
OCR_ID: Final = "0d2c8a4e-8888-4a6b-8f6e-3a5c9d7e0001"
TIME: Final = "2025-01-20T10:30:45.123Z"

Data = dict[str, Any]

_USER: Final[Data] = {
    "id": USER_ID,
    "name": "Ada",
    "email": "ada@example.test",
    "avatarColor": "primary",
    "deletedAt": None,
    "hasProfileImage": False,
    "profileChangedAt": TIME,
}
_ASSET: Final[Data] = {
    "id": ASSET_ID,
    "ownerId": USER_ID,
    "originalFileName": "IMG_0001.jpg",
    "checksum": "2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
    "thumbhash": "1QcSHQRnh493V4dIh4eXh1h4kJUI",
    "type": "IMAGE",
    "visibility": "timeline",
    "isFavorite": False,
    "isEdited": False,
    "duration": 600_000,
    "fileCreatedAt": TIME,
    "fileModifiedAt": TIME,
    "createdAt": TIME,
    "localDateTime": TIME,
    "deletedAt": None,
    "livePhotoVideoId": None,
    "stackId": None,
    "libraryId": None,
    "width": 1920,
    "height": 1080,
}
_ASSET_V1: Final[Data] = {**_ASSET, "duration": "0:10:00.00000"}
_ASSET_DELETE: Final[Data] = {"assetId": ASSET_ID}
_EXIF: Final[Data] = {
    "assetId": ASSET_ID,
    "description": "",
    "exifImageWidth": 1920,
    "exifImageHeight": 1080,
    "fileSizeInByte": 5_000_000_000,
    "orientation": "1",
    "dateTimeOriginal": TIME,
    "modifyDate": TIME,
    "timeZone": "UTC+1",
    "latitude": 52.5,
    "longitude": 13.25,
    "projectionType": None,
    "city": "Berlin",
    "state": None,
    "country": "Germany",
    "make": "Canon",
    "model": "EOS R5",
    "lensModel": None,
    "fNumber": 2.8,
    "focalLength": 35.0,
    "iso": 100,
    "exposureTime": "1/250",
    "profileDescription": None,
    "rating": 5,
    "fps": None,
}
_STACK: Final[Data] = {
    "id": STACK_ID,
    "ownerId": USER_ID,
    "primaryAssetId": ASSET_ID,
    "createdAt": TIME,
    "updatedAt": TIME,
}
_ALBUM: Final[Data] = {
    "id": ALBUM_ID,
    "name": "Summer",
    "description": "",
    "createdAt": TIME,
    "updatedAt": TIME,
    "thumbnailAssetId": None,
    "isActivityEnabled": True,
    "order": "desc",
}
_ALBUM_USER: Final[Data] = {"albumId": ALBUM_ID, "userId": USER_ID, "role": "owner"}
_ALBUM_TO_ASSET: Final[Data] = {"albumId": ALBUM_ID, "assetId": ASSET_ID}
_FACE: Final[Data] = {
    "id": FACE_ID,
    "assetId": ASSET_ID,
    "personId": None,
    "imageWidth": 1920,
    "imageHeight": 1080,
    "boundingBoxX1": 10,
    "boundingBoxY1": 20,
    "boundingBoxX2": 110,
    "boundingBoxY2": 120,
    "sourceType": "machine-learning",
}
_FACE_V2: Final[Data] = {**_FACE, "isVisible": True, "deletedAt": None}
_AUTH_USER: Final[Data] = {
    **_USER,
    "isAdmin": True,
    "oauthId": "",
    "pinCode": None,
    "storageLabel": None,
    "quotaSizeInBytes": None,
    "quotaUsageInBytes": 12_345,
}
_MEMORY_TO_ASSET: Final[Data] = {"memoryId": MEMORY_ID, "assetId": ASSET_ID}
_MEMORY: Final[Data] = {
    "id": MEMORY_ID,
    "ownerId": USER_ID,
    "type": "on_this_day",
    "data": {"year": 2020},
    "createdAt": TIME,
    "updatedAt": TIME,
    "deletedAt": None,
    "isSaved": False,
    "memoryAt": TIME,
    "seenAt": None,
    "showAt": TIME,
    "hideAt": TIME,
}

SAMPLES: Final[dict[str, Data]] = {
    "AuthUserV1": _AUTH_USER,
    "AuthUserV2": {**_AUTH_USER, "oauthId": None},
    "UserV1": _USER,
    "UserDeleteV1": {"userId": USER_ID},
    "PartnerV1": {"sharedById": PARTNER_ID, "sharedWithId": USER_ID, "inTimeline": True},
    "PartnerDeleteV1": {"sharedById": PARTNER_ID, "sharedWithId": USER_ID},
    "AssetV1": _ASSET_V1,
    "AssetV2": _ASSET,
    "AssetDeleteV1": _ASSET_DELETE,
    "AssetExifV1": _EXIF,
    "AssetEditV1": {
        "id": EDIT_ID,
        "assetId": ASSET_ID,
        "action": "crop",
        "parameters": {"x": 0, "y": 0, "width": 100, "height": 100},
        "sequence": 0,
    },
    "AssetEditDeleteV1": {"editId": EDIT_ID},
    "AssetMetadataV1": {"assetId": ASSET_ID, "key": "mobile-app", "value": {"iCloudId": "x"}},
    "AssetMetadataDeleteV1": {"assetId": ASSET_ID, "key": "mobile-app"},
    "AssetOcrV1": {
        "id": OCR_ID,
        "assetId": ASSET_ID,
        "text": "Exit",
        "textScore": 0.9,
        "boxScore": 0.8,
        "isVisible": True,
        **{f"{axis}{corner}": corner / 10 for corner in (1, 2, 3, 4) for axis in "xy"},
    },
    "AssetOcrDeleteV1": {"id": OCR_ID, "assetId": ASSET_ID, "deletedAt": TIME},
    "PartnerAssetV1": _ASSET_V1,
    "PartnerAssetV2": _ASSET,
    "PartnerAssetBackfillV1": _ASSET_V1,
    "PartnerAssetBackfillV2": _ASSET,
    "PartnerAssetDeleteV1": _ASSET_DELETE,
    "PartnerAssetExifV1": _EXIF,
    "PartnerAssetExifBackfillV1": _EXIF,
    "PartnerStackV1": _STACK,
    "PartnerStackBackfillV1": _STACK,
    "PartnerStackDeleteV1": {"stackId": STACK_ID},
    "AlbumV1": {**_ALBUM, "ownerId": USER_ID},
    "AlbumV2": _ALBUM,
    "AlbumDeleteV1": {"albumId": ALBUM_ID},
    "AlbumUserV1": _ALBUM_USER,
    "AlbumUserBackfillV1": _ALBUM_USER,
    "AlbumUserDeleteV1": {"albumId": ALBUM_ID, "userId": USER_ID},
    "AlbumAssetCreateV1": _ASSET_V1,
    "AlbumAssetCreateV2": _ASSET,
    "AlbumAssetUpdateV1": _ASSET_V1,
    "AlbumAssetUpdateV2": _ASSET,
    "AlbumAssetBackfillV1": _ASSET_V1,
    "AlbumAssetBackfillV2": _ASSET,
    "AlbumAssetExifCreateV1": _EXIF,
    "AlbumAssetExifUpdateV1": _EXIF,
    "AlbumAssetExifBackfillV1": _EXIF,
    "AlbumToAssetV1": _ALBUM_TO_ASSET,
    "AlbumToAssetBackfillV1": _ALBUM_TO_ASSET,
    "AlbumToAssetDeleteV1": _ALBUM_TO_ASSET,
    "MemoryV1": _MEMORY,
    "MemoryV2": _MEMORY,
    "MemoryDeleteV1": {"memoryId": MEMORY_ID},
    **dict.fromkeys(("MemoryToAssetV1", "MemoryToAssetV2", "MemoryToAssetDeleteV1"), _MEMORY_TO_ASSET),
    "StackV1": _STACK,
    "StackDeleteV1": {"stackId": STACK_ID},
    "PersonV1": {
        "id": PERSON_ID,
        "ownerId": USER_ID,
        "name": "Grace",
        "createdAt": TIME,
        "updatedAt": TIME,
        "birthDate": None,
        "isHidden": False,
        "isFavorite": True,
        "color": None,
        "faceAssetId": None,
    },
    "PersonDeleteV1": {"personId": PERSON_ID},
    "AssetFaceV1": _FACE,
    "AssetFaceV2": _FACE_V2,
    "AssetFaceV3": _FACE_V2,
    "AssetFaceDeleteV1": {"assetFaceId": FACE_ID},
    "UserMetadataV1": {"userId": USER_ID, "key": "preferences", "value": {"theme": "dark"}},
    "UserMetadataDeleteV1": {"userId": USER_ID, "key": "preferences"},
}


def sample(entity_type: str, **changes: Any) -> Data:
    """Return a fresh valid payload with some keys changed."""
    return {**SAMPLES[entity_type], **changes}
