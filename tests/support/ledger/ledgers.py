"""Ledgers for tests: events put into a store's log, a clock that stands still, and what a store holds."""

from __future__ import annotations

from asyncio import gather
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

from ledger import keys
from ledger.chain import GENESIS, record
from ledger.events import Event, SessionCreated
from ledger.evolve import fold
from ledger.log.append import Conflict, Section, append, load
from ledger.state import State
from ledger.store.interface import Store
from tests.support.ledger.given import CREATED, NOW, offered

PARTITION: Final = 3


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_us: int = NOW) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


def sid_of(name: str) -> str:
    """Make a session id."""
    return sha256(name.encode()).hexdigest()


def section(state: State | None, *events: Event, sid: str = "", at_us: int = NOW) -> Section:
    """Place events behind a state, or at the beginning of a session."""
    if state is None:
        recorded = record(events, sid, 0, at_us, GENESIS)
    else:
        recorded = record(events, state.sid, state.seq, at_us, state.hash)
    after = fold(state, recorded)
    assert after is not None
    return Section(state, recorded, after)


class Log:
    """One partition's log, written to without asking `decide`."""

    def __init__(self, store: Store, partition: int = PARTITION) -> None:
        self.store = store
        self.partition = partition

    async def try_append(self, *sections: Section, living_parent: str = "") -> Conflict | None:
        """Append sections together."""
        return await append(self.store, self.partition, sections, NOW, living_parent)

    async def append(self, state: State, *events: Event, at_us: int = NOW) -> State:
        """Append events to a session; returns the state after them."""
        made = section(state, *events, at_us=at_us)
        assert await self.try_append(made) is None
        return made.after

    async def create(self, name: str = "first", created: SessionCreated = CREATED, at_us: int = NOW) -> State:
        """Begin a session; its parent must live."""
        made = section(None, created, sid=sid_of(name), at_us=at_us)
        assert await self.try_append(made, living_parent=created.parent or "") is None
        return made.after

    async def history(self, count: int, name: str = "long") -> State:
        """Make a session of `count` events, event n at NOW + n, with another session's events between them."""
        state = await self.create(name, at_us=NOW + 1)
        other = await self.create(name + " other")
        while state.seq < count:
            made = []
            for n in range(state.seq + 1, state.seq + min(40, count - state.seq) + 1):
                made.append(section(state, offered("AssetV1", snapshot_us=n), at_us=NOW + n))
                state = made[-1].after
            assert not any(await gather(*map(self.try_append, made))), "they are sent, and so written, in order"
            other = await self.append(other, offered("AlbumV2", snapshot_us=state.seq))
        return state

    async def load(self, sid: str) -> State | None:
        """Load a session."""
        return await load(self.store, self.partition, sid, NOW, seen=False)

    async def length(self) -> int:
        """Tell how many events the partition has."""
        name = keys.stream(self.partition)
        return int(await self.store.command("XLEN", name, key=name))


async def contents(store: Store, partition: int, sids: Sequence[str], user: str = CREATED.user) -> dict[bytes, Any]:
    """Read every key of a partition that one user's sessions touch, as it lies there."""
    found: dict[bytes, Any] = {}
    for name in (keys.ended(partition), keys.devices(partition, user)):
        found[name] = _pairs(await store.command("HGETALL", name, key=name))
    for sid in sids:
        for name in (keys.session(partition, sid), keys.checkpoints(partition, sid)):
            found[name] = _pairs(await store.command("HGETALL", name, key=name))
    name = keys.activity(partition)
    found[name] = _pairs(await store.command("ZRANGE", name, 0, -1, "WITHSCORES", key=name))
    name = keys.stream(partition)
    found[name] = await store.command("XRANGE", name, "-", "+", key=name)
    return found


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
