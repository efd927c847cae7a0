"""Whose turn it is to begin a stream, and whose to go on: so many of a worker at once, the others wait in a line.

Thousands of phones may begin together, after a restart or a push. Were all of them begun at once, their work would lie
before everything else that a worker has to do, and acks would wait for seconds. Once they have begun, the store would
be asked for a page of every one of them: acks, and streams that begin, would wait behind all of these.
"""

from __future__ import annotations

import asyncio
import logging
from heapq import heapify, heappop, heappush
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
"""Who takes longer waits for its source: others do not wait for it."""


class StreamsBusy(Unavailable):
    """Too many streams are beginning."""

    retry_after_s = 5


class Turn:
    """A place among those that begin, and in the order in which they arrived; `end` gives both back."""

    def __init__(self, turns: Turns, number: int) -> None:
        self.number = number
        self._turns = turns
        self._held = False
        self._over: asyncio.Future[None] | None = None
        """Done as soon as those behind it need not wait for its first bytes; None while it does not begin."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Hold the place from now on."""
        loop = asyncio.get_running_loop()
        self._held, self._over = True, loop.create_future()
        self._timer = loop.call_later(LONG_S, self._overtake)
        self._turns.beginning.append(self)

    async def comes(self) -> None:
        """Wait until all that arrived earlier and begin too have sent their first bytes, or take longer than LONG_S."""
        while before := [turn for turn in self._turns.beginning if turn.number < self.number]:
            await before[0].overtaken()

    async def overtaken(self) -> None:
        """Wait until nobody need wait for this one any more."""
        if self._over is not None:
            await asyncio.shield(self._over)

    def end(self) -> None:
        """Let the next one begin, and the others go on; a second time changes nothing."""
        if self._held:
            self._held = False
            self._overtake()
            self._turns.give_back()

    async def take_again(self) -> None:
        """Wait for a turn again behind `end`; raises StreamsBusy."""
        await self._turns.wait(self.number)
        self.begin()

    def _overtake(self) -> None:
        over, self._over = self._over, None
        if over is not None and self._timer is not None:
            self._timer.cancel()
            self._turns.beginning.remove(self)
            over.set_result(None)


class Turns:
    """The line of one worker's streams, served in order of arrival: `arrive` tells the number of one."""

    def __init__(
        self,
        at_once: int = AT_ONCE,
        in_line: int = IN_LINE,
        wait_s: float = WAIT_S,
        figures: StreamFigures | None = None,
    ) -> None:
        self._figures = figures or StreamFigures()
        self._free = at_once
        self._line: list[tuple[int, asyncio.Future[None]]] = []
        """A heap; those that gave up stay in it until it is their turn, or it is too long."""
        self._most = in_line
        self._wait_s = wait_s
        self._arrived = 0
        self.beginning: list[Turn] = []
        """Those whose first bytes others wait for; some may have overtaken the others."""
        self.waiting = 0

    def arrive(self) -> int:
        """Count one that arrived."""
        self._arrived += 1
        return self._arrived

    async def take(self, number: int | None = None) -> Turn:
        """Wait for a turn; raises StreamsBusy where the line is too long, or no turn came in time.

        `number`: which one it is in order of arrival; without it the last.
        """
        turn = Turn(self, self.arrive() if number is None else number)
        await turn.take_again()
        return turn

    async def wait(self, number: int) -> None:
        """Wait for a place; raises what `take` does."""
        if self._free:
            self._free -= 1
            return
        if self.waiting >= self._most:
            raise StreamsBusy(f"{self.waiting:,} streams wait to begin: try again in a few seconds")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if len(self._line) > 2 * self._most:
            self._line = [waiting for waiting in self._line if not waiting[1].done()]
            heapify(self._line)
        heappush(self._line, (number, place))
        self.waiting += 1
        self._figures.waits(1)
        try:
            async with asyncio.timeout(self._wait_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self.give_back()  # it came at the same moment
            if isinstance(error, TimeoutError):
                raise StreamsBusy(f"This stream's turn did not come within {self._wait_s:g} s: try again") from None
            raise
        finally:
            self.waiting -= 1
            self._figures.waits(-1)

    def give_back(self) -> None:
        """Let the next one begin."""
        while self._line:
            _, place = heappop(self._line)
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class Going:
    """The line of those that go on: a few of a worker make a chunk at once, in order of arrival.

    Beside who is not done after LONG_S another one goes on. So a source that is slow for some holds up nobody else.
    """

    def __init__(self, at_once: int = CHUNKS_AT_ONCE, long_s: float = LONG_S) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._long_s = long_s

    def one(self) -> Place:
        """Hold a place while one chunk is made: `async with`."""
        return Place(self._free, self._long_s)


class Place:
    """A place of one that goes on, given back once: by who has made a chunk, or by the time."""

    # PERF: a class, for a generator as a context costs as much again as all that is done here.
    __slots__ = ("_free", "_held", "_long_s", "_timer")

    def __init__(self, free: asyncio.Semaphore, long_s: float) -> None:
        self._free = free
        self._long_s = long_s
        self._held = False

    async def __aenter__(self) -> None:
        await self._free.acquire()
        self._held = True
        self._timer = asyncio.get_running_loop().call_later(self._long_s, self._give_back)

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        self._give_back()

    def _give_back(self) -> None:
        if self._held:
            self._held = False
            self._free.release()
