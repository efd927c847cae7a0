"""A TCP proxy that tests steer: to hold new connections, to break the open ones, to speak TLS for the server."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards connections to a port of this machine, as long as `gate` is set."""

    def __init__(self, target_port: int, context: ssl.SSLContext | None = None) -> None:
        self._target_port = target_port
        self._context = context
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.accepted = 0

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def hold(self) -> None:
        """Accept new connections but forward nothing of them until `gate` is set."""
        self.gate.clear()

    def lead_to(self, port: int) -> None:
        """Lead new connections to another port; those that are open stay where they are."""
        self._target_port = port

    def cut(self) -> None:
        """Break all open connections."""
        for writer in self._open:
            writer.transport.abort()

    def inject(self, data: bytes) -> None:
        """Write `data` into every open connection, in both directions."""
        for writer in self._open:
            writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._open.add(writer)
        await self.gate.wait()
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._open.add(server_writer)
        for pair in ((reader, server_writer), (server_reader, writer)):
            task = asyncio.create_task(self._pump(*pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._server.close()
        self.gate.set()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
