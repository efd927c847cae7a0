"""The benchmarks by name, run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ops.bench import (
    acks,
    devices,
    growth,
    history,
    mixed,
    observing,
    poll,
    reads,
    rebuild,
    rss,
    segments,
    sizes,
    sizing,
    sockets,
    stampede,
    stream,
    transparency,
    verify,
)
from ops.bench.postgres import beside, streams
from ops.bench.rig.results import Result
from ops.bench.rig.rounds import Progress
from ops.bench.rig.scale import Scale

_BENCHMARKS: Final[dict[str, Callable[[int, Scale, Progress], list[Result]]]] = {
    "acks": acks.run,
    "poll": poll.run,
    "reads": reads.run,
    "mixed": mixed.run,
    "stream": stream.run,
    "verify": verify.run,
    "rebuild": rebuild.run,
    "segments": segments.run,
    "log": transparency.run,
    "history": history.run,
    "devices": devices.run,
    "rss": rss.run,
    "sizes": sizes.run,
    "sockets": sockets.run,
    "postgres": streams.run,
    "beside": beside.run,
    "observing": observing.run,
    "stampede": stampede.run,
    "growth": growth.run,
    "sizing": sizing.run,
}


def run(names: Sequence[str], rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Run the named benchmarks, each on servers of its own, and return what they found; raises BenchFailed."""
    results: list[Result] = []
    for name in names:
        results += _BENCHMARKS[name](rounds, scale, _named(name, progress))
    return results


def _named(name: str, progress: Progress) -> Progress:
    return lambda text: progress(f"{name}: {text}")
