"""When a worker collects garbage that refers to itself: a little at a time, since it stands still meanwhile.

Requests leave none, but web sockets do, and what goes wrong may. Python by itself would begin once there are so many
more objects than before. While streams come and others go it learns nothing from that number, until it looks at all of
them at once: a tenth of a second for 2,000.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 10_000
"""So many more objects than before are looked at at once, at the latest."""
NEVER: Final = 1 << 30
MANY: Final = 500_000
"""So many objects may stay before all are looked at: more than 2,000 streams have, 100 MB where all are garbage.

So many more there may be, too, before they are counted, which takes a fifth of a collection."""


class Garbage:
    """Collects for one worker. What is there when it begins lives as long as the worker and is never looked at."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, NEVER, NEVER)
        self._most = MANY
        self._grown = 0
        """By how many objects there may be more since they were counted, at most."""
        self._begun = _collections()

    def collect(self) -> None:
        """Look at what came since the last time, and at all where too much has stayed; call it some times a second."""
        begun = _collections()
        self._grown += gc.get_count()[0] + (begun - self._begun) * YOUNG
        self._begun = begun
        gc.collect(1)
        if self._grown > MANY:
            self._grown = 0
            if _old() > self._most:
                gc.collect()
                self._most = max(MANY, 2 * _old())


def _collections() -> int:
    """Tell how often Python looked at new objects by itself."""
    return int(gc.get_stats()[0]["collections"])


def _old() -> int:
    return len(gc.get_objects(generation=2))
