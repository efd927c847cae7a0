"""Every key of the ledger, in one place.

All that belongs to a user carries the hash tag `{p<N>}` of the user's partition, all of a library's catalog the tag
`{l<library>}`: on a cluster each write is one script in one slot. No key has a time to live.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from ledger.errors import InvalidInput

MAX_NAME_BYTES: Final = 128
LIMITS: Final = "ledger:limits"
"""What the keys of limits begin with, which the `limits` library makes, with a time to live."""
_FORBIDDEN: Final = frozenset('{}|"\\')


def check_name(field: str, value: str) -> str:
    """Return a user or library id that keys can carry; raises InvalidInput naming `field`."""
    problem = ""
    if not 1 <= len(value.encode("utf-8", "replace")) <= MAX_NAME_BYTES:
        problem = f"must have 1 to {MAX_NAME_BYTES} bytes"
    elif not value.isprintable() or any(char.isspace() or char in _FORBIDDEN for char in value):
        problem = 'must not hold spaces, control characters or any of { } | " \\'
    if problem:
        raise InvalidInput([((field,), problem)])
    return value


def partition_of(user: str, partitions: int) -> int:
    """Tell the partition a user belongs to: CRC-32 of the id, modulo the count fixed at creation."""
    return crc32(user.encode()) % partitions


def meta() -> bytes:
    """Hash: format version, partition count, when the ledger was created."""
    return b"ledger:meta"


def api_keys() -> bytes:
    """Hash: id of an API key (the start of its SHA-256) -> its hash, name, scopes and dates."""
    return b"ledger:api-keys"


def api_keys_used() -> bytes:
    """Hash: id of an API key -> when it was last used, in ms, noted now and then."""
    return b"ledger:api-keys-used"


def console_sessions() -> bytes:
    """Hash: SHA-256 of the secret in a browser's cookie -> until when it is signed in at the console, and who it is."""
    return b"ledger:console-sessions"


def console_links() -> bytes:
    """Hash: SHA-256 of the secret of a one-time link -> until when it signs in at the console, and as whom."""
    return b"ledger:console-links"


def counters() -> bytes:
    """Hash: name and labels of a counter -> how often it was counted, by all workers ever."""
    return b"ledger:counters"


def census() -> bytes:
    """Hash: a figure of the whole ledger and its labels -> its number, as it was last counted."""
    return b"ledger:census"


def census_devices() -> bytes:
    """Hash: partition -> how far its devices were when they were last looked at; `next`: whose turn it is."""
    return b"ledger:census-devices"


def rates() -> bytes:
    """Hash: `<length in s>:<number of a slot>` -> when it began, in s, and what all workers counted in it."""
    return b"ledger:rates"


def unfit_parents() -> bytes:
    """Hash: `<table>|<id>` of a source's row that no device could read while one passed by what refers to it -> `1`."""
    return b"ledger:unfit-parents"


def watched() -> bytes:
    """Value: up to which horizon of the source it was told who has something new, in µs."""
    return b"ledger:watched"


def origins() -> bytes:
    """Hash: what the source is and was: `newest` number; `record:`, `since:` (µs), `written:` a number; `pending`."""
    return b"ledger:origins"


def claim_conflicts() -> bytes:
    """Hash: a user -> another one, whom the claim of the former's identity names."""
    return b"ledger:claim-conflicts"


def unknown_types() -> bytes:
    """Hash: a type of the protocol that apps asked for and nobody here knows -> when they last did, in µs."""
    return b"ledger:unknown-types"


def feed_names() -> bytes:
    """Hash: name of a reader of the feed -> when it was moved on in µs, a space, where it stands."""
    return b"ledger:feed-names"


def gone() -> bytes:
    """Hash: living session that is gone at the service that admits it -> since when that was seen, in ms.

    Beside them `tables`: which tables that was seen in; `looked`: when they were last looked at, in ms.
    """
    return b"ledger:gone"


def identity_link(digest: str) -> bytes:
    """Value: the user of an identity, a space, the token it is held under.

    `digest` is SHA-256 hex of issuer, a zero byte and subject.
    """
    return b"ledger:identity:%b" % digest.encode()


def email(digest: str) -> bytes:
    """Value: the user an e-mail address belongs to, a space, the token it is held under.

    `digest` is SHA-256 hex of the address in lower case.
    """
    return b"ledger:email:%b" % digest.encode()


def stream(partition: int) -> bytes:
    """Stream: the events of a partition."""
    return b"{p%d}:stream" % partition


def session(partition: int, sid: str) -> bytes:
    """Hash: the current state of a living session, and the head of its chain."""
    return b"{p%d}:session:%b" % (partition, sid.encode())


def checkpoints(partition: int, sid: str) -> bytes:
    """Hash: entity type -> the position a living session acknowledged, and when."""
    return b"{p%d}:checkpoints:%b" % (partition, sid.encode())


def marks(partition: int, sid: str) -> bytes:
    """List: stream ids of every n-th event of a session above the archive's floor, oldest first."""
    return b"{p%d}:marks:%b" % (partition, sid.encode())


def milestones(partition: int) -> bytes:
    """Hash: `<session>:<m>` -> the session's state at about its event m * 2048 (`ledger/log/milestones.py`)."""
    return b"{p%d}:milestones" % partition


def sent(partition: int, sid: str) -> bytes:
    """List: what a session's last sync streams sent and how each ended, newest first (`projections.sent`)."""
    return b"{p%d}:sent:%b" % (partition, sid.encode())


def ended(partition: int) -> bytes:
    """Hash: session id -> head, last seq, hash and user of an ended session. Channel: the ids of those that end."""
    return b"{p%d}:ended" % partition


def activity(partition: int) -> bytes:
    """Sorted set: living session ids by the last request seen, in ms, at most hourly."""
    return b"{p%d}:activity" % partition


def order(partition: int) -> bytes:
    """Sorted set: living sessions by who needs help first (`ledger.log.order`)."""
    return b"{p%d}:order" % partition


def sids(partition: int) -> bytes:
    """Sorted set without scores: the ids of all sessions, living and ended; `@filled` once all of them are there."""
    return b"{p%d}:sids" % partition


def due(partition: int) -> bytes:
    """Sorted set: living sessions that are over by themselves, by when, in ms; beside them when all are looked at."""
    return b"{p%d}:due" % partition


def ending(partition: int) -> bytes:
    """Hash: session that has ended while what belongs to it may still live -> its user."""
    return b"{p%d}:ending" % partition


def devices(partition: int, user: str) -> bytes:
    """Hash: the living sessions of a user -> the session each belongs to, or nothing."""
    return b"{p%d}:devices:%b" % (partition, user.encode())


def archive(partition: int) -> bytes:
    """Hash: how far a partition is archived, in which segments, and who is archiving it."""
    return b"{p%d}:archive" % partition


def identity(partition: int, user: str) -> bytes:
    """Hash: the identity record of a user; the only place that holds names and e-mail addresses."""
    return b"{p%d}:identity:%b" % (partition, user.encode())


def credentials(partition: int) -> bytes:
    """Hash: living session -> the secret its identity provider gave for it, encrypted."""
    return b"{p%d}:credentials" % partition


def provider_sessions(partition: int) -> bytes:
    """Sorted set without scores: `<digest of the provider's session, hex>:<living session>`, for its logout."""
    return b"{p%d}:provider-sessions" % partition


def pressed(partition: int) -> bytes:
    """Hash: living session that was asked to start over for what another service said -> by which mark of that."""
    return b"{p%d}:pressed" % partition


def whole(partition: int) -> bytes:
    """Value: `1` while the partition has all its projections; else who rebuilds or copies it, or nothing."""
    return b"{p%d}:whole" % partition


def broken(partition: int) -> bytes:
    """Hash: session that cannot be rebuilt -> where its events are damaged."""
    return b"{p%d}:broken" % partition


def aside(partition: int) -> bytes:
    """Hash: stream entry that is no event, or `<session>@<seq>` of a head given up -> what it was."""
    return b"{p%d}:aside" % partition


def barrier(partition: int) -> bytes:
    """Value of no meaning: written behind what replicas must confirm, to wait for them."""
    return b"{p%d}:barrier" % partition


def catalog_libraries() -> bytes:
    """Set: the libraries that have a catalog."""
    return b"ledger:libraries"


def catalog_meta(library: str) -> bytes:
    """Hash: last stamp given, tombstone floor; newest row and longest line of each entity type.

    Channel, of a library of any source: something was written.
    """
    return b"{l%b}:meta" % library.encode()


def catalog_rows(library: str, entity_type: str) -> bytes:
    """Sorted set: the served lines of one entity type by their stamp in µs."""
    return b"{l%b}:rows:%b" % (library.encode(), entity_type.encode())


def catalog_ids(library: str, form: str) -> bytes:
    """Hash: entity id -> which variant of the form holds it, and its stamp."""
    return b"{l%b}:ids:%b" % (library.encode(), form.encode())


def catalog_edges(library: str) -> bytes:
    """Sorted set without scores: parent -> child, for cascades."""
    return b"{l%b}:edges" % library.encode()


def catalog_waiting(library: str) -> bytes:
    """Hash: row that waits for a parent -> where it lies, a parent that is missing, all parents."""
    return b"{l%b}:waiting" % library.encode()


def catalog_wanted(library: str) -> bytes:
    """Sorted set without scores: parent -> row that refers to it and waits, for this parent or another."""
    return b"{l%b}:wanted" % library.encode()


def catalog_checksums(library: str) -> bytes:
    """Sorted set: rows whose checksum changed -> when they were last written."""
    return b"{l%b}:checksums" % library.encode()


def catalog_arrived(library: str) -> bytes:
    """Sorted set: parents that came while rows waited for them, by when; those rows are still to be looked at."""
    return b"{l%b}:arrived" % library.encode()


def held_back(library: str) -> bytes:
    """Hash: `entity type|id` of a row at Gumnut that does not fit, waits, or was mended -> why and since when.

    Beside them `#<entity type>`: how many; `@version`: changes with them; `@floor`: the tombstone floor.
    """
    return b"{l%b}:held-back" % library.encode()


def held_back_libraries() -> bytes:
    """Set: the libraries at Gumnut that ever had rows which were not sent."""
    return b"ledger:held-back"
