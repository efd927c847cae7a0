"""`syncledger set-aside`."""

from __future__ import annotations

import re
from pathlib import Path

import click
from click import echo

from ops.commands.options import by_option, run, settings_from, store_options
from ops.opening.ledger import now_us, opened
from projections.checking.aside import MAX_WHY_CHARS, Aside, CannotSetAside, Decision, find_entry
from projections.checking.aside import set_aside as set_entry_aside


def _entry_id(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Read an argument that is a stream id."""
    if not re.fullmatch(r"\d{1,20}-\d{1,20}", value, re.ASCII):
        raise click.BadParameter("a stream id is like 1764500000000-0, as verify names it")
    return value


@click.command()
@click.argument("partition", type=click.IntRange(0))
@click.argument("entry", callback=_entry_id)
@click.option("--why", required=True, help="What is known of it, to be kept.")
@by_option
@store_options
def set_aside(partition: int, entry: str, why: str, by: str, data_dir: Path | None, redis_url: str | None) -> None:
    """Take a stream entry that is not an event out of a partition's stream, and keep it.

    PARTITION and ENTRY are as verify names them. The entry is kept with its bytes, the reason and who decided; verify
    names it from then on. An event that can be read is refused. If it was a session's last event, that session stays
    broken.
    """
    if not 1 <= len(why.strip()) <= MAX_WHY_CHARS:
        raise click.UsageError(f"--why takes 1 to {MAX_WHY_CHARS} characters")

    async def work() -> Aside:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            if partition >= found.ledger.partitions:
                raise click.UsageError(f"there are partitions 0 to {found.ledger.partitions - 1}")
            try:
                row = await find_entry(found.store, partition, entry)
                return await set_entry_aside(found.store, partition, row, Decision(why.strip(), by, now_us()))
            except CannotSetAside as error:
                raise click.UsageError(str(error)) from error

    aside = run(work())
    echo(f"set aside: {aside.what}; syncledger rebuild --partition {partition} writes what the other events say")
