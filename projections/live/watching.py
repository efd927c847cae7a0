"""Who tells of writes to a source that says nothing by itself: a database is asked, once a second for everybody.

Of all workers that have sockets one at a time takes the turn. It asks for the libraries that anybody listens for, on
any machine, and tells those that have something new; where nobody listens nothing is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Protocol

from ledger import keys
from ledger.errors import LedgerError
from ledger.log.service import Ledger
from projections.expiry import claim
from projections.live.signals import Signals

log = logging.getLogger(__name__)

TURN_S: Final = 1.0
JOB: Final = "watched"
BACK_US: Final = 60_000_000
"""How far back the first turn looks, and one after a longer pause: who connects looks for itself."""


class Watched(Protocol):
    """A source that can be asked for many libraries at once; both raise LedgerError where it does not tell."""

    async def horizon(self, library: str) -> int:
        """Tell the latest instant below which nothing new can appear, which is that of all libraries."""
        ...

    async def written(self, libraries: Sequence[str], since: int, before: int) -> list[str]:
        """Tell which libraries have rows at or above an instant and below a horizon."""
        ...


class Watching:
    """Asks a source in turns."""

    def __init__(self, ledger: Ledger, source: Watched, signals: Signals) -> None:
        self._ledger = ledger
        self._source = source
        self._signals = signals
        self._away = ""

    async def turn(self) -> None:
        """Take the turn if it is due and nobody has it; raises StoreUnavailable.

        What was told is noted behind the telling: a turn that is cut off is done again. A trouble of the source is
        logged once.
        """
        if not await claim(self._ledger, int(TURN_S * 1_000_000), JOB):
            return
        libraries = await self._signals.heard_libraries()
        if not libraries:
            return
        store, name = self._ledger.store, keys.watched()
        noted = await store.command("GET", name, key=name)
        try:
            horizon_us = await self._source.horizon("")
            since_us = max(int(noted or 0), horizon_us - BACK_US)
            if horizon_us <= since_us:
                return
            written = await self._source.written(libraries, since_us, horizon_us)
        except LedgerError as error:
            if str(error) != self._away:
                log.warning("phones are not woken while the source does not tell what was written: %s", error)
            self._away = str(error)
            return
        self._away = ""
        if written:
            await self._signals.tell(written)
        await store.command("SET", name, horizon_us, key=name)
