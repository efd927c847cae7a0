"""The sessions of a user: listed, and ended with all that belong to them.

Who ends is ended first, some to a script; from then on no descendant is admitted (`ancestors.lua`). Then the
descendants end, parents before children, some to a script too. That this is still to be done is noted with the end
(`keys.ending`): whoever dies between two scripts leaves it to the expiry job, or to the next descendant that is heard.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from ledger import keys
from ledger.commands import Ending, EndSession, ExpireSession
from ledger.decide import decide
from ledger.errors import Contended, CorruptLedger, LedgerError, NotAllEnded, ParentOver, Refused, SessionEnded
from ledger.keys import partition_of
from ledger.log.append import Conflict, Section, place
from ledger.log.losses import Losses, is_older
from ledger.log.remembered import Recent
from ledger.log.whole import read_if_whole
from ledger.state import State, living_parent_of
from ledger.store.interface import Store, scan

log = logging.getLogger(__name__)

DEPTH: Final = 8
"""How many sessions a new one may have above it."""
DEPTH_READ: Final = 64
"""How many are looked at: earlier versions had no bound. What lies deeper is not admitted."""
ENDED_TOGETHER: Final = 24
"""How many sessions end in one script: about a dozen calls and 1 KB each."""
LOADED_TOGETHER: Final = 100
SCORES_TOGETHER: Final = 1000
ATTEMPTS: Final = 16
KNOWN: Final = 8192
"""Of how many children it is remembered to whom they belong."""
PARENT_ENDED: Final = "parent_ended"


class Devices(NamedTuple):
    """The living sessions of a user, in no order, and those of which what is stored is damaged, each with how."""

    living: list[State]
    damaged: dict[str, str]


class Heard(NamedTuple):
    """When a session was last heard of (ms, to the hour), and which one: its place in a list of the newest first."""

    seen_ms: int
    sid: str


class Load(Protocol):
    """Loads a session that lives, None if there is none; raises CorruptLedger."""

    def __call__(self, partition: int, sid: str) -> Awaitable[State | None]:
        """Load it without noting it as seen."""
        ...


class Append(Protocol):
    """Appends sections, as `ledger.log.append` does, and waits for replicas where they are to confirm it."""

    def __call__(
        self,
        partition: int,
        sections: Sequence[Section],
        now_us: int,
        *,
        seen_by_us: int | None = None,
        leaves: bool = False,
    ) -> Awaitable[Conflict | None]:
        """Append; returns a conflict where nothing was written."""
        ...


class Families:
    """The sessions of users, with whom they belong to."""

    def __init__(
        self,
        store: Store,
        partitions: int,
        clock: Callable[[], int],
        recent: Recent,
        load: Load,
        append: Append,
        losses: Callable[[], Losses],
        confirm_ended: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._partitions = partitions
        self._clock = clock
        self._recent = recent
        self._load = load
        self._append = append
        self._losses = losses
        self._confirm_ended = confirm_ended
        self._ancestors: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    # Who belongs to whom

    def known_ancestors(self, sid: str) -> tuple[str, ...]:
        """Tell the sessions above one, nearest first, as far as this process knows; none of what belongs to nobody."""
        return self._ancestors.get(sid, ())

    async def ancestors(self, partition: int, sid: str, parent: str | None) -> tuple[str, ...]:
        """Tell the sessions above one, nearest first; they never change. It ends before one that does not live.

        Raises ParentOver where there are more than DEPTH_READ.
        """
        above = living_parent_of(parent)
        if not above:
            return ()
        known = self._ancestors.get(sid)
        if known is not None:
            self._ancestors.move_to_end(sid)
            return known
        found = [above]
        while True:
            if rest := self._ancestors.get(found[-1]):
                found += rest
                if len(found) > DEPTH_READ:
                    raise ParentOver(ended=False)
                break
            name = keys.session(partition, found[-1])
            user, next_one = await self._store.command("HMGET", name, "user", "parent", key=name)
            if user is None:
                return tuple(found)  # it does not live, or not yet again: another look may tell more
            above = living_parent_of(next_one.decode()) if next_one else ""
            if not above:
                break
            if len(found) >= DEPTH_READ or above in found:
                raise ParentOver(ended=False)
            found.append(above)
        self._ancestors[sid] = tuple(found)
        if len(self._ancestors) > KNOWN:
            self._ancestors.popitem(last=False)
        return tuple(found)

    async def above_new(self, partition: int, sid: str, parent: str | None) -> tuple[str, ...]:
        """Tell the sessions above a new one; raises Refused where there are more than DEPTH."""
        found = await self.ancestors(partition, sid, parent)
        if len(found) > DEPTH:
            raise Refused(
                f"At most {DEPTH} sessions may lie above one: let this one be made by one further up, or sign in"
            )
        return found

    # Listing

    async def sids_of(self, user: str) -> list[str]:
        """List the ids of a user's living sessions; raises Rebuilding while not all are known."""
        partition = partition_of(user, self._partitions)
        return list(await self._parents(partition, user))

    async def states_of(self, user: str) -> Devices:
        """Load all sessions of a user that are not ended, also expired ones, some at a time."""
        return await self._load_these(partition_of(user, self._partitions), await self.sids_of(user))

    async def newest(self, user: str, most: int, after: Heard | None = None) -> tuple[Devices, list[Heard]]:
        """Load those of a user's sessions that were heard of last, at most so many, behind `after`; and tell when.

        Expired ones are among them. Raises Rebuilding while not all are known.
        """
        some = [heard for heard in reversed(await self._heard(user)) if after is None or heard < after][:most]
        return await self._load_these(partition_of(user, self._partitions), [sid for _, sid in some]), some

    async def longest_unheard(self, user: str, authenticated_by: str) -> str | None:
        """Find the living session of a user, of those begun by one service, that was not heard of for longest."""
        partition = partition_of(user, self._partitions)
        for _, sid in await self._heard(user):
            name = keys.session(partition, sid)
            if await self._store.command("HGET", name, "authenticated_by", key=name) == authenticated_by.encode():
                return sid
        return None

    async def _heard(self, user: str) -> list[Heard]:
        """Tell when each of a user's living sessions was last heard of, the longest ago first."""
        sids, name = await self.sids_of(user), keys.activity(partition_of(user, self._partitions))
        found: list[Heard] = []
        for start in range(0, len(sids), SCORES_TOGETHER):
            some = sids[start : start + SCORES_TOGETHER]
            scores = await self._store.command("ZMSCORE", name, *some, key=name)
            found += [Heard(int(float(ms or 0)), sid) for sid, ms in zip(some, scores, strict=True)]
        return sorted(found)

    async def _parents(self, partition: int, user: str) -> dict[str, str]:
        """Read to whom each living session of a user belongs, '' for nobody; none that lives throughout is missed."""
        name = keys.devices(partition, user)
        await read_if_whole(self._store, partition, "HLEN", name)
        found: dict[str, str] = {}
        async for rows in scan(self._store, "HSCAN", name):
            found.update((sid.decode(), parent.decode()) for sid, parent in rows)
        await read_if_whole(self._store, partition, "HLEN", name)  # else it may have been deleted meanwhile
        return found

    async def _load_these(self, partition: int, sids: Sequence[str]) -> Devices:
        """Load those of these sessions that live, some at a time: others wait for the same connection."""
        found = Devices([], {})

        async def one(sid: str) -> None:
            try:
                state = await self._load(partition, sid)
            except CorruptLedger as damage:
                log.error("session %s is passed over: %s", sid, damage)
                found.damaged[sid] = str(damage)
            else:
                if state is not None:
                    found.living.append(state)

        for start in range(0, len(sids), LOADED_TOGETHER):
            await asyncio.gather(*map(one, sids[start : start + LOADED_TOGETHER]))
        return found

    # Ending

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

    async def expire_these(self, user: str, seen_us: dict[str, int], idle_before_us: int) -> list[State]:
        """End those of these sessions whose time is over, with what belongs to them; returns their last states.

        `seen_us`: when each was seen last. Who is heard of meanwhile stays. Raises CorruptLedger for one that cannot be
        read, before anything ends.
        """
        ended: list[State] = []
        for start in range(0, len(seen_us), ENDED_TOGETHER):
            some = list(seen_us.items())[start : start + ENDED_TOGETHER]
            ended += await self._expire_some(user, dict(some), idle_before_us)
        if ended:
            await self._finish(user, ended)
        return ended

    async def _expire_some(self, user: str, seen_us: dict[str, int], idle_before_us: int) -> list[State]:
        partition, now_us, ended = partition_of(user, self._partitions), self._clock(), list[State]()
        states = await self._these(partition, user, list(seen_us))
        by_reason: dict[str | None, list[Section]] = {}
        for state in states:
            command = ExpireSession(idle_before_us, seen_us[state.sid])
            if self._is_beyond(state) is None and (events := decide(state, command, now_us)):
                section = place(state, state.sid, events, now_us)
                by_reason.setdefault(section.after.ended, []).append(section)
        for reason, sections in by_reason.items():
            seen_by_us = idle_before_us if reason == "idle" else None
            if await self._append(partition, sections, now_us, seen_by_us=seen_by_us, leaves=True) is None:
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
                    log.error("what belongs to session %s… ends later: %s", sid[:12].decode(), error)

    async def end_orphan(self, user: str, sid: str) -> None:
        """End a session whose parent, or one further up, has ended, with all that belong to it; raises nothing of it.

        It is not admitted any more, whether that succeeds or not.
        """
        try:
            with suppress(SessionEnded):
                await self.end(user, [sid], EndSession(PARENT_ENDED))
        except LedgerError as error:
            log.warning("session %s…, whose parent has ended, ends later: %s", sid[:12], error)

    async def _these(self, partition: int, user: str, sids: Sequence[str]) -> list[State]:
        """Load those of these sessions that live and are the user's, in this order.

        Raises CorruptLedger for any of the user's that cannot be read.
        """
        found, name = await self._load_these(partition, sids), keys.devices(partition, user)
        for sid, damage in found.damaged.items():
            if await self._store.command("HEXISTS", name, sid, key=name):
                raise CorruptLedger(f"session {sid} cannot be read, so it cannot end: {damage}", sid=sid)
        order = {sid: place for place, sid in enumerate(sids)}
        return sorted((s for s in found.living if s.user == user), key=lambda state: order[state.sid])

    async def _end_first(self, user: str, sids: Sequence[str], command: Ending, *, leaves: bool = True) -> list[State]:
        """End sessions in one script, and nothing that belongs to them; returns them as they are then.

        Raises SessionEnded where none of them lives, and replicas know it where they are waited for.
        """
        partition = partition_of(user, self._partitions)
        for _ in range(ATTEMPTS):
            now_us = self._clock()
            states = await self._these(partition, user, sids)
            if not states:
                for sid in sids:
                    await self._confirm_ended(user, sid)
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
            if await self._append(partition, sections, now_us, seen_by_us=seen_by_us, leaves=leaves) is None:
                return [self._keep(section) for section in sections]
            if isinstance(command, ExpireSession):
                command = ExpireSession(command.idle_before_us, await self._seen_us(partition, sids[0], command))
        raise Contended("Too many writers at this session; try again")

    async def _seen_us(self, partition: int, sid: str, command: ExpireSession) -> int:
        name = keys.activity(partition)
        return max(command.seen_us, int(float(await self._store.command("ZSCORE", name, sid, key=name) or 0)) * 1000)

    async def _finish(self, user: str, ended: Sequence[State]) -> dict[str, str]:
        return await self._finish_of(partition_of(user, self._partitions), user, {state.sid for state in ended})

    async def _finish_of(self, partition: int, user: str, ended: set[str]) -> dict[str, str]:
        """End what belongs to sessions that have ended, parents first; returns those that cannot be read, and why."""
        children: dict[str, list[str]] = {}
        for sid, parent in (await self._parents(partition, user)).items():
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
        self._ancestors.pop(section.after.sid, None)
        return section.after

    def _is_beyond(self, found: State) -> State | None:
        """Return what is remembered of a living session, if the store may have lost some of it."""
        known = self._recent.last(found.sid)
        return known if known is not None and is_older(found, known) else None
