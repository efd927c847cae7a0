"""Sessions that begin and end at Immich: its row alone says whether one lives.

A token of Immich's is opaque. Its SHA-256 finds the row, which names the user, and in hex it is the id of the session
here. So nothing can be said of a token while Immich's database is away, not even where its session would be: everything
is 503 then, never 401.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Protocol

from ledger.admission import Caller
from ledger.commands import (
    AdoptCheckpoints,
    ClearCheckpoints,
    DescribeDevice,
)
from ledger.errors import LedgerError, Refused, SessionEnded, TooManySessions, Unavailable
from ledger.log.append import read_ended
from ledger.log.service import Ledger
from ledger.personal import plain
from ledger.session_ids import short_id
from ledger.state import State
from projections.entities.source import SourceUnavailable
from projections.history.event_pages import EventPages
from projections.immich.beginning import Beginning
from projections.immich.looks import EVERY_S, KNOWN, Looks
from projections.immich.resets import WishedResets
from projections.immich.tables import ImmichSession, ImmichTables, Stand

log = logging.getLogger(__name__)

TOUCHED_AT_ONCE: Final = 500
NOTED_AT_ONCE: Final = 32
REMEMBERED: Final = 4096
"""Of how many tokens it is remembered what follows from the token alone."""
ANSWER_S: Final = 2.0
ALL: Final = "all"
"""The permission of an API key that has every one."""


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
        self._adoption = adoption
        self._horizon = horizon
        self._left: set[bytes] = set()
        self._sessions = Looks(self._look, good_for_s, ends_in_s=lambda row: row.expires_s, every_s=every_s)
        self._api_keys = Looks(self._look_at_keys, good_for_s, every_s=every_s)
        self._good_for_s = good_for_s
        self._writes: set[asyncio.Task[None]] = set()
        self._resets = WishedResets(tables, ledger, self._sessions.find, self._in_background, good_for_s)
        self._beginning = Beginning(ledger, past, self._adopted)
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

    def known_by(self, token: str) -> Callable[[], Caller | None]:
        """Find what tells whose token this is for as long as that needs no look; None from it where it does."""
        digest, fresh = _digest(token), self._sessions.fresh

        def known() -> Caller | None:
            row = fresh(digest)
            return None if row is None else _caller(row.user, digest)

        return known

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
            await self._beginning.begin(row, caller.sid, resumes=ended is not None)
        except TooManySessions:
            raise
        except (Refused, SessionEnded):
            # Another worker was first. What is so now is told by the next load.
            log.debug("session %s… was begun by somebody else", short_id(caller.sid))
        else:
            log.info("session %s… of Immich's %s", short_id(caller.sid), "begins" if ended is None else "goes on")
        await self._noted(row, None)
        return True

    async def starts_over(self, caller: Caller) -> None:
        """Have Immich send a device everything that is about to start over here; see `WishedResets.wish`."""
        row = await self._sessions.find(caller.digest)
        if row is not None:
            await self._resets.wish(row, caller.sid)

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
        tasks = [*self._writes, *(task for task in (self._asked, self._resets.watching) if task is not None)]
        if self._resets.watching is not None:
            self._resets.watching.cancel()
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
        self._resets.may_clear = looked.clears
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
            log.debug("what Immich says of session %s… is taken up later: %s", short_id(row.token.hex()), error)
        except LedgerError as error:
            log.warning("what Immich says of session %s… is taken up later: %s", short_id(row.token.hex()), error)

    async def _note(self, row: ImmichSession, before: ImmichSession | None) -> None:
        sid = row.token.hex()
        await self._resets.note(row, before)
        state: State | None = None
        if before is None or before.described != row.described:
            state = await self._ledger.execute(row.user, sid, DescribeDevice(*map(plain, row.described)))
        if self._adoption is not None and (before is None or before.synced != row.synced):
            state = state or await self._ledger.load(row.user, sid)
            if self._adoption.is_news(state, *row.synced):
                command = await self._adopted(row, state)
                if isinstance(command, ClearCheckpoints) and (wrong := (await self._tables.sanity()).wrong):
                    raise SourceUnavailable(f"what is missing may come back: {wrong}")
                if command is not None:
                    await self._ledger.execute(row.user, sid, command)

    async def _adopted(
        self, row: ImmichSession, state: State | None = None
    ) -> AdoptCheckpoints | ClearCheckpoints | None:
        """Tell what follows from where a device stands at Immich for its session here, which begins without `state`."""
        if self._adoption is None:
            return None
        assert self._horizon is not None, "adopting needs the source's horizon"
        # Read before the rows: no position is put above it, for what is not committed yet.
        horizon_us = await self._horizon(row.user)
        return self._adoption.adopt(await self._tables.stand(row, horizon_us), state)

    def _in_background(self, work: Coroutine[Any, Any, Any], what: str) -> None:
        """Write to Immich's database in the background; what fails is tried again with a later look."""
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
