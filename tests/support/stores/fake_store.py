"""The `Store` over fakeredis, for unit tests; tests/contract/test_store.py shows where it agrees with real servers.

It has one server without a memory limit, and scripts are sent without the `allow_oom` line, which it does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fakeredis import FakeServer, FakeStrictRedis
from redis.exceptions import NoScriptError, RedisError

from ledger import keys
from ledger.errors import LedgerError, StoreReplyError, StoreUnavailable
from ledger.log.order import FILLED
from ledger.store.error_replies import NoScript
from ledger.store.scripts import Arg, Script

PARTITIONS = 16
"""No test has more on a store of this kind."""


class FakeStore:
    """A store in this process; stores made with the same `server` see the same data."""

    def __init__(self, server: FakeServer | None = None) -> None:
        self.server = server or FakeServer(version=(7,))
        client = FakeStrictRedis(server=self.server, protocol=2)
        self._connection = client.connection_pool.get_connection()
        self._closed = False
        if server is None:
            for partition in range(PARTITIONS):  # as in a ledger that has begun
                self._run("SET", keys.whole(partition), "1")
                self._run("ZADD", keys.sids(partition), 0, FILLED)

    async def command(self, *args: Arg, key: bytes) -> Any:
        await asyncio.sleep(0)  # a round trip is where other tasks get their turn
        try:
            return self._run(*args)
        finally:
            await asyncio.sleep(0)

    async def script(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> Any:
        sha = Script(script.name, script.text).sha
        call = (b"EVALSHA", sha, len(keys), *keys, *args)
        try:
            return await self.command(*call, key=keys[0])
        except NoScript:
            self._run("SCRIPT", "LOAD", script.text)
            return await self.command(*call, key=keys[0])

    async def each_primary(self, *args: Arg) -> list[Any]:
        return [await self.command(*args, key=b"")]

    async def close(self) -> None:
        self._closed = True

    def _run(self, *args: Arg) -> Any:
        if self._closed:
            raise StoreUnavailable("the store is closed", maybe_done=False)
        try:
            self._connection.send_command(*args)  # type: ignore[no-untyped-call]
            reply = self._connection.read_response(disable_decoding=True)
        except RedisError as exc:
            raise _error(exc) from exc
        return _raw(reply)


def _error(exc: RedisError) -> LedgerError:
    """Translate redis-py's exception, whose text has lost the code of the errors redis-py has classes for."""
    if isinstance(exc, NoScriptError):
        return NoScript(f"NOSCRIPT {exc}")
    return StoreReplyError(str(exc))


def _raw(reply: Any) -> Any:
    """Return a reply as RESP2 has it, where fakeredis gives Python's own types."""
    match reply:
        case bool():
            return int(reply)
        case float():
            return format(reply, ".17g").encode()
        case str():
            return reply.encode()
        case list() | tuple():
            return [_raw(item) for item in reply]
        case _:
            return reply
