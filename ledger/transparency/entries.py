"""What the log's leaves are: an event by its kind, session, seq and hash, or the root of the state tree.

A leaf holds nothing of a person. What it says of an event is proved by the event's stored bytes, which its hash covers.
The first leaf of a log may tell which log it follows, that was closed.
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
_CLOSED_TYPE: Final = 2
_LENGTH_BYTES: Final = 2
_SIZE_BYTES: Final = 8
MAX_WHY_BYTES: Final = 500
"""How long the reason may be for which a log was closed."""
MAX_NOTE_BYTES: Final = 60_000
"""How long a closed log's last checkpoint may be, with what witnesses signed: a leaf has 65,535 bytes at most."""

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


class ClosedLeaf(NamedTuple):
    """The log before this one, which was closed: its origin, and of how many entries at least it was known.

    `why`: in the words of who closed it. `checkpoint`: its last known one as it was signed, '' where none is left.
    """

    origin: str
    size: int
    why: str
    checkpoint: str


Leaf = EventLeaf | StateLeaf | ClosedLeaf


def pack_event(kind: int, sid: bytes, seq: int, digest: bytes) -> bytes:
    """Lay an event's leaf out: 0, kind, session (32), seq (8, big-endian), hash (32)."""
    return _EVENT.pack(_EVENT_TYPE, kind, sid, seq, digest)


def pack_state(leaf: StateLeaf) -> bytes:
    """Lay a state root's leaf out: 1, size (8, big-endian), sessions (8, big-endian), root (32)."""
    return _STATE.pack(_STATE_TYPE, *leaf)


def pack_closed(leaf: ClosedLeaf) -> bytes:
    """Lay out what a log follows: 2, size (8, big-endian), origin and why, each behind its length (2), checkpoint."""
    origin, why, checkpoint = leaf.origin.encode(), leaf.why.encode(), leaf.checkpoint.encode()
    assert len(why) <= MAX_WHY_BYTES, "who closes a log is told"
    assert len(checkpoint) <= MAX_NOTE_BYTES, "so it is"
    texts = b"".join(len(text).to_bytes(_LENGTH_BYTES, "big") + text for text in (origin, why))
    return bytes([_CLOSED_TYPE]) + leaf.size.to_bytes(_SIZE_BYTES, "big") + texts + checkpoint


def parse_leaf(leaf: bytes) -> Leaf:
    """Read a leaf; raises CorruptLedger for what is none."""
    if len(leaf) == EVENT_BYTES and leaf[0] == _EVENT_TYPE:
        return EventLeaf(*_EVENT.unpack(leaf)[1:])
    if len(leaf) == STATE_BYTES and leaf[0] == _STATE_TYPE:
        return StateLeaf(*_STATE.unpack(leaf)[1:])
    if leaf[:1] == bytes([_CLOSED_TYPE]) and (closed := _closed(leaf)) is not None:
        return closed
    raise CorruptLedger(f"a leaf of the log that is neither an event nor a state root: {leaf[:80].hex()}")


def _closed(leaf: bytes) -> ClosedLeaf | None:
    at = 1 + _SIZE_BYTES
    texts = []
    for _ in range(2):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(leaf[at:start], "big")
        texts.append(leaf[start:at])
    if len(leaf) < at or not texts[0]:
        return None
    try:
        origin, why, checkpoint = (text.decode() for text in (*texts, leaf[at:]))
    except UnicodeDecodeError:
        return None
    return ClosedLeaf(origin, int.from_bytes(leaf[1 : 1 + _SIZE_BYTES], "big"), why, checkpoint)
