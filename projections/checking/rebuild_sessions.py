"""Writing what sessions fold into in place of what is stored of them, while they are in use.

A session is written by one script under the condition that it still is stored at the version it was looked at. Its
fold was brought forward after that look, so no event of it can be missing in what is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

import msgspec

from ledger import keys
from ledger.errors import Contended, CorruptLedger, StoreReplyError
from ledger.log.append import due_ms, keep, provider_member
from ledger.log.order import PLACING
from ledger.log.state_fields import checkpoint_fields
from ledger.log.stored_sessions import RawSession, raw_keys, read_raw_session
from ledger.store.interface import Arg, Script, Store
from projections.checking.aside import Decision, keep_head
from projections.checking.compare import (
    ahead,
    differences,
    stored_fields,
    stored_seq,
    unlike,
    wanted_marks,
    wanted_place,
)
from projections.checking.partition_fold import Folded, PartitionFold, pages_of

_WRITE: Final = Script.load("projections.checking", "rebuild.lua", behind=PLACING)
ATTEMPTS: Final = 64
"""How often a session is looked at again that others write at the same moment."""


class Misfiled(msgspec.Struct):
    """Where a session was found and does not belong: under other users, under providers' sessions."""

    users: list[str] = []
    members: list[bytes] = []


class Settled(msgspec.Struct):
    """What became of sessions.

    Left alone, and why: what is stored of those that are `unlike` proves another history than their events are, of
    `mistyped` a key is of another type.
    """

    written: int = 0
    unchanged: int = 0
    removed: int = 0
    unlike: dict[str, str] = {}
    mistyped: dict[str, str] = {}


class SessionWriter:
    """Writes sessions of one partition."""

    def __init__(
        self,
        store: Store,
        partition: int,
        fold: PartitionFold,
        misfiled: dict[str, Misfiled],
        accept: Decision | None = None,
    ) -> None:
        """`accept`: whose decision it is to have what events say in place of a head that proves another history."""
        self._accept = accept
        self._store = store
        self._partition = partition
        self._fold = fold
        self._misfiled = misfiled
        self._unlike: dict[str, str] = {}  # of those looked at: how they are

    async def settle(self, sids: Collection[str]) -> Settled:
        """Make what is stored of sessions what their events fold into; broken ones are left as they are.

        Raises StoreFull, StoreUnavailable; what was done until then stays done. Raises Contended behind many writers.
        """
        settled = Settled()
        for page in pages_of(sids):
            left = page
            for _ in range(ATTEMPTS):
                looked = await asyncio.gather(*(self._look_or_name(sid, settled) for sid in left))
                differing = [(sid, stored) for sid, stored in zip(left, looked, strict=True) if stored is not None]
                settled.unchanged += sum(sid not in settled.mistyped for sid in left) - len(differing)
                if not differing:
                    break
                await self._fold.forward()
                done = await asyncio.gather(*(self._put(sid, stored, settled) for sid, stored in differing))
                left = [sid for (sid, _), is_done in zip(differing, done, strict=True) if not is_done]
            else:
                raise Contended(f"Too many writers at session {left[0]}; run it again")
        return settled

    async def _look_or_name(self, sid: str, settled: Settled) -> RawSession | None:
        try:
            return await self._look(sid)
        except StoreReplyError as error:
            settled.mistyped[sid] = str(error)
            return None

    async def _look(self, sid: str) -> RawSession | None:
        """Read what is stored of a session; None if that is what its events say, or if these are broken."""
        folded = self._fold.of(sid)
        stored = await self._read(sid, folded)
        try:
            version = stored_seq(stored)
            if version is not None and version > folded.seq and not folded.broken:
                seq = folded.seq
                if await self._fold.catch_up(sid, version):
                    self._unlike[sid] = ""
                    return stored
                if not seq:  # only now is known whose session it is, and so where to look
                    stored = await self._read(sid, folded)
            if folded.broken:
                return None
            differing = any(True for _ in differences(folded, stored._replace(credential=False, filled=True)))
        except CorruptLedger:
            if folded.broken:
                return None
            differing = True
        # Whether it is ahead is asked once more when the fold went on.
        self._unlike[sid] = "" if ahead(folded, stored) else unlike(folded, stored)
        return stored if differing or self._unlike[sid] or sid in self._misfiled else None

    async def _read(self, sid: str, folded: Folded) -> RawSession:
        member = b"" if folded.state is None else provider_member(folded.state)
        return await read_raw_session(self._store, self._partition, sid, folded.user, member)

    async def _put(self, sid: str, stored: RawSession, settled: Settled) -> bool:
        """Write one session; False if it is not stored any more as it was looked at."""
        folded = self._fold.of(sid)
        if folded.broken:
            return True
        if self._fold.is_empty:
            settled.unlike[sid] = "is stored, but there is no event at all: is this the right store?"
            return True
        # What is stored is all that tells of the other history: it may not be taken back in silence.
        if what := ahead(folded, stored) or self._unlike.get(sid):
            if self._accept is None:
                settled.unlike[sid] = what
                return True
            await keep_head(self._store, self._partition, sid, stored, what, self._accept)
        misfiled = self._misfiled.get(sid, Misfiled())
        others = (keys.devices(self._partition, user) for user in misfiled.users)
        names = (*raw_keys(self._partition, sid, folded.user), *others)
        if not await self._store.script(_WRITE, names, _arguments(sid, stored, folded, misfiled)):
            return False
        self._misfiled.pop(sid, None)
        settled.written += folded.seq > 0
        settled.removed += folded.seq == 0
        return True


def _arguments(sid: str, stored: RawSession, folded: Folded, misfiled: Misfiled) -> list[Arg]:
    """Lay a session out as rebuild.lua reads it."""
    session, state, marks = stored.session, folded.state, wanted_marks(folded, stored)
    args: list[Arg] = [sid, *(session.get(field, b"") for field in (b"seq", b"head", b"hash")), stored.ended or b""]
    placing = wanted_place(sid, folded, stored)
    if state is not None:
        fields, checkpoints = stored_fields(folded, state), checkpoint_fields(state)
        args += (
            "live",
            state.parent or "",
            "",
            state.at_us // 1000,
            provider_member(state),
            stored.floor,
            due_ms(state),
            placing.counts_ms,
            placing.stuck,
        )
        args += (2 * len(fields), 2 * len(checkpoints), len(misfiled.members), len(marks))
        for pair in (*fields.items(), *checkpoints.items()):
            args += pair
    elif folded.kept is not None:
        args += ("ended", "", keep(folded.kept), 0, "", stored.floor, "", 0, "")
        args += (0, 0, len(misfiled.members), len(marks))
    else:
        args += ("none", "", "", 0, "", stored.floor, "", 0, "", 0, 0, len(misfiled.members), len(marks))
    args += misfiled.members
    args += marks
    return args
