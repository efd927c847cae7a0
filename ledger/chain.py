"""The hash chain: each event of a session proves all before it."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from ledger.events import SCHEMA, Event, Recorded, encode_event

GENESIS: Final = b""
"""What the first event of a session links to."""


def link(previous: bytes, sid: str, seq: int, at_us: int, schema: int, raw: bytes) -> bytes:
    """Hash an event onto its chain: SHA-256 (32 bytes) of the previous hash and all stored bytes of this event.

    The stored bytes are the session id (32 bytes), seq, time and schema as decimals, each ended by a space, and the
    event. Stream id and `prev` are not covered: a restored stream keeps its proof.
    """
    return sha256(b"%b%b%d %d %d %b" % (previous, bytes.fromhex(sid), seq, at_us, schema, raw)).digest()


def record(events: tuple[Event, ...], sid: str, seq: int, at_us: int, previous: bytes) -> tuple[Recorded, ...]:
    """Give events their places behind `seq` and their hashes; all happen at `at_us`."""
    recorded = []
    for event in events:
        seq += 1
        raw = encode_event(event)
        previous = link(previous, sid, seq, at_us, SCHEMA, raw)
        recorded.append(Recorded(sid, seq, at_us, SCHEMA, event, raw, previous))
    return tuple(recorded)
