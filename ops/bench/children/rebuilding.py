"""A rebuild in a process of its own, so that its memory is its own: job on stdin, what it took on stdout."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from ledger.log.stored_sessions import find_strays
from ledger.store.interface import open_store
from projections.checking.rebuild import Rebuild, not_whole


class Job(msgspec.Struct):
    """What to rebuild: a ledger whose projections were deleted."""

    url: str
    partitions: int


class Rebuilt(msgspec.Struct):
    """What was rebuilt, in how long, with how much memory before and at most."""

    events: int
    sessions: int
    seconds: float
    cpu_s: float
    idle_bytes: int
    peak_bytes: int


async def _rebuild(job: Job) -> Rebuilt:
    store = await open_store(job.url, timeout_s=60)
    try:
        idle, started = _peak_bytes(), time.perf_counter()
        cpu_before_s = time.process_time()
        made = Rebuild(store, "bench")
        await made.partitions(await not_whole(store, job.partitions), await find_strays(store, job.partitions))
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_before_s
    finally:
        await store.close()
    if not made.report.is_complete:
        raise SystemExit(f"it is not complete: {made.report.named[:3]}")
    return Rebuilt(made.report.events, made.report.written, seconds, cpu_s, idle, _peak_bytes())


def _peak_bytes() -> int:
    """Tell the most memory this process had so far; what rusage tells begins with its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    done = uvloop.run(_rebuild(msgspec.json.decode(sys.stdin.buffer.read(), type=Job)))
    sys.stdout.buffer.write(msgspec.json.encode(done))
