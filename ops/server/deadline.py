"""What happens to a connection unless something comes first."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

_NEVER: Final = math.inf


class Deadline:
    """The one moment at which something is done, which is put off or called off with each request.

    PERF: its timer is left where it is when that moment moves away, and looks again when it runs out. So a busy
    connection takes a timer a minute, where one for each request would be made, cancelled and thrown away.
    """

    __slots__ = ("_act", "_at_s", "_loop", "_timer", "_timer_at_s")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._act: Callable[[], object] | None = None
        self._at_s = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = _NEVER

    def set(self, within_s: float, act: Callable[[], object]) -> None:
        """Have this done so many seconds from now, in place of what was to be done."""
        self._act = act
        self._at_s = at_s = self._loop.time() + within_s
        if at_s < self._timer_at_s:
            self._wait_until(at_s)

    def clear(self) -> None:
        """Have nothing done."""
        self._at_s = _NEVER
        self._act = None

    def end(self) -> None:
        """Have nothing done, and leave no timer behind."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at_s = None, _NEVER

    def _wait_until(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at_s = self._loop.call_at(at_s, self._look), at_s

    def _look(self) -> None:
        due_s = self._timer_at_s
        self._timer, self._timer_at_s = None, _NEVER
        if self._act is None:
            return
        if self._at_s > due_s:
            self._wait_until(self._at_s)
            return
        act, self._act, self._at_s = self._act, None, _NEVER
        act()
