"""`verify`: events a second that a verification checks, beside merely reading the same streams."""

from __future__ import annotations

import time
from typing import Final

from redis import Redis

from ops.bench import acks
from ops.bench.rig import servers
from ops.bench.rig.processes import BenchFailed
from ops.bench.rig.results import Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Scene, scene
from ops.opening.ledger import Opened
from projections.checking.verify import Report, verify

PAGE: Final = 1000
_FILL_S: Final = 300.0


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Fill a ledger with acks, then verify it in turn with reading it."""
    with scene() as found:
        with servers.service(found, workers=1) as service:
            progress(f"appending {scale.verify_events:,} events")
            pusher = acks.Pusher(acks.offered(found, service, scale.devices))
            pusher.push(service, _FILL_S, scale.verify_events // scale.devices)
        found.settle()
        count = found.event_count()
        floors, own = alternate(
            rounds, lambda: read_per_s(found, count), lambda: _verified_per_s(found, count), progress
        )
    return [Comparison(name=f"verify of {count:,} events", unit="/s", floor=floors, ours=own)]


def read_per_s(found: Scene, count: int) -> float:
    """Read all streams in pages with redis-py and hiredis."""
    with Redis.from_url(found.url) as redis:
        read, started = 0, time.perf_counter()
        for name in found.streams():
            start = "-"
            while rows := redis.xrange(name, start, count=PAGE):
                read += len(rows)
                if len(rows) < PAGE:
                    break
                start = f"({rows[-1][0].decode()}"
        seconds = time.perf_counter() - started
    if read != count:
        raise BenchFailed(f"the streams hold {count:,} events, {read:,} were read")
    return count / seconds


def _verified_per_s(found: Scene, count: int) -> float:
    async def work(opened: Opened) -> tuple[Report, float]:
        started = time.perf_counter()
        report = await verify(opened.store, opened.ledger.partitions)
        return report, time.perf_counter() - started

    report, seconds = found.with_ledger(work)
    if report.events != count or report.different:
        raise BenchFailed(f"of {count:,} events {report.events:,} were verified; {report.differences[:3]}")
    return count / seconds
