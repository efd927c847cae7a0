"""A second verifier of logs, from the words of C2SP's texts and RFC 9162 alone: nothing of the ledger is imported.

It reads a log as any client does, by its checkpoint and tiles, and follows the algorithms that the RFC gives for
verifying proofs, where ours follow the definitions by which proofs are made.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

Fetch = Callable[[str], bytes | None]
"""Gives what lies at a path below the log's prefix."""


class Head(NamedTuple):
    """tlog-checkpoint: origin, tree size and root hash."""

    origin: str
    size: int
    root: bytes


def check_note(note: str, vkey: str) -> int:
    """signed-note and tlog-cosignature: check the signature of a key; gives its time, 0 where it has none.

    Raises ValueError without a good one.
    """
    name, key_id, encoded = vkey.split("+", 2)
    material = base64.b64decode(encoded, validate=True)
    kind, public = material[0], material[1:]
    if hashlib.sha256(name.encode() + b"\x0a" + material).digest()[:4].hex() != key_id:
        raise ValueError("the key ID is not that of the key")
    at = note.rindex("\n\n") + 1
    text, lines = note[:at], note[at + 1 :]
    if not lines.endswith("\n"):
        raise ValueError("the last line is not terminated")
    for line in lines[:-1].split("\n"):
        dash, signer, blob = line.split(" ")
        signature = base64.b64decode(blob, validate=True)
        if dash != "\u2014" or signer != name or signature[:4].hex() != key_id:
            continue
        if kind == 0x01:
            Ed25519PublicKey.from_public_bytes(public).verify(signature[4:], text.encode())
            return 0
        time = int.from_bytes(signature[4:12], "big")
        if time > 2**63 - 1:
            raise ValueError("the time is too large")
        if kind == 0x04:
            message = b"cosignature/v1\x0atime %d\x0a%b" % (time, text.encode())
            Ed25519PublicKey.from_public_bytes(public).verify(signature[12:], message)
            return time
        if kind == 0x06:
            head = read_head(note)
            message = b"subtree/v1\x0a\x00" + bytes([len(name)]) + name.encode() + time.to_bytes(8, "big")
            message += bytes([len(head.origin)]) + head.origin.encode() + (0).to_bytes(8, "big")
            MLDSA44PublicKey.from_public_bytes(public).verify(
                signature[12:], message + head.size.to_bytes(8, "big") + head.root
            )
            return time
        raise ValueError(f"signature type {kind}")
    raise ValueError(f"{name} did not sign")


def read_head(note: str) -> Head:
    """tlog-checkpoint: read the first three lines."""
    origin, size, root = note.split("\n")[:3]
    if str(int(size)) != size:
        raise ValueError("a size has no leading zeroes")
    return Head(origin, int(size), base64.b64decode(root, validate=True))


def hash_leaf(entry: bytes) -> bytes:
    """RFC 9162, section 2.1.1."""
    return hashlib.sha256(b"\x00" + entry).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_hash(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1: MTH of leaves that are hashed already."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256().digest()
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return _node(tree_hash(leaves[:k]), tree_hash(leaves[k:]))


def check_inclusion(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> None:
    """RFC 9162, section 2.1.3.2; raises ValueError."""
    if index >= size:
        raise ValueError("the index is not in the tree")
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            raise ValueError("the path is too long")
        if fn & 1 or fn == sn:
            r = _node(p, r)
            if not fn & 1:
                while True:
                    fn, sn = fn >> 1, sn >> 1
                    if fn & 1 or fn == 0:
                        break
        else:
            r = _node(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or r != root:
        raise ValueError("the path does not lead to the root")


def check_consistency(first: int, first_hash: bytes, second: int, second_hash: bytes, path: list[bytes]) -> None:
    """RFC 9162, section 2.1.4.2; raises ValueError."""
    if first == second:
        if path or first_hash != second_hash:
            raise ValueError("one size has two hashes")
        return
    if not path:
        raise ValueError("the path is empty")
    if first & (first - 1) == 0:
        path = [first_hash, *path]
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            raise ValueError("the path is too long")
        if fn & 1 or fn == sn:
            fr, sr = _node(c, fr), _node(c, sr)
            if not fn & 1:
                while True:
                    fn, sn = fn >> 1, sn >> 1
                    if fn & 1 or fn == 0:
                        break
        else:
            sr = _node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if fr != first_hash or sr != second_hash or sn != 0:
        raise ValueError("the path does not lead from one tree to the other")


def check_proof(proof: str, entry: bytes, vkey: str) -> Head:
    """tlog-proof: check that an entry is in the log of the checkpoint that the proof ends with."""
    lines = proof.split("\n")
    if lines.pop(0) != "c2sp.org/tlog-proof@v1":
        raise ValueError("no proof")
    if lines[0].startswith("extra "):
        lines.pop(0)
    index = int(lines.pop(0).removeprefix("index "))
    blank = lines.index("")
    note = "\n".join(lines[blank + 1 :])
    check_note(note, vkey)
    head = read_head(note)
    path = [base64.b64decode(line, validate=True) for line in lines[:blank]]
    check_inclusion(hash_leaf(entry), index, head.size, path, head.root)
    return head


def _name(number: int) -> str:
    """tlog-tiles: three digits a path element, all but the last with an x before them."""
    text = f"{number:03d}"
    text = text.zfill(-(-len(text) // 3) * 3)
    parts = [text[at : at + 3] for at in range(0, len(text), 3)]
    return "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])


class Client:
    """tlog-tiles: a log as it is read by its checkpoint, tiles and entry bundles."""

    def __init__(self, fetch: Fetch, vkey: str) -> None:
        """Fetch the checkpoint and check its signature."""
        self._fetch = fetch
        note = fetch("checkpoint")
        if note is None:
            raise ValueError("there is no checkpoint")
        self.note = note.decode()
        check_note(self.note, vkey)
        self.head = read_head(self.note)

    def entries(self) -> list[bytes]:
        """Read all entries, and check tiles of every level and the root against them."""
        entries: list[bytes] = []
        for number, width in self._tiles(0):
            bundle = self._get(f"tile/entries/{_name(number)}", width)
            found = 0
            while bundle:
                length = int.from_bytes(bundle[:2], "big")
                entries.append(bundle[2 : 2 + length])
                bundle = bundle[2 + length :]
                found += 1
            if found != width:
                raise ValueError("a bundle has another number of entries")
        hashes, level = [hash_leaf(entry) for entry in entries], 0
        if tree_hash(hashes) != self.head.root:
            raise ValueError("the entries do not lead to the root")
        while hashes:
            for number, width in self._tiles(level):
                tile = self._get(f"tile/{level}/{_name(number)}", width)
                if tile != b"".join(hashes[number * 256 : number * 256 + width]):
                    raise ValueError(f"tile {level}/{number} is not that of the entries")
            hashes = [tree_hash(hashes[at : at + 256]) for at in range(0, len(hashes) - 255, 256)]
            level += 1
        return entries

    def _tiles(self, level: int) -> list[tuple[int, int]]:
        """List number and width of a level's tiles."""
        hashes = self.head.size // 256**level
        full, rest = divmod(hashes, 256)
        return [(number, 256) for number in range(full)] + ([(full, rest)] if rest else [])

    def _get(self, path: str, width: int) -> bytes:
        """Fetch a partial tile, or the full one in its place."""
        found = self._fetch(path if width == 256 else f"{path}.p/{width}")
        if found is None:
            raise ValueError(f"{path} is missing")
        return found
