"""A session's history as people and programs read it: the events in words, in pages, from either end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from ledger.entity_types import CODES
from ledger.errors import NoSuchSession
from ledger.events import tag_of
from ledger.log.append import read_ended
from ledger.log.reader import ANY_SEQ, PAGE, Entry
from ledger.log.service import Ledger
from ledger.personal import UserKey
from projections.history.event_pages import EventPages
from projections.history.words import TAGS, HistoryEvent, Tag, codes_of, readable

__all__ = ["TAGS", "HistoryEvent", "HistoryPage", "Tag", "Wanted", "owner", "pages", "readable"]


class Wanted(NamedTuple):
    """Which events: from `since_us` on, up to `until_us`, of one tag, about one entity type."""

    since_us: int = 0
    until_us: int = ANY_SEQ
    tag: str | None = None
    entity_type: str | None = None

    def among(self, entries: Iterable[Entry]) -> list[Entry]:
        """Pick those of the right tag and entity type."""
        tag, code = self.tag, None if self.entity_type is None else CODES[self.entity_type]
        return [
            entry
            for entry in entries
            if (tag is None or tag_of(entry.recorded.event) == tag)
            and (code is None or code in codes_of(entry.recorded.event))
        ]


class HistoryPage(NamedTuple):
    """Some events in the order asked for. The next page holds those beyond seq `next_seq`; None at the end.

    `below_floor`: older events were removed, or lie in an archive that is not read. `looked_at`: how many there were
    before tag and entity type were asked for.
    """

    events: list[HistoryEvent]
    next_seq: int | None
    below_floor: bool
    looked_at: int


async def owner(ledger: Ledger, partition: int, sid: str) -> str:
    """Tell whose session this is, living or ended; raises NoSuchSession."""
    state = await ledger.look(partition, sid)
    if state is not None:
        return state.user
    ended = await read_ended(ledger.store, partition, sid)
    if ended is None:
        raise NoSuchSession(f"No session {sid}")
    return ended.user


async def pages(
    past: EventPages,
    partition: int,
    sid: str,
    wanted: Wanted,
    beyond_seq: int | None = None,
    size: int = PAGE,
    *,
    forward: bool = False,
    key: UserKey | None = None,
) -> AsyncIterator[HistoryPage]:
    """Yield the wanted events of a session beyond seq `beyond_seq` (None: from the end), newest first or `forward`.

    `key` opens what is personal in them. Each page comes of looking at `size` events, or fewer
    where these are long. Raises NoSuchSession.
    """
    async for run in past.runs(
        partition,
        sid,
        since_us=wanted.since_us,
        until_us=wanted.until_us,
        beyond_seq=beyond_seq,
        forward=forward,
        size=size,
    ):
        previous = run.previous_hashes
        found = [readable(entry, key, previous.get(entry.id)) for entry in wanted.among(run.entries)]
        yield HistoryPage(found, run.next_seq, run.below_floor, len(run.entries))
