"""`stampede`: how long one device's acks take while hundreds of others open their first streams in one moment.

Each of them is a user's of its own, of one library in the catalog. The streams are whole ones: what is measured is
what a worker does for them all until the last line of the last one has left.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, product
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
_LINE_S: Final = 0.00003
"""For so long a line may be waited for: some ten times what it takes a worker that has a core of its own."""
_ACKS: Final = 20_000


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure with each number of streams, on a worker of its own: memories of the others' devices would help.

    Once with connections that are there before, so that all requests can be read in one turn of the event loop, and
    once with new ones.
    """
    results: list[Result] = []
    for streams, connected in product(scale.stampedes, (True, False)):
        with scene() as found, servers.service(found, workers=1) as service:
            (one,) = offered(found, service, 1, scale.stampede_assets)
            devices = found.sign_in(streams, LIBRARY + "-many", LIBRARY)
            before_s = service.cpu_s()
            at_most_s = _SLACK_S + streams * scale.stampede_assets * _LINE_S
            rushed = _rush(found, service, one, devices, at_most_s, connected=connected)
            cpu_s = service.cpu_s() - before_s
        slowest, usual = max(rushed.during_s) * 1e3, percentile(rushed.during_s, 99) * 1e3
        progress(f"{streams} streams: acks p99 {usual:.1f} ms, slowest {slowest:.1f} ms; {cpu_s:.2f} s of CPU")
        results += _told(streams, scale.stampede_assets, rushed, cpu_s, connected=connected)
    return results


def _rush(
    found: Scene, service: Server, one: Device, devices: list[Device], at_most_s: float, *, connected: bool
) -> Rushed:
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
        at_most_s=at_most_s,
        connected=connected,
        worker=worker.pid,
        pids=(store_pid(found.url), worker.pid),
    )
    done = tool("ops.bench.children.stampede", msgspec.json.encode(rush), timeout_s=at_most_s + 60)
    return msgspec.json.decode(done, type=Rushed)


def _told(streams: int, rows: int, rushed: Rushed, cpu_s: float, *, connected: bool) -> list[Result]:
    first, alone = rushed.first_s, rushed.alone_s
    acks = (
        f"{len(rushed.during_s):,} acks while {streams:,} first syncs of {rows:,} assets were sent; "
        f"alone: median {median(alone) * 1e3:.1f} ms, slowest {max(alone) * 1e3:.1f} ms; "
        f"during: median {median(rushed.during_s) * 1e3:.1f} ms, slowest {max(rushed.during_s) * 1e3:.1f} ms; "
        f"CPU: median {median(rushed.worked_s) * 1e3:.1f} ms, p99 {percentile(rushed.worked_s, 99) * 1e3:.1f} ms"
    )
    sent = (
        f"first bytes of a stream: median {median(first):.2f} s, slowest {max(first):.2f} s; "
        f"all were whole after {max(rushed.whole_s):.1f} s, "
        f"{cpu_s:.1f} s of the worker's CPU; {rushed.refused} were told to come again"
    )
    name = f"while {streams:,} {'open connections ask' if connected else 'devices connect and ask'} for streams at once"
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
        Bound(
            name=f"stampede: first bytes that came behind those of a later stream {name}",
            unit="streams",
            value=overtaken(rushed.places),
            at_most=0,
        ),
    ]


def overtaken(places: Sequence[int]) -> int:
    """Count those that are behind one that comes later in order of arrival; `places` are by arrival."""
    return sum(place > least for place, least in zip(places, _least_behind(places), strict=True))


def _least_behind(places: Sequence[int]) -> list[int]:
    """Tell of each place the least of it and all that follow."""
    return list(accumulate(reversed(places), min))[::-1]
