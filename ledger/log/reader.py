"""Reading the log: a partition forwards, a session backwards along its chain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ledger import keys
from ledger.errors import CorruptLedger
from ledger.events import Recorded, decode_event
from ledger.log.append import MARK_EVERY, pairs
from ledger.store.interface import Script, Store

PAGE: Final = 500
"""Entries per read: about 100 KB."""
PAGE_BYTES: Final = 256 * 1024
"""At how many bytes of events a page ends early; one event always comes, however long an earlier version made it."""
ANY_SEQ: Final = 2**53
MOST_ROWS: Final = 128
"""Entries of a partition per read, at most: of the longest that earlier versions wrote these have 33 MB."""
FIRST_ROWS: Final = 16
_EVENT: Final = 9  # where an entry's fields and values have the event, as append.lua lays them out
_BELOW_FLOOR: Final = 1
_LOST: Final = 2
_ODD: Final = 3
_FAR: Final = 4
_FULL: Final = 5
_PARTS: Final = 8
SID_BYTES: Final = 32
_FIELDS: Final = [b"sid", b"seq", b"at", b"schema", b"event", b"hash", b"prev"]
_WALK: Final = Script.load("ledger.log", "walk.lua")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event where it lies: its stream id, the event, and the stream id of the session's previous one or ''."""

    id: str
    recorded: Recorded
    prev: str


class Walk(NamedTuple):
    """A page of a session's history, newest first. It ends early before an event that is missing or cannot be read.

    `below_floor`: what is older is not in the stream any more but in the archive, its newest event at `next_id`.
    `full`: it ends before it has as many as were wanted, since these have enough bytes; older ones may follow.
    """

    entries: list[Entry]
    below_floor: bool
    next_id: str = ""
    full: bool = False


async def read_partition(
    store: Store, partition: int, after: str = "-", until: str = "+", page: int = PAGE
) -> AsyncIterator[list[Entry]]:
    """Read a partition's entries in stream order, a page at a time, behind the stream id `after` up to `until`.

    A page has up to `page` entries, at most MOST_ROWS, and about PAGE_BYTES behind the first that has more.
    """
    async for rows in read_raw(store, partition, after, until, page):
        yield [parse_entry(row) for row in rows]


async def read_raw(
    store: Store, partition: int, after: str = "-", until: str = "+", page: int = PAGE
) -> AsyncIterator[list[list[Any]]]:
    """Read a partition as `read_partition` does, without looking into the entries."""
    name = keys.stream(partition)
    start = after if after == "-" else f"({after}"
    most = min(page, MOST_ROWS)
    count = min(most, FIRST_ROWS)
    while True:
        rows = await store.command("XRANGE", name, start, until, "COUNT", count, key=name)
        if rows:
            yield rows
        if len(rows) < count:
            return
        longest = max(len(row[1][_EVENT]) if len(row[1]) > _EVENT else 0 for row in rows)
        # PERF: a script that stops in time costs the server five times as much.
        count = max(1, min(most, 2 * count, PAGE_BYTES // (longest + 1)))
        start = f"({rows[-1][0].decode()}"


async def last_id(store: Store, partition: int) -> str | None:
    """Tell the stream id of a partition's newest entry; None while it has none."""
    name = keys.stream(partition)
    rows = await store.command("XREVRANGE", name, "+", "-", "COUNT", 1, key=name)
    return rows[0][0].decode() if rows else None


async def walk(
    store: Store,
    partition: int,
    sid: str,
    *,
    top_seq: int = ANY_SEQ,
    top_at_us: int = ANY_SEQ,
    count: int = 100,
    page_bytes: int = PAGE_BYTES,
) -> Walk | None:
    """Read up to `count` events of a session from seq `top_seq` and time `top_at_us` backwards; None if unknown.

    Fewer where they have `page_bytes`; the page is `full` then.
    Raises CorruptLedger where the first of them, or what leads to it, is missing though it was never archived, and
    where no marks lead near it.
    """
    args = (sid, top_seq, top_at_us, count, MARK_EVERY, page_bytes)
    reply = await store.script(_WALK, _walk_keys(partition, sid), args)
    if not reply:
        return None
    rows, end, at = reply
    if end == _LOST and not rows:
        lost = at.decode()
        raise CorruptLedger(f"event {lost} is missing, though it was never archived", sid=sid, id=lost)
    if end == _ODD and not rows:
        odd = at.decode()
        raise CorruptLedger(f"stream entry {odd} cannot be read: it is no event", sid=sid, id=odd)
    if end == _FAR:
        raise CorruptLedger(f"no marks lead to event {at.decode()}: syncledger rebuild --session makes them", sid=sid)
    entries = [_entry(rows[part], rows[part + 1 : part + 8]) for part in range(0, len(rows), _PARTS)]
    below_floor = end == _BELOW_FLOOR
    return Walk(entries, below_floor, at.decode() if below_floor else "", end == _FULL)


def size_of(entries: Iterable[Entry]) -> int:
    """Tell how many bytes of events these are."""
    return sum(len(entry.recorded.raw) for entry in entries)


def _walk_keys(partition: int, sid: str) -> tuple[bytes, ...]:
    return (
        keys.stream(partition),
        keys.session(partition, sid),
        keys.ended(partition),
        keys.archive(partition),
        keys.marks(partition, sid),
    )


def parse_entry(row: Sequence[Any]) -> Entry:
    """Read one stream entry; raises CorruptLedger naming its stream id."""
    held = row[1]
    if held[::2] == _FIELDS:  # PERF: as append.lua lays them out
        return _entry(row[0], held[1::2])
    try:
        fields = pairs(held)
        values = [fields[field] for field in _FIELDS]
    except (KeyError, ValueError) as error:
        raise _unreadable(row[0].decode(), error) from error
    return _entry(row[0], values)


def _entry(name: bytes, values: Sequence[bytes]) -> Entry:
    """Make an entry of its stream id and the values of its fields; raises CorruptLedger naming it."""
    stream_id = name.decode()
    try:
        sid, seq, at_us, schema, raw, digest, prev = values
        if len(sid) != SID_BYTES:
            raise ValueError(f"a session id of {len(sid)} bytes")
        event = decode_event(raw, int(schema))
        recorded = Recorded(sid.hex(), int(seq), int(at_us), int(schema), event, raw, digest)
        return Entry(stream_id, recorded, prev.decode())
    except ValueError as error:
        raise _unreadable(stream_id, error) from error
    except CorruptLedger as error:
        error.add_note(f"stream entry {stream_id}")
        error.details.setdefault("id", stream_id)
        raise


def sid_bytes(row: Sequence[Any]) -> bytes:
    """Read whose event a stream entry is, as far as that can be read."""
    fields = row[1]
    sid = fields[1] if fields[:1] == [b"sid"] else pairs(fields).get(b"sid", b"")
    return bytes(sid)


def is_foreign(row: Sequence[Any]) -> bool:
    """Tell whether a stream entry has nothing of an event: somebody else put it there."""
    return not set(_FIELDS) & set(row[1][::2])


def _unreadable(stream_id: str, error: Exception) -> CorruptLedger:
    return CorruptLedger(f"stream entry {stream_id} cannot be read: {error!r}", id=stream_id)
