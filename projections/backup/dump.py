"""Reading a ledger for a backup while it is in use.

A partition's events are read from the archive's floor up to the one that was the newest at the start; that the floor
did not move meanwhile is looked at afterwards, because then some may have been trimmed before they were read. All of a
user's sessions are in one partition, so no user is split. A catalog is taken only if it was not written to meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from ledger import keys
from ledger.log.append import pairs, parse_ended
from ledger.log.reader import last_id, read_raw
from ledger.log.state_fields import Fields
from ledger.log.whole import is_whole
from ledger.store.interface import Scan, Store, scan, scan_keys
from projections.archive.catalog import Archive
from projections.archive.format import place
from projections.archive.record import Record, read_record
from projections.backup.errors import CannotBackUp
from projections.backup.format import Archived, Event, Key, Line, Pairs, State
from projections.entities.forms import FORMS

ROWS: Final = 100
"""Rows in a line: also of the longest ones, in Base64, a line is no longer than a reader takes (MAX_LINE_BYTES)."""
_HELD_BY_JOBS: Final = (b"restoring",)

Lines = AsyncIterator[Sequence[Line]]


class PartitionDump:
    """One partition up to what was its newest event when this was opened; `is_still_so` tells if that was read."""

    def __init__(self, store: Store, archive: Archive | None, partition: int, record: Record, last: str) -> None:
        self.last = last
        self.record = record
        self._store = store
        self._archive = archive
        self._partition = partition

    @classmethod
    async def open(cls, store: Store, archive: Archive | None, partition: int) -> PartitionDump:
        """Look how far a partition is; raises CannotBackUp for one that has not all its projections."""
        if not await is_whole(store, partition):
            raise CannotBackUp(f"Partition {partition} is not whole: run syncledger rebuild first")
        record = await read_record(store, partition)
        if record.floor and archive is None:
            raise CannotBackUp(
                f"Events of partition {partition} up to {record.floor} are in the archive: set LEDGER_ARCHIVE"
            )
        return cls(store, archive, partition, record, await last_id(store, partition) or record.floor)

    @property
    def archived(self) -> Archived | None:
        """How far it is archived."""
        return Archived(*self.record) if self.record.floor else None

    async def lines(self) -> Lines:
        """Read it: what was at the floor, the events behind it, then what is beside them."""
        floor = self.record.floor
        if floor and self._archive is not None:
            async for states in (await self._archive.newest_of(self.record)).states():
                yield [State(line.sid, line.session, line.checkpoints, line.head, line.broken) for line in states]
            async for rows in scan(self._store, "HSCAN", keys.ended(self._partition)):
                old = [row for row in rows if place(parse_ended(row[1]).head) <= place(floor)]
                yield [Pairs("ended", "", old)] if old else []
        if self.last and self.last != floor:
            async for entries in read_raw(self._store, self._partition, floor or "-", self.last):
                yield [Event(entry_id.decode(), fields) for entry_id, fields in entries]
        names: tuple[tuple[Key, Scan, bytes], ...] = (
            ("activity", "ZSCAN", keys.activity(self._partition)),
            ("credentials", "HSCAN", keys.credentials(self._partition)),
            ("aside", "HSCAN", keys.aside(self._partition)),
        )
        for key, command, name in names:
            async for rows in scan(self._store, command, name):
                yield [Pairs(key, "", rows)]

    async def is_still_so(self) -> bool:
        """Tell whether nothing was archived since, and no projections were lost."""
        record = await read_record(self._store, self._partition)
        return record == self.record and await is_whole(self._store, self._partition)


async def identity_lines(store: Store) -> Lines:
    """Read the identity records of all users, and then which user has which identity and e-mail address.

    In this order, so that whoever is named there has a record here or signed in only now.
    """
    async for names in scan_keys(store, "{p*}:identity:*"):
        records = await asyncio.gather(*(store.command("HGETALL", name, key=name) for name in names))
        yield [
            Pairs("identity", name.partition(b"}:identity:")[2].decode(), list(pairs(record).items()))
            for name, record in zip(names, records, strict=True)
            if record
        ]
    claims: tuple[tuple[Key, str], ...] = (("links", "ledger:identity:"), ("emails", "ledger:email:"))
    for key, prefix in claims:
        async for names in scan_keys(store, prefix + "*"):
            values = await asyncio.gather(*(store.command("GET", name, key=name) for name in names))
            held = [(name[len(prefix) :], value) for name, value in zip(names, values, strict=True) if value]
            yield [Pairs(key, "", held)] if held else []


async def ledger_lines(store: Store) -> Lines:
    """Read what belongs to the ledger as a whole: what it says of itself, API keys, counters."""
    names: tuple[tuple[Key, bytes], ...] = (
        ("meta", keys.meta()),
        ("api-keys", keys.api_keys()),
        ("api-keys-used", keys.api_keys_used()),
        ("counters", keys.counters()),
        ("unfit-parents", keys.unfit_parents()),
    )
    for key, name in names:
        held = list(pairs(await store.command("HGETALL", name, key=name)).items())
        if held:
            yield [Pairs(key, "", [pair for pair in held if pair[0] not in _HELD_BY_JOBS])]


async def libraries_of(store: Store) -> list[str]:
    """List the libraries that have a catalog."""
    name = keys.catalog_libraries()
    return sorted(library.decode() for library in await store.command("SMEMBERS", name, key=name))


class CatalogDump:
    """One library's catalog; it counts if the library was not written to between `open` and `is_still_so`."""

    def __init__(self, store: Store, library: str, meta: Fields) -> None:
        self._store = store
        self._library = library
        self._meta = meta

    @classmethod
    async def open(cls, store: Store, library: str) -> CatalogDump:
        """Note which write was a library's last."""
        return cls(store, library, await _catalog_meta(store, library))

    async def lines(self) -> Lines:
        """Read it: the rows of each type, the ids of each form, edges, what waits; at last what it says of itself."""
        for form in FORMS:
            for _, stored in form.variants:
                name = keys.catalog_rows(self._library, stored)
                async for rows in _rows(self._store, name):
                    yield [Pairs("rows", f"{self._library} {stored}", rows)]
            async for rows in scan(self._store, "HSCAN", keys.catalog_ids(self._library, form.name)):
                yield [Pairs("ids", f"{self._library} {form.name}", rows)]
        others: tuple[tuple[Key, Scan, bytes], ...] = (
            ("edges", "ZSCAN", keys.catalog_edges(self._library)),
            ("waiting", "HSCAN", keys.catalog_waiting(self._library)),
            ("wanted", "ZSCAN", keys.catalog_wanted(self._library)),
            ("arrived", "ZSCAN", keys.catalog_arrived(self._library)),
            ("checksums", "ZSCAN", keys.catalog_checksums(self._library)),
        )
        for key, command, name in others:
            async for rows in scan(self._store, command, name):
                yield [Pairs(key, self._library, rows)]
        if self._meta:
            yield [Pairs("library", self._library, list(self._meta.items()))]

    async def is_still_so(self) -> bool:
        """Tell whether nobody wrote to the library since: each write gives a stamp, each purge raises the floor."""
        return await _catalog_meta(self._store, self._library) == self._meta


async def _catalog_meta(store: Store, library: str) -> Fields:
    name = keys.catalog_meta(library)
    return pairs(await store.command("HGETALL", name, key=name))


async def _rows(store: Store, name: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """Read a sorted set of stamps in their order, so that what is restored of it grows at its end."""
    after = "-inf"
    while True:
        flat: list[Any] = await store.command(
            "ZRANGE", name, after, "+inf", "BYSCORE", "LIMIT", 0, ROWS, "WITHSCORES", key=name
        )
        if flat:
            yield list(zip(flat[::2], flat[1::2], strict=True))
        if len(flat) < 2 * ROWS:
            return
        after = f"({flat[-1].decode()}"
