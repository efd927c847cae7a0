"""`syncledger proof prune`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import msgspec
from click import echo

from ops.commands.options import json_option, print_json, progress, run, settings_from
from ops.commands.tables import counted
from ops.opening.proof import open_place
from ops.settings.durations import parse_duration
from projections.transparency.pruning import PruneReport
from projections.transparency.pruning import prune as prune_log


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option(
    "--older-than",
    "older_s",
    metavar="TIME",
    callback=_duration,
    help="Entries that were signed longer ago than this, like 3y or 400d [default: LEDGER_PROOF_RETENTION].",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the log, where it is in that.")
@json_option
def prune(older_s: float | None, dry_run: bool, yes: bool, data_dir: Path | None, as_json: bool) -> None:
    """Remove old entries of the log for good, as C2SP tlog-tiles has it: the tree stays, and so does what was proved.

    Removed entries can neither be shown to auditors nor compared with the store, so keep them for at least as long as
    events. May be interrupted and run again.
    """
    settings = settings_from(data_dir=data_dir)
    place = open_place(settings)
    if older_s is None:
        older_s = settings.proof.retention_s
    if place is None or older_s is None:
        what = "--older-than, or LEDGER_PROOF_RETENTION" if place is not None else "LEDGER_PROOF, where the log is"
        raise click.UsageError(f"give {what}")
    if not (yes or dry_run):
        if not sys.stdin.isatty():
            raise click.UsageError("nobody is there to ask: add --yes")
        click.confirm(f"Remove entries of the log in {place.shown} for good?", abort=True)

    async def work() -> PruneReport:
        assert place is not None
        assert older_s is not None
        with progress("removing entries") as advance:
            return await prune_log(
                place,
                time.time() - older_s,
                dry_run=dry_run,
                on_progress=lambda so_far: advance(so_far.objects, f"{so_far.objects:,} objects"),
            )

    report = run(work())
    if as_json:
        print_json(msgspec.to_builtins(report))
        return
    would = "would be removed" if dry_run else "removed"
    told = f"{counted(report.entries, 'entry', 'entries')} {would}; the log is kept from entry {report.minimum:,} on"
    echo(told + ("" if dry_run else f" ({counted(report.objects, 'object')} removed)"))
