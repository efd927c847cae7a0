"""What one process remembers across streams, all of it bounded: runs of events without rows, and rows held back."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from projections.entities.gumnut.view import Ref
from projections.entities.source import HeldBack

KEPT_TAILS: Final = 20_000
KEPT_NOTES: Final = 1_000
KEPT_LIBRARIES: Final = 1_000

log = logging.getLogger(__name__)


class Tails:
    """Events of a feed that led to no rows of an entity type, so that nobody reads them again from the same cursor.

    What was not there when they were read can only come back with an event behind them.
    """

    def __init__(self) -> None:
        self._ends: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def end_of(self, library: str, entity_type: str, cursor: str) -> str:
        """Tell from where to read instead of a cursor."""
        key = (library, entity_type, cursor)
        if key not in self._ends:
            return cursor
        self._ends.move_to_end(key)
        return self._ends[key]

    def note(self, library: str, entity_type: str, cursor: str, end: str) -> None:
        """Note that between two cursors there are no rows."""
        self._ends[library, entity_type, cursor] = end
        while len(self._ends) > KEPT_TAILS:
            self._ends.popitem(last=False)

    def forget(self, library: str) -> bool:
        """Forget what is known of a library; tells whether that was anything."""
        known = [key for key in self._ends if key[0] == library]
        for key in known:
            del self._ends[key]
        return bool(known)


class Notes:
    """Entities that streams came across and did not send: with the field that did not fit, which is logged once; and of
    each entity type the first that waits for a parent.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[str, dict[tuple[str, str], str]] = OrderedDict()
        self._waiting: OrderedDict[tuple[str, str], HeldBack] = OrderedDict()

    def waits(self, library: str, entity_type: str, entity_id: str, parent: Ref) -> None:
        """Note that a run ended before an entity, and those behind it, whose parent may not be there."""
        held = HeldBack(entity_type, 1, "missing_parent", entity_id, f"{parent.table}|{parent.id}")
        self._waiting[library, entity_type] = held
        self._waiting.move_to_end((library, entity_type))
        while len(self._waiting) > KEPT_NOTES:
            self._waiting.popitem(last=False)

    def none_waits(self, library: str, entity_type: str) -> None:
        """Note that a run of an entity type came to its end."""
        self._waiting.pop((library, entity_type), None)

    def unfit(self, library: str, entity_type: str, entity_id: str, field: str) -> None:
        """Note an entity that does not fit."""
        held = self._held.setdefault(library, {})
        self._held.move_to_end(library)
        while len(self._held) > KEPT_LIBRARIES:
            self._held.popitem(last=False)
        if (entity_type, entity_id) not in held and len(held) < KEPT_NOTES:
            held[entity_type, entity_id] = field
            log.warning("Gumnut's %s %s is not sent: %s does not fit", entity_type, entity_id, field)

    def sent(self, library: str, entity_type: str, entity_id: str) -> None:
        """Note that an entity fits by now."""
        if library in self._held:
            self._held[library].pop((entity_type, entity_id), None)

    def held_back(self, library: str) -> Sequence[HeldBack]:
        """Tell what is held back, by entity type; of what waits, the one that others are behind."""
        counts: dict[str, list[tuple[str, str]]] = {}
        for (entity_type, entity_id), field in self._held.get(library, {}).items():
            counts.setdefault(entity_type, []).append((entity_id, field))
        waiting = [held for (of, _), held in self._waiting.items() if of == library]
        return waiting + [HeldBack(name, len(rows), "unfit", *rows[0]) for name, rows in counts.items()]
