"""How a backup lies in object storage: a folder `backups/ledger-<UTC>-v<version>/` of parts and, last, a manifest.

Parts are zstd frames of JSON lines (`zstdcat` shows them). Each partition has its own, others hold what belongs to no
partition. The manifest names every part with its size, SHA-256 and how many lines of which kind it has, and proves
itself; a folder without one is no backup.

What a partition's parts hold is its past up to one stream id: the states and the ended sessions at the archive's floor
(what is older lies in segments), and every event behind it. What is beside the events (credentials, when sessions were
last seen, identity records) was read a little later, each whole; a restore takes of it what belongs to its sessions.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final, Literal

import msgspec

from ledger.errors import InvalidInput
from ledger.keys import check_name
from ledger.log.store_check import MAX_PARTITIONS
from projections.archive.record import Record
from projections.backup.errors import BadBackup, CannotRestore

FORMAT: Final = 1
FOLDER: Final = "backups/"
MANIFEST: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 256 * 1024 * 1024
_name: Final = re.compile(r"ledger-(\d{8}T\d{6}Z)-v[0-9A-Za-z.+-]{1,40}", re.ASCII)
_part: Final = re.compile(r"(p\d{3,5}|ledger|identities|catalog\d{5,7})-\d{5}\.ndjson\.zst", re.ASCII)

Key = Literal[
    "ended", "activity", "credentials", "aside", "identity", "links", "emails",
    "meta", "api-keys", "api-keys-used", "counters", "unfit-parents", "signing-keys",
    "library", "rows", "ids", "edges", "waiting", "wanted", "arrived",
    "checksums", "lines",
]  # fmt: skip
"""What the pairs of a line are: fields and values of a hash, members and scores, names and values."""


class Event(msgspec.Struct, frozen=True, array_like=True, tag="event"):
    """An entry of the stream with its id, fields and values as they lay there."""

    id: str
    fields: list[bytes]


class State(msgspec.Struct, frozen=True, array_like=True, tag="state"):
    """A session alive at the floor: the fields of its two hashes, its head; where its chain breaks, or ''."""

    sid: str
    session: dict[str, bytes]
    checkpoints: dict[str, bytes]
    head: str
    broken: str = ""


class Pairs(msgspec.Struct, frozen=True, array_like=True, tag="pairs"):
    """Some of what a key holds; `of` is whose: a user, a library or, behind a space, one of its types."""

    key: Key
    of: str
    pairs: list[tuple[bytes, bytes]]


Line = Event | State | Pairs


class Part(msgspec.Struct, frozen=True):
    """A file of a backup: `lines` counts events, states, and pairs by their key."""

    name: str
    size: int
    sha256: str
    lines: dict[str, int]


class Archived(msgspec.Struct, frozen=True):
    """How far a partition was archived: what `projections.archive.record.Record` says."""

    floor: str
    segment: str
    digest: str
    segments: int
    cut: str


class PartitionParts(msgspec.Struct, frozen=True):
    """A partition's past up to the event `last` ('' without any); a partition that holds nothing is not listed."""

    partition: int
    last: str
    archived: Archived | None
    parts: list[Part]

    @property
    def record(self) -> Record:
        """How far it was archived."""
        return Record() if self.archived is None else Record(*msgspec.structs.astuple(self.archived))


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds. `archive`: where the segments were that its partitions name; '' if none does.

    `libraries`: those whose catalogs are in it. `damage`: what could not be read. `signing_keys`: whether
    the keys that sign tokens are, encrypted.
    """

    format: int
    version: str
    created: str
    partitions: int
    archive: str
    events: int
    libraries: list[str]
    signing_keys: bool
    held: list[PartitionParts]
    others: list[Part]
    damage: list[str] = []

    @property
    def parts(self) -> list[Part]:
        """All files."""
        return [part for held in self.held for part in held.parts] + self.others


class _Envelope(msgspec.Struct, frozen=True):
    format: int
    sha256: str
    manifest: msgspec.Raw


_envelope: Final = msgspec.json.Decoder(_Envelope)
_manifest: Final = msgspec.json.Decoder(Manifest)


def backup_name(created: str, version: str) -> str:
    """Name a backup; `created` is like 20260102T030405Z."""
    return f"ledger-{created}-v{version}"


def created_of(name: str) -> str | None:
    """Tell from a backup's name when it was begun, like 20260102T030405Z; None if it is no such name."""
    match = _name.fullmatch(name)
    return None if match is None else match[1]


def pack_manifest(manifest: Manifest) -> bytes:
    """Lay a manifest out with its own digest."""
    body = msgspec.json.encode(manifest)
    return msgspec.json.encode(_Envelope(manifest.format, sha256(body).hexdigest(), msgspec.Raw(body)))


def read_manifest(name: str, packed: bytes) -> Manifest:
    """Read a manifest; raises BadBackup, CannotRestore for a newer format."""
    try:
        envelope = _envelope.decode(packed)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBackup(name, f"it cannot be read: {error}") from error
    if sha256(envelope.manifest).hexdigest() != envelope.sha256:
        raise BadBackup(name, "it does not match its digest")
    if envelope.format != FORMAT:
        raise CannotRestore(f"{name}: the backup has format {envelope.format}, this version reads {FORMAT}: upgrade")
    try:
        manifest = _manifest.decode(envelope.manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBackup(name, f"it cannot be read: {error}") from error
    _check(name, manifest)
    return manifest


def _check(name: str, manifest: Manifest) -> None:
    """Check what a restore would build keys and file names of; raises BadBackup."""
    for part in manifest.parts:
        if not _part.fullmatch(part.name):
            raise BadBackup(name, f"it names a file {part.name!r}, which is none of a backup")
    numbers = [held.partition for held in manifest.held]
    in_range = all(0 <= number < manifest.partitions for number in numbers)
    if not 1 <= manifest.partitions <= MAX_PARTITIONS or len(set(numbers)) != len(numbers) or not in_range:
        raise BadBackup(name, "its partitions are not those of one ledger")
    try:
        for library in manifest.libraries:
            check_name("library", library)
    except InvalidInput:
        raise BadBackup(name, "it names a library that cannot be one") from None
