"""`syncledger history --follow`: the newest events, then those that come, until somebody stops it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Protocol

from projections.history.session_history import HistoryEvent, Wanted

LOOK_S: Final = 1.0
BEFORE: Final = 10
"""How many events that were there before are shown, unless it is said otherwise."""
AGAIN_US: Final = 10_000_000
"""Events are looked for from so long before the newest one that was seen: clocks of workers differ a little."""
_PAGE: Final = 1000


class Page(Protocol):
    """A page of a history."""

    @property
    def events(self) -> Sequence[HistoryEvent]:
        """Its events."""
        ...


Pages = Callable[[Wanted, bool, int], AsyncIterator[Page]]
"""Reads a history: which events, whether the oldest come first, how many to look at for a page."""


async def follow(pages: Pages, wanted: Wanted, before: int, show: Callable[[HistoryEvent], None]) -> None:
    """Show the newest `before` wanted events, oldest first, then all that come; ends only with an error."""
    newest_us = 0
    async for page in pages(Wanted(), False, 1):
        newest_us = page.events[0].at_us if page.events else 0
        break
    known = {event.stream_id: event.at_us for event in await _since(pages, wanted, newest_us)}
    old: list[HistoryEvent] = []
    async for page in pages(wanted, False, max(before, 1)):
        old += page.events
        if len(old) >= before:
            break
    for event in reversed(old[:before]):
        show(event)
    known |= {event.stream_id: event.at_us for event in old}
    while True:
        await asyncio.sleep(LOOK_S)
        for event in await _since(pages, wanted, newest_us):
            if event.stream_id not in known:
                show(event)
                known[event.stream_id] = event.at_us
        newest_us = max([newest_us, *known.values()])
        known = {stream_id: at_us for stream_id, at_us in known.items() if at_us >= newest_us - AGAIN_US}


async def _since(pages: Pages, wanted: Wanted, newest_us: int) -> list[HistoryEvent]:
    """Read the wanted events from shortly before an instant on, oldest first."""
    part = wanted._replace(since_us=max(wanted.since_us, newest_us - AGAIN_US))
    return [event async for page in pages(part, True, _PAGE) for event in page.events]
