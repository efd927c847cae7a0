"""Asking Gumnut what is new: its events are read, a library at a time, in the name of somebody who syncs it.

There is no question about all libraries at once, and nothing that comes by itself. So a library is asked about twice a
minute at most, as long as somebody is connected here who syncs it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, Self

from ledger.errors import LedgerError

log = logging.getLogger(__name__)

TURN_S: Final = 2.0
EVERY_S: Final = 30.0
AT_ONCE: Final = 4
BACK: Final = timedelta(minutes=5)
"""How far back an event is looked for: as far as clocks differ and transactions last."""


class Feed(Protocol):
    """A source whose events are read for one session."""

    def of_session(self, user: str, sid: str) -> Self:
        """Return the source as that session asks it."""
        ...

    async def news(self, library: str, since: datetime) -> str:
        """Tell what names the newest event of a library since an instant; raises LedgerError."""
        ...


class Feeds:
    """Looks at the libraries of those who are connected to one worker, and remembers each one's newest event."""

    def __init__(
        self,
        source: Feed,
        here: Callable[[], Mapping[str, tuple[str, str]]],
        written: Callable[[str], None],
        *,
        every_s: float = EVERY_S,
    ) -> None:
        """`here` gives the libraries, each with a session's user and id; `written` is told of those with news."""
        self._source = source
        self._here = here
        self._written = written
        self._every_s = every_s
        self._newest: dict[str, tuple[str, float]] = {}
        self._away = ""

    async def turn(self) -> None:
        """Look at the libraries that were not looked at of late, some at once."""
        here, now_s = self._here(), time.monotonic()
        self._newest = {library: seen for library, seen in self._newest.items() if library in here}
        due = [one for one in here if one not in self._newest or now_s - self._newest[one][1] >= self._every_s]
        turns = asyncio.Semaphore(AT_ONCE)

        async def look(library: str) -> None:
            async with turns:
                await self._look(library, *here[library])

        await asyncio.gather(*(look(library) for library in due))

    async def _look(self, library: str, user: str, sid: str) -> None:
        """Look at a library. What is found at the first time may be news: who connects looked a moment before."""
        known = self._newest.get(library, ("", 0.0))[0]
        self._newest[library] = known, time.monotonic()
        try:
            newest = await self._source.of_session(user, sid).news(library, datetime.now(UTC) - BACK)
        except LedgerError as error:
            if str(error) != self._away:
                log.warning("phones are not woken while Gumnut does not tell what is new: %s", error)
            self._away = str(error)
            return
        self._away = ""
        if newest and newest != known:
            self._newest[library] = newest, time.monotonic()
            self._written(library)
