"""State trees held in memory, for tests."""

from __future__ import annotations

from collections.abc import Mapping

from ledger.transparency.state_tree import BUCKET_BITS, Bucket, Node, Path, bucket_of, join, path_to


def node_of(buckets: Mapping[int, Bucket], bits: int = BUCKET_BITS, prefix: int = 0) -> Node:
    """Hash the subtree of the buckets whose number begins with `prefix`, but for its last `bits`; by default of all."""
    held = {number: bucket for number, bucket in buckets.items() if number >> bits == prefix}
    if not held or not bits:
        return held[prefix].node() if held else Node()
    return join(node_of(held, bits - 1, prefix * 2), node_of(held, bits - 1, prefix * 2 + 1))


def path_in(buckets: Mapping[int, Bucket], sid: bytes) -> Path:
    """Lead to a session's place; the record beside an empty bucket is looked for in all of them."""
    number = bucket_of(sid)
    beside = [node_of(buckets, bits, (number >> bits) ^ 1) for bits in range(BUCKET_BITS - 1, -1, -1)]
    other = None
    for bits in range(1, BUCKET_BITS + 1):
        near = [bucket for at, bucket in buckets.items() if at >> bits == number >> bits and len(bucket)]
        if near:
            other = near[0].only() if len(near) == 1 else None
            break
    return path_to(sid, buckets.get(number, Bucket()), beside, other)
