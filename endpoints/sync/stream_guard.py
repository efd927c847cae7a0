"""Ends a sync stream that nobody may or does read any more.

A server runs a response on for ever when its client has left (it drops what is sent), and waits for ever for a client
that stopped reading. So each stream is watched: for the client's leaving, for the end of its session, and for a reader
that takes nothing for too long.

The kernel would take megabytes for a slow reader. They would hide whether it still reads, and go on to it after the
end of its session; so the kernel is given little, what it holds is counted, and thrown away when a stream is broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, Self

from ledger.errors import LedgerError

LOOK_S: Final = 5.0
"""How often a stream that waits for its reader looks at its session."""
KERNEL_BYTES: Final = 256 * 1024
"""How much the kernel may hold that a reader's window has no room for."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class StreamBroken(Exception):
    """Break the connection: clients take a clean end for success."""


class Guard:
    """Watches one stream from its first to its last chunk; use as a context manager around the sending."""

    def __init__(
        self,
        receive: Callable[[], Awaitable[Any]],
        transport: asyncio.Transport | None,
        lives: Callable[[], Awaitable[bool]],
        stall_s: float,
    ) -> None:
        """Take the ASGI `receive`, the connection's transport where the server gives it, and a look at the session."""
        self.over: str | None = None
        """Why the stream is over: gone, ended or stalled; None while it is not."""
        self._ended = asyncio.Event()
        self._receive = receive
        self._transport = transport
        self._lives = lives
        self._stall_s = stall_s
        self._socket: Any = None if transport is None else transport.get_extra_info("socket")
        self._chunks = 0
        self._tasks: list[asyncio.Task[None]] = []

    def __enter__(self) -> Self:
        if self._socket is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with contextlib.suppress(OSError):  # not a TCP connection, or gone
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_BYTES)
        self._tasks = [asyncio.create_task(self._wait_for_leaving()), asyncio.create_task(self._look())]
        return self

    def __exit__(self, *_: object) -> None:
        tasks, self._tasks = self._tasks, []  # PERF: how they end refers to this: a cycle that had to be collected
        for task in tasks:
            task.cancel()

    async def check(self) -> None:
        """Look at the session now, between two chunks; sets `over`."""
        self._chunks += 1
        await self._ask()

    def break_off(self) -> None:
        """Break the connection with what is unsent; raises StreamBroken where only the server can do it."""
        if self._transport is None:
            raise StreamBroken(self.over or "failed")
        self._abort(self._transport)

    async def next_of(self, made: AsyncGenerator[bytes]) -> bytes | None:
        """Return the next chunk; None at the end, or as soon as the stream is over, with what makes it cancelled.

        So a source is not read on for a client that has left.
        """
        making = asyncio.ensure_future(anext(made, None))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((making, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            if not making.done():
                making.cancel()
                await asyncio.wait([making])
        return None if making.cancelled() else making.result()

    async def _ask(self) -> None:
        if self.over is None and not await self._lives():
            self._end("ended")

    async def _wait_for_leaving(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.over = self.over or "gone"
        self._ended.set()

    async def _look(self) -> None:
        clock = asyncio.get_running_loop().time
        seen, moved_at = (0, 0), clock()
        while self.over is None:
            await asyncio.sleep(min(LOOK_S, self._stall_s / 4))
            now = (self._chunks, self._untaken())
            if now != seen or now[1] == 0:
                seen, moved_at = now, clock()
            elif clock() - moved_at > self._stall_s:
                self._end("stalled")
            with contextlib.suppress(LedgerError):  # no word on the session: looked at again in a moment
                await self._ask()

    def _untaken(self) -> int:
        """Count the bytes the reader's side has not taken, in our buffers and in the kernel's."""
        if self._transport is None:
            return 0
        held = b"\0" * 4
        with contextlib.suppress(OSError, ValueError):  # a system that does not tell, or the connection is gone
            held = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, held)
        return self._transport.get_write_buffer_size() + int(struct.unpack("i", held)[0])

    def _end(self, why: str) -> None:
        self.over = why
        self._ended.set()
        if self._transport is not None:
            self._abort(self._transport)

    def _abort(self, transport: asyncio.Transport) -> None:
        with contextlib.suppress(OSError, ValueError):  # already closed
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
