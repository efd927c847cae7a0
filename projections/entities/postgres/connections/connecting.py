"""Making one connection: at which of several hosts, in how much time, and noticing when the way to it is gone.

A firewall or balancer that forgot a connection says nothing: what is sent on it vanishes. So the system asks the other
side while nothing is sent (keepalive), and gives up what stays without a word that it arrived (TCP_USER_TIMEOUT).
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

import asyncpg

from projections.entities.postgres.connections.address import Address, Keepalive

SHORTEST_S: Final = 0.5
"""How long a host may take at least, however many there are."""


class NoPrimary(OSError):
    """None of several hosts that answered takes writes."""


class Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """A connection that knows when it was made and last used, and for what its statements are planned.

    `shared`: behind it other sessions use the same connections to the server, so nothing is kept there.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._for_values = False
        self.born_s = self.used_s = time.monotonic()
        self.shared = False

    async def plan_for_values(self, wanted: bool) -> None:
        """Have statements planned for the values at hand each time, or leave it to PostgreSQL.

        Behind a PgBouncer that shares connections another one's choice may be found: that costs time, and nothing else.
        """
        if wanted != self._for_values and not self.shared:
            await self.execute(f"SET plan_cache_mode = {'force_custom_plan' if wanted else 'auto'}")
            self._for_values = wanted

    def note_used(self) -> None:
        """Take in that the server answered just now."""
        self.used_s = time.monotonic()


def encoding_of(connection: Any) -> str:
    """Name the encoding of the database, as it said when the connection was made."""
    return str(getattr(connection.get_settings(), "server_encoding", "UTF8"))


@contextlib.asynccontextmanager
async def apart(connection: Any) -> AsyncGenerator[None]:
    """Let a statement fail without the transaction that it may be in, so that others can follow."""
    async with connection.transaction() if connection.is_in_transaction() else contextlib.nullcontext():
        yield


class Connector:
    """Makes connections to an address; remembers which host was the right one. One for a pool."""

    def __init__(self, address: Address, wait_s: float) -> None:
        """`wait_s` bounds how long all hosts together may take."""
        self._address = address
        self._wait_s = wait_s
        self._first = 0

    async def __call__(self, *given: Any, **named: Any) -> Connection:
        """Connect as the driver's `connect` does, which gets what is given."""
        hosts = self._address.hosts
        share_s = max(self._wait_s / max(len(hosts), 1), SHORTEST_S)
        named["timeout"] = min(share_s, self._address.connect_timeout_s or share_s)
        if not hosts:
            return await self._connect(*given, **named)
        failed: Exception | None = None
        for turn in range(len(hosts)):
            at = (self._first + turn) % len(hosts)
            host, port = hosts[at]
            try:
                made = await self._connect(*given, host=host, port=port, **named)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                failed = failed if isinstance(failed, NoPrimary) else error
                continue
            self._first = at
            return made
        assert failed is not None
        raise failed

    async def _connect(self, *given: Any, **named: Any) -> Connection:
        made: Connection = await asyncpg.connect(*given, target_session_attrs="any", **named)
        try:
            if self._address.primary and await _follows(made):
                raise NoPrimary("no host in the URL takes writes: all that answer are replicas")
            if self._address.keepalive is not None:
                _watch(made, self._address.keepalive)
        except BaseException:
            made.terminate()
            raise
        made.shared = self._address.pooled
        made.note_used()
        return made


async def _follows(connection: Connection) -> bool:
    """Tell whether a server is a replica; PostgreSQL says so by itself since 14, a pooler may not."""
    said = getattr(connection.get_settings(), "in_hot_standby", None)
    if said is not None:
        return bool(said == "on")
    return bool(await connection.fetchval("SELECT pg_is_in_recovery()"))


def _watch(connection: Connection, keepalive: Keepalive) -> None:
    """Have the system notice that nobody is there any more; unix sockets need no such thing."""
    end = connection._transport.get_extra_info("socket")
    if end is None or end.family == getattr(socket, "AF_UNIX", None):
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
    values = {
        idle: keepalive.idle_s,
        "TCP_KEEPINTVL": keepalive.interval_s,
        "TCP_KEEPCNT": keepalive.count,
        "TCP_USER_TIMEOUT": round(keepalive.unsent_s * 1000),
    }
    for name, value in values.items():
        if value and hasattr(socket, name):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
