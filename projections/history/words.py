"""Events in words, as people and programs read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, get_args

import msgspec

from ledger.acks import Ack, format_ack
from ledger.entity_types import CODES, ENTITY_TYPES, types_in
from ledger.events import (
    IMMICH,
    AckRefused,
    AcksRecorded,
    CheckpointsAdopted,
    CheckpointsCleared,
    DeviceDescribed,
    Event,
    HistoryLost,
    ResetSent,
    SessionCreated,
    SessionEnded,
    SessionResumed,
    StoredAck,
    StreamOffered,
    SyncResetRequested,
    TokenFirstUsed,
    TokenRotated,
    tag_of,
)
from ledger.log.reader import Entry
from ledger.personal import UserKey, opened, text_of
from ledger.positions import Position, iso_from_us

Tag = Literal[
    "session_created",
    "stream_offered",
    "acks_recorded",
    "ack_refused",
    "checkpoints_cleared",
    "checkpoints_adopted",
    "sync_reset_requested",
    "reset_sent",
    "device_described",
    "token_rotated",
    "token_first_used",
    "session_ended",
    "session_resumed",
    "history_lost",
]
_SOURCES: Final = {IMMICH: "Immich"}
TAGS: Final[tuple[str, ...]] = get_args(Tag)


class HistoryEvent(msgspec.Struct, frozen=True, rename="camel"):
    """An event in words, and all that its hash is made of.

    `hash` is the SHA-256, in hex, of: the bytes of `previous_hash`; those of `session`; `seq`, `at_us` and `schema` as
    decimals, each with a space behind it; those of `raw`. `stream_id` is where it lies, which is not in it.
    """

    session: str
    seq: int
    at: str
    at_us: Annotated[int, msgspec.Meta(description="The same instant in µs since 1970, as it is hashed")]
    event: str
    data: dict[str, Any]
    schema: Annotated[int, msgspec.Meta(description="How the stored bytes are laid out")]
    raw: Annotated[bytes, msgspec.Meta(description="The exact stored bytes of the event, in Base64")]
    previous_hash: Annotated[
        str | None,
        msgspec.Meta(description="The event before's; empty for the first one, null where that one is not here"),
    ]
    hash: str
    stream_id: str


def readable(entry: Entry, key: UserKey | None = None, previous: bytes | None = None) -> HistoryEvent:
    """Put an event into words; what is personal and `key` does not open is null. `previous`: the hash it links to."""
    recorded = entry.recorded
    event = opened(recorded.event, key)
    return HistoryEvent(
        session=recorded.sid,
        seq=recorded.seq,
        at=iso_from_us(recorded.at_us),
        at_us=recorded.at_us,
        event=tag_of(event),
        data=data_of(event, recorded.at_us),
        schema=recorded.schema,
        raw=recorded.raw,
        previous_hash=None if previous is None else previous.hex(),
        hash=recorded.hash.hex(),
        stream_id=entry.id,
    )


def data_of(event: Event, at_us: int) -> dict[str, Any]:
    """Put what an event of that time says into words; a personal text that is sealed is null."""
    match event:
        case SessionCreated():
            return {
                "user": event.user,
                "library": event.library,
                "parent": event.parent,
                "deviceType": text_of(event.device_type),
                "deviceOS": text_of(event.device_os),
                "appVersion": text_of(event.app_version) or None,
                "expiresAt": instant(event.expires_at_us),
                "authenticatedBy": event.authenticated_by,
                "tokenExpiresAt": instant(event.token_expires_at_us),
                "providerSession": event.provider_session.hex() or None,
            }
        case StreamOffered():
            types = names_of(event.types)
            return {
                "snapshot": iso_from_us(event.snapshot_us),
                "types": types,
                "revision": event.revision,
                "origin": event.origin,
            }
        case AcksRecorded():
            count = event.stale_count or len(event.stale)
            return {"moved": _texts(event.moved), "stale": _texts(event.stale), "staleCount": count}
        case AckRefused():
            return {"ack": ack_text(event.ack), "reason": event.reason}
        case CheckpointsCleared():
            cleared = None if event.types is None else names_of(event.types)
            told = {"types": cleared, "cause": event.cause, "reset": event.reset, "wiped": event.wiped}
            return told | ({"by": text_of(event.by)} if event.by else {})
        case DeviceDescribed():
            return {
                "deviceType": text_of(event.device_type),
                "deviceOS": text_of(event.device_os),
                "appVersion": text_of(event.app_version) or None,
            }
        case SyncResetRequested():
            return {"on": event.on, "by": text_of(event.by), "cause": event.cause or None}
        case CheckpointsAdopted():
            return {
                "says": adopted_text(event, at_us),
                "positions": _texts(event.positions),
                "source": event.source,
                "since": iso_from_us(event.since_us),
                "asOf": iso_from_us(event.as_of_us),
                "types": names_of(event.types),
                "revision": event.revision,
            }
        case HistoryLost():
            return {
                "from": event.from_seq,
                "to": event.to_seq,
                "cause": event.cause,
                "hash": event.hash.hex(),
                "after": event.after.hex() or None,
            }
        case SessionResumed():
            return {"by": event.by}
        case ResetSent():
            return {"cause": event.cause}
        case TokenRotated():
            return {
                "token": event.token.hex(),
                "number": event.number,
                "expiresAt": instant(event.expires_at_us),
            }
        case TokenFirstUsed():
            return {"token": event.token.hex(), "othersUntil": iso_from_us(event.until_us)}
        case SessionEnded():
            return {"reason": event.reason, "by": text_of(event.by)}


def adopted_text(event: CheckpointsAdopted, at_us: int) -> str:
    """Tell when and where from checkpoints were adopted."""
    return f"adopted on {iso_from_us(at_us)} from {_SOURCES.get(event.source, event.source)}"


def instant(us: int | None) -> str | None:
    """Print an instant; None stays None."""
    return None if us is None else iso_from_us(us)


def codes_of(event: Event) -> set[int]:
    """Name the entity types an event is about; one that clears all is about each."""
    match event:
        case AcksRecorded():
            return {ack.code for ack in (*event.moved, *event.stale)}
        case AckRefused():
            return {event.ack.code}
        case CheckpointsAdopted():
            return {ack.code for ack in event.positions} | {CODES[name] for name in names_of(event.types)}
        case StreamOffered():
            return {CODES[name] for name in names_of(event.types)}
        case CheckpointsCleared():
            return set(CODES.values() if event.types is None else (CODES[name] for name in names_of(event.types)))
        case _:
            return set()


def names_of(mask: bytes) -> tuple[str, ...]:
    """Name the entity types of a stored mask."""
    return types_in(int.from_bytes(mask, "big"))


def _texts(acks: Sequence[StoredAck]) -> list[str]:
    return [ack_text(ack) for ack in acks]


def ack_text(ack: StoredAck) -> str:
    """Print a stored ack as devices send it."""
    return format_ack(Ack(ENTITY_TYPES[ack.code], Position(ack.at_us, ack.id), ack.epoch))
