"""The whole ledger in figures, over time and as of now: GET /ledger/counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Annotated, Final

import falcon.asgi
import msgspec

from endpoints.audit.history import instant
from endpoints.audit.now import CommandRan, LedgerNow, Now, SourceNow, StoreNow, WorkerNow, ask
from endpoints.figures.summed import Latency, Summed
from endpoints.http import bodies
from endpoints.http.compression import compress_whole
from endpoints.http.operations import KEY, Operation, Route
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.readiness import ProofReadiness, Readiness
from endpoints.services import Services
from ledger.errors import InvalidInput, LedgerError
from ledger.positions import iso_from_us
from projections.census import rates
from projections.census.rates import MOST_SLOTS, Rate

SCOPE: Final = "audit.read"
DEFAULT_US: Final = 600_000_000
REMEMBERED_S: Final = 1.0
"""Who asks again in this time is told the same: that takes questions to every partition and every part."""


class LedgerCounts(msgspec.Struct, frozen=True, rename={
    "since": "from", "until": "to", "slot_s": "slotS", "streams_open": "streamsOpen",
    "streams_waiting": "streamsWaiting", "backed_up": "backedUp",
}):  # fmt: skip
    """The whole ledger: `rates` over time, in slots of `slotS` seconds, and all else as of `at`.

    Open and waiting streams and latencies are those of this service's workers. `archive` says what keeps older events
    from being read, empty if all can be. `troubles` are those of /readyz, by name. `log` is there with a transparency
    log. `source` is null where it could not be asked.
    """

    at: str
    since: str
    until: str
    slot_s: int
    rates: list[Rate]
    latencies: list[Latency]
    streams_open: int
    streams_waiting: int
    ledger: LedgerNow
    source: SourceNow | None
    store: StoreNow
    archive: str
    archived: CommandRan
    backed_up: CommandRan
    log: ProofReadiness | None
    troubles: list[str]
    workers: list[WorkerNow]


class CountsQuery(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """Over which time; without `from` and `to` the last ten minutes."""

    since: Annotated[str, msgspec.Meta(description="ISO 8601 with a zone; at most a day ago")] | None = None
    until: Annotated[str, msgspec.Meta(description="ISO 8601 with a zone; without it now")] | None = None
    slots: Annotated[int, msgspec.Meta(ge=1, le=MOST_SLOTS, description="How many slots at most")] = 60


class Counts:
    """Tells how the whole ledger is, over time and now."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._now: Now | None = None
        self._asked_s = 0.0
        self._asking = asyncio.Lock()

    async def told(self, since_us: int | None = None, until_us: int | None = None, slots: int = 60) -> LedgerCounts:
        """Tell what happened between two instants, and how everything is; what cannot be asked is null or named."""
        services = self._services
        now_us = services.ledger.clock()
        until_us = now_us if until_us is None else min(until_us, now_us)
        since_us = until_us - DEFAULT_US if since_us is None else min(since_us, until_us)
        async with self._asking:
            if self._now is None or time.monotonic() - self._asked_s >= REMEMBERED_S:
                self._now = await ask(services)
                self._asked_s = time.monotonic()
            now = self._now
        try:
            found = await rates.read(services.ledger.store, since_us, until_us, now_us, max(1, min(slots, MOST_SLOTS)))
        except LedgerError:
            found = rates.Slots(0, since_us, [])
        figures = Summed(services.figures)
        ready = now.ready
        return LedgerCounts(
            at=iso_from_us(now_us),
            since=iso_from_us(min(max(found.since_us, 0), until_us)),
            until=iso_from_us(until_us),
            slot_s=found.length_s,
            rates=found.rates,
            latencies=figures.latencies(),
            streams_open=int(figures.number("streams_open")),
            streams_waiting=int(figures.number("streams_waiting")),
            ledger=now.ledger,
            source=None if ready is None else _source(ready, figures.number("source_horizon_lag_seconds")),
            store=now.store,
            archive="" if ready is None else ready.archive,
            archived=now.ran["archive"],
            backed_up=now.ran["backup"],
            log=ready.proof if ready is not None and isinstance(ready.proof, ProofReadiness) else None,
            troubles=figures.troubles(),
            workers=now.workers,
        )


def _source(ready: Readiness, lags_s: float) -> SourceNow:
    return SourceNow(ready.source.kind, ready.source.ok, ready.source.text, lags_s)


class ShowCounts:
    """The counts, for API keys with `audit.read`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._counts = Counts(services)

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._services.auth.key(req, SCOPE)
        query = bodies.query(req, CountsQuery)
        since_us = None if query.since is None else instant("from", query.since, 0)
        until_us = None if query.until is None else instant("to", query.until, 0)
        if since_us is not None and until_us is not None and until_us < since_us:
            raise InvalidInput([(("to",), "It is before `from`")])
        send(resp, await self._counts.told(since_us, until_us, query.slots))
        compress_whole(req, resp)


def routes(services: Services) -> Iterator[Route]:
    """List the one route."""
    operation = Operation(
        "GET",
        "getLedgerCounts",
        "Tell how much happened when, and how the whole ledger is now",
        {200: LedgerCounts},
        KEY,
        query=CountsQuery,
    )
    yield Route("/ledger/counts", ShowCounts(services), (operation,))
