"""Payloads of memories and their assets."""

from __future__ import annotations

from typing import Literal

from projections.entities.payloads.base import Payload
from projections.entities.payloads.scalars import Id, Instant, JsonObject


class MemoryV1(Payload, frozen=True):
    """A memory, like the photos of this day in an earlier year."""

    id: Id
    owner_id: Id
    type: Literal["on_this_day"]
    created_at: Instant
    updated_at: Instant
    deleted_at: Instant | None
    is_saved: bool
    memory_at: Instant
    seen_at: Instant | None
    show_at: Instant | None
    hide_at: Instant | None
    data: JsonObject


class MemoryV2(MemoryV1, frozen=True):
    """A memory of any type; the `data` of a `birthday` are `personId` and `personName`."""

    type: Literal["on_this_day", "birthday"]  # type: ignore[assignment]


class MemoryDeleteV1(Payload, frozen=True):
    """A memory is gone."""

    memory_id: Id


class MemoryToAssetV1(Payload, frozen=True):
    """An asset belongs to a memory (`SyncMemoryAssetV1` in the SDK)."""

    memory_id: Id
    asset_id: Id


class MemoryToAssetDeleteV1(Payload, frozen=True):
    """An asset no longer belongs to a memory."""

    memory_id: Id
    asset_id: Id
