"""Ending sessions with all that belong to them.

Who ends is ended first, some to a script; from then on no descendant is admitted (`ancestors.lua`). Then the
descendants end, parents before children, some to a script too. That this is still to be done is noted with the end
(`keys.ending`): whoever dies between two scripts leaves it to the expiry job, or to the next descendant that is heard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from ledger import keys
from ledger.commands import Ending, EndSession, ExpireSession
from ledger.decide import decide
from ledger.errors import Contended, CorruptLedger, LedgerError, NotAllEnded, Rebuilding, SessionEnded, StoreUnavailable
from ledger.keys import partition_of
from ledger.log.ancestry import Ancestry
from ledger.log.append import Section, place
from ledger.log.losses import Losses, is_older
from ledger.log.remembered import Recent
from ledger.log.stored import ATTEMPTS, Stored
from ledger.log.user_sessions import UserSessions
from ledger.session_ids import short_id
from ledger.state import State
from ledger.store.interface import scan

log = logging.getLogger(__name__)

ENDED_TOGETHER: Final = 24
"""How many sessions end in one script: about a dozen calls and 1 KB each."""
PARENT_ENDED: Final = "parent_ended"


class Families:
    """Ends sessions, for one process and one store."""

    def __init__(
        self,
        stored: Stored,
        recent: Recent,
        sessions: UserSessions,
        ancestry: Ancestry,
        losses: Callable[[], Losses],
    ) -> None:
        self._stored = stored
        self._store = stored.store
        self._recent = recent
        self._sessions = sessions
        self._ancestry = ancestry
        self._losses = losses

    async def end(self, user: str, sids: Sequence[str], command: Ending) -> State:
        """End at most ENDED_TOGETHER sessions, then all that belong to them; returns the first one's last state.

        Raises SessionEnded where none of them lives, CorruptLedger for one that cannot be read, before anything ends;
        for what belongs to them behind everything else.
        """
        states = await self._end_first(user, sids, command)
        ended = [state for state in states if state.ended is not None]
        if ended and (damaged := await self._finish(user, ended)):
            sid, why = next(iter(damaged.items()))
            raise CorruptLedger(f"session {sid} cannot be read, so it cannot end: {why}", sid=sid)
        return states[0]

    async def end_these(self, user: str, sids: Sequence[str], command: EndSession, damaged: Iterable[str] = ()) -> int:
        """End sessions of a user with all that belong to them; returns how many were to end.

        What has ended already stays so. Raises NotAllEnded behind the last one, where some are damaged, or are known to
        be (`damaged`).
        """
        left, ended = dict.fromkeys(damaged), list[State]()
        for start in range(0, len(sids), ENDED_TOGETHER):
            some = sids[start : start + ENDED_TOGETHER]
            try:
                with suppress(SessionEnded):  # all of them ended meanwhile, with their parents or by somebody else
                    ended += await self._end_first(user, some, command)
            except CorruptLedger:
                for sid in some:
                    try:
                        with suppress(SessionEnded):
                            ended += await self._end_first(user, [sid], command)
                    except CorruptLedger:
                        left[sid] = None
        if ended:
            left |= dict.fromkeys(await self._finish(user, ended))
        if left:
            raise NotAllEnded(list(left), len([sid for sid in sids if sid not in left]))
        return len(sids)

    async def expire_these(
        self, user: str, seen_us: dict[str, int], idle_before_us: int
    ) -> tuple[list[State], dict[str, LedgerError]]:
        """End those of these sessions whose time is over, with what belongs to them.

        Returns their last states, and those that could not be read, with why. `seen_us`: when each was seen last. Who
        is heard of meanwhile stays. Raises StoreUnavailable, Rebuilding.
        """
        ended, failed, every = list[State](), dict[str, LedgerError](), list(seen_us.items())
        for start in range(0, len(every), ENDED_TOGETHER):
            some = dict(every[start : start + ENDED_TOGETHER])
            try:
                ended += await self._expire_some(user, some, idle_before_us)
            except (StoreUnavailable, Rebuilding):
                raise
            except LedgerError:  # of one of them
                for sid, us in some.items():
                    try:
                        ended += await self._expire_some(user, {sid: us}, idle_before_us)
                    except (StoreUnavailable, Rebuilding):
                        raise
                    except LedgerError as error:
                        failed[sid] = error
        if ended:
            await self._finish(user, ended)
        return ended, failed

    async def _expire_some(self, user: str, seen_us: dict[str, int], idle_before_us: int) -> list[State]:
        """End those whose time is over, and nothing that belongs to them; raises before anything ends."""
        partition, now_us, ended = partition_of(user, self._stored.partitions), self._stored.clock(), list[State]()
        states = await self._these(partition, user, list(seen_us))
        by_reason: dict[str | None, list[Section]] = {}
        for state in states:
            command = ExpireSession(idle_before_us, seen_us[state.sid])
            if self._is_beyond(state) is None and (events := decide(state, command, now_us)):
                section = place(state, state.sid, events, now_us)
                by_reason.setdefault(section.after.ended, []).append(section)
        for reason, sections in by_reason.items():
            seen_by_us = idle_before_us if reason == "idle" else None
            if await self._stored.append(partition, sections, now_us, seen_by_us=seen_by_us, leaves=True) is None:
                ended += [self._keep(section) for section in sections]
                continue
            for section in sections:  # somebody was heard of meanwhile: each by itself
                sid = section.after.sid
                with suppress(SessionEnded):
                    (state,) = await self._end_first(user, [sid], ExpireSession(idle_before_us, seen_us[sid]))
                    ended += [state] if state.ended is not None else []
        return ended

    async def finish(self, partition: int) -> None:
        """Go on with what somebody who died has left: end all that belong to sessions which have ended.

        What fails is logged, and left for the next time.
        """
        async for rows in scan(self._store, "HSCAN", keys.ending(partition)):
            for sid, user in rows:
                try:
                    await self._finish_of(partition, user.decode(), {sid.decode()})
                except LedgerError as error:
                    log.error("what belongs to session %s… ends later: %s", short_id(sid.decode()), error)

    async def end_orphan(self, user: str, sid: str) -> None:
        """End a session whose parent, or one further up, has ended, with all that belong to it; raises nothing of it.

        It is not admitted any more, whether that succeeds or not.
        """
        try:
            with suppress(SessionEnded):
                await self.end(user, [sid], EndSession(PARENT_ENDED))
        except LedgerError as error:
            log.warning("session %s…, whose parent has ended, ends later: %s", short_id(sid), error)

    async def _these(self, partition: int, user: str, sids: Sequence[str]) -> list[State]:
        """Load those of these sessions that live and are the user's, in this order.

        Raises CorruptLedger for any of the user's that cannot be read.
        """
        found, name = await self._sessions.load_these(partition, sids), keys.devices(partition, user)
        for sid, damage in found.damaged.items():
            if await self._store.command("HEXISTS", name, sid, key=name):
                raise CorruptLedger(f"session {sid} cannot be read, so it cannot end: {damage}", sid=sid)
        order = {sid: place for place, sid in enumerate(sids)}
        return sorted((s for s in found.living if s.user == user), key=lambda state: order[state.sid])

    async def _end_first(self, user: str, sids: Sequence[str], command: Ending, *, leaves: bool = True) -> list[State]:
        """End sessions in one script, and nothing that belongs to them; returns them as they are then.

        Raises SessionEnded where none of them lives, and replicas know it where they are waited for.
        """
        partition = partition_of(user, self._stored.partitions)
        for _ in range(ATTEMPTS):
            now_us = self._stored.clock()
            states = await self._these(partition, user, sids)
            if not states:
                for sid in sids:
                    await self._stored.confirm_ended(partition, sid)
                raise SessionEnded
            if beyond := [known for state in states if (known := self._is_beyond(state)) is not None]:
                for known in beyond:
                    await self._losses().make_good(known)
                continue
            sections = [
                place(state, state.sid, events, now_us)
                for state in states
                if (events := decide(state, command, now_us))
            ]
            if not sections:
                return states
            seen_by_us = command.seen_us if isinstance(command, ExpireSession) else None
            if await self._stored.append(partition, sections, now_us, seen_by_us=seen_by_us, leaves=leaves) is None:
                return [self._keep(section) for section in sections]
            if isinstance(command, ExpireSession):
                command = ExpireSession(command.idle_before_us, await self._seen_us(partition, sids[0], command))
        raise Contended

    async def _seen_us(self, partition: int, sid: str, command: ExpireSession) -> int:
        name = keys.activity(partition)
        return max(command.seen_us, int(float(await self._store.command("ZSCORE", name, sid, key=name) or 0)) * 1000)

    async def _finish(self, user: str, ended: Sequence[State]) -> dict[str, str]:
        return await self._finish_of(partition_of(user, self._stored.partitions), user, {state.sid for state in ended})

    async def _finish_of(self, partition: int, user: str, ended: set[str]) -> dict[str, str]:
        """End what belongs to sessions that have ended, parents first; returns those that cannot be read, and why."""
        children: dict[str, list[str]] = {}
        for sid, parent in (await self._sessions.parents(partition, user)).items():
            children.setdefault(parent, []).append(sid)
        below, damaged = [sid for parent in ended for sid in children.pop(parent, ())], dict[str, str]()
        for sid in below:  # it grows
            below += children.pop(sid, ())
        for start in range(0, len(below), ENDED_TOGETHER):
            damaged |= await self._end_children(user, below[start : start + ENDED_TOGETHER])
        if not damaged:
            name = keys.ending(partition)
            await self._store.command("HDEL", name, *ended, key=name)
        return damaged

    async def _end_children(self, user: str, sids: Sequence[str]) -> dict[str, str]:
        command, damaged = EndSession(PARENT_ENDED), dict[str, str]()
        try:
            with suppress(SessionEnded):
                await self._end_first(user, sids, command, leaves=False)
        except CorruptLedger:
            for sid in sids:
                try:
                    with suppress(SessionEnded):
                        await self._end_first(user, [sid], command, leaves=False)
                except CorruptLedger as error:
                    damaged[sid] = str(error)
        return damaged

    def _keep(self, section: Section) -> State:
        self._recent.keep_ended(section.after)
        self._ancestry.forget(section.after.sid)
        return section.after

    def _is_beyond(self, found: State) -> State | None:
        """Return what is remembered of a living session, if the store may have lost some of it."""
        known = self._recent.last(found.sid)
        return known if known is not None and is_older(found, known) else None
