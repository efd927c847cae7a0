"""Who is let in: the sessions of presented tokens, as they are remembered, loaded, and refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from ledger import keys
from ledger.admission import Caller, Standing, admits
from ledger.commands import EndSession
from ledger.errors import ParentOver, SessionEnded, TokenReused
from ledger.keys import partition_of
from ledger.log.ancestry import Ancestry
from ledger.log.append import is_known
from ledger.log.families import Families
from ledger.log.losses import Losses, is_older
from ledger.log.remembered import Recent
from ledger.log.stored import Stored
from ledger.state import State, living_parent_of

REFUSED: Final = (Standing.SPENT, Standing.UNKNOWN)
"""Where a token stands that admits nobody."""


class Admissions:
    """Tells, for one process and one store, which sessions live and whom they admit.

    What is loaded is compared with what this process remembers: what the store lost of it is made good on the way.
    """

    def __init__(self, stored: Stored, recent: Recent, ancestry: Ancestry, families: Families, losses: Losses) -> None:
        self._stored = stored
        self._recent = recent
        self._ancestry = ancestry
        self._families = families
        self._losses = losses

    def remembered(self, caller: Caller) -> State | None:
        """Tell what this process remembers of the session of which a token was presented, if that would admit it.

        It may be out of date: `Ledger.admit` returns the same object where it is not.
        """
        state = self._recent.last(caller.sid)
        return state if state is not None and admits(state, caller, self._stored.clock()) else None

    async def load(self, user: str, sid: str, known: State | None = None) -> State:
        """Load a session and note it as seen; raises SessionEnded if it does not live at this moment.

        `known` is returned where it is what the store has.
        """
        now_us = self._stored.clock()
        state = await self.load_admissible(user, sid, now_us, seen=True, remembered=known)
        if state is None or state.user != user or not state.lives_at(now_us):
            self._recent.forget(sid)
            raise SessionEnded
        self._recent.keep(state, now_us)
        return state

    async def load_admissible(
        self,
        user: str,
        sid: str,
        now_us: int,
        *,
        seen: bool,
        begins: bool = False,
        remembered: State | None = None,
    ) -> State | None:
        """Load a session that whoever it belongs to lets live; compares it with what is remembered of it.

        Raises ParentOver, and ends it where its parent, or one further up, has ended; CorruptLedger.
        """
        partition, known = self._partition_of(user), self._ancestry.remembered(sid)
        try:
            state = await self._stored.load(
                partition, sid, now_us, seen=seen, begins=begins, ancestors=known, known=remembered
            )
            if state is not None and not known and living_parent_of(state.parent):
                above = await self._ancestry.of(partition, sid, state.parent)
                state = await self._stored.load(partition, sid, now_us, seen=False, ancestors=above)
        except ParentOver as over:
            self._recent.forget(sid)
            if over.ended:
                await self._families.end_orphan(user, sid)
            raise
        return await self._checked(user, sid, state)

    async def lives(self, state: State) -> bool:
        """Tell whether a session still lives, without noting it as seen."""
        partition, now_us = self._partition_of(state.user), self._stored.clock()
        if state.lives_at(now_us) and not living_parent_of(state.parent):
            name = keys.session(partition, state.sid)
            if await self._stored.store.command("EXISTS", name, key=name):
                return True
        # It may have got a token since that lasts longer, or only be missing; or it ended with whom it belongs to.
        try:
            newest = await self.load_admissible(state.user, state.sid, now_us, seen=False)
        except SessionEnded:
            return False
        return newest is not None and newest.lives_at(now_us)

    async def once_admitted(self, caller: Caller) -> bool:
        """Tell whether a token that does not admit is one of a session that is there or has ended, and no guess."""
        ours = caller.number == 0 or caller.genuine
        return ours and await is_known(self._stored.store, self._partition_of(caller.user), caller.sid)

    async def refused(self, user: str, sid: str, found: Standing) -> SessionEnded:
        """Return what a token that does not admit is answered with; a copied one ends the session."""
        if found is Standing.UNKNOWN:
            return SessionEnded()
        with suppress(SessionEnded):  # somebody else ended it first
            await self._families.end(user, [sid], EndSession("token_reused"))
        return TokenReused()

    async def _checked(self, user: str, sid: str, found: State | None) -> State | None:
        """Compare a session that was loaded with what is remembered of it; make good what the store has lost of it."""
        known = self._recent.known(sid)
        if known is None or known.user != user or not is_older(found, known):
            return found
        return await self._losses.make_good(known)

    def _partition_of(self, user: str) -> int:
        return partition_of(user, self._stored.partitions)
