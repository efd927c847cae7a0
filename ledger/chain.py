"""The hash chain: each event of a session proves all before it."""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

from ledger.events import SCHEMA, Event, HistoryLost, Recorded, encode_event

GENESIS: Final = b""
"""What the first event of a session links to."""


class Tip(NamedTuple):
    """Where a session's chain ends: seq, hash and stream id of its last event, which the next one links to."""

    seq: int = 0
    hash: bytes = GENESIS
    head: str = ""


def broken_link(recorded: Recorded, prev: str, seq: int = 0, digest: bytes = GENESIS, head: str = "") -> str:
    """Tell why an event does not follow the one of `seq`, `digest` and `head`, or none; '' if it does.

    `prev` is what its entry names as that one. The only place where links are looked at.
    """
    previous = previous_of(recorded, seq, digest)
    if previous is None:
        return f"seq {recorded.seq} follows seq {seq}"
    if prev != head:
        return f"prev is {prev or 'empty'}, the event before is {head or 'none'}"
    if recorded.hash != link(previous, recorded.sid, recorded.seq, recorded.at_us, recorded.schema, recorded.raw):
        return "the hash does not match the event and the hash before it"
    return ""


def link(previous: bytes, sid: str, seq: int, at_us: int, schema: int, raw: bytes) -> bytes:
    """Hash an event onto its chain: SHA-256 (32 bytes) of the previous hash and all stored bytes of this event.

    The stored bytes are the session id (32 bytes), seq, time and schema as decimals, each ended by a space, and the
    event. Stream id and `prev` are not covered: a restored stream keeps its proof.
    """
    return sha256(b"%b%b%d %d %d %b" % (previous, bytes.fromhex(sid), seq, at_us, schema, raw)).digest()


def previous_of(recorded: Recorded, seq: int, digest: bytes) -> bytes | None:
    """Tell the hash that an event must be linked to behind event `seq` of hash `digest`; None if it cannot follow it.

    The next seq follows, and behind a hole only the event that tells of just this one (I2).
    """
    event = recorded.event
    if isinstance(event, HistoryLost):
        hole = (event.from_seq, event.to_seq, event.after)
        return event.hash if hole == (seq + 1, recorded.seq - 1, digest) and event.to_seq > seq else None
    return digest if recorded.seq == seq + 1 else None


def record(events: tuple[Event, ...], sid: str, seq: int, at_us: int, previous: bytes) -> tuple[Recorded, ...]:
    """Give events their places behind `seq`, or behind the hole they tell of, and hashes; all happen at `at_us`."""
    recorded = []
    for event in events:
        if isinstance(event, HistoryLost):
            seq, previous = event.to_seq, event.hash
        seq += 1
        raw = encode_event(event)
        previous = link(previous, sid, seq, at_us, SCHEMA, raw)
        recorded.append(Recorded(sid, seq, at_us, SCHEMA, event, raw, previous))
    return tuple(recorded)
