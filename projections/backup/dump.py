"""Reading a ledger for a backup while it is in use.

A partition's events are read from the archive's floor up to the one that was the newest at the start; that the floor
did not move meanwhile is looked at afterwards, because then some may have been trimmed before they were read. All of a
user's sessions are in one partition, so no user is split. What is damaged is named, and all else is read.

A catalog is taken as it lies if it was not written to meanwhile. One that is has its rows read up to the last one, then
what is behind it, until at one instant nothing is: of an entity that comes twice the later row counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from ledger import keys
from ledger.chain import Tip, broken_link
from ledger.errors import CorruptLedger, StoreReplyError
from ledger.log.append import pairs, parse_ended
from ledger.log.reader import last_id, parse_entry, read_raw, sid_bytes
from ledger.log.state_fields import Fields
from ledger.log.stored_sessions import text_of
from ledger.log.whole import is_whole
from ledger.store.interface import Scan, Script, Store, scan, scan_keys
from projections.archive.catalog import Archive
from projections.archive.format import StateLine, place
from projections.archive.record import Record, read_record
from projections.backup.errors import CannotBackUp
from projections.backup.format import Archived, Event, Key, Line, Pairs, State
from projections.entities.catalog.layout import WAITS_US
from projections.entities.forms import FORMS
from projections.entities.lines import export_line

NAMED: Final = 20
"""How many things that are damaged are named of each partition, and of all that belongs to none."""
PASSES: Final = 30
"""How often it is read what was written behind the last read; each time that is less, unless writing is as fast."""
_REST: Final = Script.load("projections.backup", "rest.lua", allow_oom=True)  # it only reads
_REST_ROWS: Final = 500
ROWS: Final = 100
"""Rows in a line: also of the longest ones, in Base64, a line is no longer than a reader takes (MAX_LINE_BYTES)."""
_HELD_BY_JOBS: Final = (b"restoring", b"proof_lease", b"proof_leased_until_ms")

Lines = AsyncIterator[Sequence[Line]]


class PartitionDump:
    """One partition up to what was its newest event when this was opened; `is_still_so` tells if that was read.

    `damage` names what could not be read, or does not prove itself.
    """

    def __init__(
        self, store: Store, archive: Archive | None, partition: int, record: Record, last: str, *, whole: bool
    ) -> None:
        self.last = last
        self.record = record
        self.damage: list[str] = []
        self._whole = whole
        self._store = store
        self._archive = archive
        self._partition = partition

    @classmethod
    async def open(cls, store: Store, archive: Archive | None, partition: int) -> PartitionDump:
        """Look how far a partition is; raises CannotBackUp where its past is in an archive that is not given."""
        whole, record = await is_whole(store, partition), await read_record(store, partition)
        if record.floor and archive is None:
            raise CannotBackUp(
                f"Events of partition {partition} up to {record.floor} are in the archive: set LEDGER_ARCHIVE"
            )
        last = await last_id(store, partition) or record.floor
        return cls(store, archive, partition, record, last, whole=whole)

    @property
    def archived(self) -> Archived | None:
        """How far it is archived."""
        return Archived(*self.record) if self.record.floor else None

    async def lines(self) -> Lines:
        """Read it: what was at the floor, the events behind it, then what is beside them, without what is damaged."""
        self.damage = [] if self._whole else ["it is not whole: run syncledger rebuild"]
        chains, floor = Chains(), self.record.floor
        sections: list[tuple[str, Lines]] = []
        if floor:
            sections += [("states", self._states(chains)), ("ended sessions", self._ended())]
        if self.last and self.last != floor:
            sections.append(("events", self._events(chains)))
        credentials, aside = keys.credentials(self._partition), keys.aside(self._partition)
        sections += [
            ("activity", self._activity(chains)),
            ("credentials", self._pairs("credentials", credentials)),
            ("entries set aside", self._pairs("aside", aside)),
        ]
        for what, section in sections:
            try:
                async for lines in section:
                    yield lines
            except (CorruptLedger, StoreReplyError) as error:
                self.damage.append(f"its {what} cannot be read: {error}")
        self.damage += chains.told()

    async def _states(self, chains: Chains) -> Lines:
        if self._archive is None:
            return
        async for states in (await self._archive.newest_of(self.record)).states():
            chains.begin(states)
            yield [State(line.sid, line.session, line.checkpoints, line.head, line.broken) for line in states]

    async def _ended(self) -> Lines:
        async for rows in scan(self._store, "HSCAN", keys.ended(self._partition)):
            old = []
            for sid, kept in rows:
                try:
                    if place(parse_ended(kept).head) <= place(self.record.floor):
                        old.append((sid, kept))
                except (CorruptLedger, ValueError) as error:
                    self.damage.append(f"session {text_of(sid)}: {error}")
            yield [Pairs("ended", "", old)] if old else []

    async def _events(self, chains: Chains) -> Lines:
        async for entries in read_raw(self._store, self._partition, self.record.floor or "-", self.last):
            for row in entries:
                chains.add(row)
            yield [Event(entry_id.decode(), fields) for entry_id, fields in entries]

    async def _activity(self, chains: Chains) -> Lines:
        """Read when sessions were last seen, and see whether their last events are those that were read."""
        async for rows in scan(self._store, "ZSCAN", keys.activity(self._partition)):
            names = [keys.session(self._partition, text_of(sid)) for sid, _ in rows]
            heads = await asyncio.gather(
                *(self._store.command("HMGET", name, "head", "hash", key=name) for name in names),
                return_exceptions=True,
            )
            for (sid, _), found in zip(rows, heads, strict=True):
                if isinstance(found, StoreReplyError):
                    self.damage.append(f"session {text_of(sid)}: {found}")
                elif isinstance(found, BaseException):
                    raise found
                elif found[0] and place(found[0].decode()) <= place(self.last):
                    chains.end(text_of(sid), found[0].decode(), found[1])
            yield [Pairs("activity", "", rows)]

    async def _pairs(self, key: Key, name: bytes) -> Lines:
        async for rows in scan(self._store, "HSCAN", name):
            yield [Pairs(key, "", rows)]

    async def is_still_so(self) -> bool:
        """Tell whether nothing was archived since, and no projections were lost."""
        record = await read_record(self._store, self._partition)
        return record == self.record and await is_whole(self._store, self._partition) == self._whole


class Chains:
    """Follows the chains of a partition's sessions, to name events that do not prove themselves."""

    def __init__(self) -> None:
        self._tips: dict[str, Tip] = {}
        self._broken: dict[str, str] = {}

    def begin(self, states: Sequence[StateLine]) -> None:
        """Begin chains in their middle."""
        for line in states:
            if line.broken:
                self._broken.setdefault(line.sid, line.broken)
            else:
                self._tips[line.sid] = Tip(int(line.session["seq"]), line.session["hash"], line.head)

    def add(self, row: Sequence[Any]) -> None:
        """Follow a chain by an event as it lies in the stream."""
        try:
            entry = parse_entry(row)
        except CorruptLedger as error:
            self._broken.setdefault(sid_bytes(row).hex(), f"{row[0].decode()}: {error}")
            return
        recorded = entry.recorded
        tip = self._tips.get(recorded.sid)
        is_beginning = tip is None and recorded.seq > 1 and entry.prev != ""  # what came before is gone
        if not is_beginning and (wrong := broken_link(recorded, entry.prev, *(tip or Tip()))):
            self._broken.setdefault(recorded.sid, f"{entry.id}: {wrong}")
        self._tips[recorded.sid] = Tip(recorded.seq, recorded.hash, entry.id)

    def end(self, sid: str, head: str, hashed: bytes) -> None:
        """See whether the last event that a session knows of is the last that was read."""
        if (tip := self._tips.get(sid)) is None or tip.hash != hashed:
            self._broken.setdefault(sid, f"{head} is not the last that was read")

    def told(self) -> list[str]:
        """Name the sessions whose chains are broken, the first of many."""
        told = [
            f"session {sid or '?'}: its events are not whole at {where}"
            for sid, where in list(self._broken.items())[:NAMED]
        ]
        more = len(self._broken) - len(told)
        return [*told, f"… and {more:,} sessions more"] if more else told


async def identity_lines(store: Store, damage: list[str]) -> Lines:
    """Read the identity records of all users, and then which user has which identity and e-mail address.

    In this order, so that whoever is named there has a record here or signed in only now. What cannot be read is
    named in `damage`.
    """
    async for names in scan_keys(store, "{p*}:identity:*"):
        records = await _read_all(store, "HGETALL", names, damage)
        yield [
            Pairs("identity", name.partition(b"}:identity:")[2].decode(), list(pairs(record).items()))
            for name, record in zip(names, records, strict=True)
            if record
        ]
    claims: tuple[tuple[Key, str], ...] = (("links", "ledger:identity:"), ("emails", "ledger:email:"))
    for key, prefix in claims:
        async for names in scan_keys(store, prefix + "*"):
            values = await _read_all(store, "GET", names, damage)
            held = [(name[len(prefix) :], value) for name, value in zip(names, values, strict=True) if value]
            yield [Pairs(key, "", held)] if held else []


async def _read_all(store: Store, command: str, names: Sequence[bytes], damage: list[str]) -> list[Any]:
    """Read keys; None for those that are of another type, which are named."""
    replies = await asyncio.gather(*(store.command(command, name, key=name) for name in names), return_exceptions=True)
    found: list[Any] = []
    for name, reply in zip(names, replies, strict=True):
        if isinstance(reply, StoreReplyError) and len(damage) <= NAMED:
            damage.append(f"{text_of(name)} cannot be read: {reply}")
        elif isinstance(reply, BaseException) and not isinstance(reply, StoreReplyError):
            raise reply
        found.append(None if isinstance(reply, StoreReplyError) else reply)
    return found


async def ledger_lines(store: Store, damage: list[str]) -> Lines:
    """Read what belongs to the ledger as a whole: what it says of itself, API keys, counters.

    What cannot be read is named in `damage`.
    """
    names: tuple[tuple[Key, bytes], ...] = (
        ("meta", keys.meta()),
        ("api-keys", keys.api_keys()),
        ("api-keys-used", keys.api_keys_used()),
        ("counters", keys.counters()),
        ("unfit-parents", keys.unfit_parents()),
    )
    for key, name in names:
        (flat,) = await _read_all(store, "HGETALL", [name], damage)
        if held := list(pairs(flat or []).items()):
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


async def live_lines(store: Store, library: str) -> Lines:
    """Read the rows of a library that is written to, as lines that `import` reads; an entity's later rows come later.

    Raises CannotBackUp if it is written to as fast as it can be read.
    """
    low, rows = 0, [keys.catalog_rows(library, stored) for form in FORMS for _, stored in form.variants]
    meta = keys.catalog_meta(library)
    for _ in range(PASSES):
        high = int(await store.command("HGET", meta, "last", key=meta) or 0)
        for name in rows:
            for above in (WAITS_US, 0):  # what waits may be let go meanwhile: then it comes again behind the last row
                async for page in _rows(store, name, above + low, above + high):
                    yield [Pairs("lines", library, [(b"", export_line(line)) for line, _ in page])]
        low = high
        whole, *flat = await store.script(_REST, (meta, *rows), (low, WAITS_US, _REST_ROWS))
        if whole:
            rest = sorted(zip(flat[::2], flat[1::2], strict=True), key=lambda pair: int(pair[1]) % WAITS_US)
            for start in range(0, len(rest), ROWS):
                yield [Pairs("lines", library, [(b"", export_line(line)) for line, _ in rest[start : start + ROWS]])]
            return
    raise CannotBackUp(f"Library {library} is written to as fast as it can be read: pause that")


async def _catalog_meta(store: Store, library: str) -> Fields:
    name = keys.catalog_meta(library)
    return pairs(await store.command("HGETALL", name, key=name))


async def _rows(
    store: Store, name: bytes, low: int | None = None, high: int | None = None
) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """Read a sorted set of stamps in their order, so that what is restored of it grows at its end.

    With bounds from above `low` up to `high`.
    """
    after, until = "-inf" if low is None else f"({low}", "+inf" if high is None else str(high)
    while True:
        flat: list[Any] = await store.command(
            "ZRANGE", name, after, until, "BYSCORE", "LIMIT", 0, ROWS, "WITHSCORES", key=name
        )
        if flat:
            yield list(zip(flat[::2], flat[1::2], strict=True))
        if len(flat) < 2 * ROWS:
            return
        after = f"({flat[-1].decode()}"
