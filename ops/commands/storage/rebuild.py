"""`syncledger rebuild`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import click
from click import echo

from ledger import keys
from ledger.errors import NoSuchSession, Rebuilding
from ledger.keys import check_name
from ledger.log.stored_sessions import Strays
from ledger.session_ids import SID_CHARS
from ops.commands.options import (
    by_option,
    json_option,
    print_json,
    progress,
    run,
    session_id,
    settings_from,
    store_options,
)
from ops.commands.storage.strays import strays_of
from ops.commands.tables import counted
from ops.opening.ledger import Opened, now_us, opened
from projections.checking.aside import Decision
from projections.checking.findings import lines
from projections.checking.rebuild import Rebuild, RebuildReport, find_session, not_whole
from projections.finding.prefixes import resolved


@click.command()
@click.option("--session", "sid", callback=session_id, help="Only this session.")
@click.option("--user", metavar="USER", help="Only the sessions of this user.")
@click.option("--partition", type=click.IntRange(0), help="Only this partition, whole or not.")
@click.option(
    "--accept-history",
    "why",
    metavar="WHY",
    help="With --session: go by its events, though its stored head does not match them.",
)
@by_option
@click.option("--all", "everything", is_flag=True, help="Also partitions that are whole.")
@store_options
@json_option
def rebuild(
    sid: str | None,
    user: str | None,
    partition: int | None,
    everything: bool,
    why: str | None,
    by: str,
    data_dir: Path | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Make the projections anew from the events: of all partitions that are not whole, or of what is named.

    The service may run meanwhile; for a partition that is not whole yet it answers 503, never 401. May be interrupted
    and run again. Events are never changed. A session with a damaged event, or with a key of another type, is named and
    left alone, and the exit code is then 1. The same goes for a session whose stored head does not match its events: if
    you know why they differ, --accept-history goes by the events all the same. Head, reason and your name are kept, and
    every verify names them.
    """
    if sum((sid is not None, user is not None, partition is not None, everything)) > 1:
        raise click.UsageError("give only one of --session, --user, --partition and --all")
    if why is not None and (sid is None or not why.strip()):
        raise click.UsageError("--accept-history goes with --session, and says why")
    if user is not None:
        check_name("--user", user)
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)

    async def work() -> RebuildReport:
        async with opened(settings) as found:
            await found.check_archive()
            if sid is not None:
                place, whole_sid = await _place_of(found, sid)
                accept = None if why is None else Decision(why, by, now_us())
                async with _one_partition(found, place) as made:
                    await made.session(place, whole_sid, accept)
            elif user is not None:
                place = found.ledger.partition_of(user)
                async with _one_partition(found, place) as made:
                    await made.user(place, user)
            else:
                made = await _partitions(found, partition, everything)
            return made.report

    report = run(work())
    print_json(report) if as_json else _tell(report)
    if not report.is_complete:
        raise click.exceptions.Exit(1)


@asynccontextmanager
async def _one_partition(found: Opened, partition: int) -> AsyncIterator[Rebuild]:
    """Show how many of a partition's events are read, which is all of them for whatever is rebuilt of it."""
    name = keys.stream(partition)
    events = await found.store.command("XLEN", name, key=name)
    with progress("reading events", events) as advance:
        yield _rebuild(found, lambda report: advance(report.events, f"{report.written:,} written"))


async def _partitions(found: Opened, partition: int | None, everything: bool) -> Rebuild:
    count = found.ledger.partitions
    if partition is not None and partition >= count:
        raise click.UsageError(f"there are partitions 0 to {count - 1}")
    unfinished = await not_whole(found.store, count)
    which = [partition] if partition is not None else range(count) if everything else unfinished
    strays = await strays_of(found) if which else Strays({}, {})
    with progress("rebuilding", len(which)) as advance:

        def tell(report: RebuildReport) -> None:
            advance(report.partitions, f"{counted(report.events, 'event')}, {report.written:,} written")

        made = _rebuild(found, tell)
        await made.partitions(which, strays)
    return made


def _rebuild(found: Opened, tell: Callable[[RebuildReport], None]) -> Rebuild:
    return Rebuild(found.store, uuid4().hex, sealed=found.archive, on_progress=tell)


async def _place_of(found: Opened, sid: str) -> tuple[int, str]:
    """Find a session by what is stored of it, or, with its whole id, by its events.

    Raises NoSuchSession, Ambiguous, Rebuilding.
    """
    try:
        return await resolved(found.ledger, sid)
    except (NoSuchSession, Rebuilding):
        if len(sid) < SID_CHARS:
            raise
        count = found.ledger.partitions
        with progress("looking for its events", count) as advance:
            partition = await find_session(found.store, count, sid, lambda read: advance(read, ""))
        if partition is None:
            raise
        return partition, sid


def _tell(report: RebuildReport) -> None:
    for line in lines(report.named, report.broken):
        echo(line)
    if not report.partitions:
        echo("all partitions are whole; --all rebuilds them all the same")
        return
    echo(
        f"{counted(report.events, 'event')} of {report.sessions:,} living and {report.ended:,} ended sessions in "
        f"{counted(report.partitions, 'partition')}: {report.written:,} written, {report.unchanged:,} as they were, "
        f"{report.removed:,} removed" + (f", {report.broken:,} broken" if report.broken else "")
    )
    if report.not_whole:
        echo(f"not whole: partitions {', '.join(map(str, report.not_whole))}")
