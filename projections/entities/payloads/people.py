"""Payloads of people and faces."""

from __future__ import annotations

from projections.entities.payloads.base import Payload
from projections.entities.payloads.scalars import Id, Instant, Int


class PersonV1(Payload, frozen=True):
    """A person seen in assets."""

    id: Id
    owner_id: Id
    name: str
    created_at: Instant
    updated_at: Instant
    birth_date: Instant | None
    is_hidden: bool
    is_favorite: bool
    color: str | None
    face_asset_id: Id | None


class PersonDeleteV1(Payload, frozen=True):
    """A person is gone."""

    person_id: Id


class AssetFaceV1(Payload, frozen=True):
    """A face as older apps know it: always visible, never in the trash."""

    id: Id
    asset_id: Id
    person_id: Id | None
    image_width: Int
    image_height: Int
    bounding_box_x1: Int
    bounding_box_y1: Int
    bounding_box_x2: Int
    bounding_box_y2: Int
    source_type: str


class AssetFaceV2(AssetFaceV1, frozen=True):
    """A face in an asset; the box in pixels of an image of the given size."""

    is_visible: bool
    deleted_at: Instant | None


class AssetFaceDeleteV1(Payload, frozen=True):
    """A face is gone."""

    asset_face_id: Id
