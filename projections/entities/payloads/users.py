"""Payloads of users, partners and what users keep on the server."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from projections.entities.payloads.base import Payload
from projections.entities.payloads.scalars import AvatarColor, Id, Instant, Int, JsonObject


class UserV1(Payload, frozen=True):
    """A user of the server; `avatarColor` is the one key that may be absent."""

    id: Id
    name: str
    email: str
    deleted_at: Instant | None
    has_profile_image: bool
    profile_changed_at: Instant
    avatar_color: AvatarColor | UnsetType | None = UNSET


class UserDeleteV1(Payload, frozen=True):
    """A user is gone."""

    user_id: Id


class AuthUserV1(Payload, frozen=True):
    """The signed-in user; it has no delete form."""

    id: Id
    name: str
    email: str
    deleted_at: Instant | None
    has_profile_image: bool
    profile_changed_at: Instant
    is_admin: bool
    oauth_id: str
    pin_code: str | None
    storage_label: str | None
    quota_size_in_bytes: Int | None
    quota_usage_in_bytes: Int
    avatar_color: AvatarColor | UnsetType | None = UNSET


class AuthUserV2(AuthUserV1, frozen=True):
    """The signed-in user, who may have no id at a provider."""

    oauth_id: str | None  # type: ignore[assignment]


class PartnerV1(Payload, frozen=True):
    """One user shares with another."""

    shared_by_id: Id
    shared_with_id: Id
    in_timeline: bool


class PartnerDeleteV1(Payload, frozen=True):
    """One user shares no longer with another."""

    shared_by_id: Id
    shared_with_id: Id


class UserMetadataV1(Payload, frozen=True):
    """A user's preferences, license or onboarding state."""

    user_id: Id
    key: Literal["preferences", "license", "onboarding"]
    value: JsonObject


class UserMetadataDeleteV1(Payload, frozen=True):
    """A user's preferences, license or onboarding state is gone."""

    user_id: Id
    key: Literal["preferences", "license", "onboarding"]
