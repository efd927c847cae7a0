"""What a device costs: its projections in the store, what is kept of an ended one, and its events in a segment."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Final

from redis import Redis

from ledger import keys
from ledger.acks import Ack
from ledger.commands import CreateSession, EndSession, OfferStream, RecordAcks
from ledger.entity_types import COMPLETE, ENTITY_TYPES, RESET, mask_of
from ledger.personal import plain
from ledger.positions import Position
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from ops.bench.rig.processes import BenchFailed
from ops.bench.rig.results import Bound
from ops.bench.rig.rounds import Progress
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Scene, scene
from ops.opening.ledger import Opened
from projections.archive.objects import open_objects

ACKED: Final = tuple(name for name in ENTITY_TYPES if name.endswith("V2") or name not in (RESET, "SyncAckV1"))[:24]
"""As many checkpoints as the app holds."""
_AT_ONCE: Final = 64


def run(scale: Scale, progress: Progress) -> list[Bound]:
    """Measure once: sizes do not vary between rounds."""
    with scene() as found:
        before = _used(found)
        progress(f"{scale.size_devices:,} devices sync")
        users = [f"device-user-{number:08}" for number in range(scale.size_devices)]
        found.with_ledger(lambda opened: _sync_all(opened, users, scale.size_rounds))
        events, streams = found.event_count(), found.streams_bytes()
        living = (_used(found) - before - streams) / len(users)
        progress(f"archiving {events:,} events")
        sealed = found.with_ledger(lambda opened: _archive(opened, found))
        progress(f"{scale.size_devices:,} devices sign out")
        found.with_ledger(lambda opened: _end_all(opened, users))
        ended = _ended_bytes(found) / len(users)
    per_device = f"of {scale.size_devices:,}"
    return [
        Bound(name=f"a living device without its events, {per_device}", unit="bytes", value=living, at_most=8_000),
        Bound(name=f"what is kept of an ended device, {per_device}", unit="bytes", value=ended, at_most=400),
        Bound(name=f"an event in a segment, over {events:,}", unit="bytes", value=sealed / events, at_most=200),
    ]


async def _sync_all(opened: Opened, users: list[str], rounds: int) -> None:
    """Have each device sync so many times as a phone does: an offer, an ack for each of a few types, a completion."""
    gate = asyncio.Semaphore(_AT_ONCE)
    types = mask_of((*ACKED, COMPLETE))
    began_us = time.time_ns() // 1000

    async def sync(user: str) -> None:
        sid = _sid(user)
        async with gate:
            made = CreateSession(
                user, user, None, plain("iPhone 15 Pro"), plain("iOS"), plain("3.2.0"), authenticated_by="oidc"
            )
            await opened.ledger.execute(user, sid, made)
            for number in range(rounds):
                snapshot_us = began_us + number * 1000
                await opened.ledger.execute(user, sid, OfferStream(snapshot_us, types))
                # The first time of everything, then of what changes most.
                acked = ACKED if number == 0 else ACKED[number % len(ACKED) :][:2]
                for name in acked:
                    entity_id = _entity_id(f"{user} {number} {name}")
                    acks = (Ack(name, Position(snapshot_us - 5, entity_id)),)
                    await opened.ledger.execute(user, sid, RecordAcks(acks))
                done = Ack(COMPLETE, Position(snapshot_us, ""))
                await opened.ledger.execute(user, sid, RecordAcks((done,)))

    await asyncio.gather(*map(sync, users))


async def _end_all(opened: Opened, users: list[str]) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def end(user: str) -> None:
        async with gate:
            await opened.ledger.execute(user, _sid(user), EndSession("logout", by=plain(user)))

    await asyncio.gather(*map(end, users))


async def _archive(opened: Opened, found: Scene) -> int:
    """Seal all events and tell the bytes of the segments."""
    objects = open_objects(f"file://{found.folder}/archive")
    options = ArchiveOptions(hot_s=0.0)
    report = await archive(opened.store, objects, range(opened.ledger.partitions), options, time.time_ns() // 1000)
    if report.failures:
        raise BenchFailed(f"archiving failed: {report.failures[:3]}")
    return report.bytes


def _used(found: Scene) -> int:
    with Redis.from_url(found.url) as redis:
        return int(redis.info("memory")["used_memory_dataset"])


def _ended_bytes(found: Scene) -> int:
    with Redis.from_url(found.url) as redis:
        names = map(keys.ended, range(found.settings.partitions))
        return sum(redis.memory_usage(name, samples=0) or 0 for name in names)


def _sid(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()


def _entity_id(text: str) -> str:
    """Make an id as devices send them: the text of a UUID."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"
