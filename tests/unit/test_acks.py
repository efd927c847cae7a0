"""The ack codec, both forms, both directions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.acks import (
    MAX_ACK_CHARS,
    MAX_EPOCH,
    RESET_ACK,
    RESET_TEXT,
    Ack,
    _parse_any,
    completed_types,
    completion,
    format_ack,
    parse_ack,
)
from ledger.entity_types import COMPLETE, ENTITY_TYPES, RESET, mask_of
from ledger.errors import InvalidAck
from ledger.positions import Position
from tests.support.ledger.given import positions

POSITIONED = [name for name in ENTITY_TYPES if name != RESET]
US = 1_737_369_045_123_456
TIME = "2025-01-20T10:30:45.123456Z"


@given(st.builds(Ack, st.sampled_from(POSITIONED), positions, st.integers(1, MAX_EPOCH)))
def test_every_ack_reads_back_as_it_was_printed(ack: Ack) -> None:
    text = format_ack(ack)
    assert len(text) <= MAX_ACK_CHARS
    assert parse_ack(text) == ack


@given(st.builds(Ack, st.sampled_from(POSITIONED), positions, st.just(1)))
def test_the_first_epoch_is_not_printed(ack: Ack) -> None:
    assert format_ack(ack).count("|") == 2
    assert format_ack(replace(ack, epoch=2)) == format_ack(ack) + "|2"


@pytest.mark.parametrize(
    ("text", "ack"),
    [
        (f"AssetV1|{TIME}|", Ack("AssetV1", Position(US, ""))),
        (f"AssetV1|{TIME}", Ack("AssetV1", Position(US, ""))),
        (f"AssetV1|{TIME}|0a1b", Ack("AssetV1", Position(US, "0a1b"))),
        (f"AssetV1|{TIME}|0a1b|7", Ack("AssetV1", Position(US, "0a1b"), 7)),
        (f"AssetV1|{TIME}||7", Ack("AssetV1", Position(US, ""), 7)),
        ("AssetV1|2025-01-20T12:30:45.123456+02:00|x", Ack("AssetV1", Position(US, "x"))),
        ("AlbumV2|2025-01-20T10:30:45.123456Z|Ü 日本", Ack("AlbumV2", Position(US, "Ü 日本"))),
        (f"SyncCompleteV1|{TIME}|", Ack("SyncCompleteV1", Position(US, ""))),
    ],
)
def test_acks_are_read(text: str, ack: Ack) -> None:
    assert parse_ack(text) == ack


def said(parse: Callable[[str], Ack], text: str) -> Ack | str:
    try:
        return parse(text)
    except InvalidAck as error:
        return str(error)


TYPE_PARTS = (*ENTITY_TYPES[:3], RESET, COMPLETE, "", "AssetV9", "Ässet")
TIME_PARTS = (
    *("", "Z", TIME, TIME[:-1], TIME.lower(), "2025-01-20T10:30:45.12345Z", "2025-01-20T24:00:00.000000Z"),
    *("2025-02-30T10:30:45.123456Z", "1969-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    *("2025-W04-1T10:30:45.123456Z", "\uff12025-01-20T10:30:45.123456Z"),
)
ID_PARTS = ("", "a", " ~", "é", "\x7f", "\n", "a" * 256, "a" * 257, "é" * 129)
EPOCH_PARTS = ("", "|", "|0", "|01", "|1", "|2147483648", "|2147483649", "|7|", "|1\u0663", "|²", "|-1", "|999999999\n")


def test_an_ack_as_it_is_printed_reads_as_any_other() -> None:
    for entity_type, time, entity_id, epoch in product(TYPE_PARTS, TIME_PARTS, ID_PARTS, EPOCH_PARTS):
        text = f"{entity_type}|{time}|{entity_id}{epoch}"
        assert said(parse_ack, text) == said(_parse_any, text)


def test_a_completion_names_the_types_of_its_stream() -> None:
    types = mask_of(["AssetV2", "AssetDeleteV1", COMPLETE])
    ack = completion(US, types, 2)
    assert format_ack(ack) == f"SyncCompleteV1|{TIME}|30|2"
    assert parse_ack(format_ack(ack)) == ack
    assert completed_types(ack.position.id) == mask_of(["AssetV2", "AssetDeleteV1"])
    assert completion(US, mask_of([COMPLETE]), 1) == Ack(COMPLETE, Position(US, ""), 1)
    every = completion(US, mask_of(ENTITY_TYPES), 1)
    assert completed_types(every.position.id) == mask_of(set(ENTITY_TYPES) - {COMPLETE})


@pytest.mark.parametrize("text", ["SyncResetV1|reset", "SyncResetV1", "SyncResetV1|", "SyncResetV1|anything|at|all|x"])
def test_any_ack_of_a_reset_is_the_reset(text: str) -> None:
    assert parse_ack(text) == RESET_ACK
    assert format_ack(parse_ack(text)) == RESET_TEXT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Invalid ack type: "),
        ("|", "Invalid ack type: "),
        ("NoSuchV1|x", "Invalid ack type: NoSuchV1"),
        (f"assetv1|{TIME}|x", "Invalid ack type: assetv1"),
        (" AssetV1|x", "Invalid ack type:  AssetV1"),
        ("AssetV1", "ISO 8601"),
        ("AssetV1|", "ISO 8601"),
        ("AssetV1||x", "ISO 8601"),
        ("AssetV1|0194803a-1111-7000-8000-000000000000", "ISO 8601"),
        (f"AssetV1|{TIME}|a\nb", "control characters"),
        (f"AssetV1|{TIME}|{'x' * 257}", "256 bytes"),
        (f"AssetV1|{TIME}|x|1|", "too many parts"),
        (f"AssetV1|{TIME}|x|0", "epoch"),
        (f"AssetV1|{TIME}|x|-1", "epoch"),
        (f"AssetV1|{TIME}|x|", "epoch"),
        (f"AssetV1|{TIME}|x|٣", "epoch"),
        (f"AssetV1|{TIME}|x|1.0", "epoch"),
        (f"AssetV1|{TIME}|x|{MAX_EPOCH + 1}", "epoch"),
        (f"AssetV1|{TIME}|{'x' * 600}", "longer than"),
    ],
)
def test_unreadable_acks_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidAck, match=message.replace("|", r"\|")):
        parse_ack(text)


@given(st.text(max_size=80) | st.text(max_size=80).map(lambda rest: f"AssetV1|{TIME}|{rest}"))
def test_no_text_does_anything_but_read_or_be_refused(text: str) -> None:
    try:
        ack = parse_ack(text)
    except InvalidAck:
        return
    assert parse_ack(format_ack(ack)) == ack
