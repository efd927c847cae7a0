"""`syncledger archive`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from click import echo

from ledger.clocks.passed import note_time
from ops.archive.job import archive as archive_ledger
from ops.archive.job import preview
from ops.archive.options import SEGMENT_EVENTS, ArchiveOptions
from ops.archive.report import ArchiveReport
from ops.commands.options import json_option, print_json, progress, run, settings_from, store_options
from ops.commands.tables import counted
from ops.figures.runs import noted, opened_to_run
from ops.opening.ledger import opened
from ops.opening.proof import log_of
from ops.settings.durations import parse_duration
from projections.checking.findings import lines
from projections.transparency.job import logged_by
from projections.transparency.noted import read_noted


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Read an option that is a duration."""
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option(
    "--hot",
    "hot_s",
    metavar="TIME",
    callback=_duration,
    default="30d",
    show_default=True,
    help="Events younger than this stay in the store.",
)
@click.option(
    "--max-events",
    "hot_events",
    type=click.IntRange(0),
    help="At most so many events of a partition stay in the store.",
)
@click.option(
    "--retention",
    "retention_s",
    metavar="TIME",
    callback=_duration,
    help="Remove older ones, like 400d [default: LEDGER_RETENTION, or never].",
)
@click.option(
    "--segment-events",
    type=click.IntRange(1, 10_000_000),
    default=SEGMENT_EVENTS,
    show_default=True,
    help="Events in a segment, at most.",
)
@click.option("--partition", type=click.IntRange(0), help="Only this one.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sealed.")
@store_options
@json_option
def archive(
    hot_s: float,
    hot_events: int | None,
    retention_s: float | None,
    segment_events: int,
    partition: int | None,
    dry_run: bool,
    data_dir: Path | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Move old events to object storage (LEDGER_ARCHIVE: file:///…, s3://bucket/prefix, gs://…, az://…).

    They are read back before they leave the store, and stay in every history. The ledger may be in use meanwhile, and
    other archivers may run. A session whose events contradict themselves is sealed as it is, and named; an entry that
    is not an event is set aside. Exits 1 in these cases, and if a partition could not be archived.
    """
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    if retention_s is None:
        retention_s = settings.retention_s
    place = settings.archive
    if place is None:
        raise click.UsageError("there is no archive: set LEDGER_ARCHIVE, like file:///srv/ledger or s3://bucket/ledger")
    base = ArchiveOptions(hot_s=hot_s, hot_events=hot_events, retention_s=retention_s, segment_events=segment_events)

    async def work() -> ArchiveReport:
        async with opened(settings) if dry_run else opened_to_run(settings, "archive") as found:
            if partition is not None and partition >= found.ledger.partitions:
                raise click.UsageError(f"this ledger has {found.ledger.partitions} partitions, numbered from 0")
            has_log = (await read_noted(found.store)).origin
            log = await log_of(found, settings) if has_log else None
            options = msgspec.structs.replace(base, logged=await logged_by(found.store, log))
            partitions = range(found.ledger.partitions) if partition is None else [partition]
            clock_us = found.ledger.clock()
            if retention_s is not None:  # nothing is removed because a clock jumped
                retention_us = int(retention_s * 1_000_000)
                clock_us = (await note_time(found.store, clock_us)).before(retention_us) + retention_us
            with progress("archiving partitions", len(partitions)) as advance:

                def on_progress(report: ArchiveReport) -> None:
                    advance(report.partitions, f"{counted(report.read, 'event')}")

                if dry_run:
                    return await preview(found.store, partitions, options, clock_us, on_progress=on_progress)
                async with noted(found.store, "archive") as this:
                    if found.archive is not None:
                        await found.check_archive()
                    report = await archive_ledger(
                        found.store, place.open(), partitions, options, clock_us, on_progress=on_progress
                    )
                    this.ok = not report.failures and not report.broken
                    return report

    report = run(work())
    if as_json:
        print_json(report)
    else:
        for failure in report.failures:
            echo(f"partition {failure.partition}: {failure.what}", err=True)
        for line in lines(report.named, report.broken):
            echo(line, err=True)
        echo(_summary(report, dry_run))
    if report.failures or report.broken:
        raise click.exceptions.Exit(1)


def _summary(report: ArchiveReport, dry_run: bool) -> str:
    if dry_run:
        events, segments = counted(report.events, "event"), counted(report.segments, "segment")
        held = counted(report.held_up, "partition") + " held up by the transparency log, which is behind"
        told = f"{events} of {counted(report.partitions, 'partition')} would go to {segments}"
        return f"{told}; {held}" if report.held_up else told
    parts = [
        f"{counted(report.events, 'event')} sealed in {counted(report.segments, 'segment')} of {report.bytes:,} bytes",
        f"{counted(report.trimmed, 'event')} trimmed",
    ]
    for count, one, many, what in (
        (report.adopted, "segment", "segments", "of an earlier run adopted"),
        (report.swept, "stray segment", "stray segments", "removed"),
        (report.removed, "segment", "segments", "removed by retention"),
        (report.busy, "partition", "partitions", "left to another archiver"),
        (report.broken - report.aside, "session", "sessions", "with contradicting events sealed"),
        (
            report.held_up,
            "partition",
            "partitions",
            "held up by the transparency log, which is behind (syncledger notarize)",
        ),
        (report.aside, "foreign stream entry", "foreign stream entries", "set aside"),
        (len(report.failures), "partition", "partitions", "failed"),
    ):
        if count:
            parts.append(f"{counted(count, one, many)} {what}")
    return ", ".join(parts)
