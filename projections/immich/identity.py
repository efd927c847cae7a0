"""Sessions that begin and end at Immich: its row alone says whether one lives.

A token of Immich's is opaque. Its SHA-256 finds the row, which names the user, and in hex it is the id of the session
here. So nothing can be said of a token while Immich's database is away, not even where its session would be: everything
is 503 then, never 401.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Protocol

from ledger import keys
from ledger.admission import Caller
from ledger.commands import (
    AdoptCheckpoints,
    ClearCheckpoints,
    CreateSession,
    DescribeDevice,
    EndSession,
    RequestReset,
    ResumeSession,
)
from ledger.errors import LedgerError, Refused, SessionEnded, TooManySessions, Unavailable
from ledger.events import IMMICH
from ledger.log.append import read_ended
from ledger.log.service import Ledger
from ledger.personal import plain
from ledger.state import State
from projections.entities.source import SourceUnavailable
from projections.history.event_pages import EventPages
from projections.history.state_at import fold_at
from projections.immich.looks import EVERY_S, KNOWN, Looks
from projections.immich.tables import ImmichSession, ImmichTables, Stand
from projections.immich.wishes import follows

log = logging.getLogger(__name__)

TOUCHED_AT_ONCE: Final = 500
NOTED_AT_ONCE: Final = 32
WISHES: Final = 1024
"""How many devices are watched until they have started over; a wish of one beyond is seen to at its next request."""
AT_IT_S: Final = 900
REMEMBERED: Final = 4096
"""Of how many tokens it is remembered what follows from the token alone."""
ANSWER_S: Final = 2.0
ALL: Final = "all"
"""The permission of an API key that has every one."""
_EVER_US: Final = 2**53
PUT_ASIDE: Final = "put_aside"
"""Why a session ended that makes room for another one of its user."""


class Adoption(Protocol):
    """The rules by which devices go on here where they stood at Immich. Pure."""

    def is_news(self, state: State, synced_us: int, synced_types: int) -> bool:
        """Tell, by what a look at a session's row says, whether its device may have synced at Immich meanwhile."""
        ...

    def adopt(self, stand: Stand, state: State | None) -> AdoptCheckpoints | ClearCheckpoints | None:
        """Tell what follows for a session's checkpoints here (None: it begins only now); None for nothing."""
        ...


class ImmichIdentity:
    """Admits tokens of Immich's, for one worker.

    All methods but `last_caller` raise SourceUnavailable where Immich's database does not tell.
    """

    def __init__(
        self,
        tables: ImmichTables,
        ledger: Ledger,
        past: EventPages,
        *,
        good_for_s: float = 10.0,
        every_s: float = EVERY_S,
        adoption: Adoption | None = None,
        horizon: Callable[[str], Awaitable[int]] | None = None,
    ) -> None:
        """An answer of Immich's database is good for `good_for_s`, and it is asked once in `every_s` at most.

        Without `adoption` devices begin from the beginning; it needs the source's `horizon` of a library.
        """
        self._tables = tables
        self._ledger = ledger
        self._past = past
        self._adoption = adoption
        self._horizon = horizon
        self._left: set[bytes] = set()
        self._sessions = Looks(self._look, good_for_s, ends_in_s=lambda row: row.expires_s, every_s=every_s)
        self._api_keys = Looks(self._look_at_keys, good_for_s, every_s=every_s)
        self._good_for_s = good_for_s
        self._may: tuple[bool, bool] | None = None
        self._writes: set[asyncio.Task[None]] = set()
        self._wishes: set[bytes] = set()
        self._watching: asyncio.Task[None] | None = None
        self._told: set[str] = set()
        self._asked: asyncio.Task[tuple[bool, str]] | None = None

    async def user_of(self, email: str) -> str | None:
        """Tell whose e-mail address (in lower case) this is at Immich; None if it is nobody's."""
        return await self._tables.user_of(email)

    async def caller(self, token: str) -> Caller:
        """Tell whose token this is; raises SessionEnded if it is none of a living session."""
        digest = _digest(token)
        row = self._sessions.fresh(digest) or await self._sessions.find(digest)
        if row is None:
            raise SessionEnded
        return _caller(row.user, digest)

    async def visitor(self, token: str) -> tuple[Caller, bool]:
        """Tell whose browser this is, and whether they administer Immich; raises SessionEnded."""
        caller = await self.caller(token)
        row = self._sessions.last(_digest(token))
        return caller, row is not None and row.admin

    def last_caller(self, token: str) -> Caller | None:
        """Tell whose token this was when that was last looked at, however long ago; None if that is not known."""
        digest = _digest(token)
        row = self._sessions.last(digest)
        return None if row is None else _caller(row.user, digest)

    def session_named(self, token: str) -> str:
        """Tell the id of a token's session: its SHA-256."""
        return sha256(token.encode()).hexdigest()

    async def lives(self, caller: Caller) -> bool:
        """Tell whether Immich still has the session."""
        return await self._sessions.find(caller.digest) is not None

    async def permitted(self, api_key: str, permission: str) -> bool | None:
        """Tell whether an API key of Immich's has a permission; None if Immich knows no such key."""
        found = await self._api_keys.find(sha256(api_key.encode()).digest())
        return None if found is None else permission in found or ALL in found

    async def begin(self, caller: Caller) -> bool:
        """Begin the session of a token here, or let it go on that was ended here; False if it is no more at Immich."""
        row = await self._sessions.find(caller.digest)
        if row is None:
            return False
        ended = await read_ended(self._ledger.store, self._ledger.partition_of(row.user), caller.sid)
        try:
            await self._begun(row, caller.sid, resumes=ended is not None)
        except TooManySessions:
            raise
        except (Refused, SessionEnded):
            # Another worker was first. What is so now is told by the next load.
            log.debug("session %s… was begun by somebody else", caller.sid[:12])
        else:
            log.info("session %s… of Immich's %s", caller.sid[:12], "begins" if ended is None else "goes on")
        await self._noted(row, None)
        return True

    async def starts_over(self, caller: Caller) -> None:
        """Have Immich send a device everything that is about to start over here, should it go back there meanwhile.

        Immich's checkpoints say of it what is no more true until it has got all of it again: then the wish is taken
        back. Without the grant Immich does not know, and where this fails the device starts over all the same: it is
        logged.
        """
        row = await self._sessions.find(caller.digest)
        if row is None or self._may is None or not self._may[1]:
            return
        try:
            mark = await self._tables.wish_reset(row.id)
        except SourceUnavailable as error:
            sid = caller.sid[:12]
            log.warning("session %s… starts over, and Immich does not know: have it finish a sync here: %s", sid, error)
            return
        if mark is not None:
            name = keys.pressed(self._ledger.partition_of(row.user))
            await self._ledger.store.command("HSET", name, caller.sid, mark, key=name)
            self._watch_wish(row.token)

    async def health(self) -> tuple[bool, str]:
        """Tell whether Immich's sessions can be read, and in words what may be done there; raises nothing.

        All who ask at the same time get one answer, and wait for it at most ANSWER_S.
        """
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._health())
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.shield(self._asked)
        except TimeoutError:
            return False, f"Immich's database does not answer within {ANSWER_S:g} s, so every phone may be answered 503"

    async def _health(self) -> tuple[bool, str]:
        try:
            looked = await self._tables.sessions([])
        except SourceUnavailable as error:
            return False, f"Immich's sessions cannot be read, so every phone is answered 503: {error}"
        lacks = [
            says
            for may, says in (
                (looked.touches, "those used only here end there after 90 days"),
                (looked.clears, "a second wish to start over is seen only after the first is taken back there"),
            )
            if not may
        ]
        without = f"; without the grant of UPDATE {' and '.join(lacks)}" if lacks else ""
        return True, f"Immich's sessions can be read, and what they say is used for {self._good_for_s:g} s{without}"

    async def close(self) -> None:
        """End what is asked and written, and the connections."""
        tasks = [*self._writes, *(task for task in (self._asked, self._watching) if task is not None)]
        if self._watching is not None:
            self._watching.cancel()
        for looks in (self._sessions, self._api_keys):
            await looks.close()
        for task in tasks:
            task.cancel()
        await self._tables.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Looking

    async def _look(self, tokens: Sequence[bytes]) -> Mapping[bytes, ImmichSession]:
        """Ask for sessions, and take up what their rows say otherwise than before."""
        try:
            looked = await self._tables.sessions(tokens)
        except SourceUnavailable as error:
            raise SourceUnavailable(f"Immich's database does not tell whether this token is good: {error}") from error
        self._may = looked.touches, looked.clears
        rows = looked.sessions.values()
        changed = [
            (row, before)
            for row in rows
            if _tells_news(row, before := self._sessions.last(row.token)) or row.token in self._left
        ]
        turns = asyncio.Semaphore(NOTED_AT_ONCE)

        async def noted(row: ImmichSession, before: ImmichSession | None) -> None:
            async with turns:
                await self._noted(row, before)

        await asyncio.gather(*(noted(row, before) for row, before in changed))
        # To touch a row changes its mark, by which a wish is taken back.
        unused = [row.id for row in rows if row.unused and not (row.pending_reset and looked.clears)]
        if looked.touches and unused:
            self._in_background(self._tables.touch(unused[:TOUCHED_AT_ONCE]), "touched")
        return looked.sessions

    async def _look_at_keys(self, digests: Sequence[bytes]) -> Mapping[bytes, tuple[str, ...]]:
        try:
            return await self._tables.permissions(digests)
        except SourceUnavailable as error:
            raise SourceUnavailable(f"Immich's database does not tell whether this key is good: {error}") from error

    async def _noted(self, row: ImmichSession, before: ImmichSession | None) -> None:
        """Take up what a row says otherwise than at the look before (None: this process did not look yet).

        What fails keeps nobody out, and is tried again with the next look.
        """
        before = None if row.token in self._left else before
        if len(self._left) >= KNOWN:
            self._left.clear()
        self._left.add(row.token)
        try:
            await self._note(row, before)
            self._left.discard(row.token)
        except SessionEnded:  # it has not begun here, or has ended here: `begin` takes it up
            self._left.discard(row.token)
        except Unavailable as error:
            log.debug("what Immich says of session %s… is taken up later: %s", row.token.hex()[:12], error)
        except LedgerError as error:
            log.warning("what Immich says of session %s… is taken up later: %s", row.token.hex()[:12], error)

    async def _note(self, row: ImmichSession, before: ImmichSession | None) -> None:
        sid, name = row.token.hex(), keys.pressed(self._ledger.partition_of(row.user))
        self._wishes.discard(row.token)
        if row.pending_reset:
            await self._ask_for_reset(row, sid, name)
        elif before is None or before.pending_reset:
            await self._ledger.store.command("HDEL", name, sid, key=name)
        state: State | None = None
        if before is None or before.described != row.described:
            state = await self._ledger.execute(row.user, sid, DescribeDevice(*map(plain, row.described)))
        if self._adoption is not None and (before is None or before.synced != row.synced):
            state = state or await self._ledger.load(row.user, sid)
            if self._adoption.is_news(state, *row.synced):
                command = self._adoption.adopt(await self._stand(row), state)
                if isinstance(command, ClearCheckpoints) and (wrong := (await self._tables.sanity()).wrong):
                    raise SourceUnavailable(f"what is missing may come back: {wrong}")
                if command is not None:
                    await self._ledger.execute(row.user, sid, command)

    async def _stand(self, row: ImmichSession) -> Stand:
        """Read where a device stands at Immich, below the horizon as it was before."""
        assert self._horizon is not None, "adopting needs the source's horizon"
        horizon_us = await self._horizon(row.user)
        return await self._tables.stand(row, horizon_us)

    async def _ask_for_reset(self, row: ImmichSession, sid: str, name: bytes) -> None:
        """Ask a device to start over whose owner wants that at Immich, once; when it has, take the wish back there."""
        store = self._ledger.store
        asked = await store.command("HGET", name, sid, key=name)
        if asked is not None:
            if self._may is None or not self._may[1]:
                return
            state = await self._ledger.load(row.user, sid)
            next_step = follows(state, asked.decode(), row.update_id)
            if next_step != "ask":
                self._watch_wish(row.token, state)
                if next_step == "take_back":
                    self._in_background(self._take_back(row, sid, name), "told that it started over")
                elif asked.decode() != row.update_id:
                    await store.command("HSET", name, sid, row.update_id, key=name)
                return
        state = await self._ledger.execute(row.user, sid, RequestReset(on=True, by=b"", cause=IMMICH))
        await store.command("HSET", name, sid, row.update_id, key=name)
        if self._may is not None and self._may[1]:
            self._watch_wish(row.token, state)

    def _watch_wish(self, token: bytes, state: State | None = None) -> None:
        """Look at a wish until it can be taken back: the last that a device is heard of may be that it is done.

        It is watched no longer than AT_IT_S behind the last change of the session (None: now); the device's next
        request begins that anew.
        """
        is_at_it = state is None or self._ledger.clock() - state.at_us <= AT_IT_S * 1_000_000
        if is_at_it and len(self._wishes) < WISHES:
            self._wishes.add(token)
            if self._watching is None or self._watching.done():
                self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while self._wishes:
            await asyncio.sleep(self._good_for_s)
            tokens = list(self._wishes)
            for token, found in zip(
                tokens, await asyncio.gather(*map(self._sessions.find, tokens), return_exceptions=True), strict=True
            ):
                if found is None:
                    self._wishes.discard(token)
                elif isinstance(found, SourceUnavailable):
                    log.debug("the wish of session %s… is looked at later: %s", token.hex()[:12], found)
                elif isinstance(found, BaseException):
                    raise found

    async def _take_back(self, row: ImmichSession, sid: str, name: bytes) -> None:
        if await self._tables.clear_reset(row.id, row.update_id):
            await self._ledger.store.command("HDEL", name, sid, key=name)

    def _in_background(self, work: Coroutine[Any, Any, Any], what: str) -> None:
        """Write to Immich's database behind the back of whoever asks; it is tried again with a later look."""
        if self._writes:
            work.close()
            return

        async def write() -> None:
            try:
                await work
            except LedgerError as error:
                if what not in self._told:
                    self._told.add(what)
                    log.warning("a session of Immich's is not %s: %s (told once)", what, error)

        task = asyncio.create_task(write())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    # Beginning

    async def _begun(self, row: ImmichSession, sid: str, *, resumes: bool) -> None:
        """Begin or resume a session, for which there is room in the end."""
        while True:
            try:
                if resumes:
                    await self._resume(row, sid)
                else:
                    await self._ledger.execute(row.user, sid, await self._created(row, adopt=True))
            except TooManySessions:
                await self._put_aside(row.user)
            else:
                return

    async def _put_aside(self, user: str) -> None:
        """Make room for a session that Immich admits: end the one not heard of for longest, which its token resumes.

        Raises TooManySessions where none of the user's is Immich's.
        """
        sid = await self._ledger.sessions.longest_unheard(user, IMMICH)
        if sid is None:
            raise TooManySessions(self._ledger.most_sessions)
        log.info("session %s… of Immich's is put aside: its user has as many as may live", sid[:12])
        with suppress(SessionEnded):  # another worker did
            await self._ledger.execute(user, sid, EndSession(PUT_ASIDE))

    async def _created(self, row: ImmichSession, *, adopt: bool) -> CreateSession:
        adopted = None
        if adopt and self._adoption is not None and not row.pending_reset:
            adopted = self._adoption.adopt(await self._stand(row), None)
        device_type, device_os, app_version = map(plain, row.described)
        return CreateSession(
            user=row.user,
            library=row.user,  # as the preset has it
            parent=row.parent,
            device_type=device_type,
            device_os=device_os,
            app_version=app_version,
            authenticated_by=IMMICH,
            adopted=adopted if isinstance(adopted, AdoptCheckpoints) else None,
        )

    async def _resume(self, row: ImmichSession, sid: str) -> None:
        """Let a session go on behind its end; its epochs begin beyond those that its device knows."""
        partition = self._ledger.partition_of(row.user)
        try:
            state = (await fold_at(self._past, partition, sid, _EVER_US)).state
            epoch = state.epoch + max(state.epochs.values(), default=0)
        except Unavailable:
            raise
        except LedgerError as error:  # removed, or damaged: an ack of an epoch beyond makes it start over once more
            log.warning("session %s… goes on without its past: %s", sid[:12], error)
            epoch = 1
        command = ResumeSession(IMMICH, await self._created(row, adopt=False), epoch)
        await self._ledger.resume(row.user, sid, command)


@lru_cache(REMEMBERED)
def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()


@lru_cache(REMEMBERED)
def _caller(user: str, digest: bytes) -> Caller:
    return Caller(user, digest.hex(), digest)


def _tells_news(row: ImmichSession, before: ImmichSession | None) -> bool:
    if before is None or row.pending_reset or before.pending_reset:
        return True
    return (row.described, row.synced) != (before.described, before.synced)
