"""Payloads of assets: own, of partners, in albums."""

from __future__ import annotations

from typing import Literal

from projections.entities.payloads.base import Payload
from projections.entities.payloads.scalars import DurationMs, DurationText, Id, Instant, Int, JsonObject


class Asset(Payload, frozen=True):
    """What all versions of an asset share; `checksum` and `thumbhash` in base64."""

    id: Id
    owner_id: Id
    original_file_name: str
    checksum: str
    thumbhash: str | None
    type: Literal["IMAGE", "VIDEO", "AUDIO", "OTHER"]
    visibility: Literal["timeline", "archive", "hidden", "locked"]
    is_favorite: bool
    is_edited: bool
    file_created_at: Instant | None
    file_modified_at: Instant | None
    created_at: Instant | None
    local_date_time: Instant | None
    deleted_at: Instant | None
    live_photo_video_id: Id | None
    stack_id: Id | None
    library_id: Id | None
    width: Int | None
    height: Int | None


class AssetV2(Asset, frozen=True):
    """An asset."""

    duration: DurationMs | None


class AssetV1(Asset, frozen=True):
    """An asset as older apps know it."""

    duration: DurationText | None


class AssetDeleteV1(Payload, frozen=True):
    """An asset is gone."""

    asset_id: Id


class AssetExifV1(Payload, frozen=True):
    """The camera's data of an asset; it has no delete form: it goes with its asset."""

    asset_id: Id
    description: str | None
    exif_image_width: Int | None
    exif_image_height: Int | None
    file_size_in_byte: Int | None
    orientation: str | None
    date_time_original: Instant | None
    modify_date: Instant | None
    time_zone: str | None
    latitude: float | None
    longitude: float | None
    projection_type: str | None
    city: str | None
    state: str | None
    country: str | None
    make: str | None
    model: str | None
    lens_model: str | None
    f_number: float | None
    focal_length: float | None
    iso: Int | None
    exposure_time: str | None
    profile_description: str | None
    rating: Int | None
    fps: float | None


class AssetEditV1(Payload, frozen=True):
    """One step of editing an asset."""

    id: Id
    asset_id: Id
    action: Literal["crop", "rotate", "mirror"]
    sequence: Int
    parameters: JsonObject


class AssetEditDeleteV1(Payload, frozen=True):
    """An edit is gone."""

    edit_id: Id


class AssetMetadataV1(Payload, frozen=True):
    """A value that a client keeps at an asset under a key."""

    asset_id: Id
    key: str
    value: JsonObject


class AssetMetadataDeleteV1(Payload, frozen=True):
    """A value of an asset is gone."""

    asset_id: Id
    key: str


class AssetOcrV1(Payload, frozen=True):
    """A text found in an asset, with its corners relative to the image's size."""

    id: Id
    asset_id: Id
    text: str
    text_score: float
    box_score: float
    is_visible: bool
    x1: float
    y1: float
    x2: float
    y2: float
    x3: float
    y3: float
    x4: float
    y4: float


class AssetOcrDeleteV1(Payload, frozen=True):
    """A text is gone; the app deletes by `id`."""

    id: Id
    asset_id: Id
    deleted_at: Instant


class StackV1(Payload, frozen=True):
    """A stack of assets."""

    id: Id
    owner_id: Id
    primary_asset_id: Id
    created_at: Instant
    updated_at: Instant


class StackDeleteV1(Payload, frozen=True):
    """A stack is gone."""

    stack_id: Id
