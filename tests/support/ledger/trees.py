"""Merkle trees that grow in memory, and proofs made of any tree, as the service makes them of its tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from ledger.transparency.merkle import consistency_ranges, fold_right, full_subtrees, inclusion_ranges

SubtreeHash = Callable[[int, int], bytes]
"""Gives the hash of the full subtree of a level and index."""


class Frontier:
    """The right edge of a growing tree: the hashes of its full subtrees, left to right, of which its root is made."""

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Go on from a tree of `size`; `hashes` are those of `full_subtrees(0, size)`."""
        assert len(hashes) == size.bit_count()
        self.size = size
        self._hashes = list(hashes)

    def append(self, hashed: bytes) -> None:
        """Add a leaf by its hash."""
        self._hashes.append(hashed)
        self.size += 1
        rest = self.size
        while not rest & 1:
            right = self._hashes.pop()
            self._hashes[-1] = sha256(b"\x01" + self._hashes[-1] + right).digest()
            rest >>= 1

    def root(self) -> bytes:
        """Tell the root of what was added so far."""
        return fold_right(self._hashes)


def range_hash(start: int, end: int, subtree: SubtreeHash) -> bytes:
    """Tell the hash of the leaves from `start` to `end` in a tree that is cut there, as a root or a proof needs it."""
    return fold_right([subtree(*each) for each in full_subtrees(start, end)])


def inclusion_proof(index: int, size: int, subtree: SubtreeHash) -> list[bytes]:
    """Prove that a leaf is in the tree of `size`; raises ValueError for one that is not."""
    return [range_hash(start, end, subtree) for start, end in inclusion_ranges(index, size)]


def consistency_proof(old: int, new: int, subtree: SubtreeHash) -> list[bytes]:
    """Prove that the tree of size `new` begins with that of `old`; raises ValueError."""
    return [range_hash(start, end, subtree) for start, end in consistency_ranges(old, new)]
