"""`syncledger migrate`."""

from __future__ import annotations

import click
from click import echo

from ops.backup.migrate import NAMED, MigrateReport
from ops.backup.migrate import migrate as migrate_objects
from ops.commands.options import json_option, objects_at, print_json, progress, run
from ops.commands.tables import counted


@click.command()
@click.option("--from", "from_url", required=True, help="Where the objects are, like file:///srv/ledger.")
@click.option("--to", "to_url", required=True, help="Where to, like s3://bucket/prefix.")
@click.option("--from-endpoint", help="S3-compatible server of --from [default: LEDGER_ARCHIVE_ENDPOINT].")
@click.option("--to-endpoint", help="S3-compatible server of --to [default: LEDGER_ARCHIVE_ENDPOINT].")
@click.option("--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("--concurrency", type=click.IntRange(1, 64), default=4, show_default=True, help="Objects at a time.")
@json_option
def migrate(
    from_url: str,
    to_url: str,
    from_endpoint: str | None,
    to_endpoint: str | None,
    dry_run: bool,
    concurrency: int,
    as_json: bool,
) -> None:
    """Copy an archive with its backups to another storage.

    Objects that are there already are not copied again; if they differ, they are named and left alone. May be stopped
    and run again. Nothing is removed except what killed runs left half written. Exits 1 if something differs.
    """
    one, other = from_url.rstrip("/"), to_url.rstrip("/")
    inside = f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")
    if inside and from_endpoint == to_endpoint:
        raise click.UsageError("--from and --to lie in each other")

    async def work() -> MigrateReport:
        source = objects_at("--from", from_url, from_endpoint, make=False)
        target = objects_at("--to", to_url, to_endpoint, make=True)
        with progress("copying") as advance:
            return await migrate_objects(
                source,
                target,
                dry_run=dry_run,
                concurrency=concurrency,
                on_progress=lambda report: advance(
                    report.looked, f"{report.copied:,} copied, {counted(report.bytes, 'byte')}"
                ),
            )

    report = run(work())
    if as_json:
        print_json(report)
    else:
        _tell(report, dry_run)
    if not report.looked:
        echo(f"there is nothing in {from_url}", err=True)
    if not report.is_complete:
        raise click.exceptions.Exit(1)


def _tell(report: MigrateReport, dry_run: bool) -> None:
    for what in report.named:
        echo(what)
    differing = report.different + report.damaged
    if differing > NAMED:
        echo(f"… and {differing - NAMED:,} more")
    parts = [
        f"{counted(report.copied, 'object')} of {counted(report.bytes, 'byte')} {'would be ' if dry_run else ''}copied"
    ]
    parts.append(f"{report.same:,} there already")
    for count, what in (
        (differing, "differ"),
        (report.gone, "were removed meanwhile"),
        (report.empty, "without content left out"),
        (report.of_log, "of the transparency log left where it is: set LEDGER_PROOF to there"),
        (report.swept, f"half written by killed runs {'would be ' if dry_run else ''}removed"),
        (report.unfinished, "half written (name#1) left, younger than an hour or not of --from"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    echo(", ".join(parts))
