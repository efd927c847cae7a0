"""`syncledger expire`."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from ops.commands.options import json_option, print_json, progress, run, settings_from, store_options
from ops.commands.tables import counted
from ops.opening.identity_provider import elsewhere
from ops.opening.ledger import opened
from projections.expiry import ExpiryReport
from projections.expiry import expire as expire_sessions


@click.command()
@store_options
@json_option
def expire(data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """End idle (LEDGER_IDLE) and expired sessions, purge the catalog's delete markers older than LEDGER_TOMBSTONES.

    A running service does this by itself, every LEDGER_EXPIRE_INTERVAL. Damaged sessions are named and passed over, and
    the exit code is then 1.
    """
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)

    async def work() -> ExpiryReport:
        async with opened(settings) as found:
            with progress("looking at sessions") as advance:
                return await expire_sessions(
                    found.ledger,
                    found.catalog if settings.source == "catalog" else None,
                    idle_us=int(settings.idle_s * 1_000_000),
                    tombstones_us=int(settings.tombstones_s * 1_000_000),
                    elsewhere=elsewhere(settings),
                    on_progress=lambda report: advance(report.sessions, f"{report.idle + report.expired:,} ended"),
                )

    report = run(work())
    if as_json:
        print_json(report)
    else:
        echo(
            f"{counted(report.sessions, 'session')}: {report.idle:,} idle and {report.expired:,} expired ones ended; "
            f"{report.delete_markers:,} delete markers purged"
        )
        if report.partitions_not_whole:
            echo(f"{counted(report.partitions_not_whole, 'partition')} not whole: run syncledger rebuild", err=True)
        for one in report.passed_over:
            echo(f"{one.what} {one.name} was passed over: {one.why}", err=True)
        if report.failed > len(report.passed_over):
            echo(f"… and {report.failed - len(report.passed_over):,} more", err=True)
    if report.failed:
        raise click.exceptions.Exit(1)
