"""`syncledger fence`."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from ledger.decide import FENCE
from ledger.personal import plain
from ops.commands.devices.session import BY
from ops.commands.instants import FORMS, instant
from ops.commands.options import json_option, print_json, progress, run, settings_from, store_options
from ops.commands.tables import counted
from ops.opening.ledger import opened
from projections.mass_reset import MassReset, ask_to_reset, spoken_since

_EVER = 0


@click.command()
@click.option(
    "--since", "since_us", metavar="TIME", callback=instant, help=f"When the store last surely held all: {FORMS}."
)
@click.option("--all", "every", is_flag=True, help="Every device: also one that had been silent for hours before.")
@click.option("--by", default=BY, show_default=True, help="Who asks, for the devices' histories.")
@click.option("--dry-run", is_flag=True, help="Only count who would be asked.")
@store_options
@json_option
def fence(
    since_us: int | None,
    every: bool,
    by: str,
    dry_run: bool,
    data_dir: Path | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Ask all devices that may have spoken since an instant to start over: the store may have lost what they did.

    For after a power loss, or a failover to a replica that was behind, where answers came before they were on disk. Can
    be run again at any time; exits 1 if somebody could not be asked.
    """
    if (since_us is None) != every:
        raise click.UsageError("give either --since, when the store last surely held all, or --all")
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)

    async def work() -> MassReset:
        async with opened(settings) as found:
            if since_us is not None and since_us > found.ledger.clock():
                raise click.BadParameter("that instant lies in the future", param_hint="--since")
            report = MassReset()
            who = spoken_since(found.ledger, _EVER if since_us is None else since_us, report)
            with progress("looking at sessions" if dry_run else "asking sessions") as advance:
                return await ask_to_reset(
                    found.ledger,
                    who,
                    cause=FENCE,
                    by=plain(by),
                    dry_run=dry_run,
                    report=report,
                    on_progress=lambda so_far: advance(so_far.sessions, f"{so_far.asked:,} asked"),
                )

    report = run(work())
    if as_json:
        print_json(report)
    else:
        _tell(report, dry_run=dry_run)
    if report.failed:
        raise click.exceptions.Exit(1)


def _tell(report: MassReset, *, dry_run: bool) -> None:
    for each in report.not_asked:
        echo(f"partition {each.partition} {each.session} {each.what}".replace("  ", " "), err=True)
    if report.failed > len(report.not_asked):
        echo(f"… and {report.failed - len(report.not_asked):,} more", err=True)
    asked = "would be asked" if dry_run else "are asked"
    echo(
        f"{counted(report.sessions, 'session')} may have spoken: {report.asked:,} {asked} to start over "
        f"with their next sync, {report.before:,} were asked before, {report.ended:,} ended meanwhile"
        + (f"; {report.failed:,} could not be asked" if report.failed else "")
    )
