"""What Gumnut's entities become on the wire."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from gumnut.types import (
    AssetResponse,
    FaceResponse,
    MetadataResponse,
    PersonResponse,
    StackListStacksResponse,
)

from projections.entities.gumnut import payloads
from projections.entities.gumnut.payloads import Unfit

AT = datetime(2025, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def asset(metadata: dict[str, Any] | None = None, file: dict[str, Any] | None = None, **more: Any) -> AssetResponse:
    """Make an asset as the SDK reads it."""
    fields: dict[str, Any] = {
        "id": "asset_1",
        "created_at": AT,
        "updated_at": AT,
        "current_version_id": "v1",
        "file_size_bytes": 1234,
        "kind": "original",
        "local_datetime": datetime(2025, 3, 1, 14, tzinfo=timezone(timedelta(hours=2))),
        "mime_type": "image/heic",
        "original_file_name": "IMG.HEIC",
        "width": 3000,
        "height": 4000,
        "file_data": {
            "checksum": "sha256",
            "checksum_sha1": "sha1",
            "device_asset_id": "d",
            "device_id": "phone",
            "file_created_at": AT,
            "file_modified_at": AT,
            "file_size_bytes": 1234,
        }
        | (file or {}),
    }
    if metadata is not None:
        fields["metadata"] = {"asset_id": "asset_1", "created_at": AT, "updated_at": AT} | metadata
    return AssetResponse(**fields | more)


def test_an_asset() -> None:
    made = payloads.asset_of(asset({"rating": 5}), "ann")
    assert (made.id, made.owner_id, made.checksum, made.type) == ("asset_1", "ann", "sha1", "IMAGE")
    assert made.is_favorite
    assert not made.is_edited
    assert made.local_date_time == "2025-03-01T14:00:00.000Z"
    assert made.created_at == made.file_created_at == "2025-03-01T12:00:00.123Z"
    assert (made.width, made.height, made.duration, made.deleted_at, made.visibility) == (
        3000, 4000, None, None, "timeline",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mime", "kind"),
    [
        ("image/jpeg", "IMAGE"),
        ("video/mp4", "VIDEO"),
        ("audio/aac", "AUDIO"),
        ("application/pdf", "OTHER"),
        ("", "OTHER"),
    ],
)
def test_its_type_follows_its_mime_type(mime: str, kind: str) -> None:
    assert payloads.asset_of(asset(mime_type=mime), "ann").type == kind


def test_what_an_asset_may_lack() -> None:
    bare = payloads.asset_of(asset(file={"checksum_sha1": None}, width=None, height=None, duration=61.2345), "ann")
    assert (bare.checksum, bare.width, bare.is_favorite, bare.duration) == ("sha256", None, False, 61234)


def test_an_asset_in_the_trash_that_was_edited() -> None:
    made = payloads.asset_of(asset(trashed_at=AT, kind="edit", stack_id="s"), "ann")
    assert (made.deleted_at, made.is_edited, made.stack_id) == ("2025-03-01T12:00:00.123Z", True, "s")


def test_when_a_photo_was_taken_goes_before_when_its_file_was_made() -> None:
    taken = datetime(2020, 1, 1, 10, tzinfo=timezone(timedelta(hours=-5)))
    assert payloads.asset_of(asset({"original_datetime": taken}), "ann").file_created_at == "2020-01-01T15:00:00.000Z"


@pytest.mark.parametrize(
    "wrong",
    [{"id": ""}, {"id": "a|b"}, {"width": 2**63}, {"duration": -1.0}, {"duration": 1e12}, {"file_data": None},
     {"metadata": "none"}, {"original_file_name": None}, {"original_file_name": "\ud800"}, {"thumbhash": 5}],
)  # fmt: skip
def test_an_asset_that_no_device_could_read(wrong: dict[str, Any]) -> None:
    found = AssetResponse.construct(**asset().model_dump() | wrong)
    with pytest.raises(Unfit):
        payloads.asset_of(found, "ann")


@pytest.mark.parametrize("odd", ["12024-06-01T10:00:00Z", "infinity", "-infinity", "0044-03-15T00:00:00Z BC", {}])
def test_a_time_that_cannot_be_printed_is_null(odd: Any) -> None:
    file = {"file_created_at": odd, "file_modified_at": odd}
    fields = asset().model_dump() | {"created_at": odd, "local_datetime": odd}
    made = payloads.asset_of(AssetResponse.construct(**fields | {"file_data": fields["file_data"] | file}), "ann")
    assert (made.created_at, made.local_date_time, made.file_created_at, made.file_modified_at) == (None,) * 4
    trashed = payloads.asset_of(AssetResponse.construct(**asset().model_dump() | {"trashed_at": odd}), "ann")
    assert trashed.deleted_at == "2025-03-01T12:00:00.123Z", "it stays in the trash"


@pytest.mark.parametrize("hours", [-14, 14])
@pytest.mark.parametrize("day", [(1, 1, 1, 0, 0), (9999, 12, 31, 23, 59)])
def test_the_ends_of_time_break_nothing(day: tuple[int, int, int, int, int], hours: int) -> None:
    moment = datetime(*day, tzinfo=timezone(timedelta(hours=hours)))
    assert payloads.instant(moment) in (None, "0001-01-01T14:00:00.000Z", "9999-12-31T09:59:00.000Z")
    assert payloads.stamp_of(moment) in (0, 253_402_250_340_000_000)
    assert payloads.stamp_of(moment, AT) >= payloads.stamp_of(AT) > 0


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_a_float_that_is_no_number_is_null(odd: float) -> None:
    assert payloads.asset_of(asset(duration=odd), "ann").duration is None
    data = dict.fromkeys(("latitude", "longitude", "f_number", "focal_length", "fps"), odd)
    made = payloads.exif_of(asset(data | {"exposure_time": odd}))
    told = (made.latitude, made.longitude, made.f_number, made.focal_length, made.fps)
    assert told == (None,) * 5
    assert made.exposure_time in (None, "0")


def test_camera_data() -> None:
    data = {
        "raw_width": 4000, "raw_height": 3000, "orientation": 6, "exposure_time": 0.004, "iso": 100, "f_number": 1.8,
        "rating": 0, "timezone": "Europe/Rome", "original_datetime": AT, "latitude": 45.5, "city": "Milan",
    }  # fmt: skip
    made = payloads.exif_of(asset(data))
    assert (made.exif_image_width, made.exif_image_height, made.orientation) == (4000, 3000, "6")
    assert (made.exposure_time, made.iso, made.rating, made.time_zone, made.city) == (
        "1/250", 100, None, "Europe/Rome", "Milan",
    )  # fmt: skip
    assert made.date_time_original == "2025-03-01T12:00:00.123Z"


def test_camera_data_of_what_was_edited_or_has_none() -> None:
    edited = payloads.exif_of(asset({"raw_width": 4000, "raw_height": 3000, "orientation": 6}, kind="edit"))
    assert (edited.exif_image_width, edited.exif_image_height, edited.orientation) == (3000, 4000, None)
    none = payloads.exif_of(asset())
    assert (none.exif_image_width, none.file_size_in_byte, none.make) == (3000, 1234, None)


@pytest.mark.parametrize(("seconds", "text"), [(0.001, "1/1000"), (0.5, "0.5"), (2, "2"), (2.5, "2.5"), (0, "0")])
def test_exposures_read_as_on_cameras(seconds: float, text: str) -> None:
    assert payloads.exposure_text(seconds) == text


def face(**more: Any) -> FaceResponse:
    """Make a face as the SDK reads it."""
    fields: dict[str, Any] = {
        "id": "face_1",
        "asset_id": "asset_1",
        "bounding_box": {"x": 10, "y": 20, "w": 30, "h": 40},
        "created_at": AT,
        "updated_at": AT,
        "source": "automatic",
    }
    return FaceResponse(**fields | more)


def test_a_face() -> None:
    made = payloads.face_of(face(source="manual"), asset(), "person_1")
    box = (made.bounding_box_x1, made.bounding_box_y1, made.bounding_box_x2, made.bounding_box_y2)
    assert box == (10, 20, 40, 60)
    assert (made.image_width, made.image_height, made.person_id, made.source_type) == (3000, 4000, "person_1", "manual")
    for width, height in ((None, None), (float("nan"), float("inf"))):
        odd = AssetResponse.construct(**asset().model_dump() | {"width": width, "height": height})
        unsized = payloads.face_of(face(), odd, None)
        assert (unsized.image_width, unsized.image_height, unsized.source_type) == (40, 60, "machine-learning")
    with pytest.raises(Unfit, match="boundingBox"):
        payloads.face_of(face(bounding_box={"x": 1}), asset(), None)


def test_a_person() -> None:
    found = PersonResponse(
        id="p", created_at=AT, updated_at=AT, is_favorite=True, is_hidden=False, birth_date=date(1999, 12, 31)
    )
    made = payloads.person_of(found, "ann")
    assert (made.name, made.birth_date, made.is_favorite, made.owner_id) == (
        "",
        "1999-12-31T00:00:00.000Z",
        True,
        "ann",
    )


def test_the_cover_of_a_stack() -> None:
    def cover(pinned: str | None, members: list[str] | None) -> str:
        found = StackListStacksResponse(
            id="s", asset_count=0, created_at=AT, updated_at=AT, origin="user",
            primary_asset_id=pinned, asset_ids=members,
        )  # fmt: skip
        return payloads.stack_of(found, "ann").primary_asset_id

    assert cover("c", ["a", "b"]) == "c"
    assert cover(None, ["a", "b"]) == "a"
    with pytest.raises(Unfit, match="primaryAssetId"):
        cover(None, [])
    with pytest.raises(Unfit, match="primaryAssetId"):
        cover(None, None)


def test_metadata_of_the_sdk_has_the_fields_that_are_read() -> None:
    """The SDK's models are made without checks, so a field that is renamed would only be missed on a phone."""
    known = MetadataResponse.model_fields
    for name in ("rating", "raw_width", "original_datetime", "exposure_time", "projection_type", "fps"):
        assert name in known
