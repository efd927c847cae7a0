"""The archiving job: partition after partition, each under a lease of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ledger.errors import CorruptLedger, StoreReplyError
from ledger.log.reader import read_raw
from ledger.store.interface import Store
from ops.archive.options import ArchiveOptions
from ops.archive.report import ArchiveReport, Failure
from ops.archive.retain import retain
from ops.archive.seal import Sealer, excess
from projections.archive.catalog import Archive
from projections.archive.errors import CannotSeal, Fenced, ObjectExists, PartitionBusy
from projections.archive.format import place
from projections.archive.lease import Lease
from projections.archive.objects import Objects
from projections.archive.record import read_record

Progress = Callable[[ArchiveReport], None]


async def archive(
    store: Store,
    objects: Objects,
    partitions: Iterable[int],
    options: ArchiveOptions,
    now_us: int,
    *,
    on_progress: Progress = lambda _: None,
) -> ArchiveReport:
    """Archive partitions one after the other, so that one partition's states are in memory at a time.

    What is wrong with one partition is reported, and the others go on. Raises ArchiveUnavailable, StoreUnavailable.
    """
    report, found = ArchiveReport(), Archive(store, objects)
    for partition in partitions:
        try:
            async with Lease(store, partition, options.lease_s) as lease:
                sealer = Sealer(store, found, partition, lease, options, now_us, report, on_progress)
                await sealer.finish_earlier()
                await sealer.seal()
                await retain(found, partition, lease, options, now_us, report)
        except (PartitionBusy, Fenced):
            report.busy += 1
        except (CannotSeal, CorruptLedger, ObjectExists, StoreReplyError) as error:
            report.failures.append(Failure(partition, str(error)))
        report.partitions += 1
        on_progress(report)
    return report


async def preview(
    store: Store,
    partitions: Iterable[int],
    options: ArchiveOptions,
    now_us: int,
    *,
    on_progress: Progress = lambda _: None,
) -> ArchiveReport:
    """Count what a run would seal; nothing is written, and nobody's lease is asked for."""
    report = ArchiveReport()
    hot_ms = (now_us - int(options.hot_s * 1_000_000)) // 1000
    for partition in partitions:
        floor = (await read_record(store, partition)).floor
        count, beyond = 0, await excess(store, partition, options)
        async for rows in read_raw(store, partition, floor or "-"):
            may = [row for row in rows if options.may_go(partition, row[0].decode())]
            old = [row for row in may if place(row[0].decode())[0] < hot_ms]
            count += min(len(may), len(rows) if count + len(rows) <= beyond else max(len(old), beyond - count))
            report.read += len(rows)
            on_progress(report)
            if len(may) < len(rows):
                report.held_up += 1
                break
            if len(old) < len(rows) and count >= beyond:
                break
        report.events += count
        report.segments += -(-count // options.segment_events)
        report.partitions += 1
        on_progress(report)
    return report
