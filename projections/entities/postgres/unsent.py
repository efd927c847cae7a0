"""Rows that were read and not sent, for who asks; of one process, and bounded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

from projections.entities.postgres.fits import Unfit
from projections.entities.source import HeldBack

K = TypeVar("K")
V = TypeVar("V")

log = logging.getLogger(__name__)

KEPT: Final = 4096
"""How many fields are remembered; the oldest are forgotten."""
IDS_KEPT: Final = 1000
FORGET_S: Final = 3600.0
"""After so long a row that was not seen again has been put right, or every device is past it."""


class _Field(NamedTuple):
    library: str
    entity_type: str
    field: str


class Unsent:
    """Remembers rows that do not fit: of each field at most IDS_KEPT ids, each with when it was seen last."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._told: dict[tuple[str, str], None] = {}
        self._unfit: dict[_Field, dict[str, float]] = {}

    def unfit(self, library: str, entity_type: str, table: str, row_id: str, found: Unfit) -> None:
        """Note a row that does not fit; the first of a field is logged."""
        if _add(self._told, (entity_type, found.field), None):
            log.warning(
                "A row of %s (table %s, id %s) is not sent: a device cannot read its %s (%s); "
                "others of the kind are counted and not logged",
                entity_type,
                table,
                row_id,
                found.field or "line",
                found.reason,
            )
        key = _Field(library, entity_type, found.field)
        _add(self._unfit, key, {})
        seen = self._unfit[key]
        if row_id in seen or len(seen) < IDS_KEPT:
            seen[row_id] = self._now_s()

    def held_back(self, library: str) -> Iterator[HeldBack]:
        """Tell the rows of a library that were seen not to fit, in the last hour."""
        since_s = self._now_s() - FORGET_S
        for key, seen in list(self._unfit.items()):
            if key.library != library:
                continue
            recent = {row_id: seen_s for row_id, seen_s in seen.items() if seen_s >= since_s}
            if not recent:
                del self._unfit[key]
                continue
            self._unfit[key] = recent
            yield HeldBack(key.entity_type, len(recent), "unfit", next(iter(recent)), key.field)


def _add(known: dict[K, V], key: K, value: V) -> bool:
    """Add a key unless it is there, dropping the oldest for it; tells whether it was new."""
    if key in known:
        return False
    if len(known) >= KEPT:
        del known[next(iter(known))]
    known[key] = value
    return True
