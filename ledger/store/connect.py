"""Connecting to a server: all that is not hot is left to redis-py (URL, TLS, AUTH, SELECT, unix sockets)."""

from __future__ import annotations

import asyncio
import os
from ssl import SSLError
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from ledger.errors import LayoutError, StoreUnavailable
from ledger.store.error_replies import NotPermitted

Address = tuple[str, int]


NOT_REACHED: Final = (RedisError, OSError, TimeoutError, RuntimeError)
"""What opening a connection raises; the last one uvloop, where the server closes it between two of our steps."""


class Target:
    """A server to connect to and how; `addresses.py` makes one of a URL.

    `addresses`: all that the URL names, any of which leads to the store. `wants_cluster` is True when the URL says so
    (`redis+cluster://`, `?cluster=true`); otherwise the server is asked.
    """

    def __init__(
        self,
        connection_class: type[AbstractConnection],
        options: dict[str, Any],
        wants_cluster: bool,
        addresses: tuple[Address, ...] = (),
    ) -> None:
        self.connection_class = connection_class
        self.options = options
        self.wants_cluster = wants_cluster
        self.addresses = addresses

    @property
    def address(self) -> Address:
        """Host and port; a unix socket has none and raises LayoutError."""
        if "host" not in self.options:
            raise LayoutError("a cluster cannot be reached through a unix socket; give the URL of one of its nodes")
        return self.options["host"], self.options["port"]

    @property
    def name(self) -> str:
        """Where the server is, for messages; without credentials."""
        if "host" in self.options:
            return f"{self.options['host']}:{self.options['port']}"
        return str(self.options.get("path", ""))

    @property
    def silence(self) -> str:
        """Why nothing may have come back from it yet."""
        over_tls = issubclass(self.connection_class, SSLConnection)
        return "has not answered yet" + (". It is asked over TLS (rediss://): does it speak that?" if over_tls else "")

    def at(self, host: str, port: int) -> Target:
        """Return the same way of connecting, to another node of the cluster."""
        options = self.options | {"host": host, "port": port}
        return Target(self.connection_class, options, self.wants_cluster, ((host, port),))

    def connection_options(self, timeout_s: float) -> dict[str, Any]:
        """Return the arguments of a redis-py connection that fails within `timeout_s` and tries nothing twice."""
        bounds = {"socket_connect_timeout": timeout_s, "socket_timeout": timeout_s}
        return self.options | bounds | {"retry": Retry(NoBackoff(), 0)}

    def connection(self, timeout_s: float) -> AbstractConnection:
        """Build a connection without opening it."""
        return self.connection_class(**self.connection_options(timeout_s))

    async def connect(self, protocol: asyncio.Protocol, timeout_s: float) -> asyncio.StreamWriter:
        """Open and authenticate a connection and hand its socket to `protocol`.

        Raises StoreUnavailable (`maybe_done=False`) when that does not succeed within `timeout_s`. The writer's
        transport carries the commands; the writer must be kept for as long, because losing it closes the transport.
        """
        connection = self.connection(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                await self._check(connection)
            return _take_over(connection, protocol)
        except NOT_REACHED as exc:
            await connection.disconnect(nowait=True)
            raise self._trouble(exc) from exc
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def _check(self, connection: AbstractConnection) -> None:
        """Look at the server before it is used; raises ConnectionError, or a RedisError, if it is the wrong one."""

    async def ask(self, *commands: tuple[str, ...], timeout_s: float) -> list[Any]:
        """Send a few commands on a connection of their own; raises StoreUnavailable."""
        connection = self.connection(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                replies = []
                for command in commands:
                    await connection.send_command(*command)
                    replies.append(await connection.read_response())
                return replies
        except NOT_REACHED as exc:
            raise self._trouble(exc) from exc
        finally:
            await connection.disconnect(nowait=True)

    def _trouble(self, error: Exception) -> StoreUnavailable:
        """Say as one of our own errors why there is no connection."""
        if isinstance(error, AuthenticationError):
            says = f"{error} Its URL gives user and password: redis://USER:PASSWORD@HOST"
            return NotPermitted(f"the store at {self.name} does not let us in: {says}", maybe_done=False)
        kind = NotPermitted if isinstance(error, NoPermissionError) else StoreUnavailable
        return kind(f"the store at {self.name} cannot be reached: {_reason(error)}", maybe_done=False)


def _reason(error: Exception) -> str:
    """Tell why there is no connection, without the address, which redis-py and asyncio tell each in their words."""
    cause = error.__context__
    if isinstance(cause, OSError) and not isinstance(cause, SSLError) and cause.errno:
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    return str(error) or "timed out"


def _take_over(connection: AbstractConnection, protocol: asyncio.Protocol) -> asyncio.StreamWriter:
    """Make `protocol` the one that reads an opened connection's socket, in place of redis-py.

    NOTE: the only place that reads redis-py's and asyncio's private attributes. All is done in one step of the event
    loop, so no byte can arrive between the check that nothing is buffered and the change of protocol. The connection
    forgets the socket, so that it is not closed when the connection object goes away.
    """
    reader, writer = connection._reader, connection._writer
    if reader is None or writer is None or reader.at_eof() or writer.transport.is_closing():
        raise ConnectionError("the server closed the connection")
    if reader._buffer or connection._parser._reader.has_data():  # type: ignore[attr-defined]
        raise ConnectionError("the server sent more than it was asked for")
    writer.transport.set_protocol(protocol)
    connection._reader = connection._writer = None
    return writer
