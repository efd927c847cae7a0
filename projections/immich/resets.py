"""Wishes at Immich that a device start over: asked for here, watched until it has, and taken back there.

What follows from one is told by `wishes.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from ledger import keys
from ledger.commands import RequestReset
from ledger.events import IMMICH
from ledger.log.service import Ledger
from ledger.session_ids import short_id
from ledger.state import State
from projections.entities.source import SourceUnavailable
from projections.immich.tables import ImmichSession, ImmichTables
from projections.immich.wishes import follows

log = logging.getLogger(__name__)

WISHES: Final = 1024
"""How many devices are watched until they have started over; a wish of one beyond is seen to at its next request."""
AT_IT_S: Final = 900


class WishedResets:
    """The wishes that one worker knows of."""

    def __init__(
        self,
        tables: ImmichTables,
        ledger: Ledger,
        find: Callable[[bytes], Awaitable[ImmichSession | None]],
        in_background: Callable[[Coroutine[Any, Any, Any], str], None],
        every_s: float,
    ) -> None:
        """`find` looks a token's session up; `in_background` writes to Immich's database behind who asks.

        Those that are watched are looked at every `every_s`.
        """
        self.may_clear = False
        """Whether a wish may be taken back at Immich."""
        self.watched: set[bytes] = set()
        self.watching: asyncio.Task[None] | None = None
        self._tables = tables
        self._ledger = ledger
        self._find = find
        self._in_background = in_background
        self._every_s = every_s

    async def note(self, row: ImmichSession, before: ImmichSession | None) -> None:
        """Take up whether it is wished that a device start over, as its row says now and said `before`."""
        sid, name = row.token.hex(), keys.pressed(self._ledger.partition_of(row.user))
        self.watched.discard(row.token)
        if row.pending_reset:
            await self._ask(row, sid, name)
        elif before is None or before.pending_reset:
            await self._ledger.store.command("HDEL", name, sid, key=name)

    async def wish(self, row: ImmichSession, sid: str) -> None:
        """Have Immich send a device everything that is about to start over here, should it go back there meanwhile.

        Immich's checkpoints say of it what is no more true until it has got all of it again: then the wish is taken
        back. Without the grant Immich does not know, and where this fails the device starts over all the same: it is
        logged.
        """
        if not self.may_clear:
            return
        try:
            mark = await self._tables.wish_reset(row.id)
        except SourceUnavailable as error:
            says = "session %s… starts over, and Immich does not know: have it finish a sync here: %s"
            log.warning(says, short_id(sid), error)
            return
        if mark is not None:
            name = keys.pressed(self._ledger.partition_of(row.user))
            await self._ledger.store.command("HSET", name, sid, mark, key=name)
            self._watch(row.token)

    async def _ask(self, row: ImmichSession, sid: str, name: bytes) -> None:
        """Ask a device to start over whose owner wants that at Immich, once; when it has, take the wish back there."""
        store = self._ledger.store
        asked = await store.command("HGET", name, sid, key=name)
        if asked is not None:
            if not self.may_clear:
                return
            state = await self._ledger.load(row.user, sid)
            next_step = follows(state, asked.decode(), row.update_id)
            if next_step != "ask":
                self._watch(row.token, state)
                if next_step == "take_back":
                    self._in_background(self._take_back(row, sid, name), "told that it started over")
                elif asked.decode() != row.update_id:
                    await store.command("HSET", name, sid, row.update_id, key=name)
                return
        state = await self._ledger.execute(row.user, sid, RequestReset(on=True, by=b"", cause=IMMICH))
        await store.command("HSET", name, sid, row.update_id, key=name)
        if self.may_clear:
            self._watch(row.token, state)

    def _watch(self, token: bytes, state: State | None = None) -> None:
        """Look at a wish until it can be taken back: the last that a device is heard of may be that it is done.

        It is watched no longer than AT_IT_S behind the last change of the session (None: now); the device's next
        request begins that anew.
        """
        is_at_it = state is None or self._ledger.clock() - state.at_us <= AT_IT_S * 1_000_000
        if is_at_it and len(self.watched) < WISHES:
            self.watched.add(token)
            if self.watching is None or self.watching.done():
                self.watching = asyncio.create_task(self._look_at_all())

    async def _look_at_all(self) -> None:
        while self.watched:
            await asyncio.sleep(self._every_s)
            tokens = list(self.watched)
            for token, found in zip(
                tokens, await asyncio.gather(*map(self._find, tokens), return_exceptions=True), strict=True
            ):
                if found is None:
                    self.watched.discard(token)
                elif isinstance(found, SourceUnavailable):
                    log.debug("the wish of session %s… is looked at later: %s", short_id(token.hex()), found)
                elif isinstance(found, BaseException):
                    raise found

    async def _take_back(self, row: ImmichSession, sid: str, name: bytes) -> None:
        if await self._tables.clear_reset(row.id, row.update_id):
            await self._ledger.store.command("HDEL", name, sid, key=name)
