"""`sizes`: what events and devices cost, in the store and in segments, and that an idle device costs nothing."""

from __future__ import annotations

import asyncio
import http.client
import time
from typing import Final

from ledger.commands import OfferStream
from ledger.entity_types import COMPLETE, ENTITY_TYPES, RESET, mask_of
from ops.bench import acks, device_sizes
from ops.bench.rig import servers, wire
from ops.bench.rig.processes import BenchFailed, Server
from ops.bench.rig.results import Bound, Result
from ops.bench.rig.rounds import Progress
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import ACK_PATH, STREAM_BODY, STREAM_PATH, Device, Scene, scene
from ops.opening.ledger import Opened

_FILL_S: Final = 300.0


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure once: sizes do not vary between rounds."""
    with scene() as found:
        with servers.service(found, workers=1) as service:
            progress(f"appending {scale.size_events:,} acks")
            devices = acks.offered(found, service, scale.devices)
            pusher = acks.Pusher(devices)
            before, count = found.streams_bytes(), found.event_count()
            pusher.push(service, _FILL_S, -(-scale.size_events // scale.devices))
            acks.check_recorded(found, pusher.answered)
            ack = _per_event("acks_recorded", found, before, count, 250)
            progress(f"{scale.polls:,} idle polls")
            polled = _idle_polls(found, service, devices[0], scale.polls)
        progress(f"appending {scale.size_events:,} offers")
        before, count = found.streams_bytes(), found.event_count()
        _offer(found, devices, scale.size_events)
        offer = _per_event("stream_offered", found, before, count, 200)
    return [ack, offer, *device_sizes.run(scale, progress), polled]


def _per_event(name: str, found: Scene, before_bytes: int, before_count: int, at_most: int) -> Bound:
    count = found.event_count() - before_count
    size = (found.streams_bytes() - before_bytes) / count
    return Bound(name=f"an event {name} in its stream, over {count:,}", unit="bytes", value=size, at_most=at_most)


def _idle_polls(found: Scene, server: Server, device: Device, polls: int) -> Bound:
    """Bring a device up to date, then let it ask again and again."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"authorization": f"Bearer {device.token}", "content-type": "application/json"}

    def post(path: str, body: bytes) -> bytes:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status not in (200, 204):
            raise BenchFailed(f"{path} was answered {answer.status}: {text[:300]!r}")
        return text

    try:
        for line in post(STREAM_PATH, STREAM_BODY).splitlines()[-2:]:
            post(ACK_PATH, b'{"acks":["%b"]}' % wire.ack_of(line))
        before = found.event_count()
        for _ in range(polls):
            (only,) = post(STREAM_PATH, STREAM_BODY).splitlines()
            if COMPLETE.encode() not in only:
                raise BenchFailed(f"an idle device was sent {only[:200]!r}")
        appended = found.event_count() - before
    finally:
        connection.close()
    return Bound(name=f"events appended by {polls:,} idle polls", unit="events", value=appended, at_most=0)


def _offer(found: Scene, devices: list[Device], count: int) -> None:
    """Append `count` offers of all types with ever newer snapshots, as streams of a busy library would."""
    types = mask_of(set(ENTITY_TYPES) - {RESET})

    async def work(opened: Opened) -> None:
        async def one(device: Device, share: int) -> None:
            snapshot_us = time.time_ns() // 1000
            for number in range(share):
                await opened.ledger.execute(device.user, device.sid, OfferStream(snapshot_us + number, types))

        await asyncio.gather(*(one(device, -(-count // len(devices))) for device in devices))

    found.with_ledger(work)
