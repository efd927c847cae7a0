"""`syncledger session find`: from what somebody knows of a phone to its session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from click import echo

from ledger.errors import NoSuchSession
from ledger.keys import check_name
from ops.commands.options import json_option, print_json, progress, run, settings_from, store_options
from ops.commands.tables import columns, plain
from ops.opening.ledger import Opened, opened
from projections.finding.people import user_of_email
from projections.finding.prefixes import PREFIX, Place, by_prefix
from projections.finding.summaries import SHOWN, SessionFound, all_of, summaries

WHO = "syncledger user list tells who has"
limit_option = click.option(
    "--limit", type=click.IntRange(1), default=SHOWN, show_default=True, metavar="N", help="At most so many."
)


@click.command()
@click.argument("what", metavar="PREFIX|EMAIL|USER")
@limit_option
@store_options
@json_option
def find(what: str, limit: int, data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """Find sessions, living and ended: by the start of their id, their user, or the user's e-mail address.

    Exits with 1 if there is none.
    """

    async def work() -> tuple[int, list[SessionFound]]:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            with progress("looking for sessions"):
                places = await _places(found, what)
                return len(places), await summaries(found.ledger, found.past, places[:limit])

    count, told = run(work())
    print_found(told, count, as_json)


def list_all(user: str, limit: int, data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """List the living and the ended sessions of a user; raises NoSuchSession where there never was one."""

    async def work() -> tuple[int, list[SessionFound]]:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            with progress("looking for sessions"):
                places = await all_of(found.ledger, user, ended=True)
                return len(places), await summaries(found.ledger, found.past, places[:limit])

    count, told = run(work())
    if not count and not as_json:
        raise NoSuchSession(f"{user} has no session here, living or ended: {WHO}")
    print_found(told, count, as_json)
    if any(one.damaged for one in told):
        raise click.exceptions.Exit(1)


async def _places(found: Opened, what: str) -> list[Place]:
    """Look for what it may be, in this order; raises NoSuchSession that tells where was looked."""
    looked = []
    if "@" in what:
        user = await user_of_email(found.store, what)
        if user is not None and (places := await all_of(found.ledger, user, ended=True)):
            return places
        whose = f"the user of this e-mail address, {plain(user)}, has no session any more" if user else ""
        looked.append(whose or "nobody signed in with this e-mail address")
    places = await all_of(found.ledger, check_name("USER", what), ended=True)
    if not places:
        looked.append("no user of this id has a session")
        if PREFIX.fullmatch(what):
            places = await by_prefix(found.ledger, what)
            looked.append("no session's id begins like this")
    if not places:
        raise NoSuchSession(f"Nothing found for {plain(what)!r}: {', and '.join(looked)}")
    return places


def print_found(told: Sequence[SessionFound], count: int, as_json: bool) -> None:
    """Print sessions, living and ended, of which there are `count`."""
    if as_json:
        print_json(told)
    else:
        header = ("user", "device", "system", "app", "signed in", "last seen", "now")
        lines = columns([header, *map(_row, told)], 16)
        echo(next(lines))
        for line, one in zip(lines, told, strict=True):
            echo(line)
            echo(f"  {one.id}")
            if one.damaged:
                echo(f"  damaged: {one.damaged}; run syncledger rebuild --session {one.id}")
    if len(told) < count:
        echo(f"{count - len(told):,} more: --limit shows them", err=True)


def _row(one: SessionFound) -> tuple[str, ...]:
    now = "lives" if one.lives else one.end_reason or "ended"
    device = (text or "-" for text in (one.device_type, one.device_os, one.app_version))
    times = (f"{at[:10]} {at[11:16]}" if at else "-" for at in (one.created_at, one.last_seen_at))
    return (one.user or "-", *device, *times, now)
