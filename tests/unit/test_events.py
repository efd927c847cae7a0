"""Stored events stay readable for ever, and what cannot be read says why."""

from __future__ import annotations

from typing import Final, get_args

import msgspec
import pytest
from hypothesis import given as forall

from ledger import events
from ledger.chain import GENESIS, link
from ledger.errors import CorruptLedger, UnknownEvent
from ledger.events import (
    SCHEMA,
    AckRefused,
    AcksRecorded,
    CheckpointsAdopted,
    CheckpointsCleared,
    DeviceDescribed,
    Event,
    HistoryLost,
    Recorded,
    ResetSent,
    SessionCreated,
    SessionEnded,
    SessionResumed,
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
from ledger.personal import UserKey, plain
from ledger.state import State
from ledger.upcast import UPCASTS, Stored, upcast
from tests.support.ledger.given import NOW, SID, histories

ACK = StoredAck(3, 1_737_369_045_123_456, "0a1b", 1)

TOKEN = bytes(range(32))

# Bytes as schema 1 was stored. Never change one: add samples when an event gets a new field.
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
        SessionCreated(
            "ann", "photos", "5e" * 32, plain("iPhone"), plain("iOS"), plain("3.2.0"), 1_800_000_000_000_000, "password"
        ),
    ),
    (
        "93ae73747265616d5f6f666665726564cf00062c20c0c74180c40108",
        StreamOffered(1_737_369_045_123_456, b"\x08"),
    ),
    (
        "94ae73747265616d5f6f666665726564cf00062c20c0c74180c4010803",
        StreamOffered(1_737_369_045_123_456, b"\x08", 3),
    ),
    (
        "96ae73747265616d5f6f666665726564cf00062c20c0c74180c401080302cf0000000640000000",
        StreamOffered(1_737_369_045_123_456, b"\x08", 3, 2, 26_843_545_600),
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
        "95b3636865636b706f696e74735f636c6561726564c0ab72657365745f61636b6564c3c3",
        CheckpointsCleared(None, "reset_acked", True, wiped=True),
    ),
    (
        "92aa72657365745f73656e74ae64656c657465735f707572676564",
        ResetSent("deletes_purged"),
    ),
    (
        "93b473796e635f72657365745f726571756573746564c3a3616e6e",
        SyncResetRequested(True, plain("ann")),
    ),
    (
        "94b06465766963655f646573637269626564a0a3694f53a5332e322e31",
        DeviceDescribed(plain(""), plain("iOS"), plain("3.2.1")),
    ),
    (
        "94b06465766963655f646573637269626564a5506978656ca0c0",
        DeviceDescribed(plain("Pixel")),
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
        SessionEnded("logout", plain("ann")),
    ),
]


# What schema 2 stores: as schema 1, but personal texts are bytes, plain or sealed (here with the key of 32 times "k").
WITH_TEXTS: Final = (SessionCreated, SyncResetRequested, DeviceDescribed, SessionEnded)
KEY: Final = UserKey(b"k" * 32)
DEVICE: Final = KEY.seal(plain("iPhone")), KEY.seal(plain("iOS")), KEY.seal(plain("3.2.0"))
SAMPLES_2: list[tuple[str, Event]] = [
    *(sample for sample in SAMPLES if not isinstance(sample[1], WITH_TEXTS)),
    (
        "94ad61636b735f7265636f7264656490919403cf00062c20c0c74180a43061316201cd03e9",
        AcksRecorded((), (ACK,), 1001),
    ),
    (
        (
            "94ab61636b5f726566757365649403cf00062c20c0c74180a43061316201bb6e6f2073747265616d206f666665"
            "72656420746869732074797065c3"
        ),
        AckRefused(ACK, "no stream offered this type", True),
    ),
    (
        ("96b3636865636b706f696e74735f636c6561726564c40108a561736b6564c2c2c40a006b6579206175646974"),
        CheckpointsCleared(b"\x08", "asked", by=plain("key audit")),
    ),
    (
        "9baf73657373696f6e5f63726561746564a3616e6ea670686f746f73c0c400c400c400c0a0c0c400",
        SessionCreated("ann", "photos"),
    ),
    (
        (
            "9baf73657373696f6e5f63726561746564a3616e6ea670686f746f73c0c407006950686f6e65c40400694f53c4060033"
            "2e322e30c0a0c0c400"
        ),
        SessionCreated("ann", "photos", None, plain("iPhone"), plain("iOS"), plain("3.2.0")),
    ),
    (
        (
            "9baf73657373696f6e5f63726561746564a3616e6ea670686f746f73d940356535653565356535653565356535653565"
            "35653565356535653565356535653565356535653565356535653565356535653565356535653565356535653565c424"
            "01d2d9cb40c5207f325da7646d45c84ad7037002f2c19934495548aea63b6aff3f087f54c42101f35adb7ac4da3e0851"
            "e96278cf71b22b6b4816c501032a738ad03c11349424a0c4230167b034cd0b0ed0597ae066808e6b29334200d5c51832"
            "3c501f618dce52dc29e250d4cf00065bfeda25e000a46f696463cf0006651728988000c40430313233"
        ),
        SessionCreated("ann", "photos", "5e" * 32, *DEVICE, NOW, "oidc", 1_800_000_000_000_000, b"0123"),
    ),
    (
        "93b473796e635f72657365745f726571756573746564c3c40400616e6e",
        SyncResetRequested(True, plain("ann")),
    ),
    (
        (
            "93b473796e635f72657365745f726571756573746564c3c42401d2d9cb40c5207f325da7646d45c84ad7037002f2c199"
            "34495548aea63b6aff3f087f54"
        ),
        SyncResetRequested(True, DEVICE[0]),
    ),
    (
        (
            "94b06465766963655f646573637269626564c42401d2d9cb40c5207f325da7646d45c84ad7037002f2c19934495548ae"
            "a63b6aff3f087f54c42101f35adb7ac4da3e0851e96278cf71b22b6b4816c501032a738ad03c11349424a0c4230167b0"
            "34cd0b0ed0597ae066808e6b29334200d5c518323c501f618dce52dc29e250d4"
        ),
        DeviceDescribed(*DEVICE),
    ),
    (
        (
            "93ad73657373696f6e5f656e646564a66c6f676f7574c42101f35adb7ac4da3e0851e96278cf71b22b6b4816c501032a"
            "738ad03c11349424a0"
        ),
        SessionEnded("logout", DEVICE[1]),
    ),
    (
        "95b473796e635f72657365745f726571756573746564c3c400a961636b5f616865616407",
        SyncResetRequested(True, b"", "ack_ahead", 7),
    ),
    (
        (
            "94b3636865636b706f696e74735f61646f70746564929403cf00062c20c0c74180a43061316201943acf00062c20c0c7"
            "4180a002a6696d6d696368cf00060a24181e4000"
        ),
        CheckpointsAdopted(
            (ACK, StoredAck(58, 1_737_369_045_123_456, "", 2)), "immich", since_us=1_700_000_000_000_000
        ),
    ),
    (
        (
            "97b3636865636b706f696e74735f61646f7074656491943acf00062c20c0c74180a002a6696d6d696368cf00060a24"
            "181e4000cf00062c20c0d4a180c408040000000000001002"
        ),
        CheckpointsAdopted(
            (StoredAck(58, 1_737_369_045_123_456, "", 2),),
            "immich",
            since_us=1_700_000_000_000_000,
            as_of_us=1_737_369_046_000_000,
            types=bytes.fromhex("0400000000000010"),
            revision=2,
        ),
    ),
    (
        (
            "96ac686973746f72795f6c6f73740409aa72656d656d6265726564c420000102030405060708090a0b0c0d0e0f101112"
            "131415161718191a1b1c1d1e1fc420202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
        ),
        HistoryLost(4, 9, "remembered", TOKEN, bytes(range(32, 64))),
    ),
    (
        (
            "96ac686973746f72795f6c6f73740109aa72656d656d6265726564c420000102030405060708090a0b0c0d0e0f101112"
            "131415161718191a1b1c1d1e1fc400"
        ),
        HistoryLost(1, 9, "remembered", TOKEN),
    ),
    (
        "93af73657373696f6e5f726573756d6564a6696d6d69636803",
        SessionResumed("immich", 3),
    ),
]


ALL_SAMPLES: Final = {1: SAMPLES, 2: SAMPLES_2}
"""By the schema that wrote them; the events as this version understands them."""

# Every field ever written, in the order in which they were added. What stands here was stored and stays readable:
# - a field is added at the end, with a default: add it here, and samples with it (the older ones stay);
# - anything else (order, type, meaning, a field less) is a new schema: raise SCHEMA, add what leads there to
#   `ledger.upcast.UPCASTS`, and here what the new schema writes, with samples.
FIELDS: Final[dict[int, dict[str, list[str]]]] = {
    1: {
        "session_created": [
            "user: str", "library: str", "parent: str | None = None", "device_type: str = ''", "device_os: str = ''",
            "app_version: str | None = None", "expires_at_us: int | None = None", "authenticated_by: str = ''",
            "token_expires_at_us: int | None = None", "provider_session: bytes = b''",
        ],
        "stream_offered": [
            "snapshot_us: int", "types: bytes", "revision: int = 0", "origin: int = 0", "written: int = 0",
        ],
        "acks_recorded": ["moved: tuple[StoredAck, ...]", "stale: tuple[StoredAck, ...] = ()"],
        "ack_refused": ["ack: StoredAck", "reason: str"],
        "checkpoints_cleared": [
            "types: bytes | None", "cause: str", "reset: bool = False", "wiped: bool = False",
        ],
        "reset_sent": ["cause: str"],
        "sync_reset_requested": ["on: bool", "by: str"],
        "device_described": ["device_type: str = ''", "device_os: str = ''", "app_version: str | None = None"],
        "token_rotated": ["token: bytes", "number: int", "expires_at_us: int | None = None"],
        "token_first_used": ["token: bytes", "until_us: int"],
        "session_ended": ["reason: str", "by: str = ''"],
        "StoredAck": ["code: int", "at_us: int", "id: str", "epoch: int"],
    },
    2: {
        "session_created": [
            "user: str", "library: str", "parent: str | None = None", "device_type: Personal = b''",
            "device_os: Personal = b''", "app_version: Personal = b''", "expires_at_us: int | None = None",
            "authenticated_by: str = ''", "token_expires_at_us: int | None = None", "provider_session: bytes = b''",
        ],
        "stream_offered": [
            "snapshot_us: int", "types: bytes", "revision: int = 0", "origin: int = 0", "written: int = 0",
        ],
        "acks_recorded": [
            "moved: tuple[StoredAck, ...]",
            "stale: tuple[StoredAck, ...] = ()",
            "stale_count: int = 0",
        ],
        "ack_refused": ["ack: StoredAck", "reason: str", "first: bool = False"],
        "checkpoints_cleared": [
            "types: bytes | None", "cause: str", "reset: bool = False", "wiped: bool = False",
            "by: Personal = b''",
        ],
        "reset_sent": ["cause: str"],
        "sync_reset_requested": ["on: bool", "by: Personal", "cause: str = ''", "epoch: int = 0"],
        "checkpoints_adopted": [
            "positions: tuple[StoredAck, ...]", "source: str", "since_us: int", "as_of_us: int = 0",
            "types: bytes = b''", "revision: int = 0",
        ],
        "history_lost": ["from_seq: int", "to_seq: int", "cause: str", "hash: bytes", "after: bytes = b''"],
        "session_resumed": ["by: str", "epoch: int = 1"],
        "device_described": ["device_type: Personal = b''", "device_os: Personal = b''", "app_version: Personal = b''"],
        "token_rotated": ["token: bytes", "number: int", "expires_at_us: int | None = None"],
        "token_first_used": ["token: bytes", "until_us: int"],
        "session_ended": ["reason: str", "by: Personal = b''"],
        "StoredAck": ["code: int", "at_us: int", "id: str", "epoch: int"],
    },
}  # fmt: skip
# With how many fields an event was written before it got those above; each is a version of it, and has a sample.
EARLIER: Final[dict[int, dict[str, list[int]]]] = {
    1: {"session_created": [8], "stream_offered": [2, 3], "checkpoints_cleared": [3]},
    2: {
        "acks_recorded": [2],
        "ack_refused": [2],
        "stream_offered": [2, 3],
        "checkpoints_cleared": [3, 4],
        "checkpoints_adopted": [3],
        "sync_reset_requested": [2],
    },
}


def fields_of(event: type[Event]) -> list[str]:
    """Print the fields of an event as FIELDS has them."""
    printed = []
    for field in msgspec.structs.fields(event):
        assert field.default_factory is msgspec.NODEFAULT
        default = "" if field.default is msgspec.NODEFAULT else f" = {field.default!r}"
        printed.append(f"{field.name}: {event.__annotations__[field.name]}{default}")
    return printed


def tags() -> dict[str, type[Event]]:
    """Tell the events by their tags."""
    return {str(event.__struct_config__.tag): event for event in get_args(Event)}


SCHEMA_SAMPLES: Final = [(schema, *sample) for schema, samples in ALL_SAMPLES.items() for sample in samples]


@pytest.mark.parametrize(("schema", "hexed", "event"), SCHEMA_SAMPLES)
def test_bytes_once_stored_decode_for_ever(schema: int, hexed: str, event: Event) -> None:
    assert decode_event(bytes.fromhex(hexed), schema) == event


def test_there_is_a_sample_of_every_event() -> None:
    for schema, samples in ALL_SAMPLES.items():
        assert {tag_of(event) for _, event in samples} == FIELDS[schema].keys() - {"StoredAck"}
    assert {type(event) for _, event in ALL_SAMPLES[SCHEMA]} == set(get_args(Event))


def test_no_field_changes_without_being_written_down_here() -> None:
    assert set(FIELDS) == set(ALL_SAMPLES) == set(range(1, SCHEMA + 1))
    written = {tag: fields_of(event) for tag, event in tags().items()}
    written["StoredAck"] = [f"{name}: {kind}" for name, kind in StoredAck.__annotations__.items()]
    assert written == FIELDS[SCHEMA]


@pytest.mark.parametrize("schema", FIELDS)
def test_every_version_of_every_event_has_a_sample(schema: int) -> None:
    written = {tag: fields for tag, fields in FIELDS[schema].items() if tag != "StoredAck"}
    expected = {(tag, len(fields)) for tag, fields in written.items()}
    expected |= {(tag, count) for tag, counts in EARLIER[schema].items() for count in counts}
    samples = [msgspec.msgpack.decode(bytes.fromhex(hexed)) for hexed, _ in ALL_SAMPLES[schema]]
    assert {(tag, len(fields)) for tag, *fields in samples} == expected
    for tag, fields in written.items():
        for number, field in enumerate(fields, 1):
            _, _, default = field.partition(" = ")
            values = [sample[number] for sample in samples if sample[0] == tag and number < len(sample)]
            assert any(repr(value) not in (default, default.replace("()", "[]")) for value in values), (
                f"no sample of {tag} says anything in {field}"
            )


def test_every_step_to_a_newer_schema_leads_to_one_there_is() -> None:
    assert set(UPCASTS) <= set(range(1, SCHEMA))
    for schema, steps in UPCASTS.items():
        assert set(steps) <= set(FIELDS[schema])


def by_whom_last(stored: Stored) -> Stored:
    """Stand for a change to come: schema 3 would have `session_ended` with its fields the other way round."""
    tag, by, reason = stored
    return [tag, reason, by]


def test_an_older_event_is_read_as_what_it_means_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SCHEMA", 4)
    monkeypatch.setitem(UPCASTS, 2, {"session_ended": by_whom_last})
    monkeypatch.setitem(UPCASTS, 3, {"session_ended": lambda stored: [stored[0], stored[1].upper(), stored[2]]})
    raw = encode_event(SessionEnded("logout", plain("ann")))
    turned = msgspec.msgpack.encode(["session_ended", plain("ann"), "logout"])
    assert decode_event(turned, 2) == SessionEnded("LOGOUT", plain("ann"))
    assert decode_event(raw, 3) == SessionEnded("LOGOUT", plain("ann"))
    assert decode_event(raw, 4) == SessionEnded("logout", plain("ann"))
    for hexed, event in SAMPLES_2:
        if not isinstance(event, SessionEnded):
            assert decode_event(bytes.fromhex(hexed), 2) == event
    with pytest.raises(UnknownEvent, match="schema 5"):
        decode_event(raw, 5)
    with pytest.raises(UnknownEvent, match="'pin_changed' in schema 1"):
        decode_event(msgspec.msgpack.encode(["pin_changed", b"x"]), 1)
    for damaged in (
        b"",
        b"\xc1",
        b"\x80",
        b"\x90",
        msgspec.msgpack.encode([7]),
        msgspec.msgpack.encode(["session_ended"]),
    ):
        with pytest.raises(CorruptLedger) as caught:
            decode_event(damaged, 1)
        assert not isinstance(caught.value, UnknownEvent)


def test_reading_an_older_event_does_not_change_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = bytes.fromhex("93ad73657373696f6e5f656e646564a66c6f676f7574a3616e6e")  # of schema 1
    before = link(GENESIS, SID, 1, NOW, 1, raw)
    recorded = Recorded(SID, 1, NOW, 1, decode_event(raw, 1), raw, before)
    assert recorded.event == SessionEnded("logout", plain("ann"))
    assert link(GENESIS, SID, 1, NOW, recorded.schema, recorded.raw) == recorded.hash


def test_a_step_is_taken_only_from_the_schema_it_is_for() -> None:
    steps = {2: {"a": lambda stored: [*stored, 2]}, 3: {"a": lambda stored: [*stored, 3], "b": lambda stored: ["c"]}}
    assert [upcast(["a"], schema, 4, steps) for schema in (1, 2, 3, 4)] == [["a", 2, 3], ["a", 2, 3], ["a", 3], ["a"]]
    assert upcast(["b", 1], 1, 4, steps) == ["c"]


@pytest.mark.parametrize("schema", [0, -1])
def test_a_schema_that_never_was_is_damage(schema: int) -> None:
    with pytest.raises(CorruptLedger, match=f"schema {schema}"):
        decode_event(encode_event(SessionEnded("logout")), schema)


@pytest.mark.parametrize(("hexed", "event"), [*SAMPLES, *SAMPLES_2])
def test_the_tag_comes_first_and_is_stable(hexed: str, event: Event) -> None:
    tag = msgspec.msgpack.decode(bytes.fromhex(hexed))[0]
    assert tag == tag_of(event)
    assert tag == "".join("_" + c.lower() if c.isupper() else c for c in type(event).__name__).lstrip("_")


@pytest.mark.parametrize("event", [event for _, event in (*SAMPLES, *SAMPLES_2)])
def test_later_fields_are_ignored(event: Event) -> None:
    fields = msgspec.msgpack.decode(encode_event(event))
    assert decode_event(msgspec.msgpack.encode([*fields, "later", {"and": ["more"]}])) == event


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
    assert len(encode_event(AcksRecorded((msgspec.structs.replace(ACK, id=uuid),)))) <= 70
    assert len(encode_event(StreamOffered(ACK.at_us, mask_bytes(2**57 - 1)))) <= 40
