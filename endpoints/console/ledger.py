"""The page of the whole ledger: what happens in it now, what is wrong, and how far its jobs are."""

from __future__ import annotations

from typing import Final, NamedTuple

import falcon.asgi

from endpoints.audit.counts import Counts, LedgerCounts
from endpoints.console import plots
from endpoints.console.pages import show
from endpoints.console.visitors import Visitors
from endpoints.http.request import Request
from endpoints.services import Services

SLOTS: Final = 60
_LATEST: Final = 3
"""Slots that a rate is taken of: the last full ones, so that it does not jump with each slot that begins."""
_SHOWN: Final = (
    ("events", "Events", "calm"),
    ("acks", "Acks", "good"),
    ("streams", "Streams", "calm"),
    ("rows", "Rows sent", "calm"),
    ("refused", "Refused acks", "bad"),
    ("failed", "Streams failed here", "bad"),
)


TROUBLES: Final = {
    "store_away": "The store does not answer (runbook LedgerStoreDown)",
    "store_refuses_writes": "The store refuses writes (runbook LedgerDiskFull)",
    "store_full": "The store is at its memory limit (runbook LedgerDiskFull)",
    "ledger_gone": "The store holds no ledger, or another one (runbook LedgerStoreDown)",
    "eviction": "The store is set to evict keys (runbook LedgerEviction)",
    "source": "The source is in trouble (runbook LedgerSourceDown)",
    "identity": "Who tells who somebody is, is in trouble (runbook LedgerSignInBroken)",
    "archive": "Archived events cannot be read (runbook LedgerArchiveFailing)",
    "clock": "A clock is off (runbook LedgerClockStep)",
}
"""What the workers name, with the paragraph of ops/docs/runbooks.md that mends it."""


class Course(NamedTuple):
    """One thing over time: its name and colour, how much of it a second now, at most, and its line and area."""

    name: str
    kind: str
    now: float
    most: float
    points: str
    area: str


class Overview:
    """The page."""

    def __init__(self, services: Services, visitors: Visitors) -> None:
        self._visitors = visitors
        self._counts = Counts(services)
        self._clock = services.ledger.clock

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        visitor = await self._visitors.who_sees_all(req)
        found = await self._counts.told(slots=SLOTS)
        courses, troubles = _courses(found), _troubles(found)
        show(
            resp,
            "ledger.html",
            visitor,
            here="ledger",
            counts=found,
            courses=courses,
            troubles=troubles,
            now_us=self._clock(),
        )


def _troubles(found: LedgerCounts) -> list[str]:
    """List what is wrong: what the workers name, and what was found just now."""
    ledger = found.ledger
    wrong = {
        f"The store takes no writes: {found.store.text}": not found.store.ok,
        "The source does not answer": found.source is not None and not found.source.ok,
        f"Partitions that are not whole: {len(ledger.not_whole)}. Run syncledger rebuild": ledger.not_whole,
        f"Partitions that could not be read: {len(ledger.unread)}": ledger.unread,
        f"Devices that are damaged: {ledger.broken}. Run syncledger verify": ledger.broken,
    }
    return [*(TROUBLES.get(name, name) for name in found.troubles), *(what for what, is_so in wrong.items() if is_so)]


def _courses(found: LedgerCounts) -> list[Course]:
    full = found.rates[:-1] or found.rates  # the last one has only begun
    courses = []
    for field, name, kind in _SHOWN:
        values = [getattr(rate, field) / max(found.slot_s, 1) for rate in full]
        latest = values[-_LATEST:]
        points, area = plots.line(values)
        courses.append(Course(name, kind, sum(latest) / max(len(latest), 1), max(values, default=0.0), points, area))
    return courses
