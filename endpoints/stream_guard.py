"""Ends a sync stream that nobody may or does read any more.

A server runs a response on for ever when its client has left (it drops what is sent), and waits for ever for a client
that stopped reading. So each stream is watched: for the client's leaving, for the end of its session, and for a reader
that takes nothing for too long.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, Self

from ledger.errors import Unavailable

LOOK_S: Final = 5.0
"""How often a stream that waits for its reader looks at its session."""


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
        self._receive = receive
        self._transport = transport
        self._lives = lives
        self._stall_s = stall_s
        self._tasks: list[asyncio.Task[None]] = []

    def __enter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._wait_for_leaving()), asyncio.create_task(self._look())]
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()

    async def check(self) -> None:
        """Look at the session now, between two chunks; sets `over`."""
        if self.over is None and not await self._lives():
            self._end("ended")

    def break_off(self) -> None:
        """Break the connection with what is unsent; raises StreamBroken where only the server can do it."""
        if self._transport is None:
            raise StreamBroken(self.over or "failed")
        self._transport.abort()

    async def _wait_for_leaving(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.over = self.over or "gone"

    async def _look(self) -> None:
        clock = asyncio.get_running_loop().time
        unsent, moved_at = 0, clock()
        while self.over is None:
            await asyncio.sleep(min(LOOK_S, self._stall_s / 4))
            now_unsent = 0 if self._transport is None else self._transport.get_write_buffer_size()
            if now_unsent != unsent or now_unsent == 0:
                unsent, moved_at = now_unsent, clock()
            elif clock() - moved_at > self._stall_s:
                self._end("stalled")
            with contextlib.suppress(Unavailable):  # no word on the session: looked at again in a moment
                await self.check()

    def _end(self, why: str) -> None:
        self.over = why
        if self._transport is not None:
            self._transport.abort()
