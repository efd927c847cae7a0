"""`observing`: what CPU it costs an ack to be counted, to have a line in the log, and to be traced."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

import msgspec

from ops.bench import acks
from ops.bench.children.observed import PLAIN, REQUESTS, TRACES, UNCOUNTED, Job, Spent
from ops.bench.rig import servers
from ops.bench.rig.processes import tool
from ops.bench.rig.results import Bound, Result
from ops.bench.rig.rounds import Progress
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import scene
from ops.server.messages import encode_settings
from ops.tracing.sending import is_installed

COUNTED_PERCENT: Final = 10.0
"""What counting may cost an ack at most: 1 to 2.5 µs are five things that are counted and four looks at the clock."""
_WANTED_PERCENT: Final = {REQUESTS: 250.0, TRACES: 500.0}
"""What is asked for may cost more: it also takes the quick way from acks, and a plain one takes twice as much.

Beyond this something is wrong with it.
"""
_ROUNDS: Final = 4
"""For each round that is asked for: they are short, and the machine changes."""
_TOLD: Final = {REQUESTS: "a line for each request", TRACES: "traces, of every request"}
_TIMEOUT_S: Final = 1800.0


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure all ways side by side in one process."""
    ways = [UNCOUNTED, PLAIN, REQUESTS]
    if is_installed():
        ways.append(TRACES)
    else:
        progress("traces are left out: pip install 'syncledger[traces]'")
    with scene() as found:
        with servers.service(found, workers=1) as service:
            pusher = acks.Pusher(acks.offered(found, service, scale.devices))
            before_s = service.cpu_s()
            answered = pusher.push(service, scale.ack_s, scale.ack_limit).answered
            whole_us = (service.cpu_s() - before_s) / answered * 1e6
        job = Job(
            found.url,
            encode_settings(found.settings),
            pusher.devices,
            ways,
            _ROUNDS * rounds,
            scale.observed_acks,
            pusher.next_us,
        )
        done = tool("ops.bench.children.observed", msgspec.json.encode(job), timeout_s=_TIMEOUT_S)
    us = msgspec.json.decode(done, type=Spent).us
    progress(f"round {rounds}/{rounds}: " + ", ".join(f"{way} {median(us[way]):.0f} µs" for way in ways))
    return [
        _bound("figures", us[PLAIN], us[UNCOUNTED], whole_us, COUNTED_PERCENT),
        *(_bound(_TOLD[way], us[way], us[PLAIN], whole_us, _WANTED_PERCENT[way]) for way in ways[2:]),
    ]


def _bound(name: str, ours: Sequence[float], base: Sequence[float], whole_us: float, most: float) -> Bound:
    """Tell by how much one is above the other, in the median of the rounds, of what a whole ack takes a worker."""
    more_us = median(one - other for one, other in zip(ours, base, strict=True))
    note = f"{more_us:.1f} µs of the {whole_us:.0f} µs of CPU that an ack over HTTP takes its worker"
    name = f"{name}, of an ack's CPU"
    return Bound(name=name, unit="%", value=more_us / whole_us * 100, at_most=most, notes=(note,))
