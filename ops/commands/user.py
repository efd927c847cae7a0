"""`syncledger user`: who users are."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from ledger.commands import EndSession
from ledger.keys import check_name
from ops.commands.options import json_option, print_json, run, settings_from, store_options
from ops.commands.session import BY, end_all
from ops.commands.tables import plain
from ops.connect import opened
from projections.identities import Profile

_NOBODY = "nobody of this id signed in with an identity, and no session of theirs lives"


@click.group()
def user() -> None:
    """Who users are."""


@user.command()
@click.argument("user")
@store_options
@json_option
def show(user: str, data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """Show what is known of a user: name, address, library, and how many sessions live."""
    check_name("USER", user)

    async def work() -> tuple[Profile | None, int]:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            return await found.identities.profile(user), len(await found.ledger.devices(user))

    profile, sessions = run(work())
    if profile is None and not sessions:
        raise click.ClickException(_NOBODY)
    if as_json:
        known = {} if profile is None else {name: getattr(profile, name) for name in _SHOWN}
        print_json({"user": user, "sessions": sessions, **known})
        return
    lines = [("user", user)]
    if profile is not None:
        role = "administrator" if profile.admin else "user"
        lines += [("name", profile.name), ("e-mail", profile.email), ("library", profile.library), ("role", role)]
    lines.append(("sessions", f"{sessions:,}"))
    for name, value in lines:
        echo(f"{name:<10}{plain(value)}")


@user.command()
@click.argument("user")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
def erase(user: str, yes: bool, data_dir: Path | None, redis_url: str | None) -> None:
    """End all sessions of a user and remove name, e-mail address and identities.

    What their devices did stays in the history, under the id alone. Of a library only the user's own row changes, if it
    had its names from here.
    """
    check_name("USER", user)
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    if not yes and not click.confirm(f"End all sessions of {user} and erase who they are?", err=True):
        raise click.ClickException("nothing was changed")

    async def work() -> tuple[int, bool]:
        async with opened(settings) as found:
            command = EndSession("erased", by=BY)
            ended = await end_all(found, user, command)
            erased = await found.identities.erase(user)
            for library in await found.catalog.libraries():
                await found.catalog.renamed(library, user)  # other devices there had the name
            return ended + await end_all(found, user, command), erased  # who signed in between the two

    ended, erased = run(work())
    if not (ended or erased):
        raise click.ClickException(_NOBODY)
    echo(f"{ended:,} sessions ended, " + ("identity erased" if erased else "there was no identity"))


_SHOWN = ("name", "email", "library", "admin")
