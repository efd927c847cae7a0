"""What is to be logged: a partition's events behind its cursor, first from segments of the archive, then the stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

from ledger import keys
from ledger.chain import GENESIS
from ledger.events import SCHEMA, HistoryLost, decode_event, tag_of
from ledger.log.append import pairs
from ledger.log.reader import SID_BYTES, Entry, is_foreign, read_raw
from ledger.store.interface import Store
from ledger.transparency.entries import KINDS
from ledger.transparency.state_tree import Record
from projections.archive.catalog import Archive
from projections.archive.errors import ArchiveNotGiven
from projections.archive.format import place
from projections.archive.record import Record as ArchiveRecord
from projections.archive.record import read_record

PAGE: Final = 1000
_FIELDS: Final = [b"sid", b"seq", b"at", b"schema", b"event", b"hash", b"prev"]
_LOST: Final = KINDS["history_lost"]
_FIXARRAY: Final = 0x90
_FIXSTR: Final = 0xA0


class Row(NamedTuple):
    """An event as it is stored, not read any further than logging needs; `seq` and the rest are as their bytes are."""

    id: str
    sid: bytes
    seq: int
    at: bytes
    schema: bytes
    raw: bytes
    hash: bytes
    prev: bytes


class Foreign(NamedTuple):
    """A stream entry that is no event, or whose session cannot be read."""

    id: str
    what: str


_HEADS: Final = {bytes([_FIXSTR | len(tag)]) + tag.encode(): kind for tag, kind in KINDS.items() if len(tag) < 0x20}
"""How an event's bytes go on behind its array's length, by which its kind is known without reading all of it."""


def parse(row: Sequence[Any]) -> Row | Foreign:
    """Read a stream entry."""
    held = row[1]
    try:
        if held[::2] == _FIELDS:  # PERF: as append.lua lays them out
            sid, seq, at, schema, raw, digest, prev = held[1::2]
        else:
            fields = pairs(held)
            sid, seq, at, schema, raw, digest, prev = (fields[field] for field in _FIELDS)
        if len(sid) != SID_BYTES or len(digest) != SID_BYTES:
            raise ValueError(f"a session id of {len(sid)} bytes and a hash of {len(digest)}")
        return Row(row[0].decode(), sid, int(seq), at, schema, raw, digest, prev)
    except (KeyError, ValueError) as error:
        what = "it is no event" if is_foreign(row) else f"it cannot be read: {error!r}"
        return Foreign(row[0].decode(), what)


def of_entry(entry: Entry) -> Row:
    """Take an event that a segment holds."""
    event = entry.recorded
    sid, at, schema = bytes.fromhex(event.sid), str(event.at_us).encode(), str(event.schema).encode()
    return Row(entry.id, sid, event.seq, at, schema, event.raw, event.hash, entry.prev.encode())


def kind_of(row: Row) -> int:
    """Tell an event's kind; raises UnknownEvent for what a newer version wrote, CorruptLedger."""
    raw = row.raw
    if len(raw) > 1 and raw[0] & 0xF0 == _FIXARRAY and int(row.schema) <= SCHEMA:
        kind = _HEADS.get(raw[1 : 2 + (raw[1] & 0x1F)])
        if kind is not None:
            return kind
    return KINDS[tag_of(decode_event(raw, int(row.schema)))]


def previous_of(row: Row, kind: int, known: Record | None, cut: str) -> bytes | None:
    """Tell the hash that an event must be linked to, where the log knows `known` of its session; None if it cannot.

    Behind what the log knows comes the next seq. Where the store lost what is logged, or the log never saw what was
    lost, an event that tells of the hole joins both: the hole must begin at the latest, and end at the earliest, with
    what is logged. A session of which nothing is known begins, or retention cut its beginning, up to `cut`, before it
    could be logged. Raises CorruptLedger.
    """
    seq, digest = (0, GENESIS) if known is None else (known.seq, known.hash)
    if kind == _LOST:
        lost = decode_event(row.raw, int(row.schema))
        assert isinstance(lost, HistoryLost)
        joins = lost.from_seq <= seq + 1 and lost.to_seq == row.seq - 1 and lost.to_seq >= seq
        return lost.hash if joins and (lost.to_seq > seq or lost.hash == digest) else None
    if row.seq == seq + 1:
        return digest
    if known is None and cut and row.prev and place(row.prev.decode()) <= place(cut):
        return _UNSEEN
    return None


_UNSEEN: Final = b"?"
"""Stands for the hash of an event that retention removed: what is linked to it cannot be checked."""


def is_linked(row: Row, previous: bytes) -> bool:
    """Tell whether an event's hash covers it and the hash before it."""
    return previous is _UNSEEN or sha256_of(row, previous) == row.hash


def sha256_of(row: Row, previous: bytes) -> bytes:
    """Hash an event onto its chain, as `ledger.chain.link` does, out of the bytes that are stored."""
    return sha256(b"%b%b%d %b %b %b" % (previous, row.sid, row.seq, row.at, row.schema, row.raw)).digest()


class Behind:
    """The events of partitions behind cursors."""

    def __init__(self, store: Store, archive: Archive | None) -> None:
        self._store = store
        self._archive = archive

    async def first_page(self, partition: int, cursor: str) -> tuple[ArchiveRecord, list[list[Any]]]:
        """Read how far a partition is archived, and the first entries of its stream behind a cursor."""
        record = await read_record(self._store, partition)
        name, start = keys.stream(partition), f"({cursor}" if cursor else "-"
        return record, await self._store.command("XRANGE", name, start, "+", "COUNT", PAGE, key=name)

    async def rows(
        self, partition: int, record: ArchiveRecord, first: list[list[Any]], cursor: str
    ) -> AsyncIterator[Sequence[Row | Foreign]]:
        """Read a partition's events behind a cursor, a page at a time; `record` and `first` are as `first_page` gave.

        Raises ArchiveNotGiven, and what reading segments does.
        """
        if record.floor and (not cursor or place(cursor) < place(record.floor)):
            async for page in self._archived(partition, record, cursor):
                yield page
            # What lies at or below the floor may not be trimmed yet.
            async for rows in read_raw(self._store, partition, record.floor, page=PAGE):
                yield list(map(parse, rows))
            return
        yield list(map(parse, first))
        if len(first) == PAGE:
            async for rows in read_raw(self._store, partition, first[-1][0].decode(), page=PAGE):
                yield list(map(parse, rows))

    async def _archived(self, partition: int, record: ArchiveRecord, cursor: str) -> AsyncIterator[list[Row]]:
        """Read the events behind a cursor that segments hold."""
        if self._archive is None:
            raise ArchiveNotGiven
        after = place(cursor) if cursor else (-1, -1)
        for name in await self._archive.segments(partition, record):
            if place(name.last) > after:
                async for entries in (await self._archive.open(name)).runs():
                    yield [of_entry(entry) for entry in entries if place(entry.id) > after]
