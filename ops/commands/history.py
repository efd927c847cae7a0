"""`syncledger history`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from click import echo

from ledger.entity_types import ENTITY_TYPES
from ledger.log.reader import ANY_SEQ
from ledger.positions import us_from_iso
from ops.commands.options import json_option, print_json, run, session_id, settings_from, store_options
from ops.connect import opened
from projections.history import TAGS, HistoryEvent, Wanted, pages


def _instant(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read an option that is an instant."""
    try:
        return None if value is None else us_from_iso(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("session", callback=session_id)
@click.option("--from", "since_us", callback=_instant, help="Not before this time, like 2025-01-20T10:00:00Z.")
@click.option("--to", "until_us", callback=_instant, help="Not after this time.")
@click.option("--event", "tag", type=click.Choice(TAGS), metavar="TAG", help=f"Only these: {', '.join(TAGS)}.")
@click.option(
    "--entity", "entity_type", type=click.Choice(ENTITY_TYPES), metavar="TYPE", help="Only about this, like AssetV2."
)
@click.option("--user", help="The session's user, where known: saves asking every partition.")
@store_options
@json_option
def history(
    session: str,
    since_us: int | None,
    until_us: int | None,
    tag: str | None,
    entity_type: str | None,
    user: str | None,
    data_dir: Path | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Show what happened to a session, living or ended, newest first; --json prints an event a line."""
    wanted = Wanted(since_us or 0, ANY_SEQ if until_us is None else until_us, tag, entity_type)

    async def work() -> None:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            ledger = found.ledger
            partition = ledger.partition_of(user) if user else await ledger.locate(session)
            async for page in pages(ledger, partition, session, wanted):
                for event in page.events:
                    print_json(event) if as_json else _print(event)
                if page.below_floor:
                    echo("older events are in the archive only", err=True)

    run(work())


def _print(event: HistoryEvent) -> None:
    echo(f"{event.seq:>6}  {event.at}  {event.event:<20}  {msgspec.json.encode(event.data).decode()}")
