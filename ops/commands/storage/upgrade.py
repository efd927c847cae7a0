"""`syncledger upgrade`."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from ledger.log.formats import FORMAT, Formats, Runs
from ops.commands.options import json_option, print_json, run, settings_from, store_options
from ops.commands.tables import columns
from ops.opening.ledger import opened

_WIDEST = 100


@click.command()
@click.option("--finish", is_flag=True, help="Write the newest format from now on, if no older version runs.")
@click.option("--whoever-runs", is_flag=True, help="With --finish: also if older versions run; they fail from then on.")
@store_options
@json_option
def upgrade(finish: bool, whoever_runs: bool, data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """Show which versions run on a ledger, and in which format it is written.

    Two versions may run side by side. Once no older version runs, services write the new format by themselves, within
    minutes; --finish has them do so now. Older versions refuse the ledger from then on.
    """
    if whoever_runs and not finish:
        raise click.UsageError("--whoever-runs goes with --finish")

    async def work() -> tuple[Formats, list[Runs], list[Runs]]:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            formats = found.formats
            older = await formats.finish(found.ledger.clock(), whoever_runs=whoever_runs) if finish else []
            return formats, await formats.running(found.ledger.clock()), older

    formats, runs, older = run(work())
    if as_json:
        who = [{"name": each.name, "version": each.version, "newestFormat": each.newest} for each in runs]
        print_json({"format": formats.current, "newestFormat": FORMAT, "running": who})
    else:
        is_newest = "the newest" if formats.current == FORMAT else f"this version knows {FORMAT}"
        echo(f"the ledger is written in format {formats.current}, {is_newest}")
        for line in columns([(each.name, each.version, f"up to format {each.newest}") for each in runs], _WIDEST):
            echo(line)
    if older and not whoever_runs:
        raise click.ClickException(
            f"{len(older)} processes of older versions run, like {older[0].version}: end them; where they were killed, "
            "try again in five minutes"
        )
