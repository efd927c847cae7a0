"""`syncledger verify`."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from ops.commands.options import json_option, print_json, progress, run, settings_from, store_options
from ops.connect import opened
from projections.verify import REPORTED, Report
from projections.verify import verify as verify_ledger


@click.command()
@store_options
@json_option
def verify(data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """Check every chain and every projection against the events; exits 1 if anything differs.

    The ledger may be in use meanwhile. Nothing is written.
    """

    async def work() -> Report:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            with progress("verifying partitions", found.ledger.partitions) as advance:
                return await verify_ledger(
                    found.store,
                    found.ledger.partitions,
                    on_progress=lambda report: advance(report.partitions, f"{report.events:,} events"),
                )

    report = run(work())
    if as_json:
        print_json(report)
    else:
        for difference in report.differences:
            where = f"partition {difference.partition} session {difference.session or '?'}"
            echo(f"{where}: {difference.what}" + (f" (event {difference.event})" if difference.event else ""))
        if report.different > REPORTED:
            echo(f"… and {report.different - REPORTED:,} more")
        echo(
            f"{report.events:,} events of {report.sessions:,} living and {report.ended:,} ended sessions in "
            f"{report.partitions} partitions: " + (f"{report.different:,} differ" if report.different else "all agree")
        )
    if report.different:
        raise click.exceptions.Exit(1)
