"""Payloads of albums, their members and their assets."""

from __future__ import annotations

from typing import Literal

from projections.entities.payloads.base import Payload
from projections.entities.payloads.scalars import Id, Instant


class AlbumV2(Payload, frozen=True):
    """An album; its owner is the member with the role `owner`."""

    id: Id
    name: str
    description: str
    created_at: Instant
    updated_at: Instant
    thumbnail_asset_id: Id | None
    is_activity_enabled: bool
    order: Literal["asc", "desc"]


class AlbumV1(AlbumV2, frozen=True):
    """An album as older apps know it, with its owner."""

    owner_id: Id


class AlbumDeleteV1(Payload, frozen=True):
    """An album is gone."""

    album_id: Id


class AlbumUserV1(Payload, frozen=True):
    """A member of an album."""

    album_id: Id
    user_id: Id
    role: Literal["editor", "viewer", "owner"]


class AlbumUserDeleteV1(Payload, frozen=True):
    """A member has left an album."""

    album_id: Id
    user_id: Id


class AlbumToAssetV1(Payload, frozen=True):
    """An asset is in an album."""

    album_id: Id
    asset_id: Id


class AlbumToAssetDeleteV1(Payload, frozen=True):
    """An asset is no longer in an album."""

    album_id: Id
    asset_id: Id
