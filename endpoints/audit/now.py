"""How the whole ledger is at this moment, asked for /ledger/counts and the console."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from endpoints.readiness import Readiness
from endpoints.services import Services
from ledger import keys
from ledger.errors import LedgerError
from ledger.log.formats import Formats
from ledger.log.order import FILLED
from ledger.log.whole import WHOLE
from ledger.positions import iso_from_us
from projections.census import record
from projections.devices.told import Unread


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


class Now(msgspec.Struct, frozen=True):
    """All that was asked at once; `ready` is None where the store did not let the service tell."""

    ledger: LedgerNow
    store: StoreNow
    ready: Readiness | None
    ran: Mapping[str, CommandRan]
    """When each of `record.COMMANDS` last ran."""
    workers: list[WorkerNow]


async def ask(services: Services) -> Now:
    """Ask the store, every partition and the source; what cannot be asked is missing or named, never raised."""
    store = services.ledger.store
    ready, kept, running, partitions = await asyncio.gather(
        services.readiness(),
        record.Kept(store).read(),
        Formats(store).running(services.ledger.clock()),
        _partitions(services),
        return_exceptions=True,
    )
    for reply in (ready, kept, running, partitions):
        if isinstance(reply, BaseException) and not isinstance(reply, LedgerError):
            raise reply
    figures: dict[str, dict[tuple[str, ...], float]] = {}
    if not isinstance(kept, BaseException):
        figures = {family.name: dict(zip(family.values, numbers, strict=True)) for family, numbers in kept}
    if isinstance(ready, BaseException):
        readiness, store_now = None, StoreNow(False, str(ready), "")
    else:
        readiness, store_now = ready, StoreNow(True, ready.store, ready.durability)
    return Now(
        _ledger_now(figures, _Partitions() if isinstance(partitions, BaseException) else partitions),
        store_now,
        readiness,
        {command: _ran(figures, command) for command in record.COMMANDS},
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


def _moment(at_s: float) -> str | None:
    return iso_from_us(int(at_s * 1e6)) if at_s else None
