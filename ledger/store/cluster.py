"""A store that is a cluster: every command goes to the node that owns its key's slot.

Each primary has one multiplexed connection. A node that no longer owns a slot says so (MOVED), which corrects that
slot at once and has the whole map read again in the background (`cluster_map.py`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from ledger.errors import StoreUnavailable
from ledger.figures.of_store import StoreFigures
from ledger.store.cluster_map import ClusterMap, Node, discover
from ledger.store.connect import Address, Target
from ledger.store.error_replies import Ask, Moved, NoScript, NotNow
from ledger.store.scripts import Arg, Script, pack
from ledger.store.shared_connection import Mux

ATTEMPTS = 8  # of one command, all but the last not carried out: redirected, script missing, cluster in between
FIRST_PAUSE_S = 0.01
MAX_PAUSE_S = 0.25
REFRESH_PAUSE_S = 0.5
REFRESH_EVERY_S = 60.0  # also where nothing is wrong, so that new replicas are known before they are needed
_ASKING = pack((b"ASKING",))


class KnownNodes(Protocol):
    """Where the nodes of a cluster are noted, for processes that begin while the configured ones are down."""

    def read(self) -> Sequence[Node]:
        """Return the nodes noted last."""
        ...

    def note(self, nodes: Sequence[Node]) -> None:
        """Note all nodes; raises nothing."""
        ...


class ClusterStore:
    """The `Store` over the primaries of a cluster; made by `open`."""

    def __init__(
        self,
        target: Target,
        timeout_s: float,
        known: KnownNodes | None = None,
        figures: StoreFigures | None = None,
    ) -> None:
        self._figures = figures or StoreFigures()
        target.address  # noqa: B018 - refuses a unix socket
        self._target = target
        self._timeout_s = timeout_s
        self._known = known
        self._nodes: frozenset[Node] = frozenset() if known is None else frozenset(known.read())
        self._muxes: dict[Address, Mux] = {}
        self._owners: list[Mux | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at_s = -math.inf
        self._closed = False

    @classmethod
    async def open(
        cls,
        target: Target,
        timeout_s: float,
        known: KnownNodes | None = None,
        figures: StoreFigures | None = None,
    ) -> ClusterStore:
        """Read which node owns which slot; raises StoreUnavailable if no node tells."""
        store = cls(target, timeout_s, known, figures)
        store._adopt(await store._discover())
        return store

    async def command(self, *args: Arg, key: bytes) -> Any:
        return await self._execute(pack(args), key_slot(key), None)

    async def script(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> Any:
        packed = pack((b"EVALSHA", script.sha, len(keys), *keys, *args))
        return await self._execute(packed, key_slot(keys[0]), script)

    def packed(self, script: Script, key: bytes, call: bytes) -> Awaitable[Any]:
        return self._execute(call, key_slot(key), script)

    async def load(self, script: Script, key: bytes) -> None:
        await self.mux_of(key).load(script)

    async def each_primary(self, *args: Arg) -> list[Any]:
        packed = pack(args)
        primaries = dict.fromkeys(mux for mux in self._owners if mux is not None)
        if None in self._owners:  # whoever asks all would take what is missing for not there
            self._refresh_soon()
            raise StoreUnavailable("no node of the store owns some of its slots", maybe_done=False)
        if asyncio.get_running_loop().time() > self._refreshed_at_s + REFRESH_EVERY_S:
            self._refresh_soon()
        try:
            return await asyncio.gather(*(_send(mux, packed) for mux in primaries))
        except StoreUnavailable:
            self._refresh_soon()
            raise

    @property
    def addresses(self) -> list[Address]:
        """List where all nodes are, replicas too, as far as is known."""
        return sorted(node.address for node in self._nodes)

    def look_again(self) -> None:
        """Read again who owns which slot: a connection of `mux_of` met trouble."""
        self._refresh_soon()

    def mux_of(self, key: bytes) -> Mux:
        """Give the connection to the primary that owns a key, as far as is known; raises StoreUnavailable."""
        mux = self._owners[key_slot(key)]
        if mux is None:
            self._refresh_soon()
            raise StoreUnavailable(f"no node of the store owns slot {key_slot(key)}", maybe_done=False)
        return mux

    async def close(self) -> None:
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await asyncio.gather(*(mux.close() for mux in self._muxes.values()))

    async def _execute(self, packed: bytes, slot: int, script: Script | None) -> Any:
        """Send one command to where its slot lives; again only after a reply that says it was not carried out."""
        mux, asking, pause_s = self._owners[slot], False, FIRST_PAUSE_S
        for attempt in range(ATTEMPTS):
            if mux is None:
                self._refresh_soon()
                raise StoreUnavailable(f"no node of the store owns slot {slot}", maybe_done=False)
            try:
                if asking:
                    return await _send_asking(mux, packed)
                return await mux.send(packed)
            except Moved as moved:
                mux, asking = self._mux(moved.host or mux.target.address[0], moved.port), False
                self._owners[moved.slot] = mux
                self._refresh_soon()
            except Ask as ask:
                mux, asking = self._mux(ask.host or mux.target.address[0], ask.port), True
            except NoScript:
                if script is None:
                    raise
                await mux.load(script)
            except NotNow:
                self._refresh_soon()
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, MAX_PAUSE_S)
                mux, asking = self._owners[slot], False
            except StoreUnavailable:
                self._refresh_soon()
                raise
        raise StoreUnavailable(f"the nodes of the store do not agree on slot {slot}", maybe_done=False)

    def _mux(self, host: str, port: int) -> Mux:
        if self._closed:
            raise StoreUnavailable("the store is closed", maybe_done=False)
        mux = self._muxes.get((host, port))
        if mux is None:
            mux = self._muxes[host, port] = Mux(self._target.at(host, port), self._timeout_s, self._figures)
        return mux

    async def _discover(self) -> ClusterMap:
        return await discover(self._target, self._target.addresses, self._nodes, self._timeout_s)

    def _adopt(self, found: ClusterMap) -> None:
        # PERF: a mux for each owner, not for each of 16,384 slots
        muxes = {owner: self._mux(*owner) for owner in set(found.owners) if owner is not None}
        self._owners = [None if owner is None else muxes[owner] for owner in found.owners]
        self._refreshed_at_s = asyncio.get_running_loop().time()
        if found.nodes != self._nodes:
            self._nodes = found.nodes
            if self._known is not None:
                self._known.note(sorted(found.nodes))

    def _refresh_soon(self) -> None:
        """Read the map of slots again, unless that is being done."""
        if not self._closed and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            self._adopt(await self._discover())
        except StoreUnavailable:
            # The map stays as it is; whoever meets the trouble hears of it and has it read again.
            await asyncio.sleep(REFRESH_PAUSE_S)
            return
        # A node without slots is let go once nothing waits for it; an import under way makes it known again (ASK).
        owners = set(self._owners)
        for address, mux in list(self._muxes.items()):
            if mux.idle and mux not in owners:
                del self._muxes[address]
                await mux.close()
        await asyncio.sleep(REFRESH_PAUSE_S)


async def _send(mux: Mux, packed: bytes) -> Any:
    return await mux.send(packed)


def _send_asking(mux: Mux, packed: bytes) -> asyncio.Future[Any]:
    """Send ASKING and the command side by side: the flag holds for one command."""
    asking = mux.send(_ASKING)
    asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # the command's reply tells
    return mux.send(packed)
