"""A TCP proxy that loses the connection at a script call: before the server has it, or after it was carried out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Literal, Self

from ledger.store.scripts import Script


class LosingProxy:
    """Forwards connections to a port of this machine; `lose` arms it for the next call of a script."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._marks: tuple[bytes, ...] = ()
        self._when: Literal["before", "after"] = "before"
        self._then: Callable[[], Awaitable[None]] | None = None
        self._swallow = False
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = 0

    @property
    def url(self) -> str:
        """The address of the server behind the proxy."""
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def lose(
        self,
        when: Literal["before", "after"],
        *scripts: Script,
        close: bool = False,
        then: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Break the connection at the next call of one of the scripts; then do something, or let no new one through."""
        self._when, self._closing, self._then = when, close, then
        self._marks = tuple(script.sha for script in scripts)

    def open_again(self) -> None:
        """Let new connections through."""
        self._closed = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        for pump in (self._up(reader, server_writer, writer), self._down(server_reader, writer)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _up(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 20):
                if any(mark in data for mark in self._marks):
                    self._marks = ()
                    self.lost += 1
                    self._closed = self._closing
                    if self._when == "before":
                        if self._then is not None:
                            await self._then()
                        client.transport.abort()
                        break
                    self._swallow = True
                server.write(data)
                await server.drain()
        server.close()

    async def _down(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await server.read(1 << 20):
                if self._swallow:
                    self._swallow = False
                    if self._then is not None:
                        await self._then()
                    client.transport.abort()
                    return
                client.write(data)
                await client.drain()
        client.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
