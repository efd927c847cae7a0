"""A session's history as people and programs read it: the events by name, newest first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from ledger.acks import Ack, format_ack
from ledger.entity_types import CODES, ENTITY_TYPES, types_in
from ledger.errors import NoSuchSession
from ledger.events import (
    AckRefused,
    AcksRecorded,
    CheckpointsCleared,
    DeviceDescribed,
    Event,
    SessionCreated,
    SessionEnded,
    StoredAck,
    StreamOffered,
    SyncResetRequested,
    TokenFirstUsed,
    TokenRotated,
    tag_of,
)
from ledger.log.append import load, read_ended
from ledger.log.reader import ANY_SEQ, PAGE, Entry
from ledger.positions import Position, iso_from_us
from ledger.service import Ledger

Tag = Literal[
    "session_created",
    "stream_offered",
    "acks_recorded",
    "ack_refused",
    "checkpoints_cleared",
    "sync_reset_requested",
    "device_described",
    "token_rotated",
    "token_first_used",
    "session_ended",
]
TAGS: Final[tuple[str, ...]] = get_args(Tag)


class HistoryEvent(msgspec.Struct, frozen=True):
    """An event in words. `hash` chains it to the one before; `stream_id` is where it lies."""

    seq: int
    at: str
    event: str
    data: dict[str, Any]
    hash: str
    stream_id: str = msgspec.field(name="streamId")


class Wanted(NamedTuple):
    """Which events: from `since_us` on, up to `until_us`, of one tag, about one entity type."""

    since_us: int = 0
    until_us: int = ANY_SEQ
    tag: str | None = None
    entity_type: str | None = None


class HistoryPage(NamedTuple):
    """Some events, newest first. The next page holds those before seq `next_seq`; None at the end.

    `below_floor`: the walk ended where the archive begins, not at the session's beginning.
    """

    events: list[HistoryEvent]
    next_seq: int | None
    below_floor: bool


async def owner(ledger: Ledger, partition: int, sid: str) -> str:
    """Tell whose session this is, living or ended; raises NoSuchSession."""
    state = await load(ledger.store, partition, sid, ledger.clock(), seen=False)
    if state is not None:
        return state.user
    ended = await read_ended(ledger.store, partition, sid)
    if ended is None:
        raise NoSuchSession(f"No session {sid}")
    return ended.user


async def pages(
    ledger: Ledger, partition: int, sid: str, wanted: Wanted, before_seq: int | None = None, size: int = PAGE
) -> AsyncIterator[HistoryPage]:
    """Walk backwards from before seq `before_seq` (None: from the newest), looking at `size` events for each page.

    Raises NoSuchSession.
    """
    before = ANY_SEQ if before_seq is None else before_seq
    while True:
        walk = await ledger.history(partition, sid, top_seq=before - 1, top_at_us=wanted.until_us, count=size)
        entries = walk.entries
        last = not entries or entries[-1].recorded.seq == 1 or walk.below_floor
        if entries and entries[-1].recorded.at_us < wanted.since_us:
            last, entries = True, [entry for entry in entries if entry.recorded.at_us >= wanted.since_us]
        before = 0 if last else entries[-1].recorded.seq
        found = [readable(entry) for entry in entries if _is_wanted(entry.recorded.event, wanted)]
        yield HistoryPage(found, None if last else before, walk.below_floor)
        if last:
            return


def readable(entry: Entry) -> HistoryEvent:
    """Put an event into words."""
    recorded = entry.recorded
    event = recorded.event
    return HistoryEvent(
        recorded.seq, iso_from_us(recorded.at_us), tag_of(event), _data(event), recorded.hash.hex(), entry.id
    )


def _data(event: Event) -> dict[str, Any]:
    match event:
        case SessionCreated():
            return {
                "user": event.user,
                "library": event.library,
                "parent": event.parent,
                "deviceType": event.device_type,
                "deviceOS": event.device_os,
                "appVersion": event.app_version,
                "expiresAt": _instant(event.expires_at_us),
                "authenticatedBy": event.authenticated_by,
                "tokenExpiresAt": _instant(event.token_expires_at_us),
                "providerSession": event.provider_session.hex() or None,
            }
        case StreamOffered():
            return {"snapshot": iso_from_us(event.snapshot_us), "types": _types(event.types)}
        case AcksRecorded():
            return {"moved": _texts(event.moved), "stale": _texts(event.stale)}
        case AckRefused():
            return {"ack": _text(event.ack), "reason": event.reason}
        case CheckpointsCleared():
            types = None if event.types is None else _types(event.types)
            return {"types": types, "cause": event.cause, "reset": event.reset}
        case DeviceDescribed():
            return {"deviceType": event.device_type, "deviceOS": event.device_os, "appVersion": event.app_version}
        case SyncResetRequested():
            return {"on": event.on, "by": event.by}
        case TokenRotated():
            return {
                "token": event.token.hex(),
                "number": event.number,
                "expiresAt": _instant(event.expires_at_us),
            }
        case TokenFirstUsed():
            return {"token": event.token.hex(), "othersUntil": iso_from_us(event.until_us)}
        case SessionEnded():
            return {"reason": event.reason, "by": event.by}


def _instant(us: int | None) -> str | None:
    return None if us is None else iso_from_us(us)


def _is_wanted(event: Event, wanted: Wanted) -> bool:
    if wanted.tag is not None and tag_of(event) != wanted.tag:
        return False
    return wanted.entity_type is None or CODES[wanted.entity_type] in _codes(event)


def _codes(event: Event) -> set[int]:
    """Name the entity types an event is about; one that clears all is about each."""
    match event:
        case AcksRecorded():
            return {ack.code for ack in (*event.moved, *event.stale)}
        case AckRefused():
            return {event.ack.code}
        case StreamOffered():
            return {CODES[name] for name in _types(event.types)}
        case CheckpointsCleared():
            return set(CODES.values() if event.types is None else (CODES[name] for name in _types(event.types)))
        case _:
            return set()


def _types(mask: bytes) -> tuple[str, ...]:
    return types_in(int.from_bytes(mask, "big"))


def _texts(acks: Sequence[StoredAck]) -> list[str]:
    return [_text(ack) for ack in acks]


def _text(ack: StoredAck) -> str:
    return format_ack(Ack(ENTITY_TYPES[ack.code], Position(ack.at_us, ack.id), ack.epoch))
