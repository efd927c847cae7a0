"""The history of a user across devices: the chains of all sessions, living and ended, merged by time.

There is no index of a user's events. The living sessions are listed in one hash; the ended ones are found by going
through all that ended in the user's partition, 1,000 to a script. Then every session is asked for its next few events,
which a walk finds at once at any time: so a page costs the server about 1 µs for each ended session of the partition
and 0.1 ms for each session of the user (measured), however long their histories are.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple, Self

from ledger import keys
from ledger.errors import CorruptLedger, NoSuchSession
from ledger.log.append import Ended, parse_ended
from ledger.log.reader import PAGE, PAGE_BYTES, Entry
from ledger.log.whole import read_if_whole
from ledger.personal import UserKey
from ledger.store.interface import Script, Store
from projections.history.event_pages import EventPages
from projections.history.session_history import Wanted
from projections.history.words import HistoryEvent, readable

SCANNED: Final = 1000
AT_ONCE: Final = 64
"""How many sessions are asked at the same time."""
FEWEST: Final = 4
FEWEST_BYTES: Final = 8 * 1024
"""How much is read ahead of each session at least: all of them together have about as much as one page."""
_ENDED_OF: Final = Script.load("projections.history", "ended_of.lua", allow_oom=True)
_PLACE: Final = re.compile(r"(\d{1,18})\.(\d{1,18})-(\d{1,18})", re.ASCII)


class Place(NamedTuple):
    """Where an event stands among all of its user's: by time, those of one time by stream id."""

    at_us: int
    ms: int
    number: int

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Tell the place of an event."""
        ms, _, number = entry.id.partition("-")
        return cls(entry.recorded.at_us, int(ms), int(number))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `text` printed; raises ValueError."""
        found = _PLACE.fullmatch(text)
        if found is None:
            raise ValueError("it is not the `next` of a page")
        return cls(*map(int, found.groups()))

    @property
    def text(self) -> str:
        """Print the place, to go on from it later."""
        return f"{self.at_us}.{self.ms}-{self.number}"


class UserPage(NamedTuple):
    """Some events of a user in the order asked for; the next page holds those beyond `next_place`, None at the end.

    `below_floor`: older events were removed, or lie in an archive that is not read. `looked_at`: how many there were
    before tag and entity type were asked for. `broken`: sessions of which events are missing or damaged that would have
    come by now, and why; the others' go on.
    """

    events: list[HistoryEvent]
    next_place: Place | None
    below_floor: bool
    looked_at: int
    broken: dict[str, str]


async def sessions_of(store: Store, partition: int, user: str) -> set[str]:
    """List all sessions a user ever had, living and ended; raises Rebuilding while not all are known."""
    # The living ones first: one that ends meanwhile is in both, none is in neither.
    living = await read_if_whole(store, partition, "HKEYS", keys.devices(partition, user))
    return {sid.decode() for sid in living} | {sid async for sid, _ in ended_of(store, partition, user)}


async def ended_of(store: Store, partition: int, user: str) -> AsyncIterator[tuple[str, Ended]]:
    """Go through a user's ended sessions, in no order, some perhaps twice; raises CorruptLedger."""
    name, cursor = keys.ended(partition), b""
    while cursor != b"0":
        cursor, rows = await store.script(_ENDED_OF, (name,), (cursor or b"0", SCANNED, user))
        for sid, kept in zip(rows[::2], rows[1::2], strict=True):
            if (ended := parse_ended(kept)).user == user:
                yield sid.decode(), ended


async def user_pages(
    past: EventPages,
    partition: int,
    user: str,
    wanted: Wanted,
    beyond: Place | None = None,
    size: int = PAGE,
    *,
    forward: bool = False,
    key: UserKey | None = None,
) -> AsyncIterator[UserPage]:
    """Yield the wanted events of all of a user's sessions beyond a place, newest first or `forward`.

    `key` opens what is personal in them. Each page comes of looking at `size` events, or fewer where these are long.
    Nobody's user has one empty page.
    """
    sids = sorted(await sessions_of(past.store, partition, user))
    ahead = max(FEWEST, min(PAGE, size) * 2 // max(len(sids), 1))
    ahead_bytes = max(FEWEST_BYTES, PAGE_BYTES // max(len(sids), 1))
    chains = [_Chain(past, partition, sid, wanted, beyond, forward, ahead, ahead_bytes) for sid in sids]
    for start in range(0, len(chains), AT_ONCE):
        await asyncio.gather(*(chain.fill() for chain in chains[start : start + AT_ONCE]))
    heap = [(chain.rank, number) for number, chain in enumerate(chains) if chain.ready]
    heapify(heap)
    while True:
        page, previous = list[Entry](), dict[str, bytes]()
        page_bytes = 0
        while heap and len(page) < size and page_bytes < PAGE_BYTES:
            _, number = heappop(heap)
            chain = chains[number]
            page.append(entry := chain.ready.popleft())
            page_bytes += len(entry.recorded.raw)
            if entry.id in chain.previous:
                previous[entry.id] = chain.previous.pop(entry.id)
            if not chain.ready:
                await chain.fill()
            if chain.ready:
                heappush(heap, (chain.rank, number))
        below_floor = any(chain.below_floor for chain in chains)
        events = [readable(entry, key, previous.get(entry.id)) for entry in wanted.among(page)]
        broken = {chain.sid: chain.broken for chain in chains if chain.broken}
        yield UserPage(events, Place.of(page[-1]) if heap else None, below_floor, len(page), broken)
        if not heap:
            return


class _Chain:
    """One session's events that are still to come."""

    def __init__(
        self,
        past: EventPages,
        partition: int,
        sid: str,
        wanted: Wanted,
        beyond: Place | None,
        forward: bool,
        ahead: int,
        ahead_bytes: int,
    ) -> None:
        since_us, until_us = wanted.since_us, wanted.until_us
        if beyond is not None and forward:
            since_us = max(since_us, beyond.at_us)
        elif beyond is not None:
            until_us = min(until_us, beyond.at_us)
        self.sid = sid
        self.broken = ""
        self.ready: deque[Entry] = deque()
        self.previous: dict[str, bytes] = {}  # the hash that each of them links to
        self.below_floor = False
        self._runs = past.runs(
            partition,
            sid,
            since_us=since_us,
            until_us=until_us,
            forward=forward,
            size=ahead,
            page_bytes=ahead_bytes,
        )
        self._beyond = beyond
        self._forward = forward

    @property
    def rank(self) -> tuple[int, ...]:
        """What the first of `ready` is ordered by among the first of all chains."""
        place = Place.of(self.ready[0])
        return place if self._forward else tuple(-part for part in place)

    async def fill(self) -> None:
        """Read until some events are ready; none are when there are no more, or what follows cannot be read."""
        try:
            async for run in self._runs:
                self.below_floor |= run.below_floor
                self.ready += [entry for entry in run.entries if self._is_ahead(Place.of(entry))]
                self.previous = run.previous_hashes
                if self.ready:
                    return
        except NoSuchSession:
            pass  # its history was removed meanwhile
        except CorruptLedger as error:
            self.broken = str(error)

    def _is_ahead(self, place: Place) -> bool:
        """Tell whether a place is still to come, where others of the same time are done."""
        return self._beyond is None or (place > self._beyond if self._forward else place < self._beyond)
