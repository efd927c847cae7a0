"""`rebuild`: events a second that a rebuild folds and writes, beside merely reading the same streams."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

import msgspec
from redis import Redis

from ops.bench import verify
from ops.bench.children.rebuilding import Job, Rebuilt
from ops.bench.rig import filling
from ops.bench.rig.processes import BenchFailed, tool
from ops.bench.rig.results import Bound, Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Scene, scene

MAX_ROUNDS: Final = 3
"""A round takes many seconds; more of them would only take longer."""
AT_MOST_US: Final = 10.0
"""Of its own CPU time: 100,000 events a second on one core."""
_TIMEOUT_S: Final = 300.0
_MIB: Final = 1024 * 1024


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Fill streams, then in turn read them and rebuild everything from them."""
    with scene() as found:
        progress(f"writing {scale.rebuild_events:,} events of {scale.rebuild_devices:,} devices")
        fill(found, scale.rebuild_devices, scale.rebuild_events)
        found.settle()
        count = found.event_count()
        all_done: list[Rebuilt] = []

        def rebuilt_per_s() -> float:
            all_done.append(rebuild(found, count, scale.rebuild_devices))
            return count / all_done[-1].seconds

        rounds = min(rounds, MAX_ROUNDS)
        floors, own = alternate(rounds, lambda: verify.read_per_s(found, count), rebuilt_per_s, progress)
    idle, peak = min(done.idle_bytes for done in all_done), max(done.peak_bytes for done in all_done)
    return [
        Comparison(
            name=f"rebuild of {count:,} events of {scale.rebuild_devices:,} devices",
            unit="/s",
            floor=floors,
            ours=own,
        ),
        Bound(
            name=f"CPU of an event in a rebuild of {count:,}",
            unit="µs",
            value=median(done.cpu_s for done in all_done) / count * 1e6,
            at_most=AT_MOST_US,
            rounds=tuple(done.cpu_s / count * 1e6 for done in all_done),
        ),
        Bound(
            name=f"growth of a rebuild over {count:,} events",
            unit="MiB",
            value=(peak - idle) / _MIB,
            at_most=100,
            base=idle / _MIB,
        ),
    ]


def fill(found: Scene, devices: int, events: int) -> None:
    """Create the ledger, and give it the events of devices without projections."""
    found.with_ledger(_nothing)
    filling.fill(found.url, found.settings.partitions, devices, events)


def fill_sessions(found: Scene, events: Sequence[int]) -> None:
    """Create the ledger, and give it a session of each of these lengths without projections."""
    found.with_ledger(_nothing)
    filling.fill_sessions(found.url, found.settings.partitions, events)


async def _nothing(found: object) -> None:
    """Let the ledger be created, and no more."""


def rebuild(found: Scene, count: int, devices: int) -> Rebuilt:
    """Delete all but the streams, then rebuild it; raises BenchFailed if events or devices are missing."""
    with Redis.from_url(found.url) as redis:
        names = [name for name in redis.scan_iter("{p*", count=1000) if not name.endswith(b":stream")]
        for start in range(0, len(names), 1000):
            redis.delete(*names[start : start + 1000])
    job = msgspec.json.encode(Job(found.url, found.settings.partitions))
    done = msgspec.json.decode(tool("ops.bench.children.rebuilding", job, timeout_s=_TIMEOUT_S), type=Rebuilt)
    if (done.events, done.sessions) != (count, devices):
        raise BenchFailed(
            f"{done.events:,} of {count:,} events and {done.sessions:,} of {devices:,} devices were rebuilt"
        )
    return done
