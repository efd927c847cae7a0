"""Checking a ledger against its log: the log by itself, what is kept, and a checkpoint that was kept elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ledger.errors import CorruptLedger
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.entries import ClosedLeaf
from ledger.transparency.merkle import check_consistency
from ledger.transparency.notes import VerifierKey, parse_note
from projections.archive.errors import ArchiveNotGiven
from projections.bounded_tasks import each
from projections.transparency import batches
from projections.transparency.errors import LogContradicts
from projections.transparency.job import LogOf
from projections.transparency.monitor.findings import LogFinding, LogReport
from projections.transparency.monitor.log_check import LogCheck, Published, open_published, read_checkpoint
from projections.transparency.monitor.store_check import StoreCheck
from projections.transparency.noted import read_noted

_AT_ONCE: Final = 4
_NOT_COMPARED: Final = ": the store was not compared with the log"


async def monitor(
    of: LogOf,
    keys: Sequence[VerifierKey],
    partitions: int,
    *,
    since: bytes | None = None,
    on_progress: Callable[[LogReport], None] = lambda _: None,
) -> LogReport | None:
    """Check store and archive against their log as of its newest checkpoint; None where there is no log yet.

    `keys` are those that verify it. `since`: a checkpoint that was kept elsewhere, which this log must have grown from.
    Never writes. Raises ArchiveUnavailable, StoreUnavailable.
    """
    report, noted = LogReport(), await read_noted(of.store)
    try:
        identity = await of.place.identity()
        report.origin = noted.origin or ("" if identity is None else identity.origin)
        if not report.origin and since is None:
            return None
        if identity is None or identity.origin != report.origin or identity.ledger != of.ledger_id:
            there = "nothing" if identity is None else f"log {identity.origin} of ledger {identity.ledger}"
            report.note(
                LogFinding(f"{of.place.shown} holds {there}, this ledger's log is {report.origin or 'not begun'}")
            )
            return report
        published = await open_published(of.place, report.origin, keys)
        if published is None:
            if noted.size or since is not None:
                report.note(LogFinding(f"there is no checkpoint, though {noted.size:,} entries were written"))
            return report
        report.size = published.checkpoint.size
        await _check_size(of, noted.size, report)
        follows = None if identity.follows is None else identity.follows.leaf
        report.set_follows(follows)
        if since is not None and not _is_of_closed(since, report):
            await check_since(published, since, keys, report)
        await _compare(of, published, follows, keys, partitions, report, on_progress)
    except LogContradicts as error:
        report.wrong(str(error.details["object"]), f"{error.details['what']}{_NOT_COMPARED}")
    return report


async def _compare(
    of: LogOf,
    published: Published,
    follows: ClosedLeaf | None,
    keys: Sequence[VerifierKey],
    partitions: int,
    report: LogReport,
    on_progress: Callable[[LogReport], None],
) -> None:
    if (wrong := published.wrong) is not None:  # what it is that was changed is found out all the same
        report.wrong(str(wrong.details["object"]), f"{wrong.details['what']}{_NOT_COMPARED}")
        await LogCheck(of.place, published, report, keys, lambda *_: None, follows).check(lambda: on_progress(report))
        return
    store = StoreCheck(of.store, of.archive, published, report)

    async def one(number: int) -> None:
        try:
            await store.partition(number)
        except LogContradicts:
            raise
        except (ArchiveNotGiven, CorruptLedger) as error:
            what = str(error) or "its older events are in the archive: set LEDGER_ARCHIVE"
            report.note(LogFinding(f"partition {number} was not compared: {what}", partition=number))
        on_progress(report)

    await each(range(partitions), one, _AT_ONCE)
    await store.absent()
    await LogCheck(of.place, published, report, keys, store.leaf, follows).check(lambda: on_progress(report))
    await store.finish()
    report.compared = True


async def _check_size(of: LogOf, noted: int, report: LogReport) -> None:
    """Compare how far the log is with how far it was noted to be: a checkpoint follows its batches."""
    newest = await batches.newest(of.place)
    size = 0 if newest is None else newest.end
    if size < noted:
        report.note(LogFinding(f"it has {size:,} entries, {noted:,} were written: an older copy was put in its place"))


def _is_of_closed(since: bytes, report: LogReport) -> bool:
    """Tell whether a checkpoint is one of the closed log before this, of which no proof leads here; that is noted."""
    try:
        old = parse_checkpoint(parse_note(since.decode()).text)
    except ValueError:
        return False
    if not report.follows or old.origin != report.follows:
        return False
    what = (
        f"the checkpoint that was given is one of log {old.origin}, of {old.size:,} entries, which was closed at "
        f"{report.follows_size:,}: {report.closed_why}. Whether it grew from that one only what is left of it tells"
    )
    report.note(LogFinding(what))
    return True


async def check_since(
    published: Published, since: bytes, keys: Sequence[VerifierKey], report: LogReport
) -> Checkpoint | None:
    """Check that the log grew from a checkpoint that was kept elsewhere; what does not goes to the report."""
    try:
        old, new = read_checkpoint("checkpoint given", since, published.checkpoint.origin, keys), published.checkpoint
    except LogContradicts as error:
        report.note(LogFinding(f"the checkpoint that was given: {error.details['what']}"))
        return None
    if old.size > new.size:
        what = f"it has {new.size:,} entries, the checkpoint that was given {old.size:,}: the log went back"
        report.note(LogFinding(what))
        return old
    try:
        check_consistency(old.size, old.root, new.size, new.root, await published.tree.consistency(old.size))
    except ValueError as error:
        what = f"it did not grow from the checkpoint that was given, of {old.size:,} entries: it was forked ({error})"
        report.note(LogFinding(what, entry=old.size - 1))
    return old
