"""The entity types of the sync protocol (`SyncEntityType` of Immich 3.3) and their codes in stored events.

A code is the index in `ENTITY_TYPES`. Codes are in every stored event: append to the tuple, never reorder or remove.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ENTITY_TYPES: Final = (
    "AuthUserV1",
    "UserV1",
    "UserDeleteV1",
    "AssetV1",
    "AssetV2",
    "AssetDeleteV1",
    "AssetExifV1",
    "AssetEditV1",
    "AssetEditDeleteV1",
    "AssetMetadataV1",
    "AssetMetadataDeleteV1",
    "AssetOcrV1",
    "AssetOcrDeleteV1",
    "PartnerV1",
    "PartnerDeleteV1",
    "PartnerAssetV1",
    "PartnerAssetV2",
    "PartnerAssetBackfillV1",
    "PartnerAssetBackfillV2",
    "PartnerAssetDeleteV1",
    "PartnerAssetExifV1",
    "PartnerAssetExifBackfillV1",
    "PartnerStackBackfillV1",
    "PartnerStackDeleteV1",
    "PartnerStackV1",
    "AlbumV1",
    "AlbumV2",
    "AlbumDeleteV1",
    "AlbumUserV1",
    "AlbumUserBackfillV1",
    "AlbumUserDeleteV1",
    "AlbumAssetCreateV1",
    "AlbumAssetCreateV2",
    "AlbumAssetUpdateV1",
    "AlbumAssetUpdateV2",
    "AlbumAssetBackfillV1",
    "AlbumAssetBackfillV2",
    "AlbumAssetExifCreateV1",
    "AlbumAssetExifUpdateV1",
    "AlbumAssetExifBackfillV1",
    "AlbumToAssetV1",
    "AlbumToAssetDeleteV1",
    "AlbumToAssetBackfillV1",
    "MemoryV1",
    "MemoryDeleteV1",
    "MemoryToAssetV1",
    "MemoryToAssetDeleteV1",
    "StackV1",
    "StackDeleteV1",
    "PersonV1",
    "PersonDeleteV1",
    "AssetFaceV1",
    "AssetFaceV2",
    "AssetFaceDeleteV1",
    "UserMetadataV1",
    "UserMetadataDeleteV1",
    "SyncAckV1",
    "SyncResetV1",
    "SyncCompleteV1",
    "AuthUserV2",
    "MemoryV2",
    "MemoryToAssetV2",
    "AssetFaceV3",
)
CODES: Final = {name: code for code, name in enumerate(ENTITY_TYPES)}
RESET: Final = "SyncResetV1"
COMPLETE: Final = "SyncCompleteV1"


def mask_of(types: Iterable[str]) -> int:
    """Pack a set of entity types into a bit mask, bit `n` for code `n`."""
    mask = 0
    for name in types:
        mask |= 1 << CODES[name]
    return mask


def types_in(mask: int) -> tuple[str, ...]:
    """Unpack a bit mask, in code order; bits of types this version does not know are left out."""
    return tuple(name for code, name in enumerate(ENTITY_TYPES) if mask >> code & 1)
