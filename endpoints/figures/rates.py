"""What one worker counted since it was last asked, as the rings of the whole ledger have it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from endpoints.figures.of_streams import ENDED, ROWS
from endpoints.figures.worker import WorkerFigures
from ledger.events import AckRefused, AcksRecorded, CheckpointsCleared, Event, StreamOffered
from ledger.figures.families import Family
from ledger.figures.of_log import ACKS, EVENTS
from projections.census.rates import NAMES

REQUESTS: Final = "http_requests_total"
_STREAMS: Final = {"failed": ("broken", "refused"), "left": ("gone", "stalled")}
_EVENTS: Final[dict[str, type[Event]]] = {
    "acks": AcksRecorded,
    "refused": AckRefused,
    "offers": StreamOffered,
    "resets": CheckpointsCleared,
}


class WorkerRates:
    """Counts of one worker, from its figures."""

    def __init__(self, figures: WorkerFigures) -> None:
        self._figures = figures
        self._before = [0] * len(NAMES)

    def taken(self) -> list[int]:
        """Take what was counted since the last time, in the order of NAMES."""
        now = self._now()
        counted = [number - before for number, before in zip(now, self._before, strict=True)]
        self._before = now
        return counted

    def give_back(self, counted: Sequence[int]) -> None:
        """Have counts be taken again that could not be handed on."""
        self._before = [before - number for before, number in zip(self._before, counted, strict=True)]

    def _now(self) -> list[int]:
        numbers, of = self._figures.numbers(), {family.name: (family, at) for family, at in self._figures.families()}

        def total(name: str, wanted: Iterable[tuple[str, ...]] | None = None) -> int:
            if name not in of:
                return 0
            family, at = of[name]
            return int(sum(numbers[at + place] for place in _places(family, wanted)))

        found = {name: total(EVENTS.name, [(str(kind.__struct_config__.tag),)]) for name, kind in _EVENTS.items()}
        found |= {name: total(ENDED.name, [(how,) for how in hows]) for name, hows in _STREAMS.items()}
        found |= {
            "events": total(EVENTS.name),
            "moved": total(ACKS.name, [("moved",)]),
            "stale": total(ACKS.name, [("stale",)]),
            "streams": total(ENDED.name),
            "rows": total(ROWS.name),
            "requests": total(REQUESTS),
        }
        if REQUESTS in of:
            errors = [labels for labels in of[REQUESTS][0].values if labels[2].startswith("5")]
            found["errors"] = total(REQUESTS, errors)
        return [found.get(name, 0) for name in NAMES]


def _places(family: Family, wanted: Iterable[tuple[str, ...]] | None) -> Iterable[int]:
    if wanted is None:
        return range(len(family.values))
    chosen = set(wanted)
    return [place for place, labels in enumerate(family.values) if labels in chosen]
