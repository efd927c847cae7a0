"""A verification of segments in a process of its own, with its CPU time: job on stdin, what it took on stdout."""

from __future__ import annotations

import sys
import time

import msgspec
import uvloop

from ledger.store.interface import open_store
from ops.settings.places import StoragePlace
from ops.verify_processes import collect_rarely
from projections.archive.catalog import Archive
from projections.checking.verify import verify


class Job(msgspec.Struct):
    """Which ledger, and where its archive is."""

    url: str
    partitions: int
    archive: StoragePlace


class Checked(msgspec.Struct):
    """What was checked, in how long."""

    events: int
    different: int
    seconds: float
    cpu_s: float


async def _check(job: Job) -> Checked:
    store = await open_store(job.url, timeout_s=60)
    try:
        started, cpu_before_s = time.perf_counter(), time.process_time()
        report = await verify(store, job.partitions, archive=Archive(store, job.archive.open()))
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_before_s
    finally:
        await store.close()
    return Checked(report.archived, report.different, seconds, cpu_s)


if __name__ == "__main__":
    collect_rarely()
    done = uvloop.run(_check(msgspec.json.decode(sys.stdin.buffer.read(), type=Job)))
    sys.stdout.buffer.write(msgspec.json.encode(done))
