"""Pruning a log as C2SP tlog-tiles has it: what lies below its minimum index is not kept any more.

The tree stays what it is, so all that was proved stays proved, and entries from the minimum index on, and trees at
least as large, are proved as before. What is below can neither be shown nor checked against the store any more.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import msgspec

from ledger.transparency.tiles import BUNDLE_LEVEL, HEIGHT, WIDTH, Tile, levels
from projections.bounded_tasks import each
from projections.transparency import batches
from projections.transparency.errors import LogContradicts
from projections.transparency.place import (
    BATCHES,
    CHECKPOINTS,
    MINIMUM,
    LogPlace,
    Pruned,
    batch_name,
    checkpoint_name,
)

_AT_ONCE: Final = 16
_TOGETHER: Final = 1000


class PruneReport(msgspec.Struct):
    """What a run did: the minimum index now, how many entries went with it, and how many objects."""

    minimum: int = 0
    entries: int = 0
    objects: int = 0


async def prune(
    place: LogPlace,
    before_s: float,
    *,
    dry_run: bool = False,
    on_progress: Callable[[PruneReport], None] = lambda _: None,
) -> PruneReport:
    """Remove the entries that a checkpoint covered by `before_s`, in s since 1970 as the place's clock says.

    The bundle of the newest entry stays: that is the root of the state tree, with which jobs go on and proofs begin.
    May be interrupted and run again. Raises LogContradicts, ArchiveUnavailable.
    """
    pruned, size = await place.pruned(), await _newest(place)
    old = [number for number, written_s in await _numbers(place, CHECKPOINTS) if written_s < before_s]
    minimum = max(pruned.minimum, min(max(old, default=0), size - 1) // WIDTH * WIDTH)
    report = PruneReport(minimum, minimum - pruned.minimum)
    if dry_run:
        return report
    if minimum > pruned.minimum:  # said before anything is gone
        pruned = Pruned(minimum=minimum, swept=pruned.swept)
        await place.objects.replace(MINIMUM, msgspec.json.encode(pruned))
    if pruned.swept < minimum:
        await _sweep(place, pruned, size, report, on_progress)
        await place.objects.replace(MINIMUM, msgspec.json.encode(Pruned(minimum=minimum, swept=minimum)))
    return report


async def _sweep(
    place: LogPlace, pruned: Pruned, size: int, report: PruneReport, on_progress: Callable[[PruneReport], None]
) -> None:
    """Remove what ends at the minimum index or before; the first of each level stays, with which logs begin."""

    async def remove(names: list[str]) -> None:
        await place.objects.delete(names)
        report.objects += len(names)
        on_progress(report)

    for level in (BUNDLE_LEVEL, *levels(size)):
        shift = HEIGHT * (max(level, 0) + 1)
        first, last = max(pruned.swept >> shift, 1), pruned.minimum >> shift
        every = [Tile(level, number).path for number in range(first, last)]
        await each(_pages(every), remove, _AT_ONCE)
    firsts = [first for first, _ in await _numbers(place, BATCHES)]
    over = [batch_name(first) for first, end in pairwise(firsts) if end <= pruned.minimum]
    over += [checkpoint_name(number) for number, _ in await _numbers(place, CHECKPOINTS) if number < pruned.minimum]
    await each(_pages(over), remove, _AT_ONCE)


def _pages(names: list[str]) -> list[list[str]]:
    return [names[start : start + _TOGETHER] for start in range(0, len(names), _TOGETHER)]


async def _newest(place: LogPlace) -> int:
    """Tell the size of the newest checkpoint that is signed; 0 without one."""
    newest = await batches.newest(place)
    if newest is None:
        return 0
    sizes = [number for number, _ in await _numbers(place, CHECKPOINTS) if number <= newest.end]
    if not sizes and newest.previous < 0:
        return 0
    if not sizes:
        raise LogContradicts(CHECKPOINTS, "there is no checkpoint of the log's batches")
    return sizes[-1]


async def _numbers(place: LogPlace, prefix: str) -> list[tuple[int, float]]:
    """List the numbers that objects below a prefix are named by, and when each was written."""
    found = [
        (int(text), info.written_s)
        async for page in place.objects.names(prefix)
        for info in page
        if (text := info.name.removeprefix(prefix)).isdigit()
    ]
    return sorted(found)
