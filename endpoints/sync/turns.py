"""Whose turn it is to begin a stream, and whose to go on: so many of a worker at once, the others wait in a line.

Thousands of phones may begin together, after a restart or a push. Were all of them begun at once, their work would lie
before everything else that a worker has to do, and acks would wait for seconds. Once they have begun, the store would
be asked for a page of every one of them: acks, and streams that begin, would wait behind all of these.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Final

from endpoints.figures.of_streams import StreamFigures
from ledger.errors import Unavailable

log = logging.getLogger(__name__)

AT_ONCE: Final = 16
"""How many streams of a worker make their first page at the same time; also more than a source takes at once."""
IN_LINE: Final = 2000
"""How many wait, at most."""
WAIT_S: Final = 30.0
"""For how long, at most: half of what proxies give a request by default."""
CHUNKS_AT_ONCE: Final = 8
"""So many chunks of streams that have begun are made at the same time."""
LONG_S: Final = 0.25


class StreamsBusy(Unavailable):
    """Too many streams are beginning."""

    retry_after_s = 5


class Turn:
    """A place among those that begin; `end` gives it back."""

    def __init__(self, turns: Turns) -> None:
        self._turns: Turns | None = turns

    def end(self) -> None:
        """Let the next one begin; a second time changes nothing."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.give_back()

    async def take_again(self, turns: Turns) -> None:
        """Wait for a turn again behind `end`; raises StreamsBusy."""
        await turns.wait()
        self._turns = turns


class Turns:
    """The line of one worker's streams, served in order of arrival."""

    def __init__(
        self,
        at_once: int = AT_ONCE,
        in_line: int = IN_LINE,
        wait_s: float = WAIT_S,
        figures: StreamFigures | None = None,
    ) -> None:
        self._figures = figures or StreamFigures()
        self._free = asyncio.Semaphore(at_once)
        self._most = in_line
        self._wait_s = wait_s
        self.waiting = 0

    async def take(self) -> Turn:
        """Wait for a turn; raises StreamsBusy where the line is too long, or no turn came in time."""
        await self.wait()
        return Turn(self)

    async def wait(self) -> None:
        """Wait for a place; raises what `take` does."""
        if self.waiting >= self._most:
            raise StreamsBusy(f"{self.waiting:,} streams wait to begin: try again in a few seconds")
        self.waiting += 1
        self._figures.waits(1)
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise StreamsBusy(f"This stream's turn did not come within {self._wait_s:g} s: try again") from None
        finally:
            self.waiting -= 1
            self._figures.waits(-1)

    def give_back(self) -> None:
        """Let the next one begin."""
        self._free.release()


class Going:
    """The line of those that go on: a few of a worker make a chunk at once, in order of arrival.

    Who is not done after LONG_S waits for its source rather than keep this process or the store busy: another one goes
    on beside it. So a source that is slow for some holds up nobody else.
    """

    def __init__(self, at_once: int = CHUNKS_AT_ONCE, long_s: float = LONG_S) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._long_s = long_s

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncGenerator[None]:
        """Hold a place while one chunk is made."""
        await self._free.acquire()
        place = _Place(self._free)
        timer = asyncio.get_running_loop().call_later(self._long_s, place.give_back)
        try:
            yield
        finally:
            timer.cancel()
            place.give_back()


class _Place:
    """What is given back once, by whoever is first."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free: asyncio.Semaphore | None = free

    def give_back(self) -> None:
        free, self._free = self._free, None
        if free is not None:
            free.release()
