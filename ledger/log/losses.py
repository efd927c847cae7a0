"""What the store has lost of what this process saw, found and made good.

A store that lost its newest events, in a power loss or a failover, tells nobody. Who remembers a session beyond what is
stored of it knows: its chain goes on behind the hole, and its device, which may be ahead of what is left, is asked to
start over. A session that was seen to end is ended again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from ledger import keys
from ledger.commands import EndSession, GoOn
from ledger.decide import decide
from ledger.errors import (
    Contended,
    CorruptLedger,
    LedgerError,
    SessionEnded,
    StoreReplyError,
    StoreUnavailable,
    Unavailable,
)
from ledger.events import HistoryLost
from ledger.keys import partition_of
from ledger.log.append import is_known, place
from ledger.log.reader import walk
from ledger.log.remembered import Recent
from ledger.log.stored import ATTEMPTS, Stored
from ledger.session_ids import short_id
from ledger.state import State, living_parent_of

log = logging.getLogger(__name__)

REMEMBERED: Final = "remembered"
"""The cause of a hole that a process knows of by what it remembers."""
LOGGED: Final = "logged"
"""The cause of a hole, or of an end, that the transparency log knows of."""
_COMPARED_TOGETHER: Final = 100

End = Callable[[str, Sequence[str], EndSession], Awaitable[State]]
Present = Callable[[], Awaitable[None]]


class Compared(msgspec.Struct):
    """How many remembered sessions were compared, of how many the store had lost something, and how many failed.

    `left`: those that could not be looked at now, since they may not be rebuilt yet.
    """

    sessions: int = 0
    lost: int = 0
    failed: int = 0
    left: int = 0


def is_older(found: State | None, known: State) -> bool:
    """Tell whether what is stored of a session (None: it does not live) may be older than what is known of it."""
    if found is None or known.ended is not None:
        return (found is None) == (known.ended is None)
    return found.seq < known.seq or (found.seq == known.seq and found.hash != known.hash)


class Losses:
    """Compares one process's memory with its store."""

    def __init__(
        self,
        stored: Stored,
        recent: Recent,
        end: End,
        present: Present | None = None,
    ) -> None:
        """`end` ends sessions of a user with all that belong to them.

        `present` raises LedgerGone where the ledger is not there: what is remembered belongs into no other one.
        """
        self._stored = stored
        self._store = stored.store
        self._recent = recent
        self._end = end
        self._present = present
        self._servers: frozenset[bytes] | None = None
        self.made_good = 0
        """Of how many sessions the store had lost something, as far as was seen here."""

    async def go_on_behind(self, partition: int, sid: str, seq: int, digest: bytes, *, ended: bool) -> bool:
        """Go on behind event `seq` of hash `digest`, up to which a log outside the store knows a session, living here.

        With `ended` it is ended again. Tells whether the store had lost something of it. Raises what `make_good` does.
        """
        state = await self._stored.look(partition, sid)
        if state is None or state.seq >= seq:
            return False
        # Each event that was lost began one epoch at most; what its device acks of those must not count.
        epoch = state.epoch + seq - state.seq
        known = replace(state, seq=seq, hash=digest, epoch=epoch, ended=LOGGED if ended else None)
        await self.make_good(known, LOGGED)
        return True

    async def end_again(self, partition: int, sid: str) -> bool:
        """End a session that a log outside the store knows to have ended; False if it does not live here."""
        state = await self._stored.look(partition, sid)
        if state is None:
            return False
        await self._end(state.user, [sid], EndSession(LOGGED))
        return True

    async def make_good(self, known: State, cause: str = REMEMBERED) -> State | None:
        """Go on behind what the store lost of a session, and return its state then; None if it does not live.

        Looks at the store first: where nothing is lost nothing is written. Raises Rebuilding where a session that is
        not found may be one that is not rebuilt yet, LedgerGone, Contended behind many writers.
        """
        user, sid, partition = known.user, known.sid, partition_of(known.user, self._stored.partitions)
        for _ in range(ATTEMPTS):
            now_us = max(self._stored.clock(), known.at_us)
            state = await self._stored.look(partition, sid)
            if state is None and not await self._is_gone(partition, known):
                if await self._stored.look(partition, sid) is not None:
                    continue  # another process put it back between two looks, and may only know that it lived
                self._recent.forget(sid)
                return None
            if state is not None and await self._holds(partition, state, known):
                return self._recent.keep(state)
            if events := decide(state, GoOn(known, cause), now_us):
                if self._present is not None:
                    await self._present()
                section = place(state, sid, events, now_us)
                parent = living_parent_of(known.parent) if state is None and known.ended is None else ""
                if await self._stored.append(partition, [section], now_us, parent):
                    continue
                state = section.after
                log.error("the store has lost events of session %s…, known up to event %d", short_id(sid), known.seq)
            assert state is not None
            self.made_good += 1
            if known.ended and state.ended is None:
                await self._end(user, [sid], EndSession(known.ended))
            if known.ended:
                return None
            return self._recent.keep(state)
        raise Contended

    async def compare_if_another(self, first: Callable[[], Awaitable[None]] | None = None) -> Compared | None:
        """Compare all that is remembered once another server answers than before, or one that was made the primary.

        `first`: who else may know what was lost, and more of it. Returns None where the same servers answer. Raises
        StoreUnavailable; whoever asks again then compares again.
        """
        infos = await self._store.each_primary("INFO", "server"), await self._store.each_primary("INFO", "replication")
        fields = (b"run_id:", b"master_replid:")
        servers = frozenset(
            line for replies in infos for info in replies for line in info.split(b"\r\n") if line.startswith(fields)
        )
        if self._servers is None:
            self._servers = servers
        if servers == self._servers:
            return None
        if first is not None:
            await first()
        compared = await self.compare()
        if not compared.left:
            self._servers = servers
        return compared

    async def compare(self) -> Compared:
        """Compare all that is remembered with the store, some at a time; raises StoreUnavailable."""
        compared, every = Compared(), self._recent.every()
        for start in range(0, len(every), _COMPARED_TOGETHER):
            some = every[start : start + _COMPARED_TOGETHER]
            stored = await asyncio.gather(*map(self._is_stored, some))
            for known, is_stored in zip(some, stored, strict=True):
                compared.sessions += 1
                if not is_stored:
                    await self._compare(known, compared)
        return compared

    async def _compare(self, known: State, compared: Compared) -> None:
        """Look closer at a session that is stored otherwise than it is remembered: most were written to by others."""
        try:
            before = self.made_good
            await self.make_good(known)
        except StoreUnavailable:
            raise
        except Unavailable:
            compared.left += 1
        except SessionEnded:
            pass  # somebody else ended it meanwhile
        except LedgerError as error:
            compared.failed += 1
            log.error("session %s… cannot be compared with what is remembered of it: %s", short_id(known.sid), error)
        else:
            compared.lost += self.made_good > before

    async def _is_stored(self, known: State) -> bool:
        """Tell whether a session is stored just as it is known."""
        partition = partition_of(known.user, self._stored.partitions)
        if known.ended is not None:
            name = keys.ended(partition)
            return bool(await self._store.command("HEXISTS", name, known.sid, key=name))
        name = keys.session(partition, known.sid)
        try:
            stored = await self._store.command("HMGET", name, "seq", "hash", key=name)
        except StoreReplyError:  # a key of another type: who looks closer tells
            return False
        return bool(stored == [b"%d" % known.seq, known.hash])

    async def _is_gone(self, partition: int, known: State) -> bool:
        """Tell whether nothing is left of a session; one whose parent does not live ended with it."""
        if await is_known(self._store, partition, known.sid):
            return False
        living_parent = living_parent_of(known.parent)
        if known.ended is not None or not living_parent:
            return True
        if await self._stored.look(partition, living_parent) is not None:
            return True
        parent = self._recent.last(living_parent)
        return parent is not None and await self.make_good(parent) is not None

    async def _holds(self, partition: int, state: State, known: State) -> bool:
        """Tell whether what is stored of a session follows what is known of it, or tells of the hole it is in.

        A hole that ends with a session's end is told of before that: who did so may have come no further.
        """
        if state.seq <= known.seq:
            return (state.seq, state.hash) == (known.seq, known.hash)
        try:
            page = await walk(self._store, partition, state.sid, top_seq=known.seq + 1, count=2)
        except CorruptLedger:
            return True  # `verify` names what is wrong with it
        found = [] if page is None else [entry.recorded for entry in page.entries]
        if found and found[0].seq > known.seq:
            if known.ended is not None and isinstance(found[0].event, HistoryLost):
                return False
            del found[0]
        if not found:
            return True  # archived, or lost whole and begun anew
        return found[0].seq < known.seq or found[0].hash == known.hash
