"""What the log's leaves are: an event by its kind, session, seq and hash, or the root of the state tree.

A leaf holds nothing of a person. What it says of an event is proved by the event's stored bytes, which its hash covers.
"""

from __future__ import annotations

from struct import Struct as Packed
from typing import Final, NamedTuple

from ledger.errors import CorruptLedger

EVENT_BYTES: Final = 74
STATE_BYTES: Final = 49
_EVENT: Final = Packed(">BB32sQ32s")
_STATE: Final = Packed(">BQQ32s")
_EVENT_TYPE: Final = 0
_STATE_TYPE: Final = 1

KINDS: Final = {
    "session_created": 1,
    "stream_offered": 2,
    "acks_recorded": 3,
    "ack_refused": 4,
    "checkpoints_cleared": 5,
    "sync_reset_requested": 6,
    "checkpoints_adopted": 7,
    "history_lost": 8,
    "session_resumed": 9,
    "reset_sent": 10,
    "device_described": 11,
    "token_rotated": 12,
    "token_first_used": 13,
    "session_ended": 14,
}
"""By the tag of an event its kind, as leaves have it. A number is given once and never changes its meaning."""
TAGS: Final = {kind: tag for tag, kind in KINDS.items()}


class EventLeaf(NamedTuple):
    """An event: its kind, its session (32 bytes), its seq and its hash (32 bytes)."""

    kind: int
    sid: bytes
    seq: int
    hash: bytes


class StateLeaf(NamedTuple):
    """The root of the state tree over the leaves 0…N-1, where N is `size` and the index of this leaf itself."""

    size: int
    sessions: int
    root: bytes


def pack_event(kind: int, sid: bytes, seq: int, digest: bytes) -> bytes:
    """Lay an event's leaf out: 0, kind, session (32), seq (8, big-endian), hash (32)."""
    return _EVENT.pack(_EVENT_TYPE, kind, sid, seq, digest)


def pack_state(leaf: StateLeaf) -> bytes:
    """Lay a state root's leaf out: 1, size (8, big-endian), sessions (8, big-endian), root (32)."""
    return _STATE.pack(_STATE_TYPE, *leaf)


def parse_leaf(leaf: bytes) -> EventLeaf | StateLeaf:
    """Read a leaf; raises CorruptLedger for what is none."""
    if len(leaf) == EVENT_BYTES and leaf[0] == _EVENT_TYPE:
        return EventLeaf(*_EVENT.unpack(leaf)[1:])
    if len(leaf) == STATE_BYTES and leaf[0] == _STATE_TYPE:
        return StateLeaf(*_STATE.unpack(leaf)[1:])
    raise CorruptLedger(f"a leaf of the log that is neither an event nor a state root: {leaf[:80].hex()}")
