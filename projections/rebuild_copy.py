"""Copying the streams of another server into an empty ledger, under the same ids, and rebuilding from them.

Each partition says that it is being copied until it is rebuilt, so nothing can begin in it meanwhile, and a copy that
was interrupted goes on where it stood. The other server is only read; what it appends behind the copy is not noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import msgspec

from ledger import keys
from ledger.errors import LayoutError
from ledger.log import whole
from ledger.log.append import pairs
from ledger.log.layout import FORMAT
from ledger.log.reader import last_id, read_raw
from ledger.log.sessions import Strays
from ledger.log.store import Arg, Script, Store
from projections.at_once import each
from projections.rebuild import Rebuild

_COPY: Final = Script.load("projections", "rebuild_copy.lua")
_CLAIM: Final = Script.load("projections", "rebuild_claim.lua")
_FROM: Final = "copied_from"
_ARCHIVED: Final = (b"floor", b"segment", b"digest", b"segments", b"cut")
_PAGE: Final = 200
_NOT_EMPTY: Final = "This ledger has events already; --from fills an empty one: give another --redis or --data-dir"


class Copied(msgspec.Struct):
    """How far a copy is."""

    partitions: int = 0
    events: int = 0


async def copy_streams(
    source: Store,
    target: Store,
    partitions: int,
    rebuild: Rebuild,
    *,
    on_progress: Callable[[Copied], None] = lambda _: None,
    at_once: int = 2,
) -> Copied:
    """Copy all streams of a ledger into an empty one, or go on with it, and `rebuild` each partition there.

    Raises LayoutError if the ledgers do not fit each other or the target is no unfinished copy of this source.
    """
    mark = await _identify(source, partitions)
    await _claim_all(target, partitions, mark)
    copied = Copied()

    async def one(standing: tuple[int, bytes | None]) -> None:
        partition, says = standing
        if says == mark:
            await _copy_archived(source, target, partition)
            async for count in _pages(source, target, partition, mark):
                copied.events += count
                on_progress(copied)
        if says != whole.WHOLE:
            await rebuild.partition(partition, Strays({}, {}), copied=mark)
        copied.partitions += 1
        on_progress(copied)

    await each(enumerate(await whole.read_marks(target, partitions)), one, at_once)
    await target.command("HDEL", keys.meta(), _FROM, key=keys.meta())
    return copied


async def _identify(source: Store, partitions: int) -> bytes:
    """Make what partitions say while they are copied from this source: it names it by its creation."""
    name = keys.meta()
    found, count, created = await source.command("HMGET", name, "format", "partitions", "created_at_us", key=name)
    if found is None or count is None or created is None:
        raise LayoutError("There is no ledger on the server given with --from")
    if int(found) != FORMAT:
        raise LayoutError(f"The ledger given with --from has format {int(found)}, this version reads {FORMAT}")
    if int(count) != partitions:
        raise LayoutError(
            f"The ledger given with --from has {int(count)} partitions, this one {partitions}: set "
            f"LEDGER_PARTITIONS={int(count)} when the empty ledger is created"
        )
    return whole.COPYING + bytes(created)


async def _claim_all(target: Store, partitions: int, mark: bytes) -> None:
    """Begin the copy in all partitions, so that no session begins in any, or see that it has begun."""
    begun = await target.command("HGET", keys.meta(), _FROM, key=keys.meta())
    if begun == mark:
        return
    lengths = await asyncio.gather(*(_length(target, partition) for partition in range(partitions)))
    marks = await whole.read_marks(target, partitions)
    if begun is not None or any(length and says != mark for length, says in zip(lengths, marks, strict=True)):
        raise LayoutError(_NOT_EMPTY)
    claimed = await asyncio.gather(*(_claim(target, partition, mark, "begin") for partition in range(partitions)))
    if not all(claimed):
        await asyncio.gather(*(_claim(target, partition, mark, "undo") for partition in range(partitions)))
        raise LayoutError(_NOT_EMPTY)
    await target.command("HSET", keys.meta(), _FROM, mark, key=keys.meta())


async def _claim(target: Store, partition: int, mark: bytes, what: str) -> bool:
    return bool(await target.script(_CLAIM, (keys.whole(partition), keys.stream(partition)), (mark, what)))


async def _length(store: Store, partition: int) -> int:
    name = keys.stream(partition)
    return int(await store.command("XLEN", name, key=name))


async def _copy_archived(source: Store, target: Store, partition: int) -> None:
    """Take over how far a partition is archived, without who archives it."""
    name = keys.archive(partition)
    found = pairs(await source.command("HGETALL", name, key=name))
    fields = [part for field in _ARCHIVED if field in found for part in (field, found[field])]
    if fields:
        await target.command("HSET", name, *fields, key=name)


async def _pages(source: Store, target: Store, partition: int, mark: bytes) -> AsyncIterator[int]:
    """Copy a partition's stream, yielding how many entries at a time."""
    last = await _last_copied(source, target, partition)
    while True:
        async for rows in read_raw(source, partition, last or "-", page=_PAGE):
            (done,) = await _copy(target, partition, mark, last, rows)
            if done == 0:
                raise LayoutError(f"Partition {partition} is not being copied any more: somebody rebuilt it")
            if done == 2:  # somebody else copies the same
                break
            last = rows[-1][0].decode()
            yield len(rows)
        else:
            return
        last = await _last_copied(source, target, partition)


async def _copy(target: Store, partition: int, mark: bytes, last: str, rows: Sequence[list[Any]]) -> list[int]:
    args: list[Arg] = [mark, last]
    for entry_id, fields in rows:
        args += (entry_id, len(fields), *fields)
    done: list[int] = await target.script(_COPY, (keys.stream(partition), keys.whole(partition)), args)
    return done


async def _last_copied(source: Store, target: Store, partition: int) -> str:
    """Tell the last entry copied, '' for none; raises LayoutError if the source has another one there."""
    last = await last_id(target, partition)
    if last is None:
        return ""
    name = keys.stream(partition)
    theirs, ours = [await store.command("XRANGE", name, last, last, key=name) for store in (source, target)]
    if theirs != ours:
        raise LayoutError(f"Entry {last} of partition {partition} is not the same on the server given with --from")
    return last
