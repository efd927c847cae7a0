"""The log's tree in its tiles: what is added to it, and what is read of it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ledger.transparency.merkle import (
    EMPTY,
    Subtree,
    consistency_ranges,
    fold_right,
    full_subtrees,
    inclusion_ranges,
    leaf_hash,
    root_by_inclusion,
)
from ledger.transparency.tiles import (
    BUNDLE_LEVEL,
    HASH_BYTES,
    HEIGHT,
    WIDTH,
    Tile,
    hash_in,
    levels,
    pack_bundle,
    place_of,
    tile_of,
    unpack_bundle,
)
from projections.transparency.errors import LogContradicts
from projections.transparency.place import LogPlace

KEPT_TILES: Final = 256
"""How many tiles a reader keeps, of 8 KB each."""


class TreeReader:
    """A tree of a known size and root, read from its tiles. All methods raise LogContradicts, ArchiveUnavailable."""

    def __init__(self, place: LogPlace, size: int) -> None:
        self.size = size
        self._place = place
        self._tiles: OrderedDict[Tile, bytes] = OrderedDict()

    async def root(self) -> bytes:
        """Make the root out of the tiles at the tree's right edge."""
        return await self.range(0, self.size)

    async def inclusion(self, index: int) -> list[bytes]:
        """Prove that leaf `index` is in the tree; raises ValueError for one that is not."""
        return [await self.range(*each) for each in inclusion_ranges(index, self.size)]

    async def consistency(self, old: int) -> list[bytes]:
        """Prove that the tree begins with the one of size `old`; raises ValueError for a larger one."""
        return [await self.range(*each) for each in consistency_ranges(old, self.size)]

    async def is_pruned(self, index: int) -> bool:
        """Tell whether what lies at an index may have been removed."""
        return index < (await self._place.pruned()).minimum

    async def leaf(self, index: int, root: bytes) -> bytes:
        """Read a leaf, which is proved to be in the tree of this root."""
        tile = tile_of(BUNDLE_LEVEL, index // WIDTH, self.size)
        leaves = unpack_bundle(await self.read(tile))
        if len(leaves) != tile.width:
            raise LogContradicts(tile.path, f"it has {len(leaves)} leaves")
        leaf = leaves[index % WIDTH]
        if root_by_inclusion(index, self.size, leaf_hash(leaf), await self.inclusion(index)) != root:
            raise LogContradicts(tile.path, f"leaf {index} is not the one that the log was signed with")
        return leaf

    async def read(self, tile: Tile) -> bytes:
        """Read a tile or bundle."""
        kept = self._tiles.get(tile)
        if kept is not None:
            self._tiles.move_to_end(tile)
            return kept
        content = await find_tile(self._place, tile)
        if content is None:
            raise LogContradicts(tile.path, "it is missing")
        if tile.level != BUNDLE_LEVEL and len(content) != tile.width * HASH_BYTES:
            raise LogContradicts(tile.path, f"it has {len(content)} bytes")
        self._tiles[tile] = content
        if len(self._tiles) > KEPT_TILES:
            self._tiles.popitem(last=False)
        return content

    async def range(self, start: int, end: int) -> bytes:
        """Make the hash of the leaves from `start` to `end`; from 0 on that is the root of a tree of size `end`."""
        return fold_right([await self._subtree(each) for each in full_subtrees(start, end)])

    async def _subtree(self, subtree: Subtree) -> bytes:
        level, index, first, count = place_of(*subtree)
        return hash_in(await self.read(tile_of(level, index, self.size)), first, count)


class TreeWriter:
    """A tree that grows in memory: its right edge, and the tiles that came to be and are not written yet."""

    def __init__(self) -> None:
        self.size = 0
        self.full: list[tuple[Tile, bytes]] = []
        """Full tiles and bundles that are not written yet."""
        self._levels: list[bytearray] = [bytearray()]
        self._leaves: list[bytes] = []

    @classmethod
    async def resume(cls, place: LogPlace, size: int) -> TreeWriter:
        """Go on with the tree of `size` as it lies there; raises LogContradicts."""
        tree, reader = cls(), TreeReader(place, size)
        tree.size = size
        tree._levels = [bytearray() for _ in levels(size)] or [bytearray()]
        for level in levels(size):
            hashes = size >> (HEIGHT * level)
            if hashes % WIDTH:
                tree._levels[level] += await reader.read(tile_of(level, hashes // WIDTH, size))
        if size % WIDTH:
            bundle = tile_of(BUNDLE_LEVEL, size // WIDTH, size)
            tree._leaves = unpack_bundle(await reader.read(bundle))
            held = b"".join(map(leaf_hash, tree._leaves))
            if held != bytes(tree._levels[0]):
                raise LogContradicts(bundle.path, "its leaves are not those of its tile")
        return tree

    def append(self, leaf: bytes) -> None:
        """Add a leaf."""
        self._leaves.append(leaf)
        self._levels[0] += leaf_hash(leaf)
        self.size += 1
        if self.size % WIDTH == 0:
            self.full.append((Tile(BUNDLE_LEVEL, self.size // WIDTH - 1), pack_bundle(self._leaves)))
            self._leaves = []
            self._carry()

    def root(self) -> bytes:
        """Tell the root."""
        hashes = []
        for edge in reversed(self._levels):
            count = len(edge) // HASH_BYTES
            for level, index in full_subtrees(0, count):
                hashes.append(hash_in(edge, index << level, 1 << level))
        return fold_right(hashes) if hashes else EMPTY

    def take_full(self) -> list[tuple[str, bytes]]:
        """Give the full tiles and bundles that were not given before, by their paths."""
        taken, self.full = [(tile.path, content) for tile, content in self.full], []
        return taken

    def edge(self) -> list[tuple[str, bytes]]:
        """Give the partial tiles, and the partial bundle, that the tree of this size has, by their paths."""
        found = []
        if self._leaves:
            found.append((tile_of(BUNDLE_LEVEL, self.size // WIDTH, self.size).path, pack_bundle(self._leaves)))
        for level, edge in enumerate(self._levels):
            if edge:
                index = (self.size >> (HEIGHT * level)) // WIDTH
                found.append((Tile(level, index, len(edge) // HASH_BYTES).path, bytes(edge)))
        return found

    def _carry(self) -> None:
        """Take full tiles out of the edge, each as one hash into the level above."""
        for level, edge in enumerate(self._levels):
            if len(edge) < WIDTH * HASH_BYTES:
                return
            index = (self.size >> (HEIGHT * (level + 1))) - 1
            self.full.append((Tile(level, index), bytes(edge)))
            if level + 1 == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level + 1] += hash_in(edge, 0, WIDTH)
            edge.clear()


async def find_tile(place: LogPlace, tile: Tile) -> bytes | None:
    """Read a tile or bundle, the beginning of the full one instead of a partial one that is gone; None without both."""
    content = await place.find(tile.path)
    if content is not None or tile.width == WIDTH:
        return content
    content = await place.find(tile._replace(width=WIDTH).path)
    if content is None:
        return None
    if tile.level == BUNDLE_LEVEL:
        return pack_bundle(unpack_bundle(content)[: tile.width])
    return content[: tile.width * HASH_BYTES]


async def partials_of(place: LogPlace, path: str) -> list[str]:
    """List the partial tiles or bundles that a full one takes the place of."""
    return [info.name async for page in place.objects.names(f"{path}.p/") for info in page]


async def remove_partials(place: LogPlace, paths: list[str]) -> None:
    """Remove the partial tiles and bundles that full ones, at these paths, have taken the place of."""
    for path in paths:
        if found := await partials_of(place, path):
            await place.objects.delete(found)
