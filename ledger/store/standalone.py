"""A store that is one server."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from ledger.store.error_replies import NoScript
from ledger.store.scripts import Arg, Script, pack
from ledger.store.shared_connection import Mux

LOADS = 3  # of one script for one call; more than one only when scripts are flushed at that moment


class StandaloneStore:
    """The `Store` over one multiplexed connection."""

    def __init__(self, mux: Mux) -> None:
        self.mux = mux

    async def command(self, *args: Arg, key: bytes) -> Any:
        return await self.mux.send(pack(args))

    async def script(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> Any:
        packed = pack((b"EVALSHA", script.sha, len(keys), *keys, *args))
        for _ in range(LOADS):
            try:
                return await self.mux.send(packed)
            except NoScript:
                await self.mux.load(script)
        return await self.mux.send(packed)

    def packed(self, script: Script, key: bytes, call: bytes) -> Awaitable[Any]:
        return self.mux.send(call)

    async def load(self, script: Script, key: bytes) -> None:
        await self.mux.load(script)

    async def each_primary(self, *args: Arg) -> list[Any]:
        return [await self.mux.send(pack(args))]

    def mux_of(self, key: bytes) -> Mux:
        """Give the connection to the server that owns a key: there is one."""
        return self.mux

    def look_again(self) -> None:
        """Do nothing: the one connection is made again by itself."""

    async def close(self) -> None:
        await self.mux.close()
