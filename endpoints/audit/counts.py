"""The whole ledger in figures, over time and as of now: GET /ledger/counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import falcon.asgi
import msgspec

from endpoints.audit.history import instant
from endpoints.figures.summed import Latency, Summed
from endpoints.http import bodies
from endpoints.http.compression import compress_whole
from endpoints.http.operations import KEY, Operation, Route
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.readiness import ProofReadiness, Readiness
from endpoints.services import Services
from ledger import keys
from ledger.errors import InvalidInput, LedgerError
from ledger.log.formats import Formats
from ledger.log.order import FILLED
from ledger.log.whole import WHOLE
from ledger.positions import iso_from_us
from projections.census import rates, record
from projections.census.rates import MOST_SLOTS, Rate
from projections.devices.told import Unread

SCOPE: Final = "audit.read"
DEFAULT_US: Final = 600_000_000
REMEMBERED_S: Final = 1.0
"""Who asks again in this time is told the same: that takes questions to every partition and every part."""


class CommandRan(msgspec.Struct, frozen=True, rename="camel"):
    """When a command last did all it was to do, and when it last did not; null for never. It took `seconds`."""

    succeeded_at: str | None
    failed_at: str | None
    seconds: float | None


class SourceNow(msgspec.Struct, frozen=True, rename="camel"):
    """How the source is, and how far its horizon is behind its clock in seconds: devices see nothing that is newer."""

    kind: str
    ok: bool
    text: str
    lags_s: float


class StoreNow(msgspec.Struct, frozen=True):
    """Where the store is, and what an answered write is worth there; `ok`: it takes writes, or `text` tells why not."""

    ok: bool
    text: str
    durability: str


class WorkerNow(msgspec.Struct, frozen=True):
    """A process that serves the ledger, on whichever machine, heard of in the last five minutes."""

    name: str
    version: str


class LedgerNow(msgspec.Struct, frozen=True, rename="camel"):
    """The ledger as it was last counted (`takenAt`, once a minute).

    `seen`, `completed` and `behind` count living devices by class (`1h`, `1d`, …, `longer`, `never`), `heldBack` rows
    by reason. `notWhole` names partitions whose projections are being made anew, `notIndexed` those whose devices are
    not all in the index yet, `unread` those that could not be asked just now.
    """

    taken_at: str | None
    sessions: int
    broken: int
    events_stored: int
    oldest_stored_at: str | None
    seen: dict[str, int]
    completed: dict[str, int]
    behind: dict[str, int]
    held_back: dict[str, int]
    not_whole: list[int]
    not_indexed: list[int]
    unread: list[Unread]


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
        self._now: _Now | None = None
        self._asking = asyncio.Lock()

    async def told(self, since_us: int | None = None, until_us: int | None = None, slots: int = 60) -> LedgerCounts:
        """Tell what happened between two instants, and how everything is; what cannot be asked is null or named."""
        services = self._services
        now_us = services.ledger.clock()
        until_us = now_us if until_us is None else min(until_us, now_us)
        since_us = until_us - DEFAULT_US if since_us is None else min(since_us, until_us)
        async with self._asking:
            if self._now is None or time.monotonic() - self._now.asked_s >= REMEMBERED_S:
                self._now = await _ask(services, now_us)
            now = self._now
        try:
            found = await rates.read(services.ledger.store, since_us, until_us, now_us, max(1, min(slots, MOST_SLOTS)))
        except LedgerError:
            found = rates.Slots(0, since_us, [])
        figures = Summed(services.figures)
        ready = now.ready if isinstance(now.ready, Readiness) else None
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
            store=StoreNow(False, str(now.ready), "")
            if ready is None
            else StoreNow(True, ready.store, ready.durability),
            archive="" if ready is None else ready.archive,
            archived=now.commands["archive"],
            backed_up=now.commands["backup"],
            log=ready.proof if ready is not None and isinstance(ready.proof, ProofReadiness) else None,
            troubles=figures.troubles(),
            workers=now.workers,
        )


class _Now(msgspec.Struct, frozen=True):
    """What was asked last, and when, by the monotonic clock."""

    asked_s: float
    ledger: LedgerNow
    commands: Mapping[str, CommandRan]
    ready: Any  # Readiness, or the error that tells why there is none
    workers: list[WorkerNow]


async def _ask(services: Services, now_us: int) -> _Now:
    store = services.ledger.store
    ready, kept, running, partitions = await asyncio.gather(
        services.readiness(),
        record.Kept(store).read(),
        Formats(store).running(now_us),
        _partitions(services),
        return_exceptions=True,
    )
    for reply in (ready, kept, running, partitions):
        if isinstance(reply, BaseException) and not isinstance(reply, LedgerError):
            raise reply
    figures: dict[str, dict[tuple[str, ...], float]] = {}
    if not isinstance(kept, BaseException):
        figures = {family.name: dict(zip(family.values, numbers, strict=True)) for family, numbers in kept}
    told: _Partitions = _Partitions() if isinstance(partitions, BaseException) else partitions
    return _Now(
        time.monotonic(),
        _ledger_now(figures, told),
        {command: _ran(figures, command) for command in record.COMMANDS},
        ready,
        [] if isinstance(running, BaseException) else [WorkerNow(each.name, each.version) for each in running],
    )


class _Partitions(msgspec.Struct):
    """Which partitions are not as they should be."""

    not_whole: list[int] = []
    not_indexed: list[int] = []
    unread: list[Unread] = []


async def _partitions(services: Services) -> _Partitions:
    store, found = services.ledger.store, _Partitions()

    async def look(partition: int) -> tuple[Any, Any]:
        whole, sids = keys.whole(partition), keys.sids(partition)
        return await asyncio.gather(
            store.command("GET", whole, key=whole), store.command("ZSCORE", sids, FILLED, key=sids)
        )

    replies = await asyncio.gather(*map(look, range(services.ledger.partitions)), return_exceptions=True)
    for partition, reply in enumerate(replies):
        if isinstance(reply, LedgerError):
            found.unread.append(Unread(partition, str(reply)))
        elif isinstance(reply, BaseException):
            raise reply
        elif reply[0] != WHOLE:
            found.not_whole.append(partition)
        elif reply[1] is None:
            found.not_indexed.append(partition)
    return found


def _ledger_now(figures: Mapping[str, Mapping[tuple[str, ...], float]], partitions: _Partitions) -> LedgerNow:
    def one(name: str) -> float:
        return figures.get(name, {}).get((), 0.0)

    def classes(name: str) -> dict[str, int]:
        return {labels[0]: int(number) for labels, number in figures.get(name, {}).items()}

    return LedgerNow(
        taken_at=_moment(one(record.TAKEN.name)),
        sessions=int(one(record.SESSIONS.name)),
        broken=int(one(record.BROKEN.name)),
        events_stored=int(one(record.STORED.name)),
        oldest_stored_at=_moment(one(record.OLDEST.name)),
        seen=classes(record.SEEN.name),
        completed=classes(record.COMPLETED.name),
        behind=classes(record.BEHIND.name),
        held_back=classes(record.HELD_BACK.name),
        not_whole=partitions.not_whole,
        not_indexed=partitions.not_indexed,
        unread=partitions.unread,
    )


def _ran(figures: Mapping[str, Mapping[tuple[str, ...], float]], command: str) -> CommandRan:
    def of(name: str) -> float:
        return figures.get(name, {}).get((command,), 0.0)

    seconds = of(record.SECONDS.name) or None
    return CommandRan(_moment(of(record.SUCCESS.name)), _moment(of(record.FAILURE.name)), seconds)


def _source(ready: Readiness, lags_s: float) -> SourceNow:
    return SourceNow(ready.source.kind, ready.source.ok, ready.source.text, lags_s)


def _moment(at_s: float) -> str | None:
    return iso_from_us(int(at_s * 1e6)) if at_s else None


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
