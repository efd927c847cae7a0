"""Waiting until replicas have what was answered, on connections of their own.

WAIT blocks the connection it is sent on, and counts what was written on that connection alone. The ledger's commands
share one connection, so none of them can be waited for there. But a primary's replicas take all it writes in one order:
whoever has a later write has every earlier one. So for each append that must not be lost a write of no meaning, the
barrier, follows on a connection beside, and WAIT right behind it on the same one.

The barrier is written by a script that first looks for the event itself: had another server become the primary in
between, without the event, its replicas' word would be worth nothing. Those who ask while a round is under way share
the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from ledger import keys
from ledger.acks import RESET_ACK
from ledger.commands import ClearCheckpoints, Command, RecordAcks, RequestReset
from ledger.errors import NotReplicated, StoreUnavailable
from ledger.events import (
    CheckpointsAdopted,
    CheckpointsCleared,
    HistoryLost,
    ResetSent,
    SessionCreated,
    SessionEnded,
    SessionResumed,
    SyncResetRequested,
    TokenRotated,
)
from ledger.log.append import Section
from ledger.state import State
from ledger.store.cluster import ClusterStore, KnownNodes
from ledger.store.error_replies import Ask, Moved, NoScript, NotNow
from ledger.store.interface import Store, open_store
from ledger.store.scripts import Script, pack
from ledger.store.shared_connection import Mux
from ledger.store.standalone import StandaloneStore

CONFIRMED: Final = (
    SessionCreated,
    SessionEnded,
    SessionResumed,
    TokenRotated,
    CheckpointsAdopted,
    CheckpointsCleared,
    SyncResetRequested,
    ResetSent,
    HistoryLost,
)
"""What a replica that becomes the primary must have: without it an ended login lives on, or a device misses rows.

A lost ack, or a lost offer, only has things sent again.
"""
ATTEMPTS: Final = 8
"""How often a barrier is sent where it was not written: its script is not loaded, or the slot is elsewhere."""
PAUSE_S: Final = 0.02
LATER: Final = 256
"""How many events of a session may have come behind the one that is waited for; beyond that it is not confirmed."""
_BARRIER: Final = Script.load("ledger.log", "barrier.lua", allow_oom=True)
_LIBRARY: Final = Script.load("ledger.log", "barrier_library.lua", allow_oom=True)


class Replicas:
    """Waits for the replicas of each primary; made by `open`."""

    def __init__(self, store: StandaloneStore | ClusterStore, count: int, wait_s: float) -> None:
        """`store`: one of its own, whose connections nobody else uses."""
        self._store = store
        self._count = count
        self._wait_s = wait_s
        self._rounds: WeakKeyDictionary[Mux, _Rounds] = WeakKeyDictionary()

    @classmethod
    async def open(
        cls, url: str, count: int, *, wait_s: float = 1.0, timeout_s: float = 5.0, known: KnownNodes | None = None
    ) -> Replicas:
        """Connect beside the ledger's own store. `count` replicas must confirm, within `wait_s`.

        Raises LayoutError for an unusable URL, StoreUnavailable when nobody answers.
        """
        # A reply to WAIT comes that much later.
        store = await open_store(url, timeout_s=timeout_s + wait_s, known=known)
        assert isinstance(store, StandaloneStore | ClusterStore)
        return cls(store, count, wait_s)

    async def close(self) -> None:
        """Close the connections; who waits gets NotReplicated."""
        await self._store.close()

    async def appended(self, partition: int, sections: Sequence[Section]) -> None:
        """Wait until enough replicas have what was just appended, if it is of a kind that must not be lost.

        Raises NotReplicated.
        """
        for section in sections:
            if any(isinstance(recorded.event, CONFIRMED) for recorded in section.events):
                await self.confirm(partition, section.after)
                return  # all sections of an append lie behind one barrier

    async def repeated(self, partition: int, state: State, command: Command) -> None:
        """Wait for what an earlier request of the same kind did, which may not have been confirmed then."""
        if isinstance(command, ClearCheckpoints | RequestReset) or (
            isinstance(command, RecordAcks) and RESET_ACK in command.acks
        ):
            await self.confirm(partition, state)

    async def confirm(self, partition: int, state: State) -> None:
        """Wait until enough replicas have a session at this state; raises NotReplicated."""
        shared = (keys.ended(partition), keys.barrier(partition), keys.stream(partition))
        names = (keys.session(partition, state.sid), *shared)
        packed = pack((b"EVALSHA", _BARRIER.sha, len(names), *names, state.sid, state.seq, state.hash, LATER))
        await self._reach(names[2], packed, _BARRIER)

    async def confirm_partition(self, partition: int) -> None:
        """Wait until enough replicas have all that is in a partition now; raises NotReplicated."""
        name = keys.barrier(partition)
        await self._reach(name, pack((b"SET", name, b"1")))

    async def confirm_library(self, library: str, stamp: int) -> None:
        """Wait until enough replicas have a library's catalog up to a stamp; raises NotReplicated."""
        name = keys.catalog_meta(library)
        await self._reach(name, pack((b"EVALSHA", _LIBRARY.sha, 1, name, stamp)), _LIBRARY)

    async def _reach(self, name: bytes, barrier: bytes, script: Script | None = None) -> None:
        """Write a barrier where a key is, and wait until enough replicas have it; raises NotReplicated."""
        for _ in range(ATTEMPTS):
            try:
                mux = self._store.mux_of(name)
                rounds = self._rounds.setdefault(mux, _Rounds(self._count, self._wait_s))
                here, reached = await rounds.ask(mux, barrier)
            except NoScript:
                assert script is not None
                await mux.load(script)
            except (Moved, Ask, NotNow):
                await asyncio.sleep(PAUSE_S)
                await self._store.command("EXISTS", name, key=name)  # which corrects the map of slots
            except NotReplicated:
                raise
            except StoreUnavailable as error:
                self._store.look_again()  # nobody else uses these connections, who could have met it
                raise self._not_confirmed(f": {error}") from error
            else:
                if not here:
                    raise self._not_confirmed(": the server that is the primary now does not have it")
                if reached < self._count:
                    raise self._not_confirmed(f" within {self._wait_s:g} s, but by {reached}")
                return
        raise self._not_confirmed(": the store's nodes do not agree on whose it is")

    def _not_confirmed(self, why: str) -> NotReplicated:
        replicas = "1 replica" if self._count == 1 else f"{self._count} replicas"
        return NotReplicated(f"written, but not confirmed by {replicas}{why}")


class _Rounds:
    """Barriers on one connection, as many at a time as came while the round before was under way."""

    def __init__(self, count: int, wait_s: float) -> None:
        self._wait = pack((b"WAIT", count, int(wait_s * 1000)))
        self._asks: list[bytes] = []
        self._next: asyncio.Task[tuple[list[Any], Any]] | None = None
        self._last: asyncio.Task[tuple[list[Any], Any]] | None = None

    async def ask(self, mux: Mux, barrier: bytes) -> tuple[Any, int]:
        """Write a barrier and wait; gives its reply and how many replicas have it. Raises what the server answers."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._round(mux, self._last))
        place, task = len(self._asks), self._next
        self._asks.append(barrier)
        replies, reached = await asyncio.shield(task)
        for reply in (replies[place], reached):
            if isinstance(reply, BaseException):
                raise reply
        return replies[place], reached

    async def _round(self, mux: Mux, before: asyncio.Task[Any] | None) -> tuple[list[Any], Any]:
        """Send all barriers and WAIT in one step of the event loop, so that all of them go on one link."""
        if before is not None:
            await asyncio.wait([before])
        asks, self._asks = self._asks, []
        self._last, self._next = self._next, None
        sent = [mux.send(packed) for packed in (*asks, self._wait)]
        *replies, reached = await asyncio.gather(*sent, return_exceptions=True)
        return replies, reached


async def connected_replicas(store: Store) -> int:
    """Tell how many replicas are connected and up to date, of the primary that has fewest."""
    infos = await store.each_primary("INFO", "replication")
    counts = [sum(b"state=online" in line for line in info.splitlines()) for info in infos]
    return min(counts)


def promise_text(wanted: int, connected: int) -> str:
    """Say in words what waiting for replicas adds to an answered write."""
    have = "replica has" if wanted == 1 else "replicas have"
    return (
        f"sign-ins, sign-outs, new tokens, resets, cleared checkpoints and entities are answered when {wanted} {have} "
        f"them ({connected} connected)"
    )
