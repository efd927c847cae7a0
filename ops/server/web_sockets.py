"""Web sockets on the one path that has them: uvicorn's protocol, bounded."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
from uvicorn.server import ServerState

from endpoints.live import MESSAGE_BYTES, PATH
from ops.server.http_rules import Fields

_QUIET: Final = logging.getLogger("uvicorn.error.sockets")
"""What goes wrong is told; not who came, whose query may hold a token."""
_QUIET.setLevel(logging.WARNING)
WRITE_BYTES: Final = 16 * 1024
"""What may wait for a reader before its connection is broken: more than it is told between two pings."""
CLOSE_S: Final = 5.0


def asks_for_socket(method: bytes, url: bytes, fields: Fields) -> bool:
    """Tell whether a head asks for a web socket, where sockets are."""
    if method != b"GET" or url.partition(b"?")[0].rstrip(b"/") != PATH.encode():
        return False
    connection: list[bytes] = []
    upgrade = b""
    for name, value in fields:
        if name == b"connection":
            connection = [token.strip() for token in value.lower().split(b",")]
        elif name == b"upgrade":
            upgrade = value.lower()
    return b"upgrade" in connection and upgrade == b"websocket"


def hand_over(
    config: Config,
    server_state: ServerState,
    app_state: dict[str, object],
    transport: asyncio.Transport,
    url: bytes,
    fields: Fields,
) -> None:
    """Give a connection to the protocol of web sockets, which is told the request that asked for one."""
    lines = [b"%b: %b\r\n" % field for field in fields]
    kind: Any = config.ws_protocol_class
    protocol = kind(config=config, server_state=server_state, app_state=app_state)
    protocol.connection_made(transport)
    protocol.data_received(b"".join([b"GET ", url, b" HTTP/1.1\r\n", *lines, b"\r\n"]))
    transport.set_protocol(protocol)


def bound(config: Config, *, on: bool) -> None:
    """Set what a server that is not loaded yet takes of web sockets."""
    config.ws = SocketProtocol if on else "none"
    config.ws_max_size = MESSAGE_BYTES
    config.ws_per_message_deflate = False  # PERF: its buffers are most of a socket's memory, and messages are tiny
    config.ws_ping_interval = None  # Engine.IO has pings of its own


class SocketProtocol(WSProtocol):
    """A web socket whose worker counts it, and that no reader or closing handshake holds up."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, object]) -> None:
        super().__init__(config, server_state, app_state)
        self.logger = _QUIET
        self.close_timeout = CLOSE_S
        self._count = getattr(server_state, "count", None)
        self._breaking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BYTES)
        self._publish()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._breaking is not None:
            self._breaking.cancel()
        super().connection_lost(exc)
        self._publish()

    def pause_writing(self) -> None:
        """Break off: so much waits only for a reader that takes nothing."""
        super().pause_writing()
        self.transport.abort()

    def shutdown(self) -> None:
        """Close, and do not wait for the reader."""
        super().shutdown()
        self._break_soon()

    async def send(self, message: ASGISendEvent) -> None:
        """Send; behind a close the connection ends in a moment, whatever is unsent."""
        await super().send(message)
        if message["type"] == "websocket.close":
            self._break_soon()

    def _break_soon(self) -> None:
        if self._breaking is None:
            self._breaking = self.loop.call_later(self.close_timeout + 1, self.transport.abort)

    def _publish(self) -> None:
        if self._count is not None:
            self._count()
