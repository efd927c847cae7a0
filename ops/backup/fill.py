"""Filling an empty store with what is restored; whatever is written may be written again after an interruption.

Each partition says that it is being copied until its events are all there, then that it is being rebuilt, then that it
is whole; what is beside the events is fitted to the rebuilt sessions after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import chain
from typing import Final

from ledger import keys
from ledger.errors import InvalidInput
from ledger.log import whole
from ledger.log.formats import FORMAT
from ledger.log.order import INDEXED
from ledger.log.reader import last_id
from ledger.store.interface import Arg, Script, Store, scan_keys
from projections.archive.format import place
from projections.archive.record import Record
from projections.backup.errors import BadBackup, CannotRestore
from projections.backup.format import Event, Pairs
from projections.backup.origin import Origin
from projections.entities.catalog.catalog import Catalog
from projections.entities.catalog.ingest import IngestReport, ingest
from projections.entities.forms import FORMS

_CLAIM: Final = Script.load("ops.backup", "restore_claim.lua")
_FINISH: Final = Script.load("ops.backup", "restore_finish.lua")
_FLOOR: Final = Script.load("ops.backup", "restore_floor.lua")
_BEGIN: Final = Script.load("ops.backup", "restore_begin.lua")
_COPY: Final = Script.load("ops.backup", "restore_copy.lua")
_HOLD: Final = Script.load("projections.accounts", "hold_credential.lua")
_PAGE: Final = 200
_LEFT_BEHIND: Final = 10_000
"""In a store of more keys than this nobody looks what they are."""
_OWN_META: Final = (b"format", b"partitions", b"restoring")
_ROW_TYPES: Final = {stored for form in FORMS for _, stored in form.variants}
_FORMS: Final = {form.name for form in FORMS}
_PLAIN: Final = {
    "api-keys": keys.api_keys,
    "api-keys-used": keys.api_keys_used,
    "counters": keys.counters,
    "unfit-parents": keys.unfit_parents,
}


def mark_of(origin: Origin) -> bytes:
    """Tell what partitions say while their events are being restored."""
    return whole.COPYING + origin.mark.encode()


async def claim(store: Store, origin: Origin, now_us: int) -> bool:
    """Begin a restore, or go on with it, which is told; raises CannotRestore for a store that is not empty."""
    name = keys.meta()
    restoring = await store.command("HGET", name, "restoring", key=name)
    if restoring not in (None, origin.mark.encode()):
        raise CannotRestore(
            "A restore of something else was interrupted here: run that one again, or empty the server first"
        )
    if restoring is None and (count := await _count_keys(store)):
        raise CannotRestore(f"The server is not empty, it has {count:,} keys: give another --redis or --data-dir")
    begins: list[Arg] = ["partitions", origin.partitions, "created_at_us", now_us, "whole_marked_at_us", now_us]
    begins += [INDEXED, now_us]
    if not await store.script(_CLAIM, (name,), (origin.mark, *begins)):
        raise CannotRestore("Somebody else began a ledger on this server just now")
    mark = mark_of(origin)

    async def one(partition: int, says: bytes | None) -> None:
        names = (keys.whole(partition), keys.stream(partition))
        if says is None and not await store.script(_BEGIN, names, (mark,)):
            raise CannotRestore("Somebody else began a ledger on this server just now")

    marks = await whole.read_marks(store, origin.partitions)
    await asyncio.gather(*(one(partition, says) for partition, says in enumerate(marks)))
    return restoring is not None


async def _count_keys(store: Store) -> int:
    """Count the keys of a store, without what a service leaves in one that was emptied under it."""
    count = int(sum(await store.each_primary("DBSIZE")))
    if not 0 < count <= _LEFT_BEHIND:
        return count
    meta = keys.meta()
    if await store.command("HEXISTS", meta, "partitions", key=meta):
        return count
    names = [name async for page in scan_keys(store, "*") for name in page]
    ours = (meta, keys.counters(), keys.census(), keys.census_devices(), keys.rates())
    return sum(name not in ours and not name.startswith(keys.LIMITS.encode()) for name in names)


async def finish(store: Store, origin: Origin, ledger_id: str) -> None:
    """Have the ledger be opened from now on, under the id that the backup tells, or else under this one."""
    if not await store.script(_FINISH, (keys.meta(),), (origin.mark, FORMAT, ledger_id)):
        raise CannotRestore("The restore was ended by somebody else")


async def put_record(store: Store, partition: int, record: Record) -> None:
    """Note how far a partition is archived."""
    if record.floor:
        name = keys.archive(partition)
        fields = chain.from_iterable(record._asdict().items())
        await store.command("HSET", name, *fields, key=name)
        await store.script(_FLOOR, (keys.stream(partition),), (record.floor,))


async def last_event(store: Store, partition: int) -> str:
    """Tell the last event that is there already; '' for none."""
    return await last_id(store, partition) or ""


async def put_events(store: Store, partition: int, mark: bytes, last: str, events: Sequence[Event]) -> str:
    """Append events behind `last` under their own ids, leaving out those that are there; gives the last one's id."""
    wanted = [event for event in events if not last or place(event.id) > place(last)]
    for start in range(0, len(wanted), _PAGE):
        page = wanted[start : start + _PAGE]
        args: list[Arg] = [mark, last]
        for event in page:
            args += (event.id, len(event.fields), *event.fields)
        (done,) = await store.script(_COPY, (keys.stream(partition), keys.whole(partition)), args)
        if done != 1:
            raise CannotRestore(f"Somebody else writes to partition {partition}, or restores it too")
        last = page[-1].id
    return last


async def put_beside(store: Store, partition: int, line: Pairs) -> None:
    """Write what is beside the events, for sessions that live."""
    if line.key == "activity":
        name = keys.activity(partition)
        pairs = chain.from_iterable((score, sid) for sid, score in line.pairs)
        await store.command("ZADD", name, "XX", *pairs, key=name)
    elif line.key == "aside":
        await _hset(store, keys.aside(partition), line)
    elif line.key == "credentials":
        held = keys.credentials(partition)
        for start in range(0, len(line.pairs), _PAGE):
            await asyncio.gather(
                *(
                    store.script(_HOLD, (keys.session(partition, sid.decode()), held), (sid, ciphertext, b""))
                    for sid, ciphertext in line.pairs[start : start + _PAGE]
                )
            )


async def put_rows(store: Store, line: Pairs) -> IngestReport:
    """Write rows of a library that was written to when it was saved, as an import does: they get stamps of now."""
    _name("library", line.of)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"\n".join(row for _, row in line.pairs) + b"\n"

    return await ingest(Catalog(store), line.of, chunks())


async def put_other(store: Store, partitions: int, line: Pairs) -> None:
    """Write what belongs to no partition's events; raises BadBackup for what cannot be a part of a ledger."""
    match line.key:
        case "identity":
            user = _name("user", line.of)
            await _hset(store, keys.identity(keys.partition_of(user, partitions), user), line)
        case "links" | "emails":
            await asyncio.gather(*(_put_claim(store, partitions, line, *pair) for pair in line.pairs))
        case "api-keys" | "api-keys-used" | "counters" | "unfit-parents":
            await _hset(store, _PLAIN[line.key](), line)
        case "meta":
            pairs = [pair for pair in line.pairs if pair[0] not in _OWN_META]
            await _hset(store, keys.meta(), Pairs("meta", "", pairs))
        case "library" | "rows" | "ids" | "edges" | "waiting" | "wanted" | "arrived" | "checksums":
            await _put_catalog(store, line)
        case _:
            raise BadBackup("backup", f"it has {line.key} where they do not belong")


async def _put_catalog(store: Store, line: Pairs) -> None:
    library, _, rest = line.of.partition(" ")
    _name("library", library)
    match line.key:
        case "library":
            await store.command("SADD", keys.catalog_libraries(), library, key=keys.catalog_libraries())
            await _hset(store, keys.catalog_meta(library), line)
        case "rows" if rest in _ROW_TYPES:
            await _zadd(store, keys.catalog_rows(library, rest), line)
        case "ids" if rest in _FORMS:
            await _hset(store, keys.catalog_ids(library, rest), line)
        case "edges":
            await _zadd(store, keys.catalog_edges(library), line)
        case "waiting":
            await _hset(store, keys.catalog_waiting(library), line)
        case "wanted":
            await _zadd(store, keys.catalog_wanted(library), line)
        case "arrived":
            await _zadd(store, keys.catalog_arrived(library), line)
        case "checksums":
            await _zadd(store, keys.catalog_checksums(library), line)
        case _:
            raise BadBackup("backup", f"library {library} has a type {rest!r} that this version does not know: upgrade")


async def _put_claim(store: Store, partitions: int, line: Pairs, digest: bytes, value: bytes) -> None:
    """Give a user an identity or an e-mail address, if the record restored for the user says so."""
    user, _, token = value.decode(errors="replace").partition(" ")
    _name("user", user)
    field, make = ("link:", keys.identity_link) if line.key == "links" else ("address:", keys.email)
    record = keys.identity(keys.partition_of(user, partitions), user)
    said = await store.command("HGET", record, field + digest.decode(), key=record)
    if said in (f"={token}".encode(), f"?{token}".encode()):
        name = make(digest.decode())
        await store.command("SET", name, value, key=name)


async def _hset(store: Store, name: bytes, line: Pairs) -> None:
    if line.pairs:
        await store.command("HSET", name, *chain.from_iterable(line.pairs), key=name)


async def _zadd(store: Store, name: bytes, line: Pairs) -> None:
    if line.pairs:
        pairs = chain.from_iterable((score, member) for member, score in line.pairs)
        await store.command("ZADD", name, *pairs, key=name)


def _name(field: str, value: str) -> str:
    try:
        return keys.check_name(field, value)
    except InvalidInput:
        raise BadBackup("backup", f"it names a {field} that cannot be one") from None
