"""The ledger: load, decide, append, for one process and one store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, Final, NamedTuple, Protocol, TypeVar
from weakref import WeakValueDictionary

from msgspec.structs import replace

from ledger import keys
from ledger.acks import Ack
from ledger.admission import Caller, Standing, standing
from ledger.commands import (
    ClearCheckpoints,
    Command,
    CreateSession,
    DescribeDevice,
    Ending,
    EndSession,
    OfferStream,
    RecordAcks,
    RequestReset,
    ResumeSession,
    RotateToken,
    UseToken,
)
from ledger.decide import decide
from ledger.errors import (
    Contended,
    CorruptLedger,
    LayoutError,
    LedgerError,
    NoSuchSession,
    NotReplicated,
    ParentOver,
    Rebuilding,
    Refused,
    SessionEnded,
    StoreReplyError,
    StoreUnavailable,
    TokenReused,
    Unavailable,
)
from ledger.events import Event
from ledger.evolve import left_of
from ledger.figures.of_log import LogFigures
from ledger.keys import partition_of
from ledger.log.append import Conflict, Section, append, is_known, load, place, read_ended
from ledger.log.families import Devices, Families
from ledger.log.losses import Losses, Present, is_older
from ledger.log.milestones import Milestones
from ledger.log.quick_acks import APPEND_ONE, WRITTEN, Quick, quick_ack
from ledger.log.reader import walk
from ledger.log.remembered import Recent
from ledger.log.replicas import Replicas
from ledger.log.whole import read_if_whole
from ledger.personal import UserKey, has_plain, has_sealed, opened, sealed
from ledger.state import State, living_parent_of
from ledger.store.error_replies import NoScript
from ledger.store.interface import Store, TakesPacked

log = logging.getLogger(__name__)

ATTEMPTS: Final = 16
"""How often one command is decided again behind other writers before it gives up."""
MOST_SESSIONS: Final = 1000
"""How many living sessions a user may have, unless that is set."""
_GOOD, _NEW = Standing.GOOD, Standing.NEW
_REFUSED: Final = (Standing.SPENT, Standing.UNKNOWN)
_BY_DEVICE: Final = (RecordAcks, OfferStream, ClearCheckpoints, DescribeDevice, RotateToken, UseToken)


C = TypeVar("C", bound=Command)


class UserKeys(Protocol):
    """Where the keys of users' personal texts are; raises Unavailable where that place does not answer."""

    async def of(self, user: str) -> UserKey:
        """Return a user's key, which is made where there is none."""
        ...

    async def find(self, user: str) -> UserKey | None:
        """Return a user's key; None if there is none, or it was erased."""
        ...

    async def find_now(self, user: str) -> UserKey | None:
        """Return a user's key as `find` does, also if another process erased it just now."""
        ...


class Mender(Protocol):
    """Makes what is stored of a session anew from its events."""

    async def mend(self, partition: int, sid: str, why: str) -> bool:
        """Mend a session that cannot be read, for `why`; False if it stays as it is. Raises StoreUnavailable."""
        ...


class BegunAck(NamedTuple):
    """An ack that was decided on `state`, and sent to the store on its quick way."""

    state: State
    quick: Quick
    now_us: int
    began_s: float
    packs: TakesPacked
    reply: asyncio.Future[Any]


class Ledger:
    """The write side, and the state it is decided on.

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
        self._user_keys = user_keys
        self._mender = mender
        self._token_grace_us = token_grace_us
        self._replicas = replicas
        self.store = store
        self._packs = store if isinstance(store, TakesPacked) else None
        self.partitions = partitions
        self.clock = clock
        milestones = Milestones(store)
        self._recent = Recent(lambda state: milestones.note(partition_of(state.user, partitions), state))
        self.families = Families(
            store,
            partitions,
            lambda: self.clock(),
            self._recent,
            self.look,
            self._append,
            lambda: self.losses,
            self.confirm_ended,
        )
        self.losses = Losses(
            store, partitions, lambda: self.clock(), self._recent, self.look, self._append, self.families.end, present
        )
        self.begin: Callable[[Caller], Awaitable[bool]] | None = None
        """Begins or resumes the session of a token that another service admits; tells whether it may live.

        None where sessions begin by signing in here.
        """
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def partition_of(self, user: str) -> int:
        """Tell the partition of a user."""
        return partition_of(user, self.partitions)

    def remembered(self, caller: Caller) -> State | None:
        """Tell what this process remembers of the session of which a token was presented, if that would admit it.

        It may be out of date: `admit` returns the same object where it is not.
        """
        state = self._recent.last(caller.sid)
        if state is None or state.user != caller.user:
            return None
        now_us = self.clock()
        return state if state.lives_at(now_us) and standing(state, caller, now_us) is _GOOD else None

    async def admit(self, caller: Caller) -> State:
        """Load the session of which a token was presented, which notes it as seen.

        What is remembered of it is returned where the store has it at that version.

        The first use of a new token is appended. Raises SessionEnded if the token admits nobody, and TokenReused if it
        was replaced before its grace was over: then the session has been ended for it.
        """
        try:
            return await self._admitted(await self.load(caller.user, caller.sid, self._recent.last(caller.sid)), caller)
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
        if packs is None or state is None or not state.lives_at(now_us):
            return None
        if standing(state, caller, now_us) is not _GOOD:
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
        """Count an ack that was taken, and remember the state behind it."""
        figures = self.figures
        figures.appends.note(perf_counter() - begun.began_s)
        figures.moved_one()
        self._recent.keep(begun.quick.after)

    async def _is_written(self, state: State, event: Event, now_us: int) -> bool:
        """Tell whether an event is in the log behind `state`, though the connection was lost that it was sent on."""
        section = place(state, state.sid, (event,), now_us)
        return await self._outcome(partition_of(state.user, self.partitions), section, now_us) is None

    async def _act(self, caller: Caller, command: Command, begin: Callable[[Caller], Awaitable[bool]]) -> State:
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
        command = replace(command, session=await self._sealed(user, command.session))
        partition = partition_of(user, self.partitions)
        for _ in range(ATTEMPTS):
            now_us = self.clock()
            ended = await read_ended(self.store, partition, sid)
            if ended is None:
                state = await self._load(partition, sid, now_us, seen=True)
                if state is None:
                    raise SessionEnded
                return self._recent.keep(state, now_us)
            before = left_of(sid, ended.user, ended.seq, ended.hash)
            section = place(before, sid, decide(before, command, now_us), now_us)
            if await self._append(partition, [section], now_us, most_sessions=self.most_sessions) is None:
                return self._recent.keep(section.after, now_us)
        raise Contended("Too many writers at this session; try again")

    async def load(self, user: str, sid: str, known: State | None = None) -> State:
        """Load a session and note it as seen; raises SessionEnded if it does not live at this moment.

        `known` is returned where it is what the store has.
        """
        now_us = self.clock()
        state = await self._load_admissible(user, sid, now_us, seen=True, remembered=known)
        if state is None or state.user != user or not state.lives_at(now_us):
            self._recent.forget(sid)
            raise SessionEnded
        self._recent.keep(state, now_us)
        return state

    async def execute(self, user: str, sid: str, command: Command, caller: Caller | None = None) -> State:
        """Carry a command out on a session of a user and return its state after it.

        Decides on the state this process remembers: the append is taken only if that is still the current one. What
        appends nothing is decided on a state loaded now. With a `caller` the same holds for the token presented;
        without one it is done by authority. Raises what `decide` raises, Contended behind many writers.
        """
        seen, begins, living_parent, above = isinstance(command, _BY_DEVICE), False, "", tuple[str, ...]()
        if not seen:  # PERF: almost every command is an ack, and asking for what it is not takes time too
            command = await self._sealed(user, command)
            if isinstance(command, Ending):
                if caller is not None:
                    await self.admit(caller)
                return await self.families.end(user, [sid], command)
            if isinstance(command, CreateSession):
                begins, living_parent = True, living_parent_of(command.parent)
                above = await self.families.above_new(self.partition_of(user), sid, command.parent)
        elif isinstance(command, DescribeDevice):
            command = await self._sealed(user, command)
        partition = partition_of(user, self.partitions)
        state = self._recent.find(sid, self.clock())
        current = state is None
        if current:
            state = await self._load_admissible(user, sid, self.clock(), seen=seen, begins=begins)
        turn: asyncio.Lock | None = None
        try:
            for _ in range(ATTEMPTS):
                now_us = self.clock()
                found = standing(state, caller, now_us) if caller and state else _GOOD
                refused = found is not _GOOD and found in _REFUSED
                if refused and current:
                    raise await self._refused(user, sid, found)
                before = None if state is None or state.user != user or refused else state
                first = UseToken(caller.digest, self._token_grace_us) if caller and found is _NEW else None
                events, refusal = _judge(before, command, now_us, first)
                if events:
                    section = place(state, sid, events, now_us)
                    if state is not None and state.parent is not None:
                        above = await self.families.ancestors(partition, sid, state.parent)
                    conflict = await self._append(
                        partition, [section], now_us, living_parent, ancestors=above, most_sessions=self.most_sessions
                    )
                    if conflict is not None:
                        if state is None and conflict.state is None and not conflict.lost:
                            raise SessionEnded  # of this id was one before, or its parent is over
                        known = state
                        self._recent.correct(sid, conflict.state)
                        turn = turn or await self._turn(sid)
                        if known is not None and known.user == user and is_older(conflict.state, known):
                            await self.losses.make_good(known)
                        state = self._recent.last(sid)  # who had the turn before may have gone on
                        current = state is None or state is conflict.state
                        if state is None:
                            state = await self._load(partition, sid, now_us, seen=False)
                        continue
                    state = self._recent.keep(section.after, now_us if current and seen else None)
                elif not current:
                    state = await self._load_admissible(user, sid, now_us, seen=seen, begins=begins)
                    current = True
                    continue
                if refusal:
                    raise refusal
                assert state is not None
                if self._replicas is not None:
                    await self._replicas.repeated(partition, state, command)
                return state
        finally:
            if turn is not None:
                turn.release()
        raise Contended("Too many writers at this session; try again")

    async def look(self, partition: int, sid: str) -> State | None:
        """Load a session that lives, without noting it as seen; None if there is none. Raises CorruptLedger."""
        return await self._load(partition, sid, self.clock(), seen=False)

    async def lives(self, state: State) -> bool:
        """Tell whether a session still lives, without noting it as seen."""
        partition, now_us = self.partition_of(state.user), self.clock()
        if state.lives_at(now_us) and not living_parent_of(state.parent):
            name = keys.session(partition, state.sid)
            if await self.store.command("EXISTS", name, key=name):
                return True
        # It may have got a token since that lasts longer, or only be missing; or it ended with whom it belongs to.
        try:
            newest = await self._load_admissible(state.user, state.sid, now_us, seen=False)
        except SessionEnded:
            return False
        return newest is not None and newest.lives_at(now_us)

    async def devices(self, user: str) -> list[State]:
        """Load all living sessions of a user, in no order; each is loaded by itself, expired ones left out.

        Without those that are damaged, which is logged; `all_devices` tells them too.
        """
        return (await self.all_devices(user)).living

    async def all_devices(self, user: str) -> Devices:
        """Load all living sessions of a user, and tell those that are damaged."""
        now_us = self.clock()
        found = await self.families.states_of(user)
        return Devices([state for state in found.living if state.lives_at(now_us)], found.damaged)

    async def by_provider_session(self, provider_session: bytes) -> list[tuple[str, str]]:
        """Find the living sessions that belong to a provider's session, as (user, session id); asks every partition."""
        found, unread = await self.all_by_provider_session(provider_session)
        if unread is not None:
            raise unread
        return found

    async def all_by_provider_session(
        self, provider_session: bytes
    ) -> tuple[list[tuple[str, str]], LedgerError | None]:
        """Find as `by_provider_session` does, in all partitions that can be read; with why one could not."""
        low = provider_session.hex().encode()
        found = await asyncio.gather(
            *(
                read_if_whole(self.store, partition, "ZRANGEBYLEX", name, b"[%b:" % low, b"(%b;" % low)
                for partition, name in enumerate(map(keys.provider_sessions, range(self.partitions)))
            ),
            return_exceptions=True,
        )
        sids, unread = [], None
        for partition, members in enumerate(found):
            if isinstance(members, LedgerError):
                unread = members
            elif isinstance(members, BaseException):
                raise members
            else:
                sids += [(partition, member.decode().rpartition(":")[2]) for member in members]
        users = await asyncio.gather(*(self._user_of(partition, sid) for partition, sid in sids))
        return [(user, sid) for (_, sid), user in zip(sids, users, strict=True) if user is not None], unread

    async def seen_ms(self, user: str, sids: Sequence[str]) -> list[int]:
        """Tell when sessions of a user were last seen, in ms (to the hour); 0 for one that does not live."""
        if not sids:
            return []
        name = keys.activity(self.partition_of(user))
        return [int(float(score or 0)) for score in await self.store.command("ZMSCORE", name, *sids, key=name)]

    async def end_others(self, user: str, sid: str, command: EndSession) -> int:
        """End all sessions of a user but `sid` and those it belongs to; returns how many ended.

        Raises NotAllEnded behind the last one, where some are damaged.
        """
        found = await self.families.states_of(user)
        states = {state.sid: state for state in found.living}
        kept: set[str] = set()
        own: str | None = sid
        while own is not None and own in states and own not in kept:
            kept.add(own)
            own = states[own].parent
        others = [other for other in states if other not in kept and other != sid]
        damaged = [other for other in found.damaged if other != sid]
        if not others and not damaged:
            await self._confirm_ends(user)
            return 0
        return await self.families.end_these(user, others, await self._sealed(user, command), damaged)

    async def end_all(self, user: str, sids: Sequence[str], command: EndSession) -> int:
        """End sessions of a user, in few scripts; returns how many were to end. What has ended already stays so.

        Raises NotAllEnded behind the last one, where some are damaged.
        """
        if not sids:
            await self._confirm_ends(user)
            return 0
        return await self.families.end_these(user, sids, await self._sealed(user, command))

    async def once_admitted(self, caller: Caller) -> bool:
        """Tell whether a token that does not admit is one of a session that is there or has ended, and no guess."""
        ours = caller.number == 0 or caller.genuine
        return ours and await is_known(self.store, self.partition_of(caller.user), caller.sid)

    async def _confirm_ends(self, user: str) -> None:
        """See that replicas have what ended a moment ago; raises NotReplicated."""
        if self._replicas is not None:
            await self._replicas.confirm_partition(self.partition_of(user))

    async def confirm_ended(self, user: str, sid: str) -> None:
        """See that replicas have the end of a session, if it has ended and replicas are waited for.

        Who was answered that an end is not confirmed asks again, and may hear that it has ended only once it is. Raises
        NotReplicated.
        """
        if self._replicas is None:
            return
        partition = self.partition_of(user)
        ended = await read_ended(self.store, partition, sid)
        if ended is not None and not self._recent.is_confirmed(sid, ended.hash):
            await self._replicas.confirm(partition, left_of(sid, ended.user, ended.seq, ended.hash))
            self._recent.confirm(sid, ended.hash)

    async def locate(self, sid: str) -> int:
        """Find the partition of a session, living or ended, by its id alone; raises NoSuchSession.

        Asks every partition: for operators, not for the way of a request.
        """
        asked = (is_known(self.store, partition, sid) for partition in range(self.partitions))
        unknown: Rebuilding | StoreReplyError | None = None
        for partition, found in enumerate(await asyncio.gather(*asked, return_exceptions=True)):
            if isinstance(found, Rebuilding | StoreReplyError):  # it may be there, or in one that can be read
                unknown = found
            elif isinstance(found, BaseException):
                raise found
            elif found:
                return partition
        raise unknown or NoSuchSession(f"No session {sid}")

    async def key_of(self, user: str) -> UserKey | None:
        """Read the key of a user's personal texts, to open them with; None if there is none, or it was erased.

        One that another process erased may be given for a minute; not so by `key_now`.
        """
        return None if self._user_keys is None else await self._key(self._user_keys.find(user))

    async def key_now(self, user: str) -> UserKey | None:
        """Read the key as it is now, at the price of a read of its place."""
        return None if self._user_keys is None else await self._key(self._user_keys.find_now(user))

    async def _key(self, finding: Awaitable[UserKey | None]) -> UserKey | None:
        try:
            return await finding
        except (Unavailable, LayoutError):
            raise
        except LedgerError as error:  # what is sealed is not told; all else of the user still is
            log.error("what is sealed of a user cannot be opened: %s", error)
            return None

    async def opened(self, state: State) -> State:
        """Make what a state holds of a person plain, as far as its user's key is there."""
        return opened(state, await self.key_of(state.user)) if has_sealed(state) else state

    async def _sealed(self, user: str, command: C) -> C:
        """Seal what a command holds of a person.

        What keeps others safe, an end or a reset for a cause, waits for no key, and then it is not on record by whom.
        """
        if self._user_keys is None or not has_plain(command):
            return command
        try:
            return sealed(command, await self._user_keys.of(user))
        except LedgerError as error:
            if not isinstance(command, EndSession) and not (isinstance(command, RequestReset) and command.cause):
                raise
            log.warning("it is not on record who ended a session, or had it start over: %s", error)
            return replace(command, by=b"")

    async def _checked(self, user: str, sid: str, found: State | None) -> State | None:
        """Compare a session that was loaded with what is remembered of it; make good what the store has lost of it."""
        known = self._recent.known(sid)
        if known is None or known.user != user or not is_older(found, known):
            return found
        return await self.losses.make_good(known)

    async def _admitted(self, state: State, caller: Caller) -> State:
        """Return a living session's state if the token admits, after noting its first use."""
        found = standing(state, caller, self.clock())
        if found is Standing.NEW:
            return await self.execute(state.user, state.sid, UseToken(caller.digest, self._token_grace_us))
        if found in _REFUSED:
            raise await self._refused(state.user, state.sid, found)
        return state

    async def _refused(self, user: str, sid: str, found: Standing) -> SessionEnded:
        """Return what a token that does not admit is answered with; a copied one ends the session."""
        if found is Standing.UNKNOWN:
            return SessionEnded()
        with suppress(SessionEnded):  # somebody else ended it first
            await self.families.end(user, [sid], EndSession("token_reused"))
        return TokenReused()

    async def _load_admissible(
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
        partition, known = self.partition_of(user), self.families.known_ancestors(sid)
        try:
            state = await self._load(
                partition, sid, now_us, seen=seen, begins=begins, ancestors=known, known=remembered
            )
            if state is not None and not known and living_parent_of(state.parent):
                above = await self.families.ancestors(partition, sid, state.parent)
                state = await self._load(partition, sid, now_us, seen=False, ancestors=above)
        except ParentOver as over:
            self._recent.forget(sid)
            if over.ended:
                await self.families.end_orphan(user, sid)
            raise
        return await self._checked(user, sid, state)

    async def _load(
        self,
        partition: int,
        sid: str,
        now_us: int,
        *,
        seen: bool,
        begins: bool = False,
        ancestors: Sequence[str] = (),
        known: State | None = None,
    ) -> State | None:
        """Load a session, which is mended if it cannot be read; raises CorruptLedger where it could not be."""
        began_s = perf_counter()
        try:
            found = await load(
                self.store, partition, sid, now_us, seen=seen, begins=begins, ancestors=ancestors, known=known
            )
        except CorruptLedger as damage:
            self._recent.forget(sid)
            if self._mender is None or not await self._mender.mend(partition, sid, str(damage)):
                raise
        else:
            self.figures.loads.note(perf_counter() - began_s)
            return found
        return await load(self.store, partition, sid, now_us, seen=seen, begins=begins, ancestors=ancestors)

    async def _user_of(self, partition: int, sid: str) -> str | None:
        """Tell whose session it is; None if it ended meanwhile, or cannot be read, which is logged."""
        name = keys.session(partition, sid)
        try:
            user = await self.store.command("HGET", name, "user", key=name)
            if user is None and not await is_known(self.store, partition, sid):
                return None
            return user.decode() if user else await self._user_read(partition, sid)
        except (StoreReplyError, UnicodeDecodeError):
            return await self._user_read(partition, sid)

    async def _user_read(self, partition: int, sid: str) -> str | None:
        try:
            state = await self._load(partition, sid, self.clock(), seen=False)
        except CorruptLedger as damage:
            log.error("session %s is passed over: %s", sid, damage)
            return None
        return None if state is None else state.user

    async def _append(
        self,
        partition: int,
        sections: Sequence[Section],
        now_us: int,
        living_parent: str = "",
        *,
        seen_by_us: int | None = None,
        ancestors: Sequence[str] = (),
        most_sessions: int = 0,
        leaves: bool = False,
    ) -> Conflict | None:
        """Append, and wait for replicas where they are to confirm it; raises NotReplicated if they do not.

        When the connection is lost on the way, reads back what became of it instead of guessing. Raises ParentOver, and
        ends the session where one that it belongs to has ended, and TooManySessions.
        """
        began_s = perf_counter()
        try:
            conflict = await append(
                self.store,
                partition,
                sections,
                now_us,
                living_parent,
                seen_by_us,
                ancestors=ancestors,
                most_sessions=most_sessions,
                leaves=leaves,
            )
        except ParentOver as over:
            state = sections[0].after
            self._recent.forget(state.sid)
            if over.ended and sections[0].before is not None:
                await self.families.end_orphan(state.user, state.sid)
            raise
        except StoreUnavailable as error:
            # What is remembered stays: if the server comes back without it, nobody else may know.
            if not error.maybe_done:
                raise
            conflict = await self._outcome(partition, sections[0], now_us)
        figures = self.figures
        figures.appends.note(perf_counter() - began_s)
        if conflict is not None:
            figures.conflict()
            return conflict
        for section in sections:
            figures.appended(section.events)
        if self._replicas is not None:
            try:
                await self._replicas.appended(partition, sections)
            except NotReplicated:
                # It is there. A replica that takes over without it is told by who remembers it.
                for section in sections:
                    if section.after.ended is None:
                        self._recent.keep(section.after)
                    else:
                        self._recent.keep_ended(section.after)
                raise
        return None

    async def _outcome(self, partition: int, first: Section, now_us: int) -> Conflict | None:
        """Tell what became of an append whose connection was lost, by its first section."""
        # If the lost write still comes through later, the version it expects is gone or ours.
        sid, last = first.after.sid, first.events[-1]
        page = await walk(self.store, partition, sid, top_seq=last.seq, count=1)
        if page is not None and page.entries and page.entries[0].recorded.hash == last.hash:
            return None
        return Conflict(await self._load(partition, sid, now_us, seen=False), lost=True)

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
