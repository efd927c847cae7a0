"""What Gumnut's entities are on the wire: pure.

The SDK passes on whatever it is sent, so every payload is read back as strictly as at the door of the catalog: one that
a device could not read raises Unfit. Ids are Gumnut's own; only the session's own user has another one here (`owner`).
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Final, TypeVar

import msgspec
from gumnut.types import (
    AlbumResponse,
    AssetResponse,
    FaceResponse,
    PersonResponse,
    StackListStacksResponse,
    UserResponse,
)

from projections.entities.payloads.albums import AlbumV2
from projections.entities.payloads.assets import AssetExifV1, AssetV2, StackV1
from projections.entities.payloads.base import Payload
from projections.entities.payloads.people import AssetFaceV2, PersonV1
from projections.entities.payloads.users import AuthUserV1, UserV1

FAVORITE: Final = 5
"""The rating that is a favorite, says the SDK."""
_TYPES: Final = ("IMAGE", "VIDEO", "AUDIO")
_TURNED: Final = range(1, 9)
_encode: Final = msgspec.json.Encoder().encode

P = TypeVar("P", bound=Payload)


class Unfit(ValueError):
    """An entity that no device could read, or none yet; the text names the field and tells nothing of its value."""


def asset_of(found: AssetResponse, owner: str) -> AssetV2:
    """Make an asset; `found` with metadata and file data. Without a SHA-1, as with the oldest, the SHA-256 stands in.

    An app finds its own files by the checksum and takes two alike for one, so it must be there and differ.
    """
    file = _given("fileData", found.file_data)
    taken = None if found.metadata is None else found.metadata.original_datetime
    return _checked(
        AssetV2(
            id=found.id,
            owner_id=owner,
            original_file_name=found.original_file_name,
            checksum=file.checksum_sha1 or file.checksum,
            thumbhash=found.thumbhash,
            type=_type_of(found.mime_type),  # type: ignore[arg-type]
            visibility="timeline",
            is_favorite=found.metadata is not None and found.metadata.rating == FAVORITE,
            is_edited=found.kind != "original",
            file_created_at=instant(taken if taken is not None and taken.tzinfo else file.file_created_at),
            file_modified_at=instant(file.file_modified_at),
            created_at=instant(found.created_at),
            local_date_time=wall_clock(found.local_datetime),
            deleted_at=None if found.trashed_at is None else instant(found.trashed_at),
            live_photo_video_id=None,
            stack_id=found.stack_id,
            library_id=None,  # for the app a library is a folder of the server's; what was uploaded is in none
            width=found.width,
            height=found.height,
            duration=None if found.duration is None else round(found.duration * 1000),
        )
    )


def exif_of(found: AssetResponse) -> AssetExifV1:
    """Make the camera's data of an asset. The size is that before turning, if that is what the app gets to see."""
    data = found.metadata
    raw = data is not None and found.kind == "original" and bool(data.raw_width and data.raw_height)
    width, height = (data.raw_width, data.raw_height) if data is not None and raw else (found.width, found.height)
    if data is None:
        empty = dict.fromkeys(AssetExifV1.__struct_fields__)
        known = {"asset_id": found.id, "exif_image_width": width, "exif_image_height": height}
        return _checked(AssetExifV1(**{**empty, **known, "file_size_in_byte": found.file_size_bytes}))  # type: ignore[arg-type]
    return _checked(
        AssetExifV1(
            asset_id=found.id,
            description=data.description,
            exif_image_width=width,
            exif_image_height=height,
            file_size_in_byte=found.file_size_bytes,
            orientation=str(data.orientation) if raw and data.orientation in _TURNED else None,
            date_time_original=None if data.original_datetime is None else instant(data.original_datetime),
            modify_date=None if data.modified_datetime is None else instant(data.modified_datetime),
            time_zone=data.timezone,
            latitude=data.latitude,
            longitude=data.longitude,
            projection_type=data.projection_type,
            city=data.city,
            state=data.state,
            country=data.country,
            make=data.make,
            model=data.model,
            lens_model=data.lens_model,
            f_number=data.f_number,
            focal_length=data.focal_length,
            iso=data.iso,
            exposure_time=None if data.exposure_time is None else exposure_text(data.exposure_time),
            profile_description=None,
            rating=data.rating or None,
            fps=data.fps,
        )
    )


def album_of(found: AlbumResponse, cover: str | None) -> AlbumV2:
    """Make an album; `cover` is an asset that the device has."""
    return _checked(
        AlbumV2(
            id=found.id,
            name=found.name,
            description=found.description or "",
            created_at=instant(found.created_at),
            updated_at=instant(found.updated_at),
            thumbnail_asset_id=cover,
            is_activity_enabled=False,
            order="desc",
        )
    )


def person_of(found: PersonResponse, owner: str) -> PersonV1:
    """Make a person."""
    return _checked(
        PersonV1(
            id=found.id,
            owner_id=owner,
            name=found.name or "",
            created_at=instant(found.created_at),
            updated_at=instant(found.updated_at),
            birth_date=None if found.birth_date is None else day(found.birth_date),
            is_hidden=found.is_hidden,
            is_favorite=found.is_favorite,
            color=None,
            face_asset_id=found.thumbnail_face_id,
        )
    )


def face_of(found: FaceResponse, asset: AssetResponse, person: str | None) -> AssetFaceV2:
    """Make a face; `person` is one that the device has. An asset whose size is not known yet is as large as the box."""
    box = found.bounding_box
    try:
        left, top, width, height = (box[side] for side in ("x", "y", "w", "h"))
    except (KeyError, TypeError):
        raise Unfit("boundingBox") from None
    return _checked(
        AssetFaceV2(
            id=found.id,
            asset_id=found.asset_id,
            person_id=person,
            image_width=asset.width or left + width,
            image_height=asset.height or top + height,
            bounding_box_x1=left,
            bounding_box_y1=top,
            bounding_box_x2=left + width,
            bounding_box_y2=top + height,
            source_type="manual" if found.source == "manual" else "machine-learning",
            is_visible=True,
            deleted_at=None,
        )
    )


def stack_of(found: StackListStacksResponse, owner: str) -> StackV1:
    """Make a stack; its cover is the one pinned, or else its earliest member. One without either is Unfit for now."""
    cover = found.primary_asset_id or next(iter(found.asset_ids or ()), None)
    return _checked(
        StackV1(
            id=found.id,
            owner_id=owner,
            primary_asset_id=_given("primaryAssetId", cover),
            created_at=instant(found.created_at),
            updated_at=instant(found.updated_at),
        )
    )


def user_of(user_id: str, name: str, email: str, since: datetime) -> UserV1:
    """Make a user, `since` when their profile is as it is."""
    return _checked(
        UserV1(
            id=user_id,
            name=name,
            email=email,
            deleted_at=None,
            has_profile_image=False,
            profile_changed_at=instant(since),
        )
    )


def auth_user_of(found: UserResponse, user_id: str) -> AuthUserV1:
    """Make the session's own user. Gumnut's administrators administrate nothing here."""
    return _checked(
        AuthUserV1(
            id=user_id,
            name=name_of(found),
            email=found.email or "",
            deleted_at=None,
            has_profile_image=False,
            profile_changed_at=instant(found.created_at),
            is_admin=False,
            oauth_id="",
            pin_code=None,
            storage_label=None,
            quota_size_in_bytes=found.storage_limit_bytes,
            quota_usage_in_bytes=found.storage_used_bytes,
        )
    )


def name_of(found: UserResponse) -> str:
    """Put a user's name together; empty where none is known."""
    return " ".join(part for part in (found.first_name, found.last_name) if part)


def instant(moment: datetime) -> str:
    """Print an instant in UTC with milliseconds; one without a zone is taken for UTC."""
    if not isinstance(moment, datetime):
        raise Unfit("a time")
    return wall_clock(moment.astimezone(UTC) if moment.tzinfo else moment)


def wall_clock(moment: datetime) -> str:
    """Print what a clock showed as if it were UTC, as `localDateTime` has it."""
    if not isinstance(moment, datetime):
        raise Unfit("a time")
    return f"{moment.year:04}-{moment:%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def day(value: date) -> str:
    """Print a day as the instant it begins."""
    if not isinstance(value, date):
        raise Unfit("a date")
    return f"{value.year:04}-{value:%m-%d}T00:00:00.000Z"


def exposure_text(seconds: float) -> str:
    """Print an exposure as cameras do: `1/250` below half a second, else `2` or `0.8`."""
    if seconds <= 0:
        return "0"
    return f"1/{round(1 / seconds)}" if seconds < 0.5 else f"{seconds:.1f}".removesuffix(".0")


def stamp_of(*moments: datetime | None) -> int:
    """Tell the latest of some instants in µs since 1970; 0 without any. Without a zone they are taken for UTC."""
    known = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in moments if moment is not None]
    return max((round(moment.timestamp() * 1_000_000) for moment in known), default=0)


def _type_of(mime_type: str) -> str:
    kind = mime_type.partition("/")[0].upper()
    return kind if kind in _TYPES else "OTHER"


T = TypeVar("T")


def _given(field: str, value: T | None) -> T:
    if value is None:
        raise Unfit(field)
    return value


def _checked(payload: P) -> P:
    """Return a payload that a device can read; raises Unfit."""
    try:
        return msgspec.json.decode(_encode(payload), type=type(payload))
    except (msgspec.ValidationError, msgspec.DecodeError, TypeError, UnicodeEncodeError) as error:
        raise Unfit(str(error).partition(" - at `$.")[2].rstrip("`") or "a field") from None
