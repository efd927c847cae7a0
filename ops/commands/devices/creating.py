"""`syncledger session create`: signing a device in without an identity provider."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import click
from click import echo

from endpoints.accounts.device_descriptions import describe
from ledger.commands import CreateSession
from ledger.errors import LedgerError
from ledger.events import IMMICH
from ledger.keys import check_name
from ledger.personal import plain
from ops.commands.options import json_option, print_json, run, settings_from, store_options
from ops.commands.tables import shortened
from ops.opening.ledger import Opened, keyring_source, opened
from ops.settings.durations import parse_duration
from ops.settings.settings import Settings
from projections.accounts.tokens import Issued, TokenIssuer

BY = "command"
"""Who made, changed or ended a session by a command, in its events."""
_SHORTEST_US = 1_000_000


@click.command()
@click.option("--user", metavar="USER", required=True, help="Who signs in.")
@click.option("--library", metavar="LIBRARY", required=True, help="What the device syncs.")
@click.option("--user-agent", default="", help="User-Agent of the device; tells its type, OS and app version.")
@click.option("--ttl", metavar="TIME", help="How long it may last, like 30d [default: until it is idle too long].")
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
    if ttl_us is not None and ttl_us < _SHORTEST_US:
        raise click.BadParameter(
            f"{ttl!r} is shorter than 1s: the token would be over before it is used", param_hint="--ttl"
        )
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    if settings.identity == IMMICH:
        raise click.UsageError("with LEDGER_IDENTITY=immich devices sign in at Immich, and no token of ours admits")

    if settings.identity == "jwt":
        raise click.UsageError(
            f"with LEDGER_IDENTITY=jwt only tokens of {settings.jwt.issuer} admit: a device's first request with one "
            "begins its session"
        )

    async def work() -> Issued:
        async with opened(settings, begin=True) as found, AsyncExitStack() as closing:
            others = await _other_libraries(found, library) if settings.source == "catalog" else []
            issued = await sign_in(found, settings, user, library, user_agent=user_agent, ttl_us=ttl_us)
            if settings.source != "catalog":
                await _tell_unknown(found, settings, closing, user, library)
            elif others:
                echo(
                    f"warning: nothing was ever written to library {library}; there are {shortened(others)}. If the id "
                    "is mistyped, end this session and sign in again",
                    err=True,
                )
            return issued

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
    issued = TokenIssuer(keyring_source(settings)).issue(user, found.ledger.clock(), ttl_us)
    device_type, device_os, app_version = describe(user_agent)
    command = CreateSession(
        user=user,
        library=library,
        device_type=plain(device_type),
        device_os=plain(device_os),
        app_version=plain(app_version),
        expires_at_us=issued.expires_at_us,
        authenticated_by=BY,
    )
    await found.ledger.execute(user, issued.sid, command)
    if settings.source == "catalog":
        catalog = found.catalog.of_session(user, issued.sid)
        await catalog.provision(library, await catalog.horizon(library))
    return issued


async def _other_libraries(found: Opened, library: str) -> list[str]:
    """List the libraries of the catalog where this is none of them; nothing where it is, or none was written yet."""
    libraries = await found.catalog.libraries()
    return [] if library in libraries else libraries


async def _tell_unknown(found: Opened, settings: Settings, closing: AsyncExitStack, user: str, library: str) -> None:
    """Say on stderr if the source knows no such library, or cannot say; the session is made all the same."""
    from ops.opening.sources import open_source  # PERF: a catalog needs nothing of it

    try:
        source = await open_source(settings, found, closing)
        unknown = [name for name in dict.fromkeys((library, user)) if await source.knows(name) is False]
    except (LedgerError, OSError) as error:  # its token must be printed whatever becomes of this
        echo(f"warning: whether the library is there could not be asked: {error}", err=True)
        return
    if library in unknown:
        echo(
            f"warning: {library} is no library of the source: the device will be sent next to nothing. If the id is "
            "mistyped, end this session and sign in again",
            err=True,
        )
    elif user in unknown and settings.postgres.mapping == IMMICH:
        echo(f"warning: {user} is no user of Immich's, whose users' ids they are", err=True)
