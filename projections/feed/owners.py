"""Whose session it is, for feeds: events name their session alone, and only the first one the user."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from ledger import keys
from ledger.errors import CorruptLedger, StoreReplyError
from ledger.events import SessionCreated
from ledger.log.append import read_ended
from ledger.log.reader import Entry
from ledger.store.interface import Store

REMEMBERED: Final = 50_000


class Owners:
    """The users of the sessions last heard of."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, str] = OrderedDict()

    async def learn(self, partition: int, entries: Iterable[Entry]) -> dict[str, str]:
        """Tell the users of the sessions of some entries; one that is not kept any more is not among them."""
        found: dict[str, str] = {}
        unknown: list[str] = []
        for entry in entries:
            recorded = entry.recorded
            if isinstance(recorded.event, SessionCreated):
                found[recorded.sid] = recorded.event.user
            elif recorded.sid not in found:
                user = self._known.get(recorded.sid)
                if user is None:
                    unknown.append(recorded.sid)
                else:
                    found[recorded.sid] = user
        missing = [sid for sid in dict.fromkeys(unknown) if sid not in found]
        looked_up = await asyncio.gather(*(self._look_up(partition, sid) for sid in missing))
        found |= {sid: user for sid, user in zip(missing, looked_up, strict=True) if user is not None}
        for sid, user in found.items():
            self._known[sid] = user
            self._known.move_to_end(sid)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    async def _look_up(self, partition: int, sid: str) -> str | None:
        name = keys.session(partition, sid)
        try:
            user = await self._store.command("HGET", name, "user", key=name)
            if user is not None:
                return str(user.decode())
            ended = await read_ended(self._store, partition, sid)
        except (StoreReplyError, CorruptLedger, UnicodeDecodeError):  # verify names it; the event is told all the same
            return None
        return None if ended is None else ended.user
