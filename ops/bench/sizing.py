"""`sizing`: the model of `ops/docs/sizing.md`, held against measurement.

First, that an ack takes the same CPU time of workers and store however many workers there are, and however many
primaries with users of their own. Then, how far the busiest of many primaries is from the mean, and from what one
thread of a store can do, by a simulation of a hundred million devices (`load_model`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import Final

import msgspec

from ops.bench import acks, load_model
from ops.bench.rig import servers
from ops.bench.rig.cpu import cpu_s, store_pid
from ops.bench.rig.processes import Server
from ops.bench.rig.results import Bound, Result
from ops.bench.rig.rounds import Progress
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Scene, scene

AT_MOST: Final = 1.5
"""By how much an ack may cost more on another number of workers or primaries."""
FULL: Final = 0.7
"""How busy a store's thread may be: beyond it what waits for it grows without end."""
SEED: Final = 18
PARTITIONS: Final = 4096
PRIMARIES: Final = (64, 32, 16, 8)
_SHAPES: Final = ((1, 1), (2, 1), (1, 2))
_LIMIT: Final = 20_000


class _Cost(msgspec.Struct, frozen=True):
    """CPU of an ack in µs: of workers, and of the store."""

    workers_us: float
    store_us: float


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure each number of workers and primaries so many times, then simulate."""
    found: dict[tuple[int, int], list[_Cost]] = {shape: [] for shape in _SHAPES}
    for number in range(rounds):  # in turns: the machine changes
        for shape in _SHAPES:
            cost = _measure(*shape, scale)
            found[shape].append(cost)
            workers, primaries = shape
            progress(
                f"round {number + 1}/{rounds}, {workers} workers each at {primaries} primaries: "
                f"{cost.workers_us:.0f} µs of a worker, {cost.store_us:.0f} µs of a store an ack"
            )
    costs = {
        shape: _Cost(median(each.workers_us for each in all_), median(each.store_us for each in all_))
        for shape, all_ in found.items()
    }
    one = costs[1, 1]
    most = {
        "workers": max(cost.workers_us for cost in costs.values()) / min(cost.workers_us for cost in costs.values()),
        "stores": max(cost.store_us for cost in costs.values()) / min(cost.store_us for cost in costs.values()),
    }
    told = "; ".join(
        f"{workers} workers, {primaries} primaries: {cost.workers_us:.0f} and {cost.store_us:.0f} µs"
        for (workers, primaries), cost in costs.items()
    )
    results: list[Result] = [
        Bound(
            name=f"sizing: CPU of an ack in {what}, over numbers of workers and primaries",
            unit="times",
            value=times,
            at_most=AT_MOST,
            notes=(told,),
        )
        for what, times in most.items()
    ]
    return [*results, *(_simulated(scale.sizing_devices, primaries, one.store_us) for primaries in PRIMARIES)]


def _simulated(devices: int, primaries: int, store_us: float) -> Bound:
    shares = load_model.simulate(devices, PARTITIONS, primaries, SEED)
    able = 1e6 / store_us
    told = (
        f"{shares.total:,.0f} events/s in all; primary {shares.primary:,.0f}, mean {shares.mean_primary:,.0f}, "
        f"able {able:,.0f}; partition {shares.partition:,.0f}, mean {shares.mean_partition:,.1f}; "
        f"user {shares.user:,.1f}"
    )
    return Bound(
        name=f"sizing: busiest of {primaries} primaries, {devices:,} devices, of its thread in the busiest hour",
        unit="",
        value=shares.primary / able,
        at_most=FULL,
        base=shares.mean_primary / able,
        notes=(told,),
    )


def _measure(workers: int, primaries: int, scale: Scale) -> _Cost:
    with ExitStack() as stack:
        found: list[tuple[Scene, Server, acks.Pusher]] = []
        for _ in range(primaries):
            one = stack.enter_context(scene())
            service = stack.enter_context(servers.service(one, workers=workers))
            found.append((one, service, acks.Pusher(acks.offered(one, service, scale.devices))))
        before_s = _spent(found)
        with ThreadPoolExecutor(primaries) as pool:
            for done in [pool.submit(push.push, service, scale.sizing_s, _LIMIT) for _, service, push in found]:
                done.result()
        workers_s, store_s = (after - before for after, before in zip(_spent(found), before_s, strict=True))
        answered = sum(push.answered for _, _, push in found)
    return _Cost(workers_s / answered * 1e6, store_s / answered * 1e6)


def _spent(found: list[tuple[Scene, Server, acks.Pusher]]) -> tuple[float, float]:
    pids = [worker.pid for _, service, _ in found for worker in service.workers()]
    return cpu_s(pids), cpu_s([store_pid(one.url) for one, _, _ in found])
