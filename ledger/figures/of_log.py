"""What the log counts: events, acks, and how long loading and appending take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, get_args

from ledger.events import AcksRecorded, Event, Recorded
from ledger.figures.families import LATENCY_S, Family, Part

_TAGS: Final = {kind: str(kind.__struct_config__.tag) for kind in get_args(Event)}

EVENTS: Final = Family(
    "events_total", "counter", "Events appended, by type.", ("type",), [(tag,) for tag in _TAGS.values()]
)
ACKS: Final = Family(
    "acks_total",
    "counter",
    "Positions acknowledged and put on record: those that moved a checkpoint, and late ones that did not.",
    ("outcome",),
    [("moved",), ("stale",)],
)
APPEND: Final = Family(
    "append_seconds", "histogram", "How long an append took, up to the store's answer.", bounds=LATENCY_S
)
LOAD: Final = Family("load_seconds", "histogram", "How long loading a session took.", bounds=LATENCY_S)
CONFLICTS: Final = Family(
    "append_conflicts_total", "counter", "Appends that were decided anew because another writer was first."
)


class LogFigures(Part):
    """The figures of one worker's ledger."""

    def __init__(self) -> None:
        super().__init__(EVENTS, ACKS, APPEND, LOAD, CONFLICTS)
        self.appends, self.loads = self.times(APPEND.name), self.times(LOAD.name)
        self._conflicts = self.place(CONFLICTS.name)
        self._events = {kind: self.place(EVENTS.name, tag) for kind, tag in _TAGS.items()}
        self._acks = self._events[AcksRecorded]
        self._moved, self._stale = self.place(ACKS.name, "moved"), self.place(ACKS.name, "stale")

    def conflict(self) -> None:
        """Count an append that came too late."""
        self.values[self._conflicts] += 1

    def appended(self, events: Sequence[Recorded]) -> None:
        """Count events that are in the log now."""
        values, places = self.values, self._events
        for recorded in events:
            event = recorded.event
            values[places[type(event)]] += 1
            if type(event) is AcksRecorded:
                values[self._moved] += len(event.moved)
                values[self._stale] += event.stale_count or len(event.stale)

    def moved_one(self) -> None:
        """Count an event that moves one position, as `appended` does."""
        values = self.values
        values[self._acks] += 1
        values[self._moved] += 1
