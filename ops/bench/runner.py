"""Which benchmarks there are, how large they are, and the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ops.bench.results import Result
from ops.bench.rounds import Progress


class Scale(msgspec.Struct, frozen=True):
    """How much is done; every loop is bounded by one of these."""

    assets: int = 200_000
    devices: int = 64
    ack_s: float = 3.0
    ack_limit: int = 20_000
    """Requests per device and round."""
    verify_events: int = 200_000
    size_events: int = 100_000
    polls: int = 1_000
    slow_s: float = 25.0
    slow_readers: int = 200


FULL: Final = Scale()
QUICK: Final = Scale(
    assets=3_000,
    devices=8,
    ack_s=0.3,
    ack_limit=2_000,
    verify_events=500,
    size_events=500,
    polls=20,
    slow_s=1.5,
    slow_readers=5,
)


def run(names: Sequence[str], rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Run the named benchmarks one after the other and return what they found; raises BenchFailed."""
    from ops.bench import acks, rss, sizes, stream, verify

    benchmarks: dict[str, Callable[[int, Scale, Progress], list[Result]]] = {
        "acks": acks.run,
        "stream": stream.run,
        "verify": verify.run,
        "rss": rss.run,
        "sizes": sizes.run,
    }
    results = []
    for name in names:
        progress(name)
        results += benchmarks[name](rounds, scale, progress)
    return results
