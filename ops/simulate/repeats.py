"""Notice lines that a device already has, in constant memory: an ack names a place in the order of its type.

A placeholder is no such line: an asset under a checksum that no file has, sent ahead of its own line to make room for
another's. Its ack is that of the last line before, so taking it moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ops.simulate.parse import SHAPES, Run

_UNORDERED: Final = frozenset({"SyncAckV1", "SyncResetV1", "SyncCompleteV1"})
_AFTER_EVERY_ID: Final = "\U0010ffff"
_BEFORE_ALL: Final = ("1970-01-01T00:00:00.000000Z", _AFTER_EVERY_ID)

Place = tuple[str, str]


def place_of(ack: str) -> tuple[Place, str]:
    """Split an ack into its place, which sorts as the server's order does, and the epoch, inside which it counts."""
    _, first, *rest = [*ack.split("|"), ""]
    return (first, rest[0] or _AFTER_EVERY_ID if rest else ""), rest[1] if len(rest) > 1 else ""


PLACEHOLDER: Final = "placeholder:"


def placeholders_of(run: Run) -> set[int]:
    """Tell which lines of a run are placeholders, by their index."""
    columns = SHAPES[run.type].columns
    if "checksum" not in columns:
        return set()
    at = columns.index("checksum")
    return {index for index, row in enumerate(run.rows) if row[at].startswith(PLACEHOLDER)}


class Repeats:
    """The last place of each type, from the acks that the server confirmed on."""

    def __init__(self, confirmed: Mapping[str, str]) -> None:
        self._last = {entity_type: place_of(ack) for entity_type, ack in confirmed.items()}

    def forget(self) -> None:
        """Begin anew: after a reset everything comes again."""
        self._last.clear()

    def count(self, run: Run) -> int:
        """Return how many of these lines are at or before a line of the same type and epoch that came earlier."""
        if run.type in _UNORDERED:
            return 0
        repeated = 0
        last = self._last.get(run.type)
        placeholders = placeholders_of(run)
        for at, ack in enumerate(run.acks):
            here = place_of(ack)
            if at in placeholders and here[0] <= (_BEFORE_ALL if last is None else last[0]):
                continue
            if last is not None and here[1] == last[1] and here[0] <= last[0]:
                repeated += 1
            else:
                last = here
        if last is not None:
            self._last[run.type] = last
        return repeated
