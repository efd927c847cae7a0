"""`syncledger history`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import click
import msgspec
from click import echo

from ledger.entity_types import ENTITY_TYPES
from ledger.errors import CorruptLedger
from ledger.keys import check_name
from ledger.log.reader import ANY_SEQ
from ops.commands.devices.proof_file import write_proof
from ops.commands.instants import instant
from ops.commands.options import json_option, print_json, progress, run, session_id, settings_from, store_options
from ops.opening.ledger import Opened, opened
from projections.archive.errors import ArchiveNotGiven
from projections.history import session_history as histories
from projections.history.session_history import TAGS, HistoryEvent, Wanted, owner
from projections.history.user_history import UserPage, user_pages

_SID_CHARS = 12


class _Page(Protocol):
    @property
    def events(self) -> Sequence[HistoryEvent]: ...
    @property
    def below_floor(self) -> bool: ...
    @property
    def looked_at(self) -> int: ...


@click.command()
@click.argument("session", callback=session_id, required=False)
@click.option("--from", "since_us", callback=instant, help="Not before this time, like 2025-01-20T10:00:00Z.")
@click.option("--to", "until_us", callback=instant, help="Not after this time.")
@click.option("--event", "tag", type=click.Choice(TAGS), metavar="TAG", help=f"Only these: {', '.join(TAGS)}.")
@click.option(
    "--entity", "entity_type", type=click.Choice(ENTITY_TYPES), metavar="TYPE", help="Only about this, like AssetV2."
)
@click.option("--user", help="All sessions of this user; with SESSION it saves asking every partition.")
@click.option("--forward", is_flag=True, help="Oldest first.")
@click.option(
    "--proof",
    "proof_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what proves it into this file instead.",
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
    proof_file: Path | None,
    data_dir: Path | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Show what happened to a session, living or ended, or to all of a user's, newest first.

    --json prints an event a line. --proof writes a file that whoever has the log's key can check without this service
    (syncledger proof verify), of all that is logged by now.
    """
    if session is None and user is None:
        raise click.UsageError("name a SESSION, or a user with --user")
    if user is not None:
        check_name("USER", user)
    if proof_file is not None:
        if session is None or any((since_us, until_us, tag, entity_type, as_json)):
            raise click.UsageError("--proof is of a SESSION, and of all of it: leave the other options out")
        run(write_proof(settings_from(data_dir=data_dir, redis_url=redis_url), session, user, proof_file))
        return
    wanted = Wanted(since_us or 0, ANY_SEQ if until_us is None else until_us, tag, entity_type)

    async def work() -> None:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            if found.archive is not None:
                await found.check_archive()
            pages = await _pages(found, session, user, wanted, forward)
            if await _show(pages, as_json, session is None) and found.archive is None:
                raise ArchiveNotGiven("older events are in the archive: set LEDGER_ARCHIVE")

    run(work())


async def _pages(
    found: Opened, session: str | None, user: str | None, wanted: Wanted, forward: bool
) -> AsyncIterator[_Page]:
    ledger, past = found.ledger, found.past
    if session is None:
        assert user is not None
        key = await ledger.key_of(user)
        return user_pages(past, ledger.partition_of(user), user, wanted, forward=forward, key=key)
    partition = ledger.partition_of(user) if user else await ledger.locate(session)
    key = await ledger.key_of(await owner(ledger, partition, session))
    return histories.pages(past, partition, session, wanted, forward=forward, key=key)


async def _show(found: AsyncIterator[_Page], as_json: bool, of_user: bool) -> bool:
    """Print the pages, and tell whether older events are not here.

    Where the lines do not show that it goes on, a bar does.
    """
    looked_at, shown, archived, broken = 0, 0, False, dict[str, str]()
    with nullcontext(lambda done, note: None) if sys.stdout.isatty() else progress("reading events") as advance:
        async for page in found:
            looked_at += page.looked_at
            shown += len(page.events)
            archived |= page.below_floor
            broken = page.broken if isinstance(page, UserPage) else {}
            for event in page.events:
                print_json(event) if as_json else _print(event, of_user)
            advance(looked_at, "")
    for sid, what in broken.items():
        echo(f"session {sid}: {what}", err=True)
    if broken:
        raise CorruptLedger(f"of {len(broken):,} sessions older or newer events cannot be told")
    if not shown:
        echo("there are no such events", err=True)
    if archived:
        echo("older events are not here: they were removed by retention, or are in an archive", err=True)
    return archived


def _print(event: HistoryEvent, of_user: bool) -> None:
    whose = f"{event.session[:_SID_CHARS]}  " if of_user else ""
    echo(f"{whose}{event.seq:>6}  {event.at}  {event.event:<20}  {msgspec.json.encode(event.data).decode()}")
