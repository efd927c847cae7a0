"""The tree of RFC 6962: its known roots and paths, and any tree against one that is made as the text says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.transparency import merkle
from ledger.transparency.tiles import (
    BUNDLE_LEVEL,
    Tile,
    grown,
    hash_in,
    levels,
    pack_bundle,
    parse_path,
    place_of,
    tile_of,
    unpack_bundle,
)
from tests.support.ledger import trees

LEAVES = [bytes.fromhex(each) for each in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""The leaves and roots that implementations of Certificate Transparency test against."""
HASHES = [merkle.leaf_hash(n.to_bytes(2, "big")) for n in range(1200)]


def mth(hashes: list[bytes]) -> bytes:
    """Make a root as RFC 6962, section 2.1, defines it."""
    if len(hashes) < 2:
        return hashes[0] if hashes else merkle.EMPTY
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return merkle.node_hash(mth(hashes[:k]), mth(hashes[k:]))


def path(m: int, hashes: list[bytes]) -> list[bytes]:
    """Make an inclusion proof as section 2.1.1 defines it."""
    if len(hashes) == 1:
        return []
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m < k:
        return [*path(m, hashes[:k]), mth(hashes[k:])]
    return [*path(m - k, hashes[k:]), mth(hashes[:k])]


def subproof(m: int, hashes: list[bytes], whole: bool) -> list[bytes]:
    """Make a consistency proof as section 2.1.2 defines it."""
    if m == len(hashes):
        return [] if whole else [mth(hashes)]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m <= k:
        return [*subproof(m, hashes[:k], whole), mth(hashes[k:])]
    return [*subproof(m - k, hashes[k:], False), mth(hashes[:k])]


def subtree(level: int, index: int) -> bytes:
    return mth(HASHES[index << level : (index + 1) << level])


def test_known_roots() -> None:
    frontier = trees.Frontier()
    assert frontier.root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        frontier.append(merkle.leaf_hash(leaf))
        assert frontier.root().hex() == root


@given(st.integers(1, 1200), st.data())
def test_any_tree_is_as_the_text_defines_it(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    root = trees.range_hash(0, size, subtree)
    assert root == mth(HASHES[:size])
    proof = trees.inclusion_proof(index, size, subtree)
    assert proof == path(index, HASHES[:size])
    assert merkle.root_by_inclusion(index, size, HASHES[index], proof) == root
    consistency = trees.consistency_proof(old, size, subtree)
    assert consistency == subproof(old, HASHES[:size], True)
    merkle.check_consistency(old, mth(HASHES[:old]), size, root, consistency)


@given(st.integers(2, 300), st.data())
def test_nothing_else_is_proved(size: int, data: st.DataObject) -> None:
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    root, was = mth(HASHES[:size]), mth(HASHES[:old])
    proof = trees.inclusion_proof(index, size, subtree)
    for at in range(len(proof)):
        changed = [*proof[:at], bytes(32), *proof[at + 1 :]]
        assert merkle.root_by_inclusion(index, size, HASHES[index], changed) != root
    assert merkle.root_by_inclusion(index, size, HASHES[index + 1], proof) != root
    for wrong in (proof[1:], [*proof, bytes(32)]):
        with pytest.raises(ValueError, match="hashes"):
            merkle.root_by_inclusion(index, size, HASHES[index], wrong)
    consistency = trees.consistency_proof(old, size, subtree)
    for at in range(len(consistency)):
        changed = [*consistency[:at], bytes(32), *consistency[at + 1 :]]
        with pytest.raises(ValueError, match="does not lead"):
            merkle.check_consistency(old, was, size, root, changed)
    for one, other in ((was, mth(HASHES[1:size])), (mth(HASHES[1 : old + 1]), root)):
        with pytest.raises(ValueError, match="does not lead"):
            merkle.check_consistency(old, one, size, other, consistency)
    with pytest.raises(ValueError, match="differ"):
        merkle.check_consistency(size, was, size, root, [])


def test_the_example_of_tlog_tiles() -> None:
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert parse_path("tile/0/x001/x234/067") == Tile(0, 1234067)
    of_70_000 = [tile for level in levels(70_000) for tile in grown(level, 0, 70_000)]
    assert [tile for tile in of_70_000 if tile.level == 0 and tile.width < 256] == [Tile(0, 273, 112)]
    assert len([tile for tile in of_70_000 if tile.level == 0]) == 274
    assert [tile for tile in of_70_000 if tile.level] == [Tile(1, 0), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert [tile for level in levels(256) for tile in grown(level, 0, 256)] == [Tile(0, 0), Tile(1, 0, 1)]


@pytest.mark.parametrize("text", [
    "tile/0/1", "tile/00/001", "tile/64/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/001/002",
    "tile/0/x000/001", "tile/0/../../log.json", "tile/entries/x1/000", "tile/-1/000", "checkpoint", "tile/0/000/", "",
])  # fmt: skip
def test_what_is_no_tile(text: str) -> None:
    assert parse_path(text) is None


@given(st.integers(BUNDLE_LEVEL, 63), st.integers(0, 10**12), st.integers(1, 256))
def test_paths_are_read_as_they_are_written(level: int, number: int, width: int) -> None:
    assert parse_path(Tile(level, number, width).path) == Tile(level, number, width)


@given(st.integers(1, 1200), st.data())
def test_a_subtree_is_made_of_its_tile(size: int, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, size.bit_length() - 1))
    index = data.draw(st.integers(0, (size >> level) - 1))
    tile_level, number, first, count = place_of(level, index)
    tile = tile_of(tile_level, number, size)
    width = 256**tile_level
    start = number * 256
    content = b"".join(mth(HASHES[at * width : (at + 1) * width]) for at in range(start, start + tile.width))
    assert hash_in(content, first, count) == subtree(level, index)


@given(st.lists(st.binary(max_size=80), max_size=20))
def test_bundles_are_read_as_they_are_written(leaves: list[bytes]) -> None:
    assert unpack_bundle(pack_bundle(leaves)) == leaves
