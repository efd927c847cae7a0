"""Spans of positions that are known to hold nothing to send.

Below the horizon nothing new appears, so a span that was seen to be empty stays so: rows that are written, or become
visible, stand above. Who polls again is asked about only what came since. That matters where no index is made for one
library alone (Immich's are not): an old position would have each poll pass over all that others wrote behind it.

Of one process and bounded. What is an hour old is looked at anew, and so is everything for a device that starts over:
should rows have been put behind the horizon by hand (a restored dump), that brings them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from ledger.positions import Position

LIBRARIES: Final = 2048
"""Of how many libraries spans are remembered; the one used longest ago is forgotten."""
FORGET_S: Final = 3600.0
NEAR_US: Final = 600_000_000
"""So little time holds few rows: how they are found need not depend on whose they are."""


class Span(NamedTuple):
    """Nothing to send strictly after a position (None: from the beginning) and before an instant, seen at some time."""

    after: Position | None
    before: int
    seen_s: float


class EmptySpans:
    """Remembers one span for each entity type of a library."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._libraries: dict[str, dict[str, Span]] = {}

    def note(self, library: str, entity_type: str, after: Position | None, before: int) -> None:
        """Take in that there is nothing to send in a span; it goes on with the one known where they meet."""
        spans = self._libraries.pop(library, None)
        if spans is None:
            spans = {}
            if len(self._libraries) >= LIBRARIES:
                del self._libraries[next(iter(self._libraries))]
        self._libraries[library] = spans
        known, now_s = spans.get(entity_type), self._now_s()
        if known is None or now_s - known.seen_s > FORGET_S:
            spans[entity_type] = Span(after, before, now_s)
        elif _key(known.after) < _key(after) and _at(after) < known.before:  # the older part keeps its age
            spans[entity_type] = Span(known.after, max(before, known.before), known.seen_s)
        elif before >= known.before:
            spans[entity_type] = Span(after, before, now_s)

    def forget(self, library: str, entity_type: str) -> None:
        """Take back what is known: there is something after all."""
        self._libraries.get(library, {}).pop(entity_type, None)

    def begin(self, library: str, entity_type: str, after: Position | None) -> tuple[Position | None, bool]:
        """Return the position behind which there may be something to send, and whether it is due to a known span."""
        known = self._libraries.get(library, {}).get(entity_type)
        if known is None or self._now_s() - known.seen_s > FORGET_S:
            return after, False
        if _key(known.after) <= _key(after) and _at(after) < known.before:
            return Position(known.before - 1, ""), True
        return after, False


def starts_over(after: Mapping[str, Position | None]) -> bool:
    """Tell whether a device has nothing yet."""
    return all(position is None for position in after.values())


def is_near(position: Position | None, before: int) -> bool:
    """Tell whether little time lies between a position and a snapshot."""
    return position is not None and position.at_us >= before - NEAR_US


def _key(position: Position | None) -> tuple[int, bool, bytes]:
    return (-1, True, b"") if position is None else position.key


def _at(position: Position | None) -> int:
    return -1 if position is None else position.at_us
