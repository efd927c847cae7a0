"""`syncledger fence`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from click import echo

from ledger.decide import FENCE
from ledger.personal import plain
from ops.commands.devices.creating import BY
from ops.commands.instants import FORMS, instant
from ops.commands.options import json_option, print_json, progress, run, settings_from, store_options
from ops.commands.tables import counted
from ops.opening.ledger import Opened, opened
from ops.opening.proof import log_of
from ops.settings.settings import Settings
from projections.mass_reset import MassReset, ask_to_reset, spoken_since
from projections.transparency.going_on import GoneOn, go_on
from projections.transparency.job import origin_of
from projections.transparency.noted import read_noted

_EVER = 0


@click.command()
@click.option(
    "--since", "since_us", metavar="TIME", callback=instant, help=f"When the store last surely held all: {FORMS}."
)
@click.option("--all", "every", is_flag=True, help="Every device, also those that were silent for hours before.")
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

    For use after a power loss or a failover, if the store answered before its data was on disk or on the replica. With
    a transparency log (LEDGER_PROOF), all sessions are first compared with it: one of which it knows more goes on
    behind what was lost, and one that had ended is ended again. May be run again at any time; exits 1 if a device could
    not be asked.
    """
    if (since_us is None) != every:
        raise click.UsageError("give either --since, when the store last surely held all, or --all")
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)

    async def work() -> tuple[GoneOn | None, MassReset]:
        async with opened(settings) as found:
            if since_us is not None and since_us > found.ledger.clock():
                raise click.BadParameter("that instant lies in the future", param_hint="--since")
            logged = await _behind_the_log(found, settings, dry_run=dry_run)
            report = MassReset()
            who = spoken_since(found.ledger, _EVER if since_us is None else since_us, report)
            with progress("looking at sessions" if dry_run else "asking sessions") as advance:
                return logged, await ask_to_reset(
                    found.ledger,
                    who,
                    cause=FENCE,
                    by=plain(by),
                    dry_run=dry_run,
                    report=report,
                    on_progress=lambda so_far: advance(so_far.sessions, f"{so_far.asked:,} asked"),
                )

    logged, report = run(work())
    if as_json:
        print_json({**msgspec.to_builtins(report), "logged": logged})
    else:
        if logged is not None:
            _tell_logged(logged, dry_run=dry_run)
        _tell(report, dry_run=dry_run)
    if report.failed or (logged is not None and logged.failed):
        raise click.exceptions.Exit(1)


async def _behind_the_log(found: Opened, settings: Settings, *, dry_run: bool) -> GoneOn | None:
    """Make good what the log knows; None where there is none, or it is not at hand, which is said."""
    of, noted = await log_of(found, settings), await read_noted(found.store)
    identity = None if of is None else await of.place.identity()
    if of is None or identity is None:
        if noted.origin:
            echo(
                f"not compared with log {noted.origin} in {noted.place}, which may know what was lost: set "
                "LEDGER_PROOF as it is set where the service runs",
                err=True,
            )
        return None
    verifiers = [key.public for key in of.keys(await origin_of(of, identity.origin), False)]
    with progress("comparing with the log") as advance:
        return await go_on(
            found.ledger,
            of.place,
            identity.origin,
            verifiers,
            dry_run=dry_run,
            on_progress=lambda so_far: advance(so_far.sessions, f"{so_far.lost:,} lost something"),
        )


def _tell_logged(report: GoneOn, *, dry_run: bool) -> None:
    for each in report.not_asked:
        echo(f"partition {each.partition} {each.session} {each.what}".replace("  ", " "), err=True)
    would = "would go" if dry_run else "go"
    echo(
        f"{counted(report.sessions, 'session')} compared with the log: of {report.lost:,} the store had lost what is "
        f"logged; {report.lost - report.ended:,} {would} on behind that, {report.ended:,} had ended"
        + (" and would end again" if dry_run else " and are ended again")
        + (f"; {report.failed:,} could not be made good" if report.failed else "")
    )


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
