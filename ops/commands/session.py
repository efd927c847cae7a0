"""`syncledger session`: signed-in devices."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from endpoints.devices import describe
from ledger.commands import CreateSession
from ledger.keys import check_name
from ledger.tokens import Issued, TokenIssuer
from ops.commands.options import json_option, print_json, run, settings_from, store_options
from ops.connect import Opened, opened, token_key
from ops.durations import parse_duration
from ops.settings import Settings


@click.group()
def session() -> None:
    """Signed-in devices."""


@session.command()
@click.option("--user", required=True, help="Who signs in.")
@click.option("--library", required=True, help="What the device syncs.")
@click.option("--user-agent", default="", help="User-Agent of the device; tells its type, OS and app version.")
@click.option("--ttl", help="How long the session may last, like 30d [default: until it is idle too long].")
@store_options
@json_option
def create(
    user: str,
    library: str,
    user_agent: str,
    ttl: str | None,
    data_dir: Path | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Sign a device in and print its token, alone. It is shown once and kept nowhere."""
    try:
        ttl_us = None if ttl is None else int(parse_duration(ttl) * 1_000_000)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--ttl") from None
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)

    async def work() -> Issued:
        async with opened(settings) as found:
            return await sign_in(found, settings, user, library, user_agent=user_agent, ttl_us=ttl_us)

    issued = run(work())
    if as_json:
        print_json({"token": issued.token, "session": issued.sid, "expiresAtUs": issued.expires_at_us})
    else:
        echo(issued.token)


async def sign_in(
    found: Opened, settings: Settings, user: str, library: str, *, user_agent: str = "", ttl_us: int | None = None
) -> Issued:
    """Create a session on an open ledger and return its token."""
    check_name("--user", user)
    check_name("--library", library)
    issued = TokenIssuer(token_key(settings)).issue(user, found.ledger.clock(), ttl_us)
    device_type, device_os, app_version = describe(user_agent)
    command = CreateSession(
        user=user,
        library=library,
        device_type=device_type,
        device_os=device_os,
        app_version=app_version,
        expires_at_us=issued.expires_at_us,
        authenticated_by="command",
    )
    await found.ledger.execute(user, issued.sid, command)
    return issued
