"""Stored events stay readable for ever, and what cannot be read says why."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given as forall

from ledger.errors import CorruptLedger, UnknownEvent
from ledger.events import (
    SCHEMA,
    AckRefused,
    AcksRecorded,
    CheckpointsCleared,
    DeviceDescribed,
    Event,
    Recorded,
    SessionCreated,
    SessionEnded,
    StoredAck,
    StreamOffered,
    SyncResetRequested,
    TokenFirstUsed,
    TokenRotated,
    decode_event,
    encode_event,
    mask_bytes,
    tag_of,
)
from ledger.state import State
from tests.given import histories

ACK = StoredAck(3, 1_737_369_045_123_456, "0a1b", 1)

TOKEN = bytes(range(32))

# Bytes as version 0.1 stored them. Never change one: add samples when an event gets a new field.
SAMPLES: list[tuple[str, Event]] = [
    (
        "99af73657373696f6e5f63726561746564a3616e6ea670686f746f73c0a0a0c0c0a0",
        SessionCreated("ann", "photos"),
    ),
    (
        (
            "99af73657373696f6e5f63726561746564a3616e6ea670686f746f73d9403565356535653565356535653565356535653565"
            "3565356535653565356535653565356535653565356535653565356535653565356535653565356535653565a66950686f6e"
            "65a3694f53a5332e322e30cf0006651728988000a870617373776f7264"
        ),
        SessionCreated("ann", "photos", "5e" * 32, "iPhone", "iOS", "3.2.0", 1_800_000_000_000_000, "password"),
    ),
    (
        "93ae73747265616d5f6f666665726564cf00062c20c0c74180c40108",
        StreamOffered(1_737_369_045_123_456, b"\x08"),
    ),
    (
        "93ad61636b735f7265636f72646564919403cf00062c20c0c74180a4306131620190",
        AcksRecorded((ACK,)),
    ),
    (
        (
            "93ad61636b735f7265636f72646564929403cf00062c20c0c74180a43061316201943acf00062c20c0c74180a002919403cf"
            "00062c20c0c74180a43061316201"
        ),
        AcksRecorded((ACK, StoredAck(58, 1_737_369_045_123_456, "", 2)), (ACK,)),
    ),
    (
        (
            "93ab61636b5f726566757365649403cf00062c20c0c74180a43061316201b76974732065706f636820686173206e6f742062"
            "6567756e"
        ),
        AckRefused(ACK, "its epoch has not begun"),
    ),
    (
        "94b3636865636b706f696e74735f636c6561726564c0ab72657365745f61636b6564c3",
        CheckpointsCleared(None, "reset_acked", True),
    ),
    (
        "94b3636865636b706f696e74735f636c6561726564c40108a764656c65746564c2",
        CheckpointsCleared(b"\x08", "deleted"),
    ),
    (
        "93b473796e635f72657365745f726571756573746564c3a3616e6e",
        SyncResetRequested(True, "ann"),
    ),
    (
        "94b06465766963655f646573637269626564a0a3694f53a5332e322e31",
        DeviceDescribed("", "iOS", "3.2.1"),
    ),
    (
        ("9baf73657373696f6e5f63726561746564a3616e6ea670686f746f73c0a0a0c0c0a46f696463cf0006651728988000c40430313233"),
        SessionCreated(
            "ann",
            "photos",
            authenticated_by="oidc",
            token_expires_at_us=1_800_000_000_000_000,
            provider_session=b"0123",
        ),
    ),
    (
        ("94ad746f6b656e5f726f7461746564c420000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f01c0"),
        TokenRotated(TOKEN, 1),
    ),
    (
        (
            "94ad746f6b656e5f726f7461746564c420000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
            "cd012ccf0006651728988000"
        ),
        TokenRotated(TOKEN, 300, 1_800_000_000_000_000),
    ),
    (
        (
            "93b0746f6b656e5f66697273745f75736564c420000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c"
            "1d1e1fcf0006651728988000"
        ),
        TokenFirstUsed(TOKEN, 1_800_000_000_000_000),
    ),
    (
        "93ad73657373696f6e5f656e646564a66c6f676f7574a3616e6e",
        SessionEnded("logout", "ann"),
    ),
]


@pytest.mark.parametrize(("hexed", "event"), SAMPLES)
def test_bytes_once_stored_decode_for_ever(hexed: str, event: Event) -> None:
    assert decode_event(bytes.fromhex(hexed), 1) == event


def test_there_is_a_sample_of_every_event() -> None:
    assert {type(event) for _, event in SAMPLES} == set(get_args(Event))


@pytest.mark.parametrize(("hexed", "event"), SAMPLES)
def test_the_tag_comes_first_and_is_stable(hexed: str, event: Event) -> None:
    tag = msgspec.msgpack.decode(bytes.fromhex(hexed))[0]
    assert tag == tag_of(event)
    assert tag == "".join("_" + c.lower() if c.isupper() else c for c in type(event).__name__).lstrip("_")


@pytest.mark.parametrize("event", [event for _, event in SAMPLES])
def test_later_fields_are_ignored(event: Event) -> None:
    fields = msgspec.msgpack.decode(encode_event(event))
    assert decode_event(msgspec.msgpack.encode([*fields, "later", {"and": ["more"]}]), 1) == event


@forall(histories)
def test_events_read_back_as_they_were_written(history: list[tuple[Recorded, State]]) -> None:
    for recorded, _ in history:
        assert decode_event(recorded.raw, recorded.schema) == recorded.event
        assert encode_event(recorded.event) == recorded.raw


def test_an_unknown_tag_is_named_with_the_schema_that_wrote_it() -> None:
    with pytest.raises(UnknownEvent, match="'pin_changed' in schema 1"):
        decode_event(msgspec.msgpack.encode(["pin_changed", b"x"]), 1)


def test_a_newer_schema_is_not_guessed_at() -> None:
    with pytest.raises(UnknownEvent, match=f"schema {SCHEMA + 1}.*upgrade"):
        decode_event(encode_event(SessionEnded("logout")), SCHEMA + 1)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode([7]),
        msgspec.msgpack.encode(["session_created"]),
        msgspec.msgpack.encode(["session_created", 1, 2]),
        msgspec.msgpack.encode(["acks_recorded", [[3, 5, "a"]]]),
        encode_event(SessionEnded("logout"))[:-1],
        encode_event(SessionEnded("logout")) + b"\x00",
    ],
)
def test_damaged_bytes_are_corrupt_and_not_unknown(raw: bytes) -> None:
    with pytest.raises(CorruptLedger) as caught:
        decode_event(raw)
    assert not isinstance(caught.value, UnknownEvent)


def test_events_are_stored_in_few_bytes() -> None:
    uuid = "0a1b2c3d-1111-4222-8333-444455556666"
    assert len(encode_event(AcksRecorded((ACK._replace(id=uuid),)))) <= 70
    assert len(encode_event(StreamOffered(ACK.at_us, mask_bytes(2**57 - 1)))) <= 40
