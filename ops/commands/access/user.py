"""`syncledger user`: who users are."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import click
from click import echo

from ledger import personal
from ledger.errors import CorruptLedger, StoreReplyError
from ledger.events import IMMICH
from ledger.keys import MAX_NAME_BYTES, check_name
from ops.commands.devices.creating import BY
from ops.commands.options import Listed, json_option, print_json, progress, run, settings_from, store_options
from ops.commands.tables import columns, counted, plain
from ops.opening.ledger import opened
from projections.accounts.claim_conflicts import ClaimConflicts
from projections.accounts.erasure import Erasure, PlainEvents, Unlinked, erase_user, plain_events, unlink_user
from projections.accounts.person import Profile
from projections.finding.users import UserFound, each_user

_NOBODY = (
    "nobody of this id signed in with an identity, and no session of theirs lives: syncledger user list tells who has "
    "sessions, and syncledger session find looks by an e-mail address"
)


@click.group(cls=Listed)
def user() -> None:
    """List, show and forget users."""


@user.command()
@click.argument("user")
@store_options
@json_option
def show(user: str, data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """Show what is known of a user: name, address, library, and how many sessions live."""
    check_name("USER", user)

    async def work() -> tuple[Profile | None, int]:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            living, damaged = await found.ledger.all_devices(user)
            return await found.identities.profile(user), len(living) + len(damaged)

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
    lines.append(("sessions", f"{sessions:,} living; syncledger session list --user {user} --all lists them"))
    for name, value in lines:
        echo(f"{name:<10}{plain(value)}")


@user.command("list")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many [default: all].")
@store_options
@json_option
def list_users(limit: int | None, data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """List who has sessions, living or ended; --json prints a user a line.

    Users whose history was removed are not in it, nor those with an identity who never had a session.
    """

    async def work() -> bool:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            shown = 0
            async with aclosing(each_user(found.ledger)) as users:
                async for one in users:
                    _print_user(one, as_json)
                    shown += 1
                    if shown == limit:
                        break
            return bool(shown)

    if not run(work()):
        echo("nobody has a session here, living or ended", err=True)


def _print_user(one: UserFound, as_json: bool) -> None:
    if as_json:
        print_json(one._asdict())
    else:
        echo(f"{plain(one.user)}  {counted(one.living, 'living session')}, {one.ended:,} ended")


@user.command()
@click.argument("user")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
def erase(user: str, yes: bool, data_dir: Path | None, redis_url: str | None) -> None:
    """End all sessions of a user, and forget their name, e-mail address, identities and what their devices said.

    What the devices did stays in the history, under the id alone. What is personal in it can no longer be read
    anywhere, not even in backups. In a library only the user's own row changes, if its names came from here.
    """
    check_name("USER", user)
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    if not yes and not click.confirm(f"End all sessions of {user} and erase who they are?", err=True):
        raise click.ClickException("nothing was changed")

    unchanged: dict[str, str] = {}

    async def work() -> tuple[Erasure, PlainEvents]:
        async with opened(settings) as found:
            erased = await erase_user(found.ledger, found.identities, found.user_keys, user, personal.plain(BY))
            await ClaimConflicts(found.store).forget(user)
            for library in await found.catalog.libraries():
                try:
                    await found.catalog.renamed(library, user)  # other devices there had the name
                except (CorruptLedger, StoreReplyError) as error:
                    unchanged[library] = str(error)
            with progress("looking for what is not sealed"):
                return erased, await plain_events(found.past, found.ledger.partition_of(user), user)

    erased, left = run(work())
    if not any(erased) and not left.events and not left.unread:
        raise click.ClickException(_NOBODY)
    identity = "identity erased" if erased.identity else "there was no identity"
    sealed = "what devices said of themselves erased" if erased.key else "there was nothing that devices said"
    echo(f"{counted(erased.sessions, 'session')} ended, {identity}, {sealed}")
    if settings.identity == IMMICH:
        echo("devices that Immich still has begin anew with their next request: delete the user in Immich first")
    if left.events:
        hold = "still holds" if left.events == 1 else "still hold"
        echo(
            f"{counted(left.events, 'event')} from before texts were sealed {hold} what devices said, and nothing is "
            "changed there"
        )
    for sid in erased.damaged:
        echo(
            f"session {sid} is damaged and goes on: run syncledger rebuild --session {sid}, then erase again", err=True
        )
    for sid, why in left.unread.items():
        echo(f"whether session {sid} holds what devices said is not known: {why}", err=True)
    for library, why in unchanged.items():
        echo(f"library {library} may still show the name: {why}", err=True)
    if erased.damaged or left.unread or unchanged:
        raise click.exceptions.Exit(1)


@user.command()
@click.argument("user")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
def unlink(user: str, yes: bool, data_dir: Path | None, redis_url: str | None) -> None:
    """Let the identities of a user go, who was bound to the wrong one, and sign out their devices.

    With its next sign-in an identity becomes the user that its claim names (LEDGER_OIDC_USER_CLAIM), or a new one. The
    history of this user stays as it is; the next sign-in brings name and e-mail address again.
    """
    check_name("USER", user)
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    if not yes and not click.confirm(f"Sign out {user} everywhere and let their identities go?", err=True):
        raise click.ClickException("nothing was changed")

    async def work() -> Unlinked:
        async with opened(settings) as found:
            unlinked = await unlink_user(found.ledger, found.identities, user, personal.plain(BY))
            await ClaimConflicts(found.store).forget(user)
            return unlinked

    done = run(work())
    if not any(done):
        raise click.ClickException(_NOBODY)
    identity = "identities let go" if done.identity else "there was no identity"
    echo(f"{done.sessions:,} {'session' if done.sessions == 1 else 'sessions'} ended, {identity}")
    for sid in done.damaged:
        echo(f"session {sid} is damaged and goes on: syncledger rebuild --session {sid}, then unlink again", err=True)
    if done.damaged:
        raise click.exceptions.Exit(1)


@user.command()
@store_options
@json_option
def conflicts(data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """List users who signed in with an identity whose claim names another user.

    They stay who they were. Mend the claim at the provider, or `syncledger user unlink` the user: the next sign-in goes
    by the claim.
    """

    async def work() -> dict[str, str]:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            return await ClaimConflicts(found.store).all()

    found = sorted(run(work()).items())
    if as_json:
        print_json([{"user": user, "claim": named} for user, named in found])
        return
    for line in columns([("user", "whom the claim names"), *found], MAX_NAME_BYTES) if found else ():
        echo(line)
    if not found:
        echo("no user's claim names another user", err=True)


@user.command()
@click.option("--adopt", is_flag=True, help="Take this place for the ledger's, where the one before was lost.")
@store_options
@json_option
def keys(adopt: bool, data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """Show where the keys are that seal what devices say of themselves, and how many."""
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)

    async def work() -> int:
        async with opened(settings) as found:
            await (found.user_keys.adopt() if adopt else found.user_keys.check())
            return await found.user_keys.count()

    count, place = run(work()), settings.user_keys_place.url
    if as_json:
        print_json({"place": place, "keys": count})
    else:
        echo(f"{counted(count, 'key')} in {place}")


_SHOWN = ("name", "email", "library", "admin")
