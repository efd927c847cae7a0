"""The Merkle tree of RFC 6962 over SHA-256: roots that grow, and proofs that something is in them.

A tree's subtrees are named by level and index: subtree (l, i) is over the leaves from i·2^l to (i+1)·2^l. Only full
ones have such a name; all else is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

EMPTY: Final = sha256(b"").digest()
"""The root of the tree without a leaf."""


def leaf_hash(leaf: bytes) -> bytes:
    """Hash a leaf (RFC 6962, section 2.1)."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into one (RFC 6962, section 2.1)."""
    return sha256(b"\x01" + left + right).digest()


class Subtree(NamedTuple):
    """A full subtree."""

    level: int
    number: int


def full_subtrees(start: int, end: int) -> list[Subtree]:
    """Cut the leaves from `start` to `end` into the fewest full subtrees, left to right."""
    found = []
    while start < end:
        level = (start & -start).bit_length() - 1 if start else end.bit_length()
        while start + (1 << level) > end:
            level -= 1
        found.append(Subtree(level, start >> level))
        start += 1 << level
    return found


def fold_right(hashes: Sequence[bytes]) -> bytes:
    """Make one hash of those of a tree's full subtrees, left to right; of none, that of the empty tree."""
    if not hashes:
        return EMPTY
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Tell over which leaves the hashes of an inclusion proof are, from the leaf's sibling up to the root's child.

    RFC 6962, section 2.1.1. Raises ValueError for a leaf that is not in the tree.
    """
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    ranges, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[tuple[int, int]]:
    """Tell over which leaves the hashes of a consistency proof are, in its order; none where nothing is to be proved.

    RFC 6962, section 2.1.2. Raises ValueError where the old tree is larger than the new one.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} does not grow from one of {old}")
    if old in (0, new):
        return []
    ranges, start, end, whole = [], 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, whole = middle, False
    if not whole:
        ranges.append((start, end))
    return ranges[::-1]


def root_by_inclusion(index: int, size: int, hashed: bytes, proof: Sequence[bytes]) -> bytes:
    """Tell the root of the tree of `size` in which a leaf of this hash is at `index`; raises ValueError."""
    ranges = inclusion_ranges(index, size)
    if len(proof) != len(ranges):
        raise ValueError(f"a proof of {len(ranges)} hashes is needed, not of {len(proof)}")
    root = hashed
    for (start, _), sibling in zip(ranges, proof, strict=True):
        # A range that begins at or before the leaf lies left of it: it never holds the leaf itself.
        root = node_hash(sibling, root) if start <= index else node_hash(root, sibling)
    return root


def check_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `new` begins with that of `old`; raises ValueError where that is not proved."""
    ranges = consistency_ranges(old, new)
    if len(proof) != len(ranges):
        raise ValueError(f"a proof of {len(ranges)} hashes is needed, not of {len(proof)}")
    if old == 0:
        if old_root != EMPTY:
            raise ValueError("the old root is not that of an empty tree")
        return
    if not ranges:
        if old_root != new_root:
            raise ValueError("two roots of one size differ")
        return
    hashes = list(proof)
    # Where the old tree is itself a full subtree of the new one, its root is what the proof begins with.
    first = old_root if ranges[0][0] >= old else hashes.pop(0)
    rest = ranges if ranges[0][0] >= old else ranges[1:]
    was = is_now = first
    for (start, _), sibling in zip(rest, hashes, strict=True):
        if start < old:
            was, is_now = node_hash(sibling, was), node_hash(sibling, is_now)
        else:
            is_now = node_hash(is_now, sibling)
    if was != old_root:
        raise ValueError("the proof does not lead to the old root")
    if is_now != new_root:
        raise ValueError("the proof does not lead to the new root")


def _split(count: int) -> int:
    """Tell the largest power of two below `count`, where a tree of so many leaves is cut."""
    return 1 << ((count - 1).bit_length() - 1)
