"""A TCP way to a server that forgets its connections without a word, as a firewall or a balancer does."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class ForgetfulWay:
    """Forwards connections to a port of this machine; those that were forgotten stay open, and nothing comes through.

    Where it is `silent` no new one gets through either: it is taken, and nothing answers.
    """

    def __init__(self, target_port: int) -> None:
        self.silent = False
        self.made = 0
        self._target_port = target_port
        self._age = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.sockets[0].getsockname()[1])

    def forget(self) -> None:
        """Let nothing through any more on the connections there are."""
        self._age += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        self._writers.append(writer)
        if self.silent:
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers.append(server_writer)
        for pump in (self._pump(reader, server_writer, self._age), self._pump(server_reader, writer, self._age)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, age: int) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if age == self._age:
                    writer.write(data)
        if age == self._age:
            writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0)
