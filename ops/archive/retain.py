"""Retention: removing segments that are older than somebody wants to keep.

A device that is used for years lives in one session, so what is removed may be the beginning of a living session's
history: keeping all that a living session reaches into would keep everything. Instead the ledger notes up to where
history was cut; verify knows of it, and a history says that it begins there. The oldest segment that stays is always
one that is older than wanted: the states at its end let every state since be told.

What is kept of an ended session (its head, for walks) goes with the segment that holds its end.
"""

from __future__ import annotations

from ops.archive.options import ArchiveOptions
from ops.archive.report import ArchiveReport
from projections.archive.catalog import Archive
from projections.archive.format import place
from projections.archive.lease import Lease
from projections.archive.segment import Segment

_FORGOTTEN_AT_ONCE = 1000


async def retain(
    archive: Archive, partition: int, lease: Lease, options: ArchiveOptions, now_us: int, report: ArchiveReport
) -> None:
    """Cut a partition's history and remove what is below the cut, also what an earlier run left; raises Fenced."""
    if options.retention_s is not None:
        await _cut(archive, partition, lease, options, (now_us - int(options.retention_s * 1_000_000)) // 1000)
    record = lease.record
    if not record.cut:
        return
    for name in await archive.objects_of(partition):
        if place(name.last) > place(record.cut):
            continue
        segment = await Segment.open(archive.objects, str(name))
        async for lines in segment.ended():
            for start in range(0, len(lines), _FORGOTTEN_AT_ONCE):
                await lease.advance(record, [line.sid for line in lines[start : start + _FORGOTTEN_AT_ONCE]])
        await archive.objects.delete([str(name)])
        report.removed += 1


async def _cut(archive: Archive, partition: int, lease: Lease, options: ArchiveOptions, before_ms: int) -> None:
    """Note the cut behind the last segment whose follower is older than wanted too, and that is logged."""
    record = lease.record
    names = await archive.segments(partition, record)
    old = [name for name in names if place(name.last)[0] < before_ms and options.may_go(partition, name.last)]
    if len(old) > 1:
        await lease.advance(record._replace(cut=old[-2].last, segments=len(names) - len(old) + 1))
