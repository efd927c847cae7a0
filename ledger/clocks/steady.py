"""What time it is, by two clocks of which either may be wrong: this machine's and the store's server's.

A clock that is far off would end sessions and make events of another year. So between two looks time goes on by a clock
that cannot be set, and at each look the two are compared: where they are apart, the one that is nearer to what is
expected is right. Expected is what went on since the last look, at first what the ledger last noted (passed.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from ledger import keys
from ledger.clocks.passed import JUMP_US
from ledger.store.interface import Store

log = logging.getLogger(__name__)

APART_US: Final = 60_000_000
"""Clocks that are less apart agree."""
LOOK_EVERY_S: Final = 10.0
TOLD_US: Final = 86_400_000_000
"""For how long a jump is told."""


def _local_us() -> int:
    return time.time_ns() // 1000


class SteadyClock:
    """Tells the time in µs since 1970 UTC."""

    def __init__(
        self,
        store: Store,
        local_us: Callable[[], int] = _local_us,
        steady_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Take the store, this machine's clock, and one that cannot be set; until the first `look` the former holds."""
        self._apart = ""
        self._jump, self._jump_until_us = "", 0
        self._store = store
        self._local_us = local_us
        self._steady_ns = steady_ns
        self._looked = False
        self._set(local_us())

    def __call__(self) -> int:
        """Tell the time."""
        return self._ahead_us + self._steady_ns() // 1000

    @property
    def trouble(self) -> str:
        """Say which clock is wrong, or that both jumped within the last day; '' while all is well."""
        return self._apart or (self._jump if self() < self._jump_until_us else "")

    async def look(self) -> None:
        """Compare the clocks; tells the log when they begin or end to differ. Raises StoreUnavailable."""
        name = keys.meta()
        began_us = self()
        seconds, micros = await self._store.command("TIME", key=name)
        store_us = int(seconds) * 1_000_000 + int(micros) + (self() - began_us) // 2
        local_us, expected_us = self._local_us(), self()
        if not self._looked:
            noted = await self._store.command("HGET", name, "noted_ms", key=name)
            expected_us = min(local_us, store_us) if noted is None else int(noted) * 1000
        chosen_us = choose(expected_us, local_us, store_us)
        jumped_us = chosen_us - expected_us if self._looked else 0
        self._looked = True
        self._set(chosen_us)
        self._tell(_apart(chosen_us, local_us, store_us))
        if abs(jumped_us) > JUMP_US:
            self._jump = f"the clock jumped by {_span(jumped_us)}, here and at the store; nobody is ended for it"
            self._jump_until_us = chosen_us + TOLD_US
            log.error("%s", self._jump)

    def _set(self, at_us: int) -> None:
        self._ahead_us = at_us - self._steady_ns() // 1000

    def _tell(self, trouble: str) -> None:
        if trouble and not self._apart:
            log.error("%s", trouble)
        elif self._apart and not trouble:
            log.warning("the clocks of this machine and of the store agree again")
        self._apart = trouble


def choose(expected_us: int, local_us: int, store_us: int) -> int:
    """Tell which of two clocks to go by: this machine's, unless the store's is far from it and nearer to expected."""
    if abs(local_us - store_us) <= APART_US:
        return local_us
    return min(local_us, store_us, key=lambda clock_us: abs(clock_us - expected_us))


def _apart(chosen_us: int, local_us: int, store_us: int) -> str:
    if abs(local_us - store_us) <= APART_US:
        return ""
    if chosen_us == local_us:
        return f"the clock of the store's server is {_span(store_us - local_us)} off: set it right"
    return f"the clock of this machine is {_span(local_us - store_us)} off, by the store's: set it right"


def _span(us: int) -> str:
    """Say a difference in words, like +100 days, 0:00:03."""
    return f"{'-' if us < 0 else '+'}{timedelta(seconds=abs(us) // 1_000_000)}"
