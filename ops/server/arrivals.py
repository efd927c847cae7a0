"""Requests that arrive in one moment: acks are looked at as they come, of all others a few in each turn of the loop.

Thousands of phones may ask at once, after a restart or a push. If all of that were looked at in the turn of the event
loop in which it came, an ack would have to wait for the end of it. So other requests wait, in order of arrival, as
bytes, which cost next to nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from endpoints.sync.acks import PATHS

ACKS: Final = tuple(f"POST {path} ".encode() for path in PATHS)
"""How those requests begin that go before all others: each takes 50 µs at most, and a device waits for it."""
A_TURN: Final = 8
"""How many others are looked at in one turn of the event loop."""


class Arrivals:
    """The line of one worker. Where no more come than may, each is looked at in the turn in which it came."""

    def __init__(self, a_turn: int = A_TURN) -> None:
        self._most = self._left = a_turn
        self._line: deque[Callable[[], bool]] = deque()
        self._turning = False

    def pass_one(self) -> bool:
        """Tell whether a request may be looked at now; one that may not has to `wait`."""
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)
        if not self._left:  # as long as there are some in line
            return False
        self._left -= 1
        return True

    def wait(self, go_on: Callable[[], bool]) -> None:
        """Have `go_on` called when it is its turn; it returns whether there was anything to look at still."""
        self._line.append(go_on)

    def _turn(self) -> None:
        """Begin a turn of the loop; called in each for as long as somebody came in the last one."""
        self._turning = self._left < self._most or bool(self._line)
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)
        self._left = self._most
        while self._left and self._line:
            self._left -= self._line.popleft()()
