"""Versions of one entity: from another version to the stored one and back.

What an older version cannot say gets the value it silently means: a V1 face is visible and not in the trash.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import asdict

from projections.entities.payloads.albums import AlbumV1, AlbumV2
from projections.entities.payloads.assets import AssetV1, AssetV2
from projections.entities.payloads.base import Payload
from projections.entities.payloads.memories import MemoryV2
from projections.entities.payloads.people import AssetFaceV1, AssetFaceV2
from projections.entities.payloads.users import AuthUserV1, AuthUserV2

MAX_DURATION_MS: Final = 2**31 - 1


class NotConvertible(ValueError):
    """A field of another version has no equal in the stored one; `field` is its name on the wire."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def duration_ms(text: str) -> int:
    """Read a V1 duration like `0:10:00.00000`; anything below a millisecond is cut off."""
    hours, minutes, seconds = text.split(":")
    whole, _, fraction = seconds.partition(".")
    return ((int(hours) * 60 + int(minutes)) * 60 + int(whole)) * 1000 + int(fraction.ljust(3, "0")[:3])


def duration_text(ms: int) -> str:
    """Print a duration as V1 payloads have it: hours without padding, five decimals."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}.{ms:03}00"


def asset_to_v2(old: AssetV1) -> AssetV2:
    """Turn the duration into milliseconds; raises NotConvertible if it does not fit into 32 bits."""
    duration = None if old.duration is None else duration_ms(old.duration)
    if duration is not None and duration > MAX_DURATION_MS:
        raise NotConvertible("duration", "is longer than 32 bits of milliseconds")
    return AssetV2(**{**asdict(old), "duration": duration})


def asset_to_v1(new: AssetV2) -> AssetV1:
    """Turn the duration into a text."""
    duration = None if new.duration is None else duration_text(new.duration)
    return AssetV1(**{**asdict(new), "duration": duration})


def face_to_v2(old: AssetFaceV1) -> AssetFaceV2:
    """Say that the face is visible and not in the trash."""
    return AssetFaceV2(**asdict(old), is_visible=True, deleted_at=None)


def face_to_v1(new: AssetFaceV2) -> AssetFaceV1:
    """Leave out what V1 does not know."""
    return AssetFaceV1(**_only(AssetFaceV1, new))


def album_to_v2(old: AlbumV1) -> AlbumV2:
    """Leave out the owner, which is stored as the album's member with the role `owner`."""
    return AlbumV2(**_only(AlbumV2, old))


def album_to_v1(new: AlbumV2, owner_id: str) -> AlbumV1:
    """Add the owner."""
    return AlbumV1(**asdict(new), owner_id=owner_id)


def auth_user_to_v1(new: AuthUserV2) -> AuthUserV1:
    """Say with an empty text that there is no id at a provider, as V1 does."""
    return AuthUserV1(**{**asdict(new), "oauth_id": new.oauth_id or ""})


def auth_user_to_v2(old: AuthUserV1) -> AuthUserV2:
    """Say with null that there is no id at a provider."""
    return AuthUserV2(**{**asdict(old), "oauth_id": old.oauth_id or None})


def memory_to_v1(new: MemoryV2) -> MemoryV2 | None:
    """Leave out what V1 has no type for: its devices stop at one."""
    return new if new.type == "on_this_day" else None


def _only(struct: type[Payload], payload: Payload) -> dict[str, Any]:
    return {field: getattr(payload, field) for field in struct.__struct_fields__}
