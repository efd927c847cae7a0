"""Signed notes (C2SP signed-note), cosignatures of checkpoints (C2SP tlog-cosignature), and the keys that sign both.

A key is written as Go's `note` package writes it, so its tools read ours: `<name>+<id>+<type and public key>`, and a
secret one as `PRIVATE+KEY+<name>+<id>+<type and seed>`.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

ED25519: Final = 0x01
COSIGNATURE: Final = 0x04
MLDSA44_COSIGNATURE: Final = 0x06
_PUBLIC_BYTES: Final = {ED25519: 32, COSIGNATURE: 32, MLDSA44_COSIGNATURE: 1312}
_TIMED_BYTES: Final = {COSIGNATURE: 8 + 64, MLDSA44_COSIGNATURE: 8 + 2420}
_SEED_BYTES: Final = 32
_ID_BYTES: Final = 4
MAX_SIGNATURES: Final = 64
MAX_NOTE_BYTES: Final = 1 << 20
"""A note with more than either is refused unread; 64 signatures of ML-DSA-44 are 210 KB."""
MAX_NAME_BYTES: Final = 255
"""What the message of an ML-DSA-44 cosignature has room for."""
_DASH: Final = "\u2014 "
_SECRET: Final = "PRIVATE+KEY+"  # noqa: S105 - what a secret key's text begins with
_signature_line: Final = re.compile(r"\u2014 (\S+) (\S+)")
_POSIX_MAX: Final = 2**63 - 1


class BadNote(ValueError):
    """A note, key or signature that is not as the texts want it, or does not verify; the message says why."""


class Signature(NamedTuple):
    """One signature of a note: the key's name and id (4 bytes), and what it made."""

    name: str
    key_id: bytes
    signature: bytes

    @property
    def line(self) -> str:
        """The signature as a note's line, without its end."""
        return f"{_DASH}{self.name} {b64encode(self.key_id + self.signature).decode()}"


class Note(NamedTuple):
    """A note: its text, which ends with a newline, and its signatures, of which nothing is known yet."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n" + "".join(f"{each.line}\n" for each in self.signatures)


class VerifierKey(NamedTuple):
    """A public key: whose it is, what it signs (0x01 notes, 0x04 and 0x06 cosignatures), and its bytes."""

    name: str
    type: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The key's id, of 4 bytes."""
        return sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public).digest()[:_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{b64encode(bytes([self.type]) + self.public).decode()}"


class SignerKey(NamedTuple):
    """A secret Ed25519 key, by its seed; `type` as in its `public` one. Its `repr` shows no secret."""

    name: str
    type: int
    seed: bytes

    @property
    def public(self) -> VerifierKey:
        """The key that verifies what this one signs."""
        return VerifierKey(self.name, self.type, self._key.public_key().public_bytes_raw())

    def sign(self, text: str) -> Signature:
        """Sign a note's text."""
        assert self.type == ED25519
        return Signature(self.name, self.public.key_id, self._key.sign(text.encode()))

    def cosign(self, text: str, at_s: int) -> Signature:
        """Cosign a checkpoint's text: as of `at_s`, in seconds since 1970, no larger tree was seen that differs."""
        assert self.type == COSIGNATURE
        made = at_s.to_bytes(8, "big") + self._key.sign(_cosigned(text, at_s))
        return Signature(self.name, self.public.key_id, made)

    def written(self) -> str:
        """Write the secret key; who reads it can sign."""
        public = self.public
        return f"{_SECRET}{self.name}+{public.key_id.hex()}+{b64encode(bytes([self.type]) + self.seed).decode()}"

    def __repr__(self) -> str:
        return f"SignerKey({self.name!r}, {self.type})"

    @property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


class Verified(NamedTuple):
    """A signature that verified: the key, and when it says it was made, in seconds since 1970; 0 if it does not."""

    key: VerifierKey
    at_s: int


def check_name(name: str) -> str:
    """Return a key's name or an origin; raises BadNote for what a note cannot carry."""
    if not name or len(name.encode()) > MAX_NAME_BYTES or "+" in name or any(c.isspace() for c in name):
        raise BadNote(f"{name[:80]!r} is no name of a log: 1 to {MAX_NAME_BYTES} bytes without spaces and +")
    if not name.isprintable():
        raise BadNote("a name of a log has no control characters")
    return name


def parse_verifier(text: str) -> VerifierKey:
    """Read a verifier key (vkey); raises BadNote."""
    name, key_id, rest = _split_key(text.strip())
    key = VerifierKey(name, rest[0], rest[1:])
    if len(key.public) != _PUBLIC_BYTES.get(key.type):
        raise BadNote(f"key {name}+{key_id} is of a type or length that is not known: {key.type:#04x}")
    if key.key_id.hex() != key_id:
        raise BadNote(f"key {name}+{key_id} has another id by its content: it was not copied whole")
    return key


def parse_signer(text: str) -> SignerKey:
    """Read a secret key; raises BadNote, which does not show it."""
    text = text.strip()
    if not text.startswith(_SECRET):
        raise BadNote(f"a secret key begins with {_SECRET}")
    name, key_id, rest = _split_key(text.removeprefix(_SECRET))
    if rest[0] not in (ED25519, COSIGNATURE) or len(rest) != 1 + _SEED_BYTES:
        raise BadNote(f"secret key {name}+{key_id} is no Ed25519 key")
    key = SignerKey(name, rest[0], rest[1:])
    if key.public.key_id.hex() != key_id:
        raise BadNote(f"secret key {name}+{key_id} has another id by its content: it was not copied whole")
    return key


def parse_note(text: str) -> Note:
    """Read a note; raises BadNote. Nothing of it may be believed before `verified` has."""
    if len(text) > MAX_NOTE_BYTES:
        raise BadNote(f"a note of more than {MAX_NOTE_BYTES:,} bytes")
    if any(char < " " and char != "\n" for char in text):
        raise BadNote("a note has no control characters")
    body, separator, lines = text.rpartition("\n\n")
    if not separator or not lines.endswith("\n"):
        raise BadNote("a note ends with a blank line and lines of signatures")
    return Note(f"{body}\n", parse_signatures(lines))


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Read lines of signatures, each with its end; raises BadNote."""
    found = lines.split("\n")[:-1] if lines.endswith("\n") else lines.split("\n")
    if not 0 < len(found) <= MAX_SIGNATURES:
        raise BadNote(f"a note has 1 to {MAX_SIGNATURES} signatures, not {len(found)}")
    return tuple(map(_parse_signature, found))


def verified(note: Note, keys: Iterable[VerifierKey]) -> tuple[Verified, ...]:
    """Tell which of these keys signed a note; none of them: an empty answer.

    Signatures of other keys are ignored; one of a known key that does not verify spoils the note: raises BadNote.
    """
    known = {(key.name, key.key_id): key for key in keys}
    found: dict[VerifierKey, Verified] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is not None:
            found.setdefault(key, Verified(key, _verify(note.text, key, signature.signature)))
    return tuple(found.values())


def sign(text: str, keys: Sequence[SignerKey]) -> Note:
    """Sign a text, which ends with a newline, with each of these keys."""
    return Note(text, tuple(key.sign(text) for key in keys))


def _verify(text: str, key: VerifierKey, signature: bytes) -> int:
    """Check a signature and tell when it says it was made, or 0; raises BadNote."""
    at_s = 0
    try:
        if key.type == ED25519:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature, text.encode())
            return at_s
        if len(signature) != _TIMED_BYTES[key.type]:
            raise BadNote(f"a cosignature of {key.name} has {len(signature)} bytes")
        at_s, made = int.from_bytes(signature[:8], "big"), signature[8:]
        if not 0 < at_s <= _POSIX_MAX:
            raise BadNote(f"a cosignature of {key.name} is of no time")
        if key.type == COSIGNATURE:
            Ed25519PublicKey.from_public_bytes(key.public).verify(made, _cosigned(text, at_s))
        else:
            MLDSA44PublicKey.from_public_bytes(key.public).verify(made, _subtree_cosigned(text, key.name, at_s))
    except (InvalidSignature, ValueError) as error:
        if isinstance(error, BadNote):
            raise
        raise BadNote(f"the signature of {key.name} does not fit the note: somebody changed one of both") from error
    return at_s


def _cosigned(text: str, at_s: int) -> bytes:
    return f"cosignature/v1\ntime {at_s}\n{text}".encode()


def _subtree_cosigned(text: str, name: str, at_s: int) -> bytes:
    """Lay out what an ML-DSA-44 cosignature of a checkpoint signs: the three lines that count, and whose it is."""
    origin, size, root = text.split("\n")[:3]
    names = [bytes([len(each.encode())]) + each.encode() for each in (name, origin)]
    numbers = [number.to_bytes(8, "big") for number in (at_s, 0, int(size))]
    return b"".join([b"subtree/v1\n\x00", names[0], numbers[0], names[1], *numbers[1:], b64decode(root, validate=True)])


def _split_key(text: str) -> tuple[str, str, bytes]:
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    try:
        content = b64decode(encoded, validate=True)
    except (BadBase64, ValueError):
        content = b""
    if not re.fullmatch("[0-9a-f]{8}", key_id) or len(content) < 2:
        raise BadNote("a key is written as <name>+<8 hex digits>+<Base64>")
    return check_name(name), key_id, content


def _parse_signature(line: str) -> Signature:
    match = _signature_line.fullmatch(line)
    try:
        held = b64decode(match[2], validate=True) if match else b""
    except (BadBase64, ValueError):
        held = b""
    if match is None or len(held) <= _ID_BYTES or "+" in match[1]:
        raise BadNote("a line of a note's signatures is none")
    return Signature(match[1], held[:_ID_BYTES], held[_ID_BYTES:])
