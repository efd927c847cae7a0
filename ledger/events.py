"""What happened to a session, as it is stored.

Events are msgpack arrays that begin with their tag: names cost nothing, new fields go to the end and have defaults, and
unknown later fields are ignored. Any other change is a new schema (`ledger.upcast`). Entity types are stored by their
code, sets of types as a bit mask of codes (`ledger.entity_types`). Events hold no personal data but opaque ids and,
sealed with a key of their user, what is `Personal` (`ledger.personal`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ledger.errors import CorruptLedger, UnknownEvent
from ledger.upcast import upcast

SCHEMA: Final = 2
"""The schema this version writes; a lower one is upcast when it is read, a higher one is an UnknownEvent."""


Personal = bytes
"""A text that tells of a person, as `ledger.personal` lays it out: nothing, plain, or sealed."""


IMMICH: Final = "immich"
"""Where checkpoints were adopted from, how sessions were authenticated, and the cause of what follows from there."""


ASKED: Final = "asked"
"""The cause of a clearing that an operator or owner wanted: the device gets the rows of these types again."""


class StoredAck(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An ack as events hold it: entity type code, position, epoch."""

    code: int
    at_us: int
    id: str
    epoch: int


class _Event(msgspec.Struct, frozen=True, array_like=True):
    """A base only for the options all events share."""


class SessionCreated(_Event, frozen=True, array_like=True, tag="session_created"):
    """A device signed in. `expires_at_us`: none by default, since an app cannot refresh; idleness ends it.

    `token_expires_at_us` is the first token's own expiry, which a refresh moves. `provider_session` names the session
    at the identity provider by the first 16 bytes of a SHA-256; empty without one.
    """

    user: str
    library: str
    parent: str | None = None
    device_type: Personal = b""
    device_os: Personal = b""
    app_version: Personal = b""
    expires_at_us: int | None = None
    authenticated_by: str = ""
    token_expires_at_us: int | None = None
    provider_session: bytes = b""


class StreamOffered(_Event, frozen=True, array_like=True, tag="stream_offered"):
    """A stream began that goes beyond what was offered. `types`: mask of entity types, big-endian.

    `revision`: the newest of the source's resends; 0 without any. `origin` and `written` are its origin's
    (`ledger.commands.Origin`); 0 where it does not tell.
    """

    snapshot_us: int
    types: bytes
    revision: int = 0
    origin: int = 0
    written: int = 0


class AcksRecorded(_Event, frozen=True, array_like=True, tag="acks_recorded"):
    """One request's acks: the positions that moved, and those ignored as stale: the last one of each entity type.

    `stale_count`: how many different ones the request had; 0 where `stale` are all of them, as earlier versions wrote.
    """

    moved: tuple[StoredAck, ...]
    stale: tuple[StoredAck, ...] = ()
    stale_count: int = 0


class AckRefused(_Event, frozen=True, array_like=True, tag="ack_refused"):
    """An ack that no stream offered. `first`: of its type since that last advanced, others are not on record."""

    ack: StoredAck
    reason: str
    first: bool = False


class CheckpointsCleared(_Event, frozen=True, array_like=True, tag="checkpoints_cleared"):
    """Checkpoints were cleared and a new epoch began for each. `types`: mask, or None for all.

    `reset`: a pending reset was answered by it. `wiped`: the device holds nothing any more, as a reset line told it
    to or as it says itself; else it is not known to, and what it has heard of deletes stays. `by`: who wanted it, for
    the cause ASKED.
    """

    types: bytes | None
    cause: str
    reset: bool = False
    wiped: bool = False
    by: Personal = b""


class SyncResetRequested(_Event, frozen=True, array_like=True, tag="sync_reset_requested"):
    """The device is asked to start over, or that was taken back.

    `cause`: ack_ahead, history_lost, fence or immich (its owner wanted it there); empty where an owner or operator
    wanted it here. `epoch`: the newest one that is known to have begun, though the log has lost it; the next one lies
    beyond it.
    """

    on: bool
    by: Personal
    cause: str = ""
    epoch: int = 0


class CheckpointsAdopted(_Event, frozen=True, array_like=True, tag="checkpoints_adopted"):
    """The device goes on where it stood elsewhere, at `source`: these positions are its checkpoints now, and no others.

    Each is of the epoch that begins with it. `since_us`: when it began there, from which it may have missed deletes
    unless a completion among the positions says more. `as_of_us`: when the newest of what was found there changed, by
    the clock there, and `types` (mask) of which entity types it was. `revision`: that of the source whose rows the
    device holds, as of a stream.
    """

    positions: tuple[StoredAck, ...]
    source: str
    since_us: int
    as_of_us: int = 0
    types: bytes = b""
    revision: int = 0


class HistoryLost(_Event, frozen=True, array_like=True, tag="history_lost"):
    """The events `from_seq` to `to_seq` were lost; the session goes on behind them, and this is its first event there.

    `hash` is that of event `to_seq`, to which this one is linked, and `after` that of the event before the hole, empty
    where nothing is left: so the chain covers both. A session of which nothing is left is created anew by the next
    event. `cause`: how the hole is known of; remembered (by a process that saw those events) or logged (outside the
    store).
    """

    from_seq: int
    to_seq: int
    cause: str
    hash: bytes
    after: bytes = b""


class SessionResumed(_Event, frozen=True, array_like=True, tag="session_resumed"):
    """A session that had ended is there again, as `by` says. The next event creates it anew; a reset is due.

    `epoch`: the newest one that had begun before; the next one lies beyond it.
    """

    by: str
    epoch: int = 1


class ResetSent(_Event, frozen=True, array_like=True, tag="reset_sent"):
    """A reset line is about to leave: from now on the device may have emptied itself.

    `cause`: requested, source or deletes_purged.
    """

    cause: str


class DeviceDescribed(_Event, frozen=True, array_like=True, tag="device_described"):
    """The device's description changed; an empty value keeps the one before."""

    device_type: Personal = b""
    device_os: Personal = b""
    app_version: Personal = b""


class TokenRotated(_Event, frozen=True, array_like=True, tag="token_rotated"):
    """A new token for the session; the one in use stays so until this one is used. `token` is its SHA-256, 32 bytes."""

    token: bytes
    number: int
    expires_at_us: int | None = None


class TokenFirstUsed(_Event, frozen=True, array_like=True, tag="token_first_used"):
    """A new token was used for the first time: all others are replaced, and good until `until_us` at the latest."""

    token: bytes
    until_us: int


class SessionEnded(_Event, frozen=True, array_like=True, tag="session_ended"):
    """The session is over.

    `reason`: logout, provider_logout, revoked, revoked_others, parent_ended, idle, expired, token_reused, erased,
    gone (the service that admits its token has it no more), put_aside (for another one of its user; it may resume) or
    logged (it had ended before, as the transparency log tells, and the store lost that).
    """

    reason: str
    by: Personal = b""


Event = (
    SessionCreated
    | StreamOffered
    | AcksRecorded
    | AckRefused
    | CheckpointsCleared
    | SyncResetRequested
    | CheckpointsAdopted
    | HistoryLost
    | SessionResumed
    | ResetSent
    | DeviceDescribed
    | TokenRotated
    | TokenFirstUsed
    | SessionEnded
)


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An event in its place in the log. `raw` are the exact stored bytes that `hash` covers.

    PERF: structs of msgspec are made and read several times faster than named tuples.
    """

    sid: str
    seq: int
    at_us: int
    schema: int
    event: Event
    raw: bytes
    hash: bytes


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Event)
_plain_decoder: Final = msgspec.msgpack.Decoder(list[Any])
_tag_decoder: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])


def encode_event(event: Event) -> bytes:
    """Encode an event to the bytes that are stored and hashed."""
    return _encoder.encode(event)


def decode_event(raw: bytes, schema: int = SCHEMA) -> Event:
    """Decode a stored event; raises UnknownEvent for what a newer version wrote, CorruptLedger for damage."""
    if schema > SCHEMA:
        raise UnknownEvent(f"an event of schema {schema}; this version reads up to {SCHEMA}: upgrade the service")
    try:
        event: Event = _decoder.decode(raw) if schema == SCHEMA else _decode_older(raw, schema)
    except msgspec.ValidationError as error:
        if "tag" in str(error) or "Invalid value" in str(error):
            raise UnknownEvent(f"an event of unknown type {_tag_of(raw)!r} in schema {schema}") from error
        raise CorruptLedger(f"an event does not fit its type: {error}") from error
    except msgspec.DecodeError as error:
        raise CorruptLedger(f"an event cannot be read: {error}") from error
    return event


def _decode_older(raw: bytes, schema: int) -> Event:
    """Decode what an older schema wrote; raises CorruptLedger and what the decoder raises."""
    if schema < 1:
        raise CorruptLedger(f"an event of schema {schema}, which never was")
    stored = _plain_decoder.decode(raw)
    try:
        newest = upcast(stored, schema, SCHEMA)
    except (ValueError, TypeError, LookupError) as error:
        raise CorruptLedger(f"an event of schema {schema} cannot be read: {error!r}") from error
    event: Event = msgspec.convert(newest, Event)
    return event


def tag_of(event: Event) -> str:
    """Tell an event's stable tag."""
    tag = type(event).__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def mask_bytes(mask: int) -> bytes:
    """Encode a mask of entity types in as few bytes as it needs."""
    return mask.to_bytes((mask.bit_length() + 7) // 8, "big")


def _tag_of(raw: bytes) -> str:
    return str(msgspec.msgpack.decode(_tag_decoder.decode(raw)[0]))
