"""Versions of one entity: there and back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidInput
from projections.entities.entity import entity_of, read_line
from projections.entities.lines import as_served, data_of
from projections.entities.payloads.albums import AlbumV2
from projections.entities.registry import ROWS, row
from projections.entities.versions import MAX_DURATION_MS, album_to_v1, duration_ms, duration_text
from tests.support.sources.samples import USER_ID, sample

OTHERS = [found for found in ROWS if found.is_other_version and not found.needs_owner]
PLACE = b"2025-01-20T10:30:45.123456Z|id"


def stored_data(entity_type: str, data: dict[str, Any]) -> dict[str, Any]:
    entity = read_line(json.dumps({"type": entity_type, "data": data}).encode())
    found: dict[str, Any] = json.loads(data_of(entity.head + b"2025-01-20T10:30:45.123456Z|id"))
    return found


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0:10:00.00000", 600_000),
        ("0:00:00.00000", 0),
        ("0:00:10.56700", 10_567),
        ("12:34:56.00100", 45_296_001),
        ("00:00:01", 1_000),
        ("0:00:01.5", 1_500),
        ("0:00:01.123999", 1_123),
    ],
)
def test_a_v1_duration_is_read_in_milliseconds(text: str, ms: int) -> None:
    assert duration_ms(text) == ms


def test_a_duration_is_printed_as_v1_has_it() -> None:
    assert duration_text(600_000) == "0:10:00.00000"
    assert duration_text(45_296_001) == "12:34:56.00100"


@given(st.integers(0, MAX_DURATION_MS))
def test_durations_survive_the_way_to_v1_and_back(ms: int) -> None:
    assert duration_ms(duration_text(ms)) == ms


def test_an_asset_v1_is_stored_as_v2() -> None:
    entity = read_line(json.dumps({"type": "AssetV1", "data": sample("AssetV1")}).encode())
    assert entity.row.name == "AssetV2"
    assert stored_data("AssetV1", sample("AssetV1")) == sample("AssetV2")
    assert stored_data("AssetV1", sample("AssetV1", duration=None))["duration"] is None


def test_a_duration_beyond_32_bits_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput) as refused:
        stored_data("AssetV1", sample("AssetV1", duration="600:00:00.00000"))
    assert refused.value.problems[0][0] == ("data", "duration")


def test_a_v1_face_is_visible_and_not_in_the_trash() -> None:
    assert stored_data("AssetFaceV1", sample("AssetFaceV1")) == sample("AssetFaceV2")


def test_an_album_v1_brings_its_owner_along() -> None:
    entity = read_line(json.dumps({"type": "AlbumV1", "data": sample("AlbumV1")}).encode())
    assert entity.row.name == "AlbumV2"
    assert entity.owner is not None
    assert entity.owner.row.name == "AlbumUserV1"
    assert msgspec.to_builtins(entity.owner.data) == sample("AlbumUserV1")
    assert stored_data("AlbumV1", sample("AlbumV1")) == sample("AlbumV2")
    back = album_to_v1(msgspec.convert(sample("AlbumV2"), AlbumV2), USER_ID)
    assert msgspec.to_builtins(back) == sample("AlbumV1")


@pytest.mark.parametrize("version", OTHERS, ids=lambda found: found.name)
def test_what_was_written_as_another_version_is_served_as_it(version: Any) -> None:
    written = msgspec.convert(sample(version.name), version.payload)
    stored = entity_of(version, written)
    assert stored.row.name == version.stored
    line = as_served(stored.head + PLACE, version, stored.row)
    assert line is not None
    assert json.loads(line + b'"}') == {
        "type": version.name, "data": sample(version.name), "ack": f"{version.name}|{PLACE.decode()}",
    }  # fmt: skip


def test_who_has_no_id_at_a_provider_has_null_in_v2_and_an_empty_text_in_v1() -> None:
    assert stored_data("AuthUserV2", sample("AuthUserV2", oauthId=None))["oauthId"] == ""
    assert stored_data("AuthUserV2", sample("AuthUserV2", oauthId="sub"))["oauthId"] == "sub"
    for stored, served in (("", None), ("sub", "sub")):
        head = read_line(json.dumps({"type": "AuthUserV1", "data": sample("AuthUserV1", oauthId=stored)}).encode()).head
        line = as_served(head + PLACE, row("AuthUserV2"), row("AuthUserV1"))
        assert line is not None
        assert json.loads(line + b'"}')["data"]["oauthId"] == served


def test_a_birthday_is_written_and_served_as_v2_alone() -> None:
    birthday = sample("MemoryV2", type="birthday", data={"personId": "p", "personName": 'Grace "ack":"MemoryV1|'})
    with pytest.raises(InvalidInput) as refused:
        read_line(json.dumps({"type": "MemoryV1", "data": birthday}).encode())
    assert refused.value.problems[0][0] == ("data", "type")
    entity = read_line(json.dumps({"type": "MemoryV2", "data": birthday}).encode())
    assert as_served(entity.head + PLACE, row("MemoryV1"), entity.row) is None
    line = as_served(entity.head + PLACE, row("MemoryV2"), entity.row)
    assert line is not None
    assert json.loads(line + b'"}') == {"type": "MemoryV2", "data": birthday, "ack": f"MemoryV2|{PLACE.decode()}"}
