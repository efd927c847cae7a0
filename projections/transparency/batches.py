"""Batches: the objects that fix which leaf follows which, once and for all jobs.

A batch lies under the index of its first leaf and is only ever created, never written over with other leaves. So of two
jobs one loses, reads what the other wrote, and goes on behind it. Behind a checkpoint that covers it a batch is
settled: its leaves are in bundles, so what stays is that it was there.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.transparency.tiles import unpack_bundle
from projections.archive.errors import ObjectExists
from projections.transparency.errors import LogContradicts, Overtaken
from projections.transparency.place import BATCHES, NEWEST, LogPlace, batch_name

FORMAT: Final = 1
NAMED: Final = 100
"""How many refused sessions are named; the others are counted."""


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """A session whose next event does not follow what is logged of it: the event's partition and stream id, and why."""

    sid: bytes
    partition: int
    event: str
    what: str


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Some leaves in their order, and what a job needs to go on behind them.

    `root`: of the log with them. `previous`: first index of the batch before; -1 for the first. `cursors`: stream id up
    to which each partition is in the log. `state`: index of the newest leaf with a state root; -1 without one.
    `refused` counts the events that were not logged, for `refusals`. `leaves` lie as in a bundle.
    """

    format: int
    first: int
    count: int
    root: bytes
    previous: int
    cursors: dict[int, str]
    state: int
    refused: int
    refusals: list[Refusal]
    leaves: bytes
    settled: bool = False

    @property
    def end(self) -> int:
        """The size of the log with it."""
        return self.first + self.count

    def settle(self) -> Batch:
        """Give what stays of it."""
        return msgspec.structs.replace(self, cursors={}, refusals=[], leaves=b"", settled=True)


def leaves_of(batch: Batch) -> list[bytes]:
    """Read the leaves of a batch that is not settled; raises LogContradicts."""
    leaves = unpack_bundle(batch.leaves)
    if batch.settled or len(leaves) != batch.count:
        raise LogContradicts(batch_name(batch.first), f"it has {len(leaves)} leaves, {batch.count} were meant")
    return leaves


async def create(place: LogPlace, batch: Batch) -> None:
    """Write a batch; raises Overtaken where another one lies there."""
    try:
        await place.objects.put(batch_name(batch.first), msgspec.msgpack.encode(batch))
    except ObjectExists as error:
        raise Overtaken(f"leaf {batch.first} was written by another job") from error


async def read(place: LogPlace, first: int) -> Batch | None:
    """Read the batch that begins at an index; None where there is none. Raises LogContradicts."""
    name = batch_name(first)
    content = await place.find(name)
    if content is None:
        return None
    try:
        batch = msgspec.msgpack.decode(content, type=Batch)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogContradicts(name, f"it cannot be read: {error}") from error
    if batch.format != FORMAT or batch.first != first or batch.count < 1:
        raise LogContradicts(name, "it is another batch, or one of a newer version")
    return batch


async def newest(place: LogPlace) -> Batch | None:
    """Find the newest batch; None for a log without one. Raises LogContradicts."""
    hint = await place.find(NEWEST)
    at = int(hint) if hint is not None and hint.isdigit() else 0
    batch = await read(place, at)
    if batch is None:
        at = await _last_listed(place)
        batch = await read(place, at) if at >= 0 else None
    while batch is not None:
        following = await read(place, batch.end)
        if following is None:
            break
        batch = following
    return batch


async def settle_before(place: LogPlace, batch: Batch) -> None:
    """Settle all batches before one whose leaves are on disk in bundles, back to one that is, or to what is pruned."""
    settled: list[tuple[str, bytes]] = []
    previous = batch.previous
    while previous >= 0:
        found = await read(place, previous)
        if found is None and previous < (await place.pruned()).minimum:
            break
        if found is None:
            raise LogContradicts(batch_name(previous), "it is missing")
        if found.settled:
            break
        settled.append((batch_name(previous), msgspec.msgpack.encode(found.settle())))
        previous = found.previous
    await place.replace_all(reversed(settled))


async def _last_listed(place: LogPlace) -> int:
    """Tell the first index of the last batch in the listing; -1 without one."""
    last = -1
    async for page in place.objects.names(BATCHES):
        for info in page:
            text = info.name.removeprefix(BATCHES)
            if text.isdigit():
                last = max(last, int(text))
    return last
