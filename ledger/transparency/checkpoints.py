"""Checkpoints (C2SP tlog-checkpoint): the origin, size and root of a log, as its key signed them; and proofs that
something was in it then (C2SP tlog-proof)."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from typing import Final, NamedTuple

from ledger.transparency.notes import BadNote, Note, parse_note

_HASH_BYTES: Final = 32
_PROOF: Final = "c2sp.org/tlog-proof@v1"
_MAX_PROOF: Final = 64
_number: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class Checkpoint(NamedTuple):
    """A log's size and root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed of it."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"


class LogProof(NamedTuple):
    """That a leaf is at index `at` of the log of a checkpoint, which is a signed note."""

    at: int
    hashes: tuple[bytes, ...]
    note: Note

    def __str__(self) -> str:
        lines = [_PROOF, f"index {self.at}", *(b64encode(each).decode() for each in self.hashes)]
        return "".join(f"{line}\n" for line in lines) + f"\n{self.note}"


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint's text, as a note carries it; extension lines are passed over. Raises BadNote."""
    origin, *rest = text.split("\n")
    if len(rest) < 3 or rest[-1] or not origin or "" in rest[:-1]:
        raise BadNote("a checkpoint has an origin, a size and a root, a line each")
    return Checkpoint(origin, parse_number(rest[0]), parse_hash(rest[1]))


def parse_proof(text: str) -> LogProof:
    """Read a tlog-proof; nothing of it is checked yet. Raises BadNote."""
    head, _, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    if lines and lines[0].startswith("extra "):
        lines.pop(0)
    if first != _PROOF or not lines or not lines[0].startswith("index ") or len(lines) > _MAX_PROOF:
        raise BadNote(f"a proof begins with {_PROOF} and an index")
    return LogProof(parse_number(lines[0].removeprefix("index ")), tuple(map(parse_hash, lines[1:])), parse_note(note))


def parse_number(text: str) -> int:
    """Read a size or index, in decimal without leading zeroes; raises BadNote."""
    if _number.fullmatch(text) is None:
        raise BadNote(f"{text[:40]!r} is no size or index of a log")
    return int(text)


def parse_hash(text: str) -> bytes:
    """Read a hash in Base64; raises BadNote."""
    try:
        found = b64decode(text, validate=True)
    except (BadBase64, ValueError):
        found = b""
    if len(found) != _HASH_BYTES or b64encode(found).decode() != text:
        raise BadNote(f"{text[:60]!r} is no hash of a log")
    return found
