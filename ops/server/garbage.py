"""When a worker collects garbage that refers to itself: a little at a time, since it stands still meanwhile.

Requests leave none, so this is for what goes wrong, and for what libraries leave. Python itself would begin when so
many more objects are there than before. Of streams that come while others go it knows nothing by that, until it looks
at all of them at once: a tenth of a second for 2,000.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 10_000
"""So many more objects than before are looked at at once, at the latest."""
NEVER: Final = 1 << 30
FEW: Final = 200_000
"""So many objects may stay before all are looked at: 50 ms, or 100 MB where all of them are garbage."""


class Garbage:
    """Collects for one worker. What is there when it begins lives as long as the worker and is never looked at."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, NEVER, NEVER)
        self._most = FEW
        self._was_more = False

    def collect_new(self) -> None:
        """Look at what came since the last time; call it some times a second."""
        gc.collect(1)

    def collect_all(self) -> None:
        """Look at everything, where twice as much has stayed as the last time left; call it every few minutes.

        It has to be so twice in a row: the streams of one moment are over by then. Counting alone takes a third of a
        collection.
        """
        is_more = _old() > self._most
        if is_more and self._was_more:
            gc.collect()
            self._most, is_more = max(FEW, 2 * _old()), False
        self._was_more = is_more


def _old() -> int:
    return len(gc.get_objects(generation=2))
