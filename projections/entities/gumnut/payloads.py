"""What Gumnut's entities are on the wire: pure.

The SDK passes on whatever it is sent, so every payload is read back as strictly as at the door of the catalog: one that
a device could not read raises Unfit. Nothing else does: what cannot be printed is `null` where that is a time or a
float which may be, and else what it is, for the check to name its field. A user always fits: everything hangs on them.
Ids are Gumnut's own; only the session's own user has another one here (`owner`).
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from math import isfinite
from typing import Any, Final, TypeVar

import msgspec
from gumnut.types import (
    AlbumResponse,
    AssetResponse,
    FaceResponse,
    FileDataResponse,
    MetadataResponse,
    PersonResponse,
    StackListStacksResponse,
    UserResponse,
)

from ledger.positions import MAX_US
from projections.entities.payloads.albums import AlbumToAssetV1, AlbumUserV1, AlbumV2
from projections.entities.payloads.assets import AssetExifV1, AssetV2, StackV1
from projections.entities.payloads.base import Payload
from projections.entities.payloads.people import AssetFaceV2, PersonV1
from projections.entities.payloads.users import AuthUserV1, UserV1

FAVORITE: Final = 5
"""The rating that is a favorite, says the SDK."""
_TYPES: Final = ("IMAGE", "VIDEO", "AUDIO")
_TURNED: Final = range(1, 9)
_LONG_AGO: Final = "1970-01-01T00:00:00.000Z"
_encode: Final = msgspec.json.Encoder().encode

P = TypeVar("P", bound=Payload)


class Unfit(ValueError):
    """An entity that no device could read, or none yet; the text names the field and tells nothing of its value."""


def asset_of(found: AssetResponse, owner: str) -> AssetV2:
    """Make an asset; `found` with metadata and file data. Without a SHA-1, as with the oldest, the SHA-256 stands in.

    An app finds its own files by the checksum and takes two alike for one, so it must be there and differ.
    """
    file = _part("fileData", found.file_data, FileDataResponse)
    if file is None:
        raise Unfit("fileData")
    data = _part("metadata", found.metadata, MetadataResponse)
    taken = None if data is None else data.original_datetime
    zoned = isinstance(taken, datetime) and taken.tzinfo is not None
    return _checked(
        AssetV2(
            id=found.id,
            owner_id=owner,
            original_file_name=found.original_file_name,
            checksum=file.checksum_sha1 or file.checksum,
            thumbhash=found.thumbhash,
            type=_type_of(found.mime_type),  # type: ignore[arg-type]
            visibility="timeline",
            is_favorite=data is not None and data.rating == FAVORITE,
            is_edited=found.kind != "original",
            file_created_at=(instant(taken) if zoned else None) or instant(file.file_created_at),
            file_modified_at=instant(file.file_modified_at),
            created_at=instant(found.created_at),
            local_date_time=wall_clock(found.local_datetime),
            deleted_at=_trashed_at(found),
            live_photo_video_id=None,
            stack_id=found.stack_id,
            library_id=None,  # for the app a library is a folder of the server's; what was uploaded is in none
            width=found.width,
            height=found.height,
            duration=milliseconds(found.duration),
        )
    )


def exif_of(found: AssetResponse) -> AssetExifV1:
    """Make the camera's data of an asset. The size is that before turning, if that is what the app gets to see."""
    data = _part("metadata", found.metadata, MetadataResponse)
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
            date_time_original=instant(data.original_datetime),
            modify_date=instant(data.modified_datetime),
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
            exposure_time=exposure_text(data.exposure_time),
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
            created_at=_required(instant(found.created_at)),
            updated_at=_required(instant(found.updated_at)),
            thumbnail_asset_id=cover,
            is_activity_enabled=False,
            order="desc",
        )
    )


def album_user_of(album: str, owner: str) -> AlbumUserV1:
    """Make the membership of an album's owner."""
    return _checked(AlbumUserV1(album, owner, "owner"))


def link_of(album: str, asset: str) -> AlbumToAssetV1:
    """Make an asset's place in an album."""
    return _checked(AlbumToAssetV1(album, asset))


def person_of(found: PersonResponse, owner: str) -> PersonV1:
    """Make a person."""
    return _checked(
        PersonV1(
            id=found.id,
            owner_id=owner,
            name=found.name or "",
            created_at=_required(instant(found.created_at)),
            updated_at=_required(instant(found.updated_at)),
            birth_date=day(found.birth_date),
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
        right, bottom = left + width, top + height
    except (KeyError, TypeError):
        raise Unfit("boundingBox") from None
    return _checked(
        AssetFaceV2(
            id=found.id,
            asset_id=found.asset_id,
            person_id=person,
            image_width=_size(asset.width) or right,
            image_height=_size(asset.height) or bottom,
            bounding_box_x1=left,
            bounding_box_y1=top,
            bounding_box_x2=right,
            bounding_box_y2=bottom,
            source_type="manual" if found.source == "manual" else "machine-learning",
            is_visible=True,
            deleted_at=None,
        )
    )


def _size(told: float | None) -> Any:
    """Take NaN and infinity for nothing, as they are in JSON, where the asset is sent without them."""
    return None if isinstance(told, float) and not isfinite(told) else told


def stack_of(found: StackListStacksResponse, owner: str) -> StackV1:
    """Make a stack; its cover is the one pinned, or else its earliest member. One without either is Unfit for now."""
    return _checked(
        StackV1(
            id=found.id,
            owner_id=owner,
            primary_asset_id=cover_of(found),  # type: ignore[arg-type]
            created_at=_required(instant(found.created_at)),
            updated_at=_required(instant(found.updated_at)),
        )
    )


def cover_of(found: StackListStacksResponse) -> str | None:
    """Choose the cover of a stack; None if it has none for now."""
    members: Any = found.asset_ids
    return found.primary_asset_id or next(iter(members if isinstance(members, list) else ()), None)


def user_of(user_id: str, name: str, email: str, since: datetime | None) -> UserV1:
    """Make a user, `since` when their profile is as it is; they have no picture, so any other time does as well."""
    return _checked(
        UserV1(
            id=user_id,
            name=text_of(name),
            email=text_of(email),
            deleted_at=None,
            has_profile_image=False,
            profile_changed_at=instant(since) or _LONG_AGO,
        )
    )


def auth_user_of(found: UserResponse, user_id: str) -> AuthUserV1:
    """Make the session's own user. Gumnut's administrators administrate nothing here."""
    return _checked(
        AuthUserV1(
            id=user_id,
            name=name_of(found),
            email=text_of(found.email),
            deleted_at=None,
            has_profile_image=False,
            profile_changed_at=instant(found.created_at) or _LONG_AGO,
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
    return " ".join(part for part in map(text_of, (found.first_name, found.last_name)) if part)


def text_of(value: object) -> str:
    """Return a text that can be printed, or nothing for what is none."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def instant(moment: datetime | None) -> str | None:
    """Print an instant in UTC with milliseconds, without a zone as if in UTC; None for what cannot be printed so."""
    if not isinstance(moment, datetime) or _is_no_time(moment):
        return None
    try:
        return wall_clock(moment.astimezone(UTC) if moment.tzinfo else moment)
    except OverflowError:  # in the year before 1 or after 9999, in UTC
        return None


def wall_clock(moment: datetime | None) -> str | None:
    """Print what a clock showed as if it were UTC, as `localDateTime` has it; None for what is no time."""
    if not isinstance(moment, datetime) or _is_no_time(moment):
        return None
    return f"{moment.year:04}-{moment:%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def day(value: date | None) -> str | None:
    """Print a day as the instant it begins; None for what is no day."""
    if not isinstance(value, date) or value in (date.min, date.max):
        return None
    return f"{value.year:04}-{value:%m-%d}T00:00:00.000Z"


def milliseconds(seconds: Any) -> Any:
    """Turn a duration into ms; None for a float that is no number, and what is no float as it is."""
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        return seconds
    if isinstance(seconds, float) and not isfinite(seconds):
        return None
    ms = seconds * 1000
    return round(ms) if isfinite(ms) else -1


def exposure_text(seconds: Any) -> Any:
    """Print an exposure as cameras do: `1/250` below half a second, else `2` or `0.8`.

    None for a float that is no number, and what is no float as it is.
    """
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        return seconds
    if seconds <= 0:
        return "0"
    inverse = 1 / seconds
    if not (isfinite(inverse) and inverse):
        return None
    return f"1/{round(inverse)}" if seconds < 0.5 else f"{seconds:.1f}".removesuffix(".0")


def stamp_of(*moments: datetime | None) -> int:
    """Tell the latest of some instants in µs since 1970; 0 if none lies between 1970 and 9999. Without a zone: UTC."""
    known = (moment for moment in moments if isinstance(moment, datetime) and not _is_no_time(moment))
    stamps = (
        round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000) for moment in known
    )
    return max((stamp for stamp in stamps if 0 <= stamp <= MAX_US), default=0)


def _is_no_time(moment: datetime) -> bool:
    """Tell whether this is what the SDK makes of infinity, and of numbers beyond all times."""
    return moment.replace(tzinfo=None) in (datetime.min, datetime.max)  # noqa: DTZ901


def _trashed_at(found: AssetResponse) -> str | None:
    """Tell since when an asset is in the trash; where that instant cannot be printed, one stands for it."""
    if found.trashed_at is None:
        return None
    return instant(found.trashed_at) or instant(found.updated_at) or _LONG_AGO


def _type_of(mime_type: object) -> str:
    kind = mime_type.partition("/")[0].upper() if isinstance(mime_type, str) else ""
    return kind if kind in _TYPES else "OTHER"


T = TypeVar("T")


def _part(field: str, value: object, kind: type[T]) -> T | None:
    """Return a part of an entity, which may be missing; raises Unfit for what it is not."""
    if value is not None and not isinstance(value, kind):
        raise Unfit(field)
    return value


def _required(printed: str | None) -> str:
    """Return a time that must be there: where it could not be printed what no device takes, so that it is named."""
    return printed or ""


def _checked(payload: P) -> P:
    """Return a payload that a device can read; raises Unfit."""
    try:
        return msgspec.json.decode(_encode(payload), type=type(payload))
    except (msgspec.ValidationError, msgspec.DecodeError, TypeError, OverflowError, UnicodeEncodeError):
        raise Unfit(_field_of(payload)) from None


def _field_of(payload: Payload) -> str:
    """Name the first field that does not fit."""
    for field in msgspec.structs.fields(payload):
        try:
            msgspec.json.decode(_encode(getattr(payload, field.name)), type=field.type)
        except (msgspec.ValidationError, msgspec.DecodeError, TypeError, OverflowError, UnicodeEncodeError):
            return field.encode_name
    return "a field"
