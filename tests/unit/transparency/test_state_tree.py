"""The tree of states against one that is made as its definition says, and what its paths prove."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import CorruptLedger
from ledger.transparency.state_tree import (
    BUCKETS,
    NOBODY,
    Bucket,
    Node,
    Path,
    Record,
    bucket_of,
    join_all,
    pack_record,
    parse_record,
    path_above,
    root_by_path,
)  # fmt: skip
from tests.support.ledger.states import node_of, path_in

NEAR = st.sampled_from([bytes(2), b"\0\1"])
SIDS = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.builds(lambda head, n: head + n.to_bytes(1, "big") + bytes(29), NEAR, st.integers(0, 255)),
)
FOUND = st.builds(lambda seq: (seq, sha256(bytes([seq])).digest(), seq), st.integers(0, 255))
RECORDS = st.dictionaries(SIDS, FOUND, max_size=30)


def defined(records: list[Record], bit: int = 0) -> Node:
    """Hash a tree as its definition says, bit by bit."""
    if not records:
        return Node()
    if len(records) == 1:
        return Node(sha256(b"\0" + pack_record(records[0])).digest(), 1)
    halves: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        halves[int(f"{int.from_bytes(record.sid, 'big'):0256b}"[bit])].append(record)
    left, right = (defined(half, bit + 1).hash for half in halves)
    return Node(sha256(b"\1" + left + right).digest(), len(records))


@given(RECORDS, SIDS)
def test_any_tree_and_path(found: dict[bytes, tuple[int, bytes, int]], stranger: bytes) -> None:
    records = {sid: Record(sid, *rest) for sid, rest in found.items()}
    buckets: dict[int, Bucket] = {}
    for sid, record in records.items():  # one after the other, in any order
        number = bucket_of(sid)
        buckets[number] = buckets.get(number, Bucket()).changed({sid: record})
    root = node_of(buckets)
    assert root == defined(list(records.values()))
    for sid in [*list(records)[:3], stranger]:
        path = path_in(buckets, sid)
        assert root_by_path(sid, path) == root.hash
        assert (path.end if path.end and path.end.sid == sid else None) == records.get(sid)


def test_a_path_proves_nothing_else() -> None:
    records = [Record(bytes([n]) * 32, n, bytes([n]) * 32, n) for n in (1, 2, 130)]
    buckets = {bucket_of(each.sid): Bucket(pack_record(each)) for each in records}
    nodes = [buckets[number].node() if number in buckets else Node() for number in range(BUCKETS)]
    root = join_all(nodes).hash
    path = path_in(buckets, records[0].sid)
    assert path.siblings == tuple(node.hash for node, _ in path_above(nodes, bucket_of(records[0].sid)))[:7]
    assert root_by_path(records[0].sid, path) == root
    forged = path._replace(end=records[0]._replace(seq=9))
    assert root_by_path(records[0].sid, forged) != root
    assert root_by_path(records[0].sid, path._replace(end=None)) != root, "that it is not there"
    with pytest.raises(ValueError, match="elsewhere"):
        root_by_path(records[2].sid, path)
    with pytest.raises(ValueError, match="no path"):
        root_by_path(records[0].sid, Path((b"short",), None))
    with pytest.raises(ValueError, match="fork"):
        root_by_path(records[0].sid, Path((NOBODY,), None))


def test_what_is_damaged_is_told() -> None:
    with pytest.raises(CorruptLedger, match="81 bytes"):
        Bucket(bytes(81))
    with pytest.raises(CorruptLedger, match="79 bytes"):
        parse_record(bytes(79))
    twice = pack_record(Record(bytes(32), 1, bytes(32), 1)) * 2
    with pytest.raises(CorruptLedger, match="order"):
        Bucket(twice).node()
