"""The indexes of all partitions as one: a page of it, merged of the heads of each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Final, NamedTuple

from ledger import keys
from ledger.errors import LedgerError
from ledger.log.order import FILLED
from ledger.store.interface import Arg, Script, Store
from projections.devices.told import Order, Unread
from projections.finding.prefixes import NOT_WHOLE

FEWEST: Final = 4
"""How many are read of each partition at first, at least: a page of 50 takes more of one out of 256 in 1 of 50,000."""
_HEADS: Final = Script.load("projections.devices", "heads.lua", allow_oom=True)
_WHY: Final = {
    1: "not all of its devices are in the index yet: that goes on in the background",
    2: NOT_WHOLE,
}


class Ranked(NamedTuple):
    """A device in its place: the score, the session, its partition."""

    score: int
    sid: str
    partition: int


class Merged(NamedTuple):
    """A page; `more`: others follow. `unread` are the partitions that lack devices."""

    devices: list[Ranked]
    more: bool
    unread: list[Unread]


class _Head:
    """What was read of one partition's index and is not in the page yet."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.ready: deque[Ranked] = deque()
        self.last: tuple[int, str] | None = None
        self.is_over = False


async def merged(store: Store, partitions: int, order: Order, beyond: tuple[int, str] | None, limit: int) -> Merged:
    """Read up to `limit` devices beyond a score and session, in the order of an index.

    Of one score they come by their ids. Raises LedgerError where no partition can be read.
    """
    down = order == "seen"
    heads = [_Head(partition) for partition in range(partitions)]
    unread: dict[int, Unread] = {}
    failed: list[LedgerError] = []

    async def read(some: Iterable[_Head], count: int) -> None:
        asked = list(some)
        replies = await asyncio.gather(
            *(_read(store, head.partition, order, head.last or beyond, count) for head in asked), return_exceptions=True
        )
        for head, reply in zip(asked, replies, strict=True):
            if isinstance(reply, LedgerError):
                head.is_over = True
                failed.append(reply)
                unread[head.partition] = Unread(head.partition, str(reply))
                continue
            if isinstance(reply, BaseException):
                raise reply
            state, flat = reply
            if state:
                unread[head.partition] = Unread(head.partition, _WHY[state])
            ranked = [
                Ranked(int(float(score)), sid.decode(), head.partition)
                for sid, score in zip(flat[::2], flat[1::2], strict=True)
            ]
            head.ready += ranked
            head.is_over = len(ranked) < count
            if ranked:
                head.last = ranked[-1][:2]

    await read(heads, min(limit + 1, max(FEWEST, 3 * limit // partitions)))
    if len(failed) == partitions:
        raise failed[0]
    found: list[Ranked] = []
    heap = [_Next(head.ready[0], down) for head in heads if head.ready]
    heapify(heap)
    while heap and len(found) < limit:
        head = heads[heappop(heap).ranked.partition]
        found.append(head.ready.popleft())
        if not head.ready and not head.is_over:
            await read([head], limit)
        if head.ready:
            heappush(heap, _Next(head.ready[0], down))
    return Merged(found, bool(heap), [unread[partition] for partition in sorted(unread)])


async def _read(
    store: Store, partition: int, order: Order, beyond: tuple[int, str] | None, count: int
) -> Sequence[Any]:
    index = keys.activity(partition) if order == "seen" else keys.order(partition)
    names = (index, keys.whole(partition), keys.sids(partition))
    score, sid = ("", "") if beyond is None else beyond
    args: tuple[Arg, ...] = ("1" if order == "seen" else "0", score, sid, count, FILLED)
    reply: Sequence[Any] = await store.script(_HEADS, names, args)
    return reply


class _Next:
    """The next device of a partition; of two the one comes first that is next in the order."""

    __slots__ = ("down", "ranked")

    def __init__(self, ranked: Ranked, down: bool) -> None:
        self.ranked = ranked
        self.down = down

    def __lt__(self, other: _Next) -> bool:
        return (self.ranked > other.ranked) if self.down else (self.ranked < other.ranked)
