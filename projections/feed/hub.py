"""One reader a worker for all who follow the feed; the interface for whoever shows it.

    hub = FeedHub(ledger, archive, presence)
    position = await hub.place(text)                                # a position that was given, start or now
    wanted = await hub.filter_of(user=…, session=…, types=…)        # FeedFilter() for all
    async for batch in hub.follow(position, wanted):                # goes on for ever; ends=True: up to the present
        for told in batch.told: ...                                 # Seen (an event) or Notice, in order per session
        if batch.position is not None: hub.text(batch.position)     # to go on behind all that was told so far

`follow` raises TooManyFollowers with its first batch, Unavailable where the store is away while it catches up. A batch
has at most BATCH events; an empty one comes every `beat_s` at least, so whoever sends it knows that it lives. A
position comes with the first batch, then at most once a second while more is told, every `beat_s` while what comes is
not wanted, and with the last one. What was told behind the position that somebody comes back with is told again, with
the same ids: at least once.

How it works. A follower catches up first, by reading itself what is before the ring, each partition from its position
to where the reader is, a page at a time, and AT_ONCE of all followers. All else it takes from what the reader
(`live.py`) puts into the ring (`ring.py`). While nobody follows nothing is read. Each turn asks each partition whether
there is more, in one cheap command, and reads those that have more. Writers leave no note for it: 256 such questions
cost the store about what fifty acks do (measured). In every 16th turn a partition is looked at wholly: what was
archived or lost between two turns shows there though nothing came behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import suppress
from functools import lru_cache
from math import inf
from time import monotonic
from typing import Final

from ledger.errors import InvalidInput, LedgerError, NoSuchSession, StoreUnavailable
from ledger.keys import check_name
from ledger.log.finding import locate
from ledger.log.presence import Presence
from ledger.log.service import Ledger
from ledger.store.interface import Store
from projections.archive.catalog import Archive
from projections.feed.follower import Batch, Follower
from projections.feed.live import ASKED, LiveReader, Teller
from projections.feed.names import FeedNames
from projections.feed.owners import Owners
from projections.feed.partition import PartitionReader, Read
from projections.feed.position import FeedPosition, StreamId, mark_of
from projections.feed.ring import RING_BYTES, Ring
from projections.feed.seats import MOST_FOLLOWERS, Seats
from projections.feed.told import ALL, Block, FeedFilter, Told
from projections.history.words import TAGS

TURN_S: Final = 1.0
BEAT_S: Final = 15.0
AT_ONCE: Final = 4
"""How many pages are read at the same time for all who catch up."""
AGAIN_S: Final = 10.0
"""How long a partition that could not be read is left alone."""
_MOST_UNAVAILABLE: Final = 16
"""How many partitions in a row may not answer before the store as a whole is taken for away."""


class FeedHub:
    """The feed of one ledger, for all readers of one process."""

    def __init__(
        self,
        ledger: Ledger,
        archive: Archive | None,
        presence: Presence,
        *,
        store: Store | None = None,
        most: int = MOST_FOLLOWERS,
        turn_s: float = TURN_S,
        beat_s: float = BEAT_S,
        ring_bytes: int = RING_BYTES,
    ) -> None:
        """`presence` knows which ledger it is, for which alone positions are good, and whether it is still there.

        `store`: a connection of its own for what is read, so that nobody waits behind that.
        """
        self.names = FeedNames(ledger.store)
        self.pages_behind = 0
        """How many pages were read for single followers, since they were behind the reader."""
        self._ledger = ledger
        self._presence = presence
        self.seats = Seats(most)
        self._turn_s, self._beat_s, self._ring_bytes = turn_s, beat_s, ring_bytes
        store = store or ledger.store
        self._reader = PartitionReader(store, archive, presence.check)
        self._teller = Teller(Owners(store), ledger.clock)
        self._pages = asyncio.Semaphore(AT_ONCE)
        self._starting = asyncio.Lock()
        self._live: LiveReader | None = None
        self._reading: asyncio.Task[None] | None = None
        self._followed_by = 0
        self._asked_s, self._newest_then = -inf, list[StreamId]()
        self._text = lru_cache(64)(self._print)

    @property
    def followers(self) -> int:
        """How many follow."""
        return self.seats.used

    @property
    def partitions(self) -> int:
        """How many partitions the ledger has."""
        return self._ledger.partitions

    @property
    def ledger_id(self) -> str:
        """The id of the ledger."""
        return self._presence.ledger_id

    @property
    def start(self) -> FeedPosition:
        """The position before all events."""
        return FeedPosition.start(self.partitions)

    async def now(self) -> FeedPosition:
        """Tell the position behind all events that are there now, or were a second ago: many may ask at once."""
        async with self._starting:
            if self._live is not None:
                return FeedPosition(tuple(self._live.heads))
            if monotonic() - self._asked_s > self._turn_s:
                asked_s = monotonic()
                self._newest_then = await self._newest()
                self._asked_s = asked_s
            return FeedPosition(tuple(self._newest_then))

    async def place(self, text: str, field: str = "from") -> FeedPosition:
        """Read a position, `start` or `now`; raises InvalidInput naming `field`."""
        if text == "now":
            return await self.now()
        return self.start if text == "start" else self.parse(text, field)

    def parse(self, text: str, field: str = "from") -> FeedPosition:
        """Read a position; raises InvalidInput naming `field`."""
        try:
            return FeedPosition.parse(text, mark_of(self.ledger_id), self.partitions)
        except ValueError as error:
            raise InvalidInput([((field,), str(error))]) from error

    def text(self, position: FeedPosition) -> str:
        """Print a position."""
        return self._text(position)

    async def filter_of(
        self, *, user: str | None = None, session: str | None = None, types: Iterable[str] = ()
    ) -> FeedFilter:
        """Make a filter, which reads only the partition that it is about; raises InvalidInput, NoSuchSession."""
        wanted = frozenset(types)
        if unknown := sorted(wanted.difference(TAGS)):
            raise InvalidInput([(("type",), f"{unknown[0]!r} is no type of event: {', '.join(TAGS)}")])
        partition = None
        if user is not None:
            partition = self._ledger.partition_of(check_name("user", user))
        if session is not None:
            found = await locate(self._ledger.stored, session)
            if partition not in (None, found):
                raise NoSuchSession(f"No session {session} of user {user}")
            partition = found
        return FeedFilter(user, session, wanted, partition)

    async def follow(
        self, position: FeedPosition, wanted: FeedFilter = ALL, *, ends: bool = False, user: str | None = None
    ) -> AsyncGenerator[Batch]:
        """Yield what is told behind a position, then what comes; with `ends` up to what is there now.

        `user`: who follows, where that is one who sees their own; None for who sees all, whom users cannot crowd out.
        """
        with self.seats.taken(user):
            follower = Follower(position, wanted)
            batches = self._up_to_now(follower) if ends else self._for_ever(follower)
            try:
                async for batch in batches:
                    yield batch
            finally:
                await batches.aclose()

    async def close(self) -> None:
        """Read no more."""
        reading = self._stop()
        if reading is not None:
            await asyncio.gather(reading, return_exceptions=True)

    async def _up_to_now(self, follower: Follower) -> AsyncGenerator[Batch]:
        """Each batch waits for the next one, so that the last events carry the last position."""
        waiting, heads = Batch((), None), await self._newest()
        wanted = (partition for partition in range(self.partitions) if follower.wanted.reads(partition))
        behind = [partition for partition in wanted if follower.place[partition] != heads[partition]]
        async for told in self._catch_up(follower, behind, heads):
            if told or follower.due_in_s(self._beat_s) <= 0:
                if waiting.told or waiting.position is not None:
                    yield waiting
                waiting = follower.batch(told)
        yield Batch(waiting.told, FeedPosition(tuple(follower.place)))

    async def _for_ever(self, follower: Follower) -> AsyncGenerator[Batch]:
        live = await self._join()
        try:
            while True:
                # All in one step of the loop: what the follower lacks up to `heads` lies in the ring from `cursor` on,
                # but for the partitions that are to be read for it.
                cursor = live.ring.first if follower.fell_off else live.ring.end
                heads, behind, old = list(live.heads), follower.behind(live), live.ring.end
                if new := follower.new_trouble(live.trouble):
                    yield follower.batch(new)
                async for told in self._catch_up(follower, behind, heads):
                    if told or follower.due_in_s(self._beat_s) <= 0:
                        yield follower.batch(told)
                async for batch in self._from_ring(live, follower, cursor, old):
                    yield batch
        finally:
            self._followed_by -= 1
            if self._followed_by == 0:
                self._stop()

    async def _from_ring(self, live: LiveReader, follower: Follower, cursor: int, old: int) -> AsyncIterator[Batch]:
        """Yield what the reader puts into the ring; ends where the follower must read by itself again.

        Blocks before number `old` were there when it came.
        """
        follower.fell_off = False
        tried_s = beat_s = monotonic()
        while True:
            news = live.news
            if cursor < live.ring.end:
                block = live.ring.get(cursor)
                if block is None:
                    follower.fell_off = True
                    return
                told = follower.taken(block, is_old=cursor < old)
                cursor += 1
                if told or follower.due_in_s(self._beat_s) <= 0:
                    yield follower.batch(told)
                    beat_s = monotonic()
                continue
            now_s = monotonic()
            if follower.stuck and now_s - tried_s > AGAIN_S:
                return
            wait_s = min(follower.due_in_s(self._beat_s), beat_s + self._beat_s - now_s)
            if wait_s <= 0:
                yield follower.batch(())
                beat_s = now_s
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, AGAIN_S)):  # wait_for may lose that it was cancelled
                    await news.wait()

    async def _catch_up(
        self, follower: Follower, partitions: Iterable[int], heads: list[StreamId]
    ) -> AsyncIterator[tuple[Told, ...]]:
        """Read for one follower what lies between where it stands and `heads`; one partition that fails is named.

        Where it stands is behind what is yielded.
        """
        place, unavailable = follower.place, 0
        for partition in partitions:
            reading = self._reader.read(partition, place[partition], heads[partition])
            try:
                while blocks := await self._page(partition, reading):
                    for block in blocks:
                        place[partition] = block.last
                        yield follower.only_wanted(block.told)
            except LedgerError as error:
                unavailable = unavailable + 1 if isinstance(error, StoreUnavailable) else 0
                if unavailable > _MOST_UNAVAILABLE:
                    raise
                notice = self._teller.notice("unreadable", partition, place[partition], str(error))
                if told := follower.stuck_at(partition, notice):
                    yield told
                continue
            unavailable = 0
            if place[partition] < heads[partition]:  # nothing more is there up to where the reader is
                place[partition] = heads[partition]
            if follower.stuck.pop(partition, None) is not None:
                yield (self._teller.notice("readable", partition, place[partition], "it is read again"),)

    async def _page(self, partition: int, reading: AsyncIterator[Read]) -> list[Block]:
        """Read the next page for one of those who catch up; none at the end."""
        async with self._pages:
            read = await anext(reading, None)
            if read is None:
                return []
            self.pages_behind += 1
            return await self._teller.blocks(partition, read)

    async def _join(self) -> LiveReader:
        """Have the reader read, which knows by then where the present is."""
        async with self._starting:
            if self._live is None:
                heads = await self._newest()
                live = LiveReader(self._reader, self._teller, Ring(heads, self._ring_bytes), heads)
                self._live, self._reading = live, asyncio.create_task(live.run(self._turn_s))
            self._followed_by += 1
            return self._live

    def _stop(self) -> asyncio.Task[None] | None:
        """Let the reader go; whoever follows next gets another one."""
        reading, self._reading, self._live = self._reading, None, None
        if reading is not None:
            reading.cancel()
        return reading

    async def _newest(self) -> list[StreamId]:
        """Tell where the present is; raises what went wrong where no partition can be read.

        For one that cannot be read the instant stands: no event has that id, so once it can be read, it is read again
        from a minute before.
        """
        found: list[StreamId | BaseException] = []
        for start in range(0, self.partitions, ASKED):
            some = range(start, min(start + ASKED, self.partitions))
            asked = (self._reader.newest(partition) for partition in some)
            found += await asyncio.gather(*asked, return_exceptions=True)
        wrong = [one for one in found if isinstance(one, BaseException)]
        for one in wrong:
            if not isinstance(one, LedgerError) or len(wrong) == len(found):
                raise one
        unknown = StreamId(self._ledger.clock() // 1000, 0)
        return [unknown if isinstance(one, BaseException) else one for one in found]

    def _print(self, position: FeedPosition) -> str:
        return position.text(mark_of(self.ledger_id))
