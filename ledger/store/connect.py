"""Connecting to a server: all that is not hot is left to redis-py (URL, TLS, AUTH, SELECT, unix sockets)."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ledger.errors import LayoutError, StoreUnavailable

_CLUSTER_SCHEMES = {"redis+cluster://": "redis://", "rediss+cluster://": "rediss://"}
_NOT_FOR_CONNECTIONS = ("cluster", "max_connections", "timeout")


class Target:
    """A server to connect to and how; parsed once from a URL.

    `wants_cluster` is True when the URL says so (`redis+cluster://`, `?cluster=true`); otherwise the server is asked.
    """

    def __init__(
        self, connection_class: type[AbstractConnection], options: dict[str, Any], wants_cluster: bool
    ) -> None:
        self.connection_class = connection_class
        self.options = options
        self.wants_cluster = wants_cluster

    @classmethod
    def from_url(cls, url: str) -> Target:
        """Parse a store's URL; raises LayoutError, whose message never repeats the URL (it may hold a password)."""
        wants_cluster = False
        for scheme, plain in _CLUSTER_SCHEMES.items():
            if url.startswith(scheme):
                url, wants_cluster = plain + url.removeprefix(scheme), True
        try:
            options: dict[str, Any] = dict(parse_url(url))
        except ValueError as exc:
            raise LayoutError(f"the store's URL is not usable: {exc}") from exc
        wants_cluster = wants_cluster or str(options.get("cluster", "")).lower() in {"true", "1", "yes"}
        for name in _NOT_FOR_CONNECTIONS:
            options.pop(name, None)
        connection_class = options.pop("connection_class", Connection)
        options.update(protocol=2, decode_responses=False, health_check_interval=0)
        if issubclass(connection_class, Connection):
            options = {"host": "localhost", "port": 6379, "socket_keepalive": True} | options
        target = cls(connection_class, options, wants_cluster)
        try:
            target.connection(1.0)
        except (TypeError, ValueError, RedisError) as exc:
            raise LayoutError(f"the store's URL has an unusable option: {exc}") from exc
        return target

    @property
    def address(self) -> tuple[str, int]:
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

    def at(self, host: str, port: int) -> Target:
        """Return the same way of connecting, to another node of the cluster."""
        return Target(self.connection_class, self.options | {"host": host, "port": port}, self.wants_cluster)

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
            return _take_over(connection, protocol)
        except (RedisError, OSError, TimeoutError) as exc:
            await connection.disconnect(nowait=True)
            reason = str(exc) or "timed out"
            raise StoreUnavailable(f"the store at {self.name} cannot be reached: {reason}", maybe_done=False) from exc
        except BaseException:
            await connection.disconnect(nowait=True)
            raise


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
