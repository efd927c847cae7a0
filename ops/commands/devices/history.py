"""`syncledger history`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol, cast

import click
import msgspec
from click import echo

from ledger.entity_types import ENTITY_TYPES
from ledger.errors import CorruptLedger, NoSuchSession
from ledger.keys import check_name
from ledger.log.reader import ANY_SEQ, PAGE
from ledger.session_ids import short_id
from ops.commands.devices.finding import WHO
from ops.commands.devices.following import BEFORE, Page, Pages, follow
from ops.commands.devices.proof_file import write_proof
from ops.commands.instants import FORMS, instant, instant_until
from ops.commands.options import json_option, print_json, progress, run, session_id, settings_from, store_options
from ops.commands.tables import counted
from ops.opening.ledger import Opened, opened
from projections.archive.errors import ArchiveNotGiven
from projections.finding.prefixes import resolved
from projections.history import session_history as histories
from projections.history.session_history import TAGS, HistoryEvent, Wanted, owner
from projections.history.user_history import UserPage, sessions_of, user_pages


class _Page(Page, Protocol):
    @property
    def below_floor(self) -> bool: ...
    @property
    def looked_at(self) -> int: ...


@click.command()
@click.argument("session", callback=session_id, required=False)
@click.option("--since", "--from", "since_us", metavar="TIME", callback=instant, help=f"Not before this: {FORMS}.")
@click.option("--until", "--to", "until_us", metavar="TIME", callback=instant_until, help="Not after this time or day.")
@click.option("--event", "tag", type=click.Choice(TAGS), metavar="TAG", help=f"Only these: {', '.join(TAGS)}.")
@click.option(
    "--entity", "entity_type", type=click.Choice(ENTITY_TYPES), metavar="TYPE", help="Only about this, like AssetV2."
)
@click.option("--user", metavar="USER", help="All sessions of this user; with SESSION it saves asking every partition.")
@click.option("--forward", is_flag=True, help="Oldest first.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="At most so many events [default: all].")
@click.option(
    "--proof",
    "proof_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write what proves it into this file instead.",
)
@click.option(
    "--follow", "follows", is_flag=True, help=f"The newest {BEFORE} events, or --limit, then those that come."
)
@store_options
@json_option
def history(
    session: str | None,
    since_us: int | None,
    until_us: int | None,
    tag: str | None,
    entity_type: str | None,
    user: str | None,
    forward: bool,
    limit: int | None,
    proof_file: Path | None,
    follows: bool,
    data_dir: Path | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Show what happened to a session, living or ended, or to all of a user's, newest first.

    The first digits of a session's id are enough. --json prints an event a line. --proof writes a file with all that is
    logged by now, which anybody with the log's key can check without this service (syncledger proof verify).
    """
    if session is None and user is None:
        raise click.UsageError("name a SESSION, or a user with --user; syncledger session find looks for one")
    if follows and (forward or until_us is not None):
        raise click.UsageError("--follow goes on with what comes: leave --forward and --until out")
    if user is not None:
        check_name("--user", user)
    if proof_file is not None:
        if session is None or any((since_us, until_us, tag, entity_type, limit, follows, as_json)):
            raise click.UsageError("--proof is of a SESSION, and of all of it: leave the other options out")
        run(write_proof(settings_from(data_dir=data_dir, redis_url=redis_url), session, user, proof_file))
        return
    wanted = Wanted(since_us or 0, ANY_SEQ if until_us is None else until_us, tag, entity_type)

    async def work() -> None:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            if found.archive is not None:
                await found.check_archive()
            pages = await _pages(found, session, user)
            of_user = session is None

            def show(event: HistoryEvent) -> None:
                print_json(event) if as_json else _print(event, of_user)

            if follows:
                await follow(pages, wanted, BEFORE if limit is None else limit, show)
            if await _show(pages(wanted, forward, PAGE), show, limit) and found.archive is None:
                raise ArchiveNotGiven("older events are in the archive: set LEDGER_ARCHIVE")

    run(work())


async def _pages(found: Opened, session: str | None, user: str | None) -> Pages:
    """Say how to read the history of a session or a user; raises NoSuchSession where there is none of that name."""
    ledger, past = found.ledger, found.past
    if session is None:
        assert user is not None
        partition, key = ledger.partition_of(user), await ledger.sealing.key_of(user)
        if not await sessions_of(found.store, partition, user):
            raise NoSuchSession(f"{user} has no session here, living or ended: {WHO}")
        return lambda wanted, forward, size: user_pages(
            past, partition, user, wanted, size=size, forward=forward, key=key
        )
    partition, sid = await resolved(ledger, session, user)
    key = await ledger.sealing.key_of(await owner(ledger, partition, sid))
    return lambda wanted, forward, size: histories.pages(
        past, partition, sid, wanted, size=size, forward=forward, key=key
    )


async def _show(found: AsyncIterator[Page], show: Callable[[HistoryEvent], None], limit: int | None) -> bool:
    """Print the pages, and tell whether older events are not here.

    Where the lines do not show that it goes on, a bar does.
    """
    looked_at, shown, archived, broken = 0, 0, False, dict[str, str]()
    with nullcontext(lambda done, note: None) if sys.stdout.isatty() else progress("reading events") as advance:
        async for page in cast("AsyncIterator[_Page]", found):
            looked_at += page.looked_at
            archived |= page.below_floor
            broken = page.broken if isinstance(page, UserPage) else {}
            for event in page.events[: None if limit is None else limit - shown]:
                show(event)
                shown += 1
            if shown == limit:
                return False
            advance(looked_at, "")
    for sid, what in broken.items():
        echo(f"session {sid}: {what}", err=True)
    if broken:
        raise CorruptLedger(f"of {counted(len(broken), 'session')} older or newer events cannot be told")
    if not shown:
        echo("there are no such events", err=True)
    if archived:
        echo("older events are not here: they were removed by retention, or are in an archive", err=True)
    return archived


def _print(event: HistoryEvent, of_user: bool) -> None:
    whose = f"{short_id(event.session)}  " if of_user else ""
    echo(f"{whose}{event.seq:>6}  {event.at}  {event.event:<20}  {msgspec.json.encode(event.data).decode()}")
