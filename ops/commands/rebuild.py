"""`syncledger rebuild`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import click
from click import echo

from ledger.errors import NoSuchSession, Rebuilding
from ledger.keys import check_name
from ledger.log.sessions import Strays, find_strays
from ledger.log.store import open_store
from ops.commands.options import json_option, print_json, progress, run, session_id, settings_from, store_options
from ops.connect import Opened, opened
from ops.setting_parsers import redis_url as redis_url_of
from ops.settings import Settings
from projections.rebuild import REPORTED, Rebuild, RebuildReport, find_session, not_whole
from projections.rebuild_copy import copy_streams

Advance = Callable[[int, str], None]


def _server(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Read an option that is a server's URL."""
    try:
        return None if value is None else redis_url_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option("--session", "sid", callback=session_id, help="Only this session.")
@click.option("--user", help="Only the sessions of this user.")
@click.option("--partition", type=click.IntRange(0), help="Only this partition, whole or not.")
@click.option("--all", "everything", is_flag=True, help="Also partitions that are whole.")
@click.option(
    "--from",
    "source_url",
    envvar="LEDGER_REBUILD_FROM",
    callback=_server,
    help="Copy the events of this server here first, like redis://old:6379/0.",
)
@store_options
@json_option
def rebuild(
    sid: str | None,
    user: str | None,
    partition: int | None,
    everything: bool,
    source_url: str | None,
    data_dir: Path | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Make the projections anew from the events: of all partitions that are not whole, or of what is named.

    The service may run meanwhile; where a partition is not whole yet it answers 503, never 401. May be interrupted:
    run it again. A session with a damaged event is named and left alone, and the exit code is 1; events are never
    changed. With --from the ledger must be empty, and gets the events of the other server under the same ids.
    """
    if sum((sid is not None, user is not None, partition is not None, everything, source_url is not None)) > 1:
        raise click.UsageError("give only one of --session, --user, --partition, --all and --from")
    if user is not None:
        check_name("--user", user)
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)

    async def work() -> RebuildReport:
        async with opened(settings, begin=source_url is not None) as found:
            with progress("rebuilding", found.ledger.partitions) as advance:
                made = _rebuild(found, advance)
                if source_url is not None:
                    await _copy(found, source_url, settings, made, advance)
                elif sid is not None:
                    await made.session(await _partition_of(found, sid), sid)
                elif user is not None:
                    await made.user(found.ledger.partition_of(user), user)
                else:
                    await _partitions(found, partition, everything, made)
                return made.report

    report = run(work())
    print_json(report) if as_json else _tell(report)
    if not report.is_complete:
        raise click.exceptions.Exit(1)


def _rebuild(found: Opened, advance: Advance) -> Rebuild:
    return Rebuild(
        found.store,
        uuid4().hex,
        sealed=found.archive,
        on_progress=lambda report: advance(report.partitions, f"{report.events:,} events, {report.written:,} written"),
    )


async def _partitions(found: Opened, partition: int | None, everything: bool, made: Rebuild) -> None:
    count = found.ledger.partitions
    if partition is not None and partition >= count:
        raise click.UsageError(f"there are partitions 0 to {count - 1}")
    unfinished = await not_whole(found.store, count)
    which = [partition] if partition is not None else range(count) if everything else unfinished
    strays = await find_strays(found.store, count) if which else Strays({}, {})
    await made.partitions(which, strays)


async def _partition_of(found: Opened, sid: str) -> int:
    """Find a session by what is stored of it, or else by its events; raises NoSuchSession, Rebuilding."""
    try:
        return await found.ledger.locate(sid)
    except (NoSuchSession, Rebuilding):
        partition = await find_session(found.store, found.ledger.partitions, sid)
        if partition is None:
            raise
        return partition


async def _copy(found: Opened, url: str, settings: Settings, made: Rebuild, advance: Advance) -> None:
    source = await open_store(url, timeout_s=settings.redis_timeout_s)
    try:
        await copy_streams(
            source,
            found.store,
            found.ledger.partitions,
            made,
            on_progress=lambda copied: advance(copied.partitions, f"{copied.events:,} events copied"),
        )
    finally:
        await source.close()


def _tell(report: RebuildReport) -> None:
    for broken in report.named:
        where = f"partition {broken.partition} session {broken.session or '?'}"
        echo(f"{where}: {broken.what}" + (f" (event {broken.event})" if broken.event else ""))
    if report.broken > REPORTED:
        echo(f"… and {report.broken - REPORTED:,} more")
    if not report.partitions:
        echo("all partitions are whole; --all rebuilds them all the same")
        return
    echo(
        f"{report.events:,} events of {report.sessions:,} living and {report.ended:,} ended sessions in "
        f"{report.partitions:,} partitions: {report.written:,} written, {report.unchanged:,} as they were, "
        f"{report.removed:,} removed" + (f", {report.broken:,} broken" if report.broken else "")
    )
    if report.not_whole:
        echo(f"not whole: partitions {', '.join(map(str, report.not_whole))}")
