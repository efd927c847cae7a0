"""The ledger: commands on sessions, decided on what is remembered or loaded and appended, for one process and store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from msgspec.structs import replace

from ledger.acks import Ack
from ledger.admission import Caller, Standing, admits, standing
from ledger.commands import (
    ClearCheckpoints,
    Command,
    CreateSession,
    DescribeDevice,
    Ending,
    EndSession,
    OfferStream,
    RecordAcks,
    ResumeSession,
    RotateToken,
    UseToken,
)
from ledger.decide import decide
from ledger.errors import (
    Contended,
    ParentOver,
    Refused,
    SessionEnded,
    StoreUnavailable,
)
from ledger.events import Event
from ledger.evolve import left_of
from ledger.figures.of_log import LogFigures
from ledger.keys import partition_of
from ledger.log.admissions import REFUSED, Admissions
from ledger.log.ancestry import Ancestry
from ledger.log.append import Conflict, Section, place, read_ended
from ledger.log.families import Families
from ledger.log.losses import Losses, Present, is_older
from ledger.log.milestones import Milestones
from ledger.log.quick_acks import APPEND_ONE, WRITTEN, Quick, quick_ack
from ledger.log.remembered import Recent
from ledger.log.replicas import Replicas
from ledger.log.sealing import Sealing, UserKeys
from ledger.log.stored import ATTEMPTS, Mender, Stored
from ledger.log.user_sessions import Devices, UserSessions
from ledger.state import State, living_parent_of
from ledger.store.error_replies import NoScript
from ledger.store.interface import Store, TakesPacked

MOST_SESSIONS: Final = 1000
"""How many living sessions a user may have, unless that is set."""
_BEGUN_AGAIN: Final = 4
"""How often a session begins anew for one request, where others of its user put it aside for theirs meanwhile."""
_GOOD, _NEW = Standing.GOOD, Standing.NEW
_BY_DEVICE: Final = (RecordAcks, OfferStream, ClearCheckpoints, DescribeDevice, RotateToken, UseToken)


class BegunAck(NamedTuple):
    """An ack that was decided on `state`, and sent to the store on its quick way."""

    state: State
    quick: Quick
    now_us: int
    began_s: float
    packs: TakesPacked
    reply: asyncio.Future[Any]


class Ledger:
    """Carries commands out on sessions: in the name of a presented token, or by authority.

    All methods raise StoreUnavailable when the store is away, and Rebuilding where a session that is not found may be
    one that is not rebuilt yet. A session that cannot be read is mended on the way; where that is not possible,
    CorruptLedger is raised by what is about it alone, and all other sessions go on.
    """

    def __init__(
        self,
        store: Store,
        partitions: int,
        clock: Callable[[], int],
        token_grace_us: int = 60_000_000,
        replicas: Replicas | None = None,
        user_keys: UserKeys | None = None,
        mender: Mender | None = None,
        present: Present | None = None,
        most_sessions: int = MOST_SESSIONS,
        figures: LogFigures | None = None,
    ) -> None:
        """`clock` tells the time in µs since 1970 UTC; a replaced token stays good for `token_grace_us`.

        With `replicas` what must not be lost is answered when they have it. `user_keys` seal what events hold of
        people; without them it is written plain. Without a `mender` what is damaged stays so. `present`
        raises LedgerGone where the ledger is not behind the store's address any more. No session begins beyond
        `most_sessions` living ones of a user; 0 for any number. `figures`: where it counts what it does.
        """
        self.most_sessions = most_sessions
        self.figures = figures or LogFigures()
        self.store = store
        self.partitions = partitions
        self.clock = clock
        self._token_grace_us = token_grace_us
        self._packs = store if isinstance(store, TakesPacked) else None
        milestones = Milestones(store)
        self._recent = Recent(lambda state: milestones.note(partition_of(state.user, partitions), state))
        self.stored = Stored(store, partitions, lambda: self.clock(), self._recent, self.figures, replicas, mender)
        self.sealing = Sealing(user_keys)
        self.sessions = UserSessions(self.stored)
        self._ancestry = Ancestry(store)
        self.families = Families(self.stored, self._recent, self.sessions, self._ancestry, lambda: self.losses)
        self.losses = Losses(self.stored, self._recent, self.families.end, present)
        self.admissions = Admissions(self.stored, self._recent, self._ancestry, self.families, self.losses)
        self.begin: Callable[[Caller], Awaitable[bool]] | None = None
        """Begins or resumes the session of a token that another service admits; tells whether it may live.

        None where sessions begin by signing in here.
        """
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def partition_of(self, user: str) -> int:
        """Tell the partition of a user."""
        return partition_of(user, self.partitions)

    async def admit(self, caller: Caller) -> State:
        """Load the session of which a token was presented, which notes it as seen.

        What is remembered of it is returned where the store has it at that version.

        The first use of a new token is appended. Raises SessionEnded if the token admits nobody, and TokenReused if it
        was replaced before its grace was over: then the session has been ended for it.
        """
        for _ in range(_BEGUN_AGAIN):
            try:
                known = self._recent.last(caller.sid)
                return await self._admitted(await self.load(caller.user, caller.sid, known), caller)
            except SessionEnded:
                if self.begin is None or not await self.begin(caller):
                    raise
        return await self._admitted(await self.load(caller.user, caller.sid), caller)

    def act(self, caller: Caller, command: Command) -> Coroutine[Any, Any, State]:
        """Carry a command out in the name of a presented token; raises what `admit` and `execute` raise."""
        if self.begin is not None:
            return self._act(caller, command, self.begin)
        return self.execute(caller.user, caller.sid, command, caller)

    async def acknowledge(self, caller: Caller, acks: tuple[Ack, ...], begun: BegunAck | None = None) -> None:
        """Take acks in the name of a presented token, as `act` does with RecordAcks, whose quick way this is.

        `begun`: what `begin_ack` began of them. Raises what `act` raises.
        """
        if begun is None and len(acks) == 1:
            begun = self.begin_ack(caller, acks[0])
        if begun is None or not await self._took(begun):
            await self.act(caller, RecordAcks(acks))

    def begin_ack(self, caller: Caller, ack: Ack) -> BegunAck | None:
        """Send an ack on its quick way to the store; None where there is none, and nothing was done.

        Once the store has replied, either `took_ack` tells that the ack was taken, or `acknowledge` must be given what
        was begun. Raises StoreUnavailable.
        """
        packs, now_us = self._packs, self.clock()
        state = self._recent.find(caller.sid, now_us)
        if packs is None or state is None or not admits(state, caller, now_us):
            return None
        quick = quick_ack(state, ack, self.partitions, now_us)
        if quick is None:
            return None
        began_s = perf_counter()
        reply = asyncio.ensure_future(packs.packed(APPEND_ONE, quick.key, quick.call))
        return BegunAck(state, quick, now_us, began_s, packs, reply)

    def took_ack(self, begun: BegunAck) -> bool:
        """Tell whether the store, which has replied, took an ack: then it is on record."""
        reply = begun.reply
        if reply.cancelled() or reply.exception() is not None or reply.result() != WRITTEN:
            return False
        self._note_ack(begun)
        return True

    async def _took(self, begun: BegunAck) -> bool:
        """Tell whether an ack is on record by what was begun, or is to be decided, perhaps behind another writer.

        Raises what `_append` raises.
        """
        quick = begun.quick
        try:
            if await begun.reply != WRITTEN:
                return False
        except NoScript:
            await begun.packs.load(APPEND_ONE, quick.key)
            return False
        except StoreUnavailable as error:
            if not error.maybe_done:
                raise
            if not await self._is_written(begun.state, quick.event, begun.now_us):
                return False
        self._note_ack(begun)
        return True

    def _note_ack(self, begun: BegunAck) -> None:
        """Count an ack that was taken, and remember the state behind it, unless the session was seen to end since."""
        figures, after = self.figures, begun.quick.after
        figures.appends.note(perf_counter() - begun.began_s)
        figures.moved_one()
        if self._recent.last(after.sid) is not None:
            self._recent.keep(after)

    async def _is_written(self, state: State, event: Event, now_us: int) -> bool:
        """Tell whether an event is in the log behind `state`, though the connection was lost that it was sent on."""
        section = place(state, state.sid, (event,), now_us)
        return await self.stored.outcome(partition_of(state.user, self.partitions), section, now_us) is None

    async def _act(self, caller: Caller, command: Command, begin: Callable[[Caller], Awaitable[bool]]) -> State:
        for _ in range(_BEGUN_AGAIN):
            try:
                return await self.execute(caller.user, caller.sid, command, caller)
            except SessionEnded:
                if not await begin(caller):
                    raise
        return await self.execute(caller.user, caller.sid, command, caller)

    async def resume(self, user: str, sid: str, command: ResumeSession) -> State:
        """Let a session that has ended live again and return its state; one that lives stays as it is.

        Raises SessionEnded if there never was one, Refused if it was another user's, Contended behind many writers.
        """
        command = replace(command, session=await self.sealing.sealed(user, command.session))
        partition = partition_of(user, self.partitions)
        for _ in range(ATTEMPTS):
            now_us = self.clock()
            ended = await read_ended(self.store, partition, sid)
            if ended is None:
                state = await self.stored.load(partition, sid, now_us, seen=True)
                if state is None:
                    raise SessionEnded
                return self._recent.keep(state, now_us)
            before = left_of(sid, ended.user, ended.seq, ended.hash)
            section = place(before, sid, decide(before, command, now_us), now_us)
            if await self.stored.append(partition, [section], now_us, most_sessions=self.most_sessions) is None:
                return self._recent.keep(section.after, now_us)
        raise Contended

    async def load(self, user: str, sid: str, known: State | None = None) -> State:
        """Load a session and note it as seen, as `Admissions.load` does."""
        return await self.admissions.load(user, sid, known)

    async def execute(self, user: str, sid: str, command: Command, caller: Caller | None = None) -> State:
        """Carry a command out on a session of a user and return its state after it.

        Decides on the state this process remembers: the append is taken only if that is still the current one. What
        appends nothing is decided on a state loaded now. With a `caller` the same holds for the token presented;
        without one it is done by authority. Raises what `decide` raises, Contended behind many writers.
        """
        seen, begins, living_parent, above = isinstance(command, _BY_DEVICE), False, "", tuple[str, ...]()
        if not seen:  # PERF: almost every command is an ack, which needs none of this
            command = await self.sealing.sealed(user, command)
            if isinstance(command, Ending):
                if caller is not None:
                    await self.admit(caller)
                return await self.families.end(user, [sid], command)
            if isinstance(command, CreateSession):
                begins, living_parent = True, living_parent_of(command.parent)
                above = await self._ancestry.of_new(self.partition_of(user), sid, command.parent)
        elif isinstance(command, DescribeDevice):
            command = await self.sealing.sealed(user, command)
        partition = partition_of(user, self.partitions)
        state = self._recent.find(sid, self.clock())
        current = state is None
        # PERF: a session that begins is mostly of an id that was never seen: the append proves that as well as a load.
        if current and not (begins and self._recent.known(sid) is None):
            state = await self.admissions.load_admissible(user, sid, self.clock(), seen=seen, begins=begins)
        turn: asyncio.Lock | None = None
        try:
            for _ in range(ATTEMPTS):
                now_us = self.clock()
                found = standing(state, caller, now_us) if caller and state else _GOOD
                refused = found is not _GOOD and found in REFUSED
                if refused and current:
                    raise await self.admissions.refused(user, sid, found)
                before = None if state is None or state.user != user or refused else state
                first = UseToken(caller.digest, self._token_grace_us) if caller and found is _NEW else None
                events, refusal = _judge(before, command, now_us, first)
                if events:
                    section = place(state, sid, events, now_us)
                    if state is not None and state.parent is not None:
                        above = await self._ancestry.of(partition, sid, state.parent)
                    conflict = await self._write(partition, section, now_us, living_parent, above)
                    if conflict is not None:
                        if state is None and conflict.state is None and not conflict.lost:
                            raise SessionEnded  # there was one of this id before, or its parent does not live
                        known = state
                        self._recent.correct(sid, conflict.state)
                        turn = turn or await self._turn(sid)
                        if known is not None and known.user == user and is_older(conflict.state, known):
                            await self.losses.make_good(known)
                        state = self._recent.last(sid)  # who had the turn before may have gone on
                        current = state is None or state is conflict.state
                        if state is None:
                            state = await self.stored.load(partition, sid, now_us, seen=False)
                        continue
                    state = self._recent.keep(section.after, now_us if current and seen else None)
                elif not current:
                    state = await self.admissions.load_admissible(user, sid, now_us, seen=seen, begins=begins)
                    current = True
                    continue
                if refusal:
                    raise refusal
                assert state is not None
                if self.stored.replicas is not None:
                    await self.stored.replicas.repeated(partition, state, command)
                return state
        finally:
            if turn is not None:
                turn.release()
        raise Contended

    async def look(self, partition: int, sid: str) -> State | None:
        """Load a session as `Stored.look` does."""
        return await self.stored.look(partition, sid)

    async def _write(
        self, partition: int, section: Section, now_us: int, living_parent: str, above: Sequence[str]
    ) -> Conflict | None:
        """Append what was decided; where one that the session belongs to has ended, ends it and raises ParentOver."""
        try:
            return await self.stored.append(
                partition, [section], now_us, living_parent, ancestors=above, most_sessions=self.most_sessions
            )
        except ParentOver as over:
            state = section.after
            self._recent.forget(state.sid)
            if over.ended and section.before is not None:
                await self.families.end_orphan(state.user, state.sid)
            raise

    async def devices(self, user: str) -> list[State]:
        """Load all living sessions of a user, in no order; each is loaded by itself, expired ones left out.

        Without those that are damaged, which is logged; `all_devices` tells them too.
        """
        return (await self.all_devices(user)).living

    async def all_devices(self, user: str) -> Devices:
        """Load all living sessions of a user, and tell those that are damaged."""
        now_us = self.clock()
        found = await self.sessions.states_of(user)
        return Devices([state for state in found.living if state.lives_at(now_us)], found.damaged)

    async def end_others(self, user: str, sid: str, command: EndSession) -> int:
        """End all sessions of a user but `sid` and those it belongs to; returns how many ended.

        Raises NotAllEnded behind the last one, where some are damaged.
        """
        found = await self.sessions.states_of(user)
        states = {state.sid: state for state in found.living}
        kept: set[str] = set()
        own: str | None = sid
        while own is not None and own in states and own not in kept:
            kept.add(own)
            own = states[own].parent
        others = [other for other in states if other not in kept and other != sid]
        damaged = [other for other in found.damaged if other != sid]
        if not others and not damaged:
            await self.stored.confirm_all(self.partition_of(user))
            return 0
        return await self.families.end_these(user, others, await self.sealing.sealed(user, command), damaged)

    async def end_all(self, user: str, sids: Sequence[str], command: EndSession) -> int:
        """End sessions of a user, in few scripts; returns how many were to end. What has ended already stays so.

        Raises NotAllEnded behind the last one, where some are damaged.
        """
        if not sids:
            await self.stored.confirm_all(self.partition_of(user))
            return 0
        return await self.families.end_these(user, sids, await self.sealing.sealed(user, command))

    async def _admitted(self, state: State, caller: Caller) -> State:
        """Return a living session's state if the token admits, after noting its first use."""
        found = standing(state, caller, self.clock())
        if found is Standing.NEW:
            return await self.execute(state.user, state.sid, UseToken(caller.digest, self._token_grace_us))
        if found in REFUSED:
            raise await self.admissions.refused(state.user, state.sid, found)
        return state

    async def _turn(self, sid: str) -> asyncio.Lock:
        """Line up with this process's other commands that met a conflict on a session; the caller releases."""
        line = self._lines.setdefault(sid, asyncio.Lock())
        await line.acquire()
        return line


def _judge(
    state: State | None, command: Command, now_us: int, first: UseToken | None = None
) -> tuple[tuple[Event, ...], Refused | SessionEnded | None]:
    """Decide, with a refusal as a value beside the events that must be on record with it.

    `first` is decided before the command, which then finds the state after it.
    """
    events: tuple[Event, ...] = ()
    try:
        if first is not None:
            events = decide(state, first, now_us)
            state = place(state, state.sid, events, now_us).after if state and events else state
            return (*events, *decide(state, command, now_us)), None
        return decide(state, command, now_us), None
    except Refused as refusal:
        return (*events, *refusal.record), refusal
    except SessionEnded as ended:
        return events, ended
