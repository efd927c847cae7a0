"""The one reader of a worker: asks each partition, turn by turn, whether there is more, and keeps that in a ring."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from ledger.errors import LedgerError, StoreUnavailable, Unavailable
from ledger.log.reader import Entry
from projections.bounded_tasks import each
from projections.feed.owners import Owners
from projections.feed.partition import Damaged, PartitionReader, Read
from projections.feed.position import StreamId, stream_id
from projections.feed.ring import Ring
from projections.feed.told import Block, Notice, NoticeKind, Seen, Told

log = logging.getLogger("syncledger.feed")

BATCH: Final = 100
"""How many events a block has at most."""
ASKED: Final = 256
"""How many partitions are asked at the same time."""
_READ_AT_ONCE: Final = 8
_PAGES_A_TURN: Final = 16
_WHOLE_EVERY: Final = 16


class Teller:
    """Makes blocks of what was read."""

    def __init__(self, owners: Owners, clock: Callable[[], int]) -> None:
        self._owners = owners
        self._clock = clock

    async def blocks(self, partition: int, read: Read) -> list[Block]:
        """Say what was read in blocks of at most BATCH, at least one."""
        users = await self._owners.learn(partition, (entry for entry in read.entries if isinstance(entry, Entry)))
        told: list[Told] = []
        if read.kind is not None:
            told.append(self.notice(read.kind, partition, read.last, read.what))
        for entry in read.entries:
            if isinstance(entry, Damaged):
                told.append(self.notice("damaged", partition, stream_id(entry.id), entry.what))
            else:
                told.append(Seen(partition, entry, users.get(entry.recorded.sid), {}))
        parts = [tuple(told[at : at + BATCH]) for at in range(0, len(told), BATCH)] or [()]
        ends = [_place(part[-1]) for part in parts[:-1]] + [read.last]
        backs = [read.goes_back] + [False] * (len(parts) - 1)
        return [Block(partition, *block) for block in zip(parts, ends, backs, strict=True)]

    def notice(self, kind: NoticeKind, partition: int, at: StreamId, what: str) -> Notice:
        """Make a notice."""
        return Notice(kind, partition, str(at), what, self._clock())


class LiveReader:
    """Reads what comes, for as long as anybody follows.

    What is in `ring` from its end on is all that follows `heads`: both change in one step of the event loop.
    """

    def __init__(self, reader: PartitionReader, teller: Teller, ring: Ring, heads: list[StreamId]) -> None:
        """`heads`: of each partition the id of the last event that is known."""
        self.ring = ring
        self.heads = heads
        self.trouble: dict[int, Notice] = {}
        """The partitions that cannot be read now."""
        self.news = asyncio.Event()
        """Set with the next block; then there is another one."""
        self._reader = reader
        self._teller = teller

    async def run(self, turn_s: float) -> None:
        """Read what comes, turn by turn, whatever becomes of one; that it waits is told once, until it goes on."""
        number, waits = 0, False
        while True:
            began_s = monotonic()
            try:
                await self.turn(number)
            except Unavailable as error:
                if not waits:
                    log.error("the feed waits, and goes on where it stands: %s", error)
                waits = True
            except Exception:
                log.exception("a turn of the feed failed, and will be tried again")
            else:
                if waits:
                    log.info("the feed goes on")
                waits = False
            number += 1
            await asyncio.sleep(max(0.0, began_s + turn_s - monotonic()))

    async def turn(self, number: int) -> None:
        """Read on what has more, and look wholly at a part of the others; raises StoreUnavailable if none answers."""
        changed: list[int] = []
        away: list[StoreUnavailable] = []
        for start in range(0, len(self.heads), ASKED):
            some = range(start, min(start + ASKED, len(self.heads)))
            asked = (self._reader.has_more(partition, self.heads[partition]) for partition in some)
            for partition, more in zip(some, await asyncio.gather(*asked, return_exceptions=True), strict=True):
                if isinstance(more, StoreUnavailable):
                    away.append(more)
                elif isinstance(more, BaseException) and not isinstance(more, LedgerError):
                    raise more
                if more or partition % _WHOLE_EVERY == number % _WHOLE_EVERY:
                    changed.append(partition)
        if len(away) == len(self.heads):
            raise away[0]
        await each(changed, self._read_on, _READ_AT_ONCE)

    async def _read_on(self, partition: int) -> None:
        """Read a partition on, so many pages at most; one that fails is named once, and tried in the next turn."""
        pages = 0
        try:
            async for read in self._reader.read(partition, self.heads[partition]):
                for block in await self._teller.blocks(partition, read):
                    self._put(block)
                pages += 1
                if pages == _PAGES_A_TURN:
                    break
        except LedgerError as error:
            known = self.trouble.get(partition)
            if known is None or known.what != str(error):
                self.trouble[partition] = self._note(partition, "unreadable", str(error))
        else:
            if self.trouble.pop(partition, None) is not None:
                self._note(partition, "readable", "it is read again")

    def _note(self, partition: int, kind: NoticeKind, what: str) -> Notice:
        notice = self._teller.notice(kind, partition, self.heads[partition], what)
        self._put(Block(partition, (notice,), self.heads[partition]))
        return notice

    def _put(self, block: Block) -> None:
        """Add to the ring what was read, and with that move on."""
        self.ring.add(block)
        self.heads[block.partition] = block.last
        news, self.news = self.news, asyncio.Event()
        news.set()


def _place(told: Told) -> StreamId:
    return stream_id(told.stream_id if isinstance(told, Notice) else told.entry.id)
