"""`segments`: events a second that a verification of archived segments checks, beside merely unpacking their files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec
import zstandard

from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from ops.archive.report import ArchiveReport
from ops.bench import rebuild
from ops.bench.children.checking import Checked, Job
from ops.bench.rig.processes import BenchFailed, tool
from ops.bench.rig.results import Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Scene, scene
from ops.opening.ledger import Opened
from ops.settings.places import StoragePlace

AT_LEAST_PER_S: Final = 80_000
_READ_BYTES: Final = 1024 * 1024
_TIMEOUT_S: Final = 300.0


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Seal all events of devices in a local folder, then in turn unpack the segments and verify them."""
    with scene() as found:
        count = scale.segment_events
        progress(f"sealing {count:,} events of {scale.segment_devices:,} devices")
        rebuild.fill(found, scale.segment_devices, count)
        rebuild.rebuild(found, count, scale.segment_devices)
        folder = found.folder / "archive"
        place = StoragePlace(url=f"file://{folder}")
        _seal(found, place, count)
        all_done: list[Checked] = []

        def checked_per_s() -> float:
            all_done.append(_check(Job(found.url, found.settings.partitions, place), count))
            return count / all_done[-1].seconds

        floors, own = alternate(rounds, lambda: _unpacked_per_s(folder, count), checked_per_s, progress)
    core_per_s = count / min(done.cpu_s for done in all_done)
    return [
        Comparison(
            name=f"verify of {count:,} archived events",
            unit="/s",
            floor=floors,
            ours=own,
            notes=(f"{core_per_s:,.0f} events a second of its own CPU time; wanted: {AT_LEAST_PER_S:,} on one core",),
        )
    ]


def _seal(found: Scene, place: StoragePlace, count: int) -> None:
    async def work(opened: Opened) -> ArchiveReport:
        partitions = range(opened.ledger.partitions)
        return await archive(
            opened.store, place.open(), partitions, ArchiveOptions(hot_events=0), time.time_ns() // 1000
        )

    sealed = found.with_ledger(work)
    if sealed.events != count:
        raise BenchFailed(f"of {count:,} events {sealed.events:,} were sealed; {sealed.failures[:3]}")


def _check(job: Job, count: int) -> Checked:
    done = msgspec.json.decode(
        tool("ops.bench.children.checking", msgspec.json.encode(job), timeout_s=_TIMEOUT_S), type=Checked
    )
    if done.events != count or done.different:
        raise BenchFailed(f"of {count:,} archived events {done.events:,} were verified, {done.different:,} differ")
    return done


def _unpacked_per_s(folder: Path, count: int) -> float:
    """Read and unpack all segments, a megabyte at a time, and count their lines."""
    started, lines = time.perf_counter(), 0
    for name in folder.glob("p*/*.zst"):
        with name.open("rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            while content := reader.read(_READ_BYTES):
                lines += content.count(b"\n")
    seconds = time.perf_counter() - started
    if lines < count:
        raise BenchFailed(f"{count:,} events are in segments of {lines:,} lines")
    return count / seconds
