"""How a tree lies in objects: tiles of 256 hashes and bundles of 256 leaves, as C2SP tlog-tiles names and lays them.

A full tile never changes. The last one of a level is partial while it has fewer hashes; one of each width may be there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from ledger.errors import CorruptLedger
from ledger.transparency.merkle import node_hash

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
HASH_BYTES: Final = 32
MAX_LEVEL: Final = 63
_ENTRIES: Final = "entries"
_path: Final = re.compile(r"tile/(\d{1,2}|entries)/((?:x\d{3}/)*\d{3})(?:\.p/(\d{1,3}))?", re.ASCII)


class Tile(NamedTuple):
    """A tile of hashes, or at level -1 a bundle of leaves; `width` is how many it has, 256 if it is full."""

    level: int
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Its path below the log's address."""
        level = _ENTRIES if self.level < 0 else str(self.level)
        groups = [f"{self.number % 1000:03d}"]
        rest = self.number // 1000
        while rest:
            groups.append(f"x{rest % 1000:03d}")
            rest //= 1000
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(reversed(groups))}{partial}"


BUNDLE_LEVEL: Final = -1


def parse_path(path: str) -> Tile | None:
    """Read a tile's path; None for what is none, or not written in the one way that counts."""
    match = _path.fullmatch(path)
    if match is None:
        return None
    level = BUNDLE_LEVEL if match[1] == _ENTRIES else int(match[1])
    tile = Tile(level, int(match[2].replace("x", "").replace("/", "")), WIDTH if match[3] is None else int(match[3]))
    return tile if level <= MAX_LEVEL and 0 < tile.width <= WIDTH and tile.path == path else None


def tile_of(level: int, index: int, size: int) -> Tile:
    """Tell the tile of a level that is `index`-th in a tree of `size`, which is partial if it is the last one."""
    hashes = size >> (HEIGHT * max(level, 0))
    return Tile(level, index, min(WIDTH, hashes - index * WIDTH))


def place_of(level: int, index: int) -> tuple[int, int, int, int]:
    """Tell where the hash of subtree (level, index) is: level and index of its tile, first hash there, how many."""
    tile_level, above = divmod(level, HEIGHT)
    first = index << above
    return tile_level, first // WIDTH, first % WIDTH, 1 << above


def hash_in(tile: bytes | bytearray, first: int, count: int) -> bytes:
    """Make the hash of a subtree out of the `count` hashes of a tile that it is over; raises CorruptLedger."""
    start, end = first * HASH_BYTES, (first + count) * HASH_BYTES
    if len(tile) < end:
        raise CorruptLedger(f"a tile has {len(tile)} bytes, {end} are needed")
    hashes = [bytes(tile[at : at + HASH_BYTES]) for at in range(start, end, HASH_BYTES)]
    while len(hashes) > 1:
        hashes = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
    return hashes[0]


def grown(level: int, old: int, new: int) -> Iterator[Tile]:
    """List the tiles of a level, or bundles, that a tree of size `new` has and one of `old` has not: full, then not."""
    shift = HEIGHT * max(level, 0)
    was, now = old >> shift, new >> shift
    for index in range(was // WIDTH, now // WIDTH):
        yield Tile(level, index)
    if now % WIDTH and now != was:
        yield Tile(level, now // WIDTH, now % WIDTH)


def levels(size: int) -> range:
    """List the levels of a tree that have a hash."""
    return range(0 if not size else (size.bit_length() - 1) // HEIGHT + 1)


def pack_bundle(leaves: Sequence[bytes]) -> bytes:
    """Lay leaves out one behind the other, each with its length before it (2 bytes, big-endian)."""
    return b"".join([len(leaf).to_bytes(2, "big") + leaf for leaf in leaves])


def unpack_bundle(bundle: bytes) -> list[bytes]:
    """Read the leaves of a bundle; raises CorruptLedger."""
    leaves, at = [], 0
    while at < len(bundle):
        start = at + 2
        at = start + int.from_bytes(bundle[at:start], "big")
        if at > len(bundle) or start > len(bundle):
            raise CorruptLedger("a bundle of leaves ends within one")
        leaves.append(bundle[start:at])
    return leaves
