"""`syncledger console`: signing in at the console without a key, and signing everybody out there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click
from click import echo

from ops.commands.options import Listed, by_option, run, settings_from, store_options
from ops.commands.tables import counted
from ops.opening.ledger import Opened, opened
from ops.settings.settings import Settings
from projections.accounts.console_access import ConsoleAccess

RIGHTS: Final = ("audit.read", "sessions.manage")


@click.group(cls=Listed)
def console() -> None:
    """The console at /console: one-time links to sign in with, and signing everybody out."""


@console.command()
@click.option("--url", metavar="URL", help="Where the service is opened in a browser [default: as settings say].")
@click.option("--read-only", is_flag=True, help="See all, change nothing.")
@by_option
@store_options
def link(url: str | None, read_only: bool, by: str, data_dir: Path | None, redis_url: str | None) -> None:
    """Print a link that signs in at the console, once and within five minutes.

    Its secret stands behind the #, which browsers send to nobody. What is done with it is on record under the name
    --by.
    """
    if url and not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", url):
        raise click.BadParameter(f"{url[:80]!r} is no address like https://sync.example.org", param_hint="'--url'")
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    where = url or address_of(settings)

    async def work() -> str:
        async with opened(settings) as found:
            return await make_link(found, where, by, RIGHTS[:1] if read_only else RIGHTS)

    echo(run(work()))


@console.command("sign-out")
@store_options
def sign_out(data_dir: Path | None, redis_url: str | None) -> None:
    """Sign everybody out of the console, at once and on all machines, and take back all links."""

    async def work() -> int:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            return await ConsoleAccess(found.store).close_all()

    echo(f"{counted(run(work()), 'session')} of the console ended")


async def make_link(found: Opened, url: str, by: str, scopes: tuple[str, ...] = RIGHTS) -> str:
    """Make a link that signs in at the console of the service at `url`."""
    secret = await ConsoleAccess(found.store).make_link(by, scopes, found.ledger.clock())
    return f"{url.rstrip('/')}/console/link#{secret}"


def address_of(settings: Settings) -> str:
    """Tell where a service with these settings is opened: its domain, or where it listens."""
    if settings.external_domain:
        return settings.external_domain
    host = settings.host[0]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{settings.port}"
