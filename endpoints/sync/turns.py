"""Whose turn it is to begin a stream, and whose to go on: so many of a worker at once, the others wait in a line.

Thousands of phones may begin together, after a restart or a push. Were all of them begun at once, their work would lie
before everything else that a worker has to do, and acks would wait for seconds. And once they have begun, each turn of
the event loop would make a page for every one of them: acks, and streams that begin, would wait for all of these.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from endpoints.figures.of_streams import StreamFigures
from ledger.errors import Unavailable

log = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""How many streams of a worker make their first page at the same time; also more than a source takes at once."""
IN_LINE: Final = 2000
"""How many wait, at most."""
WAIT_S: Final = 30.0
"""For how long, at most: half of what proxies give a request by default."""
CHUNKS: Final = 2
"""So many chunks of streams that have begun are sent in one turn of the event loop."""


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
    """The line of those that go on: a few chunks in each turn of the event loop, in order of arrival.

    Nobody waits for longer than those before take: where no more want to than may, each goes on in the turn it is in.
    """

    def __init__(self, chunks: int = CHUNKS) -> None:
        self._most = chunks
        self._left = chunks
        self._line: deque[asyncio.Future[None]] = deque()
        self._turning = False

    async def on(self) -> None:
        """Wait until one more chunk may be sent."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn, loop)
        if self._left and not self._line:
            self._left -= 1
            return
        place = loop.create_future()
        self._line.append(place)
        await place

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the next ones go on; comes in each turn for as long as somebody waits, and once more."""
        self._left = self._most
        while self._left and self._line:
            place = self._line.popleft()
            if not place.done():  # else whoever waited has left
                place.set_result(None)
                self._left -= 1
        self._turning = bool(self._line) or self._left < self._most
        if self._turning:
            loop.call_soon(self._turn, loop)
