"""The page of the whole ledger: what happens in it now, what is wrong, and how far its jobs are."""

from __future__ import annotations

from typing import Final, NamedTuple

import falcon.asgi
import msgspec

from endpoints.audit.counts import LedgerCounts, counts
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
        self._services = services
        self._visitors = visitors

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        visitor = await self._visitors.who_sees_all(req)
        found = await counts(self._services, None, None, SLOTS)
        now_us = self._services.ledger.clock()
        show(
            resp,
            "ledger.html",
            visitor,
            here="ledger",
            counts=found,
            courses=_courses(found),
            log_text=await self._log_text(),
            now_us=now_us,
        )

    async def _log_text(self) -> str:
        """Tell how far the transparency log is."""
        proof = (await self._services.readiness()).proof
        if isinstance(proof, msgspec.UnsetType):
            return "there is none: LEDGER_PROOF is not set"
        return f"{proof.origin}, {proof.entries:,} entries: {proof.text}"


def _courses(found: LedgerCounts) -> list[Course]:
    full = found.rates[:-1] or found.rates  # the last one has only begun
    courses = []
    for field, name, kind in _SHOWN:
        values = [getattr(rate, field) / found.slot_s for rate in full]
        latest = values[-_LATEST:]
        points, area = plots.line(values)
        courses.append(Course(name, kind, sum(latest) / max(len(latest), 1), max(values, default=0.0), points, area))
    return courses
