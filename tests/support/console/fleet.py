"""Devices in every state that the console shows, over a library that they sync."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, NamedTuple

from ledger.acks import Ack
from ledger.commands import EndSession, OfferStream, RecordAcks, RequestReset
from ledger.entity_types import COMPLETE, mask_of
from ledger.errors import Refused
from ledger.personal import plain
from ledger.positions import Position, iso_from_us
from ops.demo_library import DemoLibrary
from projections.entities.catalog.ingest import ingest
from projections.sent.marking import note_end
from projections.sent.record import SentStream
from tests.support.phones.http import Service

LIBRARY: Final = "photos"
TYPES: Final = ("AuthUserV1", "UserV1", "AssetV2", "AssetExifV1", "AlbumV2", "AlbumToAssetV1", "MemoryV1", "PersonV1")
MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US
_MODELS: Final = (("iPhone", "iOS", "3.2.0"), ("Android", "Android", "3.1.0"), ("Chrome", "Linux", ""))


class Fleet(NamedTuple):
    """Who is there: a device that is stuck, one that syncs, one that was asked to reset, one that has ended."""

    stuck: str
    well: str
    asked: str
    ended: str


async def load_library(service: Service, assets: int = 200) -> int:
    """Fill the library and return when its first row was written, in µs; rows have the store's time."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"".join(DemoLibrary(user="ann", name="Ann", assets=assets).lines())

    await ingest(service.catalog, LIBRARY, chunks())
    horizon_us = await service.catalog.horizon(LIBRARY)
    return horizon_us - sum((await service.catalog.count(LIBRARY)).values())


async def signed_in(service: Service, user: str, number: int = 0) -> str:
    """Sign a device of a user in and return its session."""
    kind, system, version = _MODELS[number % len(_MODELS)]
    issued = await service.sign_in(user, LIBRARY, device_type=kind, device_os=system, app_version=version)
    return issued.sid


async def syncs(service: Service, user: str, sid: str, *, rows: int = 40, completes: bool = True) -> None:
    """Have a device sync once: an offer, acks of it and, if it completes, the ack of the end."""
    ledger, now_us = service.ledger, service.clock()
    await ledger.execute(user, sid, OfferStream(now_us, mask_of((*TYPES, COMPLETE))))
    service.clock.now_us += 20_000_000
    acks = [
        Ack("AssetV2", Position(now_us - MINUTE_US, f"{rows:08d}")),
        Ack("AlbumV2", Position(now_us - HOUR_US, "a")),
    ]
    await ledger.execute(user, sid, RecordAcks(tuple(acks)))
    if completes:
        await ledger.execute(user, sid, RecordAcks((Ack(COMPLETE, Position(now_us, ""), 1),)))
    await streamed(service, user, sid, "completed" if completes else "gone", rows)


async def streamed(service: Service, user: str, sid: str, how: str, rows: int, first: str = "") -> None:
    """Note how a stream of a device ended."""
    now_us = service.clock()
    first = first or f"AssetV2|{iso_from_us(now_us - HOUR_US)}|00000001"
    last = f"AssetV2|{iso_from_us(now_us - MINUTE_US)}|{rows:08d}"
    why = "the source did not answer in time" if how == "broken" else ""
    sent = SentStream(now_us, 2_400_000, how, rows, rows * 420, first, last, now_us, "test", why)  # type: ignore[arg-type]
    await note_end(service.ledger, user, sid, sent)


async def gets_stuck(service: Service, user: str, sid: str) -> None:
    """Have a device ask three times for the same rows, and leave each time."""
    first = f"AssetV2|{iso_from_us(service.clock() - HOUR_US)}|00000007"
    for _ in range(3):
        await service.ledger.execute(user, sid, OfferStream(service.clock(), mask_of((*TYPES, COMPLETE))))
        service.clock.now_us += 5 * MINUTE_US
        await streamed(service, user, sid, "gone", 120, first)


async def lives_for(service: Service, user: str, sid: str, times: int) -> None:
    """Give a device a history: syncs, and among them late and refused acks and a stream that was broken off."""
    ledger = service.ledger
    for number in range(times):
        await syncs(service, user, sid, rows=10 + 7 * (number % 9))
        if number % 5 == 2:
            late = Ack("AssetV2", Position(service.clock() - 40 * HOUR_US, "late"))
            await ledger.execute(user, sid, RecordAcks((late,)))
        if number % 9 == 4:
            ahead = Ack("AssetV2", Position(service.clock() + HOUR_US, ""))
            with suppress(Refused):  # and that is on record
                await ledger.execute(user, sid, RecordAcks((ahead,)))
        if number % 7 == 3:
            await streamed(service, user, sid, "broken", 12)
        service.clock.now_us += (1 + number % 4) * HOUR_US


async def catches_up(service: Service, user: str, sid: str, loaded_us: int) -> None:
    """Have a device get to the newest rows of the library, but for a type that it has half of, and two it lacks."""
    service.clock.now_us = max(service.clock(), await service.catalog.horizon(LIBRARY) + MINUTE_US)
    now_us = service.clock()
    await service.ledger.execute(user, sid, OfferStream(now_us, mask_of((*TYPES, COMPLETE))))
    done = [Ack(name, Position(now_us - 1, "")) for name in TYPES[:-2]]
    done[TYPES.index("AssetExifV1")] = Ack("AssetExifV1", Position(loaded_us + 350, ""))
    await service.ledger.execute(user, sid, RecordAcks(tuple(done)))


async def assemble(service: Service, users: int = 12, times: int = 40) -> Fleet:
    """Fill the library, sign devices in, and have them come into all states."""
    loaded_us = await load_library(service)
    service.clock.now_us = loaded_us - (users + 3 * times) * HOUR_US
    well = await signed_in(service, "ann")
    await lives_for(service, "ann", well, times)
    asked, ended = await signed_in(service, "ann", 1), await signed_in(service, "ann", 2)
    await syncs(service, "ann", asked)
    await service.ledger.execute("ann", asked, RequestReset(True, by=plain("key on-call")))
    await service.ledger.execute("ann", ended, EndSession("logout", by=plain("ann")))
    for number in range(users):
        user = f"user-{number:02d}"
        sid = await signed_in(service, user, number)
        await syncs(service, user, sid, completes=number % 4 != 3)
        service.clock.now_us += HOUR_US
    stuck = await signed_in(service, "bob", 1)
    await syncs(service, "bob", stuck)
    await gets_stuck(service, "bob", stuck)
    await catches_up(service, "ann", well, loaded_us)
    return Fleet(stuck, well, asked, ended)
