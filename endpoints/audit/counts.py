"""The whole ledger in figures, over time and as of now: GET /ledger/counts."""

from __future__ import annotations

from typing import Annotated

import msgspec

from endpoints.services import Services
from projections.census.rates import MOST_BUCKETS, Rate
from projections.devices.told import Unread


class Latency(msgspec.Struct, frozen=True, rename="camel"):
    """How long something took, in seconds, of all workers of this service since it was started; null without any.

    Percentiles are upper bounds of the classes that are counted.
    """

    what: str
    count: int
    p50: float | None
    p90: float | None
    p99: float | None


class CommandRan(msgspec.Struct, frozen=True, rename="camel"):
    """When a command last did all it was to do, and when it last did not; null for never."""

    succeeded_at: str | None
    failed_at: str | None
    seconds: float | None


class SourceNow(msgspec.Struct, frozen=True, rename="camel"):
    """How the source is, and how far its horizon is behind its clock in seconds, null where it has none."""

    kind: str
    ok: bool
    text: str
    lags_s: float | None


class StoreNow(msgspec.Struct, frozen=True, rename="camel"):
    """Where the store is, and what an answered write is worth there; `ok`: it takes writes, or `text` tells why not."""

    ok: bool
    text: str
    durability: str


class WorkerNow(msgspec.Struct, frozen=True, rename="camel"):
    """A process that serves the ledger, on whichever machine, heard of in the last minutes."""

    name: str
    version: str


class LedgerNow(msgspec.Struct, frozen=True, rename="camel"):
    """The ledger as it was last counted (`takenAt`, once a minute).

    `seen`, `completed` and `behind` count living devices by class (`1h`, `1d`, …, `longer`, `never`), `heldBack` rows
    by reason. `notWhole` names partitions whose projections are being made anew, `unread` those that could not be asked
    just now, `notIndexed` those whose devices are not all in the index yet.
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


class LedgerCounts(msgspec.Struct, frozen=True, rename="camel"):
    """The whole ledger: `rates` over time, in slots of `slotS` seconds, and all else as of `at`.

    Open and waiting streams and latencies are those of this service's workers. `archive` says what keeps older events
    from being read, empty if all can be.
    """

    at: str
    since: str = msgspec.field(name="from")
    until: str = msgspec.field(name="to")
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
    troubles: list[str]
    workers: list[WorkerNow]


class CountsQuery(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """Over which time; without `from` and `to` the last ten minutes."""

    since: Annotated[str, msgspec.Meta(description="ISO 8601 with a zone; at most a day ago")] | None = None
    until: Annotated[str, msgspec.Meta(description="ISO 8601 with a zone; without it now")] | None = None
    slots: Annotated[int, msgspec.Meta(ge=1, le=MOST_BUCKETS, description="How many slots at most")] = 60


async def counts(services: Services, since_us: int | None, until_us: int | None, slots: int) -> LedgerCounts:
    """Tell how the ledger is; what cannot be asked is null or named, and all else is told."""
    raise NotImplementedError
