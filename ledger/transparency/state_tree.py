"""The tree of states: which sessions the log knows, how far, and that it knows no others.

A prefix tree over the bits of session ids. A subtree without a session has the hash of zeros; one with a single session
has that of its record; any other is hashed of its two halves by the next bit. So it depends on nothing but the records,
a path has about as many hashes as the number of sessions has bits, and the end of a path shows a session or that it is
not there.

The records of all ids with the same first 16 bits are a bucket.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from hashlib import sha256
from struct import Struct as Packed
from typing import Final, NamedTuple

from ledger.errors import CorruptLedger

NOBODY: Final = bytes(32)
"""The hash of a subtree without a session."""
BUCKET_BITS: Final = 16
BUCKETS: Final = 1 << BUCKET_BITS
RECORD_BYTES: Final = 80
_RECORD: Final = Packed(">32sQ32sQ")
_SID_BITS: Final = 256
SID_BYTES: Final = 32


class Record(NamedTuple):
    """How far the log knows a session: seq and hash of its last event, and the index of that entry in the log."""

    sid: bytes
    seq: int
    hash: bytes
    entry: int


class Node(NamedTuple):
    """A subtree's hash, and how many sessions are in it."""

    hash: bytes = NOBODY
    sessions: int = 0


class Path(NamedTuple):
    """The way from the root to a session's place.

    `siblings`: the hashes beside it, from the root down. `end`: the record that is there, of this session or of another
    one that shares these bits; None where there is none.
    """

    siblings: tuple[bytes, ...]
    end: Record | None


def pack_record(record: Record) -> bytes:
    """Lay a record out: session (32), seq (8, big-endian), hash (32), index (8, big-endian)."""
    return _RECORD.pack(*record)


def parse_record(packed: bytes) -> Record:
    """Read a record; raises CorruptLedger."""
    if len(packed) != RECORD_BYTES:
        raise CorruptLedger(f"a session's record has {len(packed)} bytes, not {RECORD_BYTES}")
    return Record(*_RECORD.unpack(packed))


def record_hash(packed: bytes) -> bytes:
    """Hash a session's record as it is laid out."""
    return sha256(b"\x00" + packed).digest()


def halves_hash(left: bytes, right: bytes) -> bytes:
    """Hash the two halves of a subtree with more than one session."""
    return sha256(b"\x01" + left + right).digest()


def join(left: Node, right: Node) -> Node:
    """Make one subtree of two halves."""
    sessions = left.sessions + right.sessions
    if not left.sessions or not right.sessions:
        one = left if left.sessions else right
        if sessions <= 1:
            return one
    return Node(halves_hash(left.hash, right.hash), sessions)


def bucket_of(sid: bytes) -> int:
    """Tell the bucket of a session."""
    return int.from_bytes(sid[:2], "big")


class Bucket:
    """The records of one bucket, in the order of session ids, as they lie one behind the other."""

    def __init__(self, packed: bytes = b"") -> None:
        """Take a bucket as it was packed; raises CorruptLedger."""
        if len(packed) % RECORD_BYTES:
            raise CorruptLedger(f"a bucket of {len(packed)} bytes holds no whole records")
        self.packed = packed

    def __len__(self) -> int:
        return len(self.packed) // RECORD_BYTES

    def find(self, sid: bytes) -> Record | None:
        """Find a session's record."""
        at = bisect_left(range(len(self)), sid, key=self._sid)
        return self._record(at) if at < len(self) and self._sid(at) == sid else None

    def only(self) -> Record | None:
        """Give the record of a bucket that has one."""
        return self._record(0) if len(self) == 1 else None

    def records(self) -> list[Record]:
        """Give all records."""
        return [self._record(at) for at in range(len(self))]

    def changed(self, records: Mapping[bytes, Record]) -> Bucket:
        """Give the bucket with these records in it, by session, in the place of those that were there."""
        packed = {self._sid(at): self._packed(at) for at in range(len(self))}
        packed |= {sid: pack_record(record) for sid, record in records.items()}
        return Bucket(b"".join([packed[sid] for sid in sorted(packed)]))

    def node(self) -> Node:
        """Hash the bucket's subtree; raises CorruptLedger where its records are not in order.

        PERF: goes once over the records, left to right, as `path` goes down and `_node` recurses: of a subtree it holds
        the hash, where it forks first (256 for a single session, that never does) and a session in it.
        """
        packed = self.packed
        if not packed:
            return Node()
        nodes: list[tuple[bytes, int, int]] = []
        forks: list[int] = []
        before = -1
        for start in range(0, len(packed), RECORD_BYTES):
            record = packed[start : start + RECORD_BYTES]
            sid = int.from_bytes(record[:SID_BYTES], "big")
            if sid <= before:
                raise CorruptLedger("the records of a bucket are not in the order of their sessions")
            if before >= 0:
                fork = _SID_BITS - (before ^ sid).bit_length()
                while forks and forks[-1] > fork:
                    right = nodes.pop()
                    nodes[-1] = _forked(nodes[-1], right, forks.pop())
                forks.append(fork)
            nodes.append((sha256(b"\x00" + record).digest(), _SID_BITS, sid))
            before = sid
        while forks:
            right = nodes.pop()
            nodes[-1] = _forked(nodes[-1], right, forks.pop())
        return Node(_lifted(nodes[0], BUCKET_BITS), len(self))

    def path(self, sid: bytes) -> Path:
        """Lead from the bucket's subtree to a session's place."""
        siblings, low, high, bit = [], 0, len(self), BUCKET_BITS
        while high - low > 1:
            middle = self._middle(low, high, bit)
            right = _bit(sid, bit)
            sibling = self._node(low, middle, bit + 1) if right else self._node(middle, high, bit + 1)
            siblings.append(sibling.hash)
            low, high = (middle, high) if right else (low, middle)
            bit += 1
        return Path(tuple(siblings), self._record(low) if high > low else None)

    def _node(self, low: int, high: int, bit: int) -> Node:
        if high - low <= 1:
            return Node() if high == low else Node(record_hash(self._packed(low)), 1)
        middle = self._middle(low, high, bit)
        left, right = self._node(low, middle, bit + 1), self._node(middle, high, bit + 1)
        return Node(halves_hash(left.hash, right.hash), high - low)

    def _middle(self, low: int, high: int, bit: int) -> int:
        """Tell where the records begin whose id has a one at this bit."""
        return bisect_left(range(high), 1, low, high, key=lambda at: _bit(self._sid(at), bit))

    def _sid(self, at: int) -> bytes:
        return self.packed[at * RECORD_BYTES : at * RECORD_BYTES + SID_BYTES]

    def _packed(self, at: int) -> bytes:
        return self.packed[at * RECORD_BYTES : (at + 1) * RECORD_BYTES]

    def _record(self, at: int) -> Record:
        return parse_record(self._packed(at))


def _forked(left: tuple[bytes, int, int], right: tuple[bytes, int, int], fork: int) -> tuple[bytes, int, int]:
    """Join two subtrees that fork at a bit."""
    joined = sha256(b"\x01" + _lifted(left, fork + 1) + _lifted(right, fork + 1)).digest()
    return joined, fork, left[2]


def _lifted(node: tuple[bytes, int, int], bit: int) -> bytes:
    """Tell a subtree's hash from a bit on, with the empty halves that it has beside it until it forks."""
    digest, fork, sid = node
    if fork == _SID_BITS:
        return digest
    for at in range(fork - 1, bit - 1, -1):
        is_right = sid >> (_SID_BITS - 1 - at) & 1
        digest = halves_hash(NOBODY, digest) if is_right else halves_hash(digest, NOBODY)
    return digest


def join_all(nodes: Sequence[Node]) -> Node:
    """Make one subtree of a power of two of them."""
    level = list(nodes)
    while len(level) > 1:
        level = [join(level[at], level[at + 1]) for at in range(0, len(level), 2)]
    return level[0]


def path_above(nodes: Sequence[Node], at: int) -> list[tuple[Node, int]]:
    """List what lies beside node `at` of a power of two of them, from the top down, each with its bit's place.

    Only where there is a fork: a half without a session beside a single one is none.
    """
    found: list[tuple[Node, int]] = []
    level = list(nodes)
    bit = len(nodes).bit_length() - 2
    while len(level) > 1:
        found.append((level[at ^ 1], bit))
        level = [join(level[each], level[each + 1]) for each in range(0, len(level), 2)]
        at >>= 1
        bit -= 1
    return found[::-1]


def path_to(sid: bytes, bucket: Bucket, beside: Sequence[Node], other: Record | None) -> Path:
    """Lead from the root to a session's place: through the 16 nodes `beside` its bucket, from the top down, then in it.

    `other`: the only record in the smallest subtree that holds the bucket and anything, where the bucket is empty.
    """
    inner = bucket.path(sid)
    sessions = len(bucket)
    cut = 0
    for depth in range(BUCKET_BITS - 1, -1, -1):  # from the bucket up: where its subtree has more than one session
        sessions += beside[depth].sessions
        if sessions > 1:
            cut = depth + 1
            break
    above = tuple(node.hash for node in beside[:cut])
    if len(bucket) > 1:
        return Path(above + inner.siblings, inner.end)
    held = inner.end
    if held is None and sum(node.sessions for node in beside[cut:]) == 1:
        held = other
    return Path(above, held)


def root_by_path(sid: bytes, path: Path) -> bytes:
    """Tell the root of the tree in which this is the way to a session's place; raises ValueError for no such way."""
    depth = len(path.siblings)
    if depth > _SID_BITS or any(len(sibling) != len(NOBODY) for sibling in path.siblings):
        raise ValueError("no path of a state tree")
    if path.end is None:
        root = NOBODY
    else:
        if len(path.end.sid) != SID_BYTES or any(_bit(path.end.sid, bit) != _bit(sid, bit) for bit in range(depth)):
            raise ValueError("the path ends at a session that lies elsewhere")
        root = record_hash(pack_record(path.end))
    if depth and root == NOBODY and path.siblings[-1] == NOBODY:
        raise ValueError("the path leads through a fork that is none")
    for bit in range(depth - 1, -1, -1):
        root = halves_hash(path.siblings[bit], root) if _bit(sid, bit) else halves_hash(root, path.siblings[bit])
    return root


def _bit(sid: bytes, bit: int) -> int:
    return sid[bit >> 3] >> (7 - (bit & 7)) & 1
