"""How often a room is woken: at once, and then once in a while, the last time never lost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

EVERY_S: Final = 5.0
"""The app answers each wake-up with a sync, at once: it does not wait for more of them."""
IN_A_ROW: Final = 50
"""Rooms that are woken before requests get a turn."""

Room = TypeVar("Room", bound=Hashable)


class Pace(Generic[Room]):
    """Wakes rooms, each at most once in `every_s`. What it remembers of a room is forgotten when it has rested.

    `send` gets a room, and who alone of it is woken, where that is not everybody.
    """

    def __init__(self, send: Callable[[Room, str | None], Awaitable[None]], every_s: float = EVERY_S) -> None:
        self._send = send
        self._every_s = every_s
        self._resting: dict[Room, bool] = {}  # whether it is to be woken again
        self._due: deque[tuple[Room, str | None]] = deque()
        self._sending: asyncio.Task[None] | None = None

    @property
    def rests(self) -> int:
        """How many rooms were woken of late."""
        return len(self._resting)

    def wake(self, room: Room, member: str | None = None) -> None:
        """Wake a room now, or one member of it; as soon as it has rested, all of it."""
        if room in self._resting:
            self._resting[room] = True
        else:
            self._wake_now(room, member)

    def close(self) -> None:
        """Wake nobody any more."""
        self._due.clear()
        if self._sending is not None:
            self._sending.cancel()

    def _wake_now(self, room: Room, member: str | None = None) -> None:
        self._resting[room] = False
        self._due.append((room, member))
        loop = asyncio.get_running_loop()
        loop.call_later(self._every_s, self._rested, room)
        if self._sending is None or self._sending.done():
            self._sending = loop.create_task(self._send_all())

    def _rested(self, room: Room) -> None:
        if self._resting.pop(room):
            self._wake_now(room)

    async def _send_all(self) -> None:
        sent = 0
        while self._due:
            await self._send(*self._due.popleft())
            sent += 1
            if sent % IN_A_ROW == 0:
                await asyncio.sleep(0)
