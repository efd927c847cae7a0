"""`stampede`: how long one device's acks take while hundreds of others open their first streams in one moment.

Each of them is a user's of its own, of one library in the catalog. The streams are whole ones: what is measured is
what a worker does for them all until the last line of the last one has left.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import Final

import msgspec

from ops.bench.acks import offered
from ops.bench.children.stampede import Rush, Rushed
from ops.bench.rig import assets, servers, wire
from ops.bench.rig.cpu import store_pid
from ops.bench.rig.processes import Server, tool
from ops.bench.rig.results import Bound, Result, percentile
from ops.bench.rig.rounds import Progress
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import ACK_PATH, Device, Scene, scene

LIBRARY: Final = "acks"
AT_MOST_MS: Final = 50.0
_SLACK_S: Final = 120.0
_ACKS: Final = 20_000


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure with each number of streams, on a worker of its own: memories of the others' devices would help."""
    results: list[Result] = []
    for streams, connected in product(scale.stampedes, (True, False)):
        with scene() as found, servers.service(found, workers=1) as service:
            (one,) = offered(found, service, 1, scale.stampede_assets)
            devices = found.sign_in(streams, LIBRARY + "-many", LIBRARY)
            before_s = service.cpu_s()
            rushed = _rush(found, service, one, devices, connected=connected)
            cpu_s = service.cpu_s() - before_s
        slowest, usual = max(rushed.during_s) * 1e3, percentile(rushed.during_s, 99) * 1e3
        progress(f"{streams} streams: acks p99 {usual:.1f} ms, slowest {slowest:.1f} ms; {cpu_s:.2f} s of CPU")
        results += _told(streams, scale.stampede_assets, rushed, cpu_s)
    return results


def _rush(found: Scene, service: Server, one: Device, devices: list[Device], *, connected: bool) -> Rushed:
    (worker,) = service.workers()
    head, tail = wire.ack_parts(ACK_PATH, one.token, assets.TYPE, assets.asset(0)["id"])
    rush = Rush(
        port=service.port,
        streams=tuple(device.stream_request for device in devices),
        head=head,
        tail=tail,
        first_us=assets.START_US,
        alone_s=1.0,
        pause_s=0.005,
        limit=_ACKS,
        at_most_s=_SLACK_S,
        connected=connected,
        worker=worker.pid,
        pids=(store_pid(found.url), worker.pid),
    )
    done = tool("ops.bench.children.stampede", msgspec.json.encode(rush), timeout_s=_SLACK_S + 30)
    return msgspec.json.decode(done, type=Rushed)


def _told(streams: int, rows: int, rushed: Rushed, cpu_s: float) -> list[Result]:
    first, alone = rushed.first_s, rushed.alone_s
    late = sum(later < sooner for sooner, later in pairwise(first))
    acks = (
        f"{len(rushed.during_s):,} acks while {streams:,} first syncs of {rows:,} assets were sent; "
        f"alone: median {median(alone) * 1e3:.1f} ms, slowest {max(alone) * 1e3:.1f} ms; "
        f"during: median {median(rushed.during_s) * 1e3:.1f} ms, slowest {max(rushed.during_s) * 1e3:.1f} ms"
    )
    sent = (
        f"first bytes of a stream: median {median(first):.2f} s, slowest {max(first):.2f} s, "
        f"{late} came before those of the one asked for just before; all were whole after {max(rushed.whole_s):.1f} s, "
        f"{cpu_s:.1f} s of the worker's CPU; {rushed.refused} were told to come again"
    )
    name = f"while {streams:,} streams are opened at once"
    return [
        Bound(
            name=f"stampede: CPU of worker and store during the slowest ack {name}",
            unit="ms",
            value=max(rushed.worked_s) * 1e3,
            at_most=AT_MOST_MS,
            notes=(acks, sent),
        ),
        Bound(
            name=f"stampede: 99th percentile of acks {name}",
            unit="ms",
            value=percentile(rushed.during_s, 99) * 1e3,
            at_most=AT_MOST_MS,
            base=percentile(alone, 99) * 1e3,
        ),
    ]
