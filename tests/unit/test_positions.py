"""Positions: how instants are read and printed, and the order of entities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidInput
from ledger.positions import MAX_ID_BYTES, MAX_US, Position, check_id, iso_from_us, us_from_iso
from tests.support.ledger.given import ids, positions

US = 1_737_369_045_123_456  # 2025-01-20T10:30:45.123456Z


@given(st.integers(0, MAX_US))
def test_an_instant_is_printed_in_27_characters_and_reads_back(us: int) -> None:
    text = iso_from_us(us)
    assert len(text) == 27
    assert text.endswith("Z")
    assert us_from_iso(text) == us


@given(st.integers(0, MAX_US), st.integers(0, MAX_US))
def test_printed_instants_sort_as_instants(one: int, other: int) -> None:
    assert (iso_from_us(one) < iso_from_us(other)) == (one < other)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("2025-01-20T10:30:45.123456Z", US),
        ("2025-01-20T10:30:45.123456z", US),
        ("2025-01-20t10:30:45.123456+00:00", US),
        ("2025-01-20T12:30:45.123456+02:00", US),
        ("2025-01-20T05:00:45.123456-0530", US),
        ("2025-01-20T10:30:45.123Z", US - 456),
        ("2025-01-20T10:30:45Z", US - 123_456),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:00:00-01:00", 0),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
        ("9999-12-31T23:59:59.999999Z", MAX_US),
    ],
)
def test_instants_with_a_zone_are_read(text: str, us: int) -> None:
    assert us_from_iso(text) == us


@pytest.mark.parametrize(
    "text",
    [
        "",
        "reset",
        "2025-01-20T10:30:45.123456",  # no zone
        "2025-01-20",
        "2025-01-20 10:30:45Z",
        "2025-01-20T10:30:45.Z",
        "2025-01-20T10:30:45.1234567Z",  # finer than a microsecond
        "2025-1-20T10:30:45Z",
        "2025-02-30T10:30:45Z",
        "2023-02-29T10:30:45Z",
        "2025-01-20T24:00:00Z",
        "2025-01-20T10:30:60Z",
        "2025-01-20T10:30:45+24:00",
        "2025-01-20T10:30:45+01:60",
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-01:00",
        "\uff12025-01-20T10:30:45Z",  # a digit, but not of ASCII
        " 2025-01-20T10:30:45Z",
        "2025-01-20T10:30:45Z\n",
    ],
)
def test_anything_else_is_no_instant(text: str) -> None:
    with pytest.raises(ValueError, match=r"ISO 8601|outside|must be in|is out of range|day"):
        us_from_iso(text)


@given(positions, positions)
def test_positions_are_ordered_by_time_then_by_the_bytes_of_the_id(one: Position, other: Position) -> None:
    if one.at_us != other.at_us:
        assert (one.key < other.key) == (one.at_us < other.at_us)
    elif one.id and other.id:
        assert (one.key < other.key) == (one.id.encode() < other.id.encode())
    assert (one.key == other.key) == (one == other)


def test_ids_compare_as_bytes_not_as_utf_16() -> None:
    fullwidth, emoji = "\uff21", "\U0001f600"
    assert fullwidth.encode("utf-16-be") > emoji.encode("utf-16-be"), "where both orders differ"
    assert Position(US, fullwidth).key < Position(US, emoji).key


@given(st.integers(0, MAX_US), ids)
def test_an_empty_id_comes_after_every_id_of_its_instant_and_before_the_next(us: int, entity_id: str) -> None:
    assert Position(us, entity_id).key < Position(us, "").key < Position(us + 1, entity_id).key


@given(ids)
def test_an_id_without_bars_and_control_characters_fits(entity_id: str) -> None:
    check_id("id", entity_id)


@pytest.mark.parametrize(
    "entity_id", ["", "a|b", "a\nb", "a\x00", "a\x7f", "a\x85", "\ud800", "x" * (MAX_ID_BYTES + 1), "é" * 129]
)
def test_an_id_that_acks_cannot_carry_is_refused_with_its_field(entity_id: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_id("assetId", entity_id)
    assert refused.value.problems[0][0] == ("assetId",)
