"""`syncledger session`: signed-in devices."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import click
from click import echo

from endpoints.accounts.device_descriptions import describe
from ledger.commands import ClearCheckpoints, Command, CreateSession, EndSession, RequestReset
from ledger.entity_types import COMPLETE, ENTITY_TYPES, RESET
from ledger.errors import LedgerError, NoSuchSession, SessionEnded
from ledger.events import ASKED, IMMICH
from ledger.keys import check_name
from ledger.personal import plain, text_of
from ledger.positions import iso_from_us
from ledger.state import State
from ops.commands.devices.finding import WHO, find, limit_option, list_all
from ops.commands.options import (
    Listed,
    json_option,
    print_json,
    run,
    session_id,
    settings_from,
    store_options,
)
from ops.commands.tables import columns, counted, minute, shortened
from ops.opening.ledger import Opened, keyring_source, opened
from ops.settings.durations import parse_duration
from ops.settings.settings import Settings
from projections.accounts.tokens import Issued, TokenIssuer
from projections.finding.prefixes import SHORT_ID_CHARS, resolved
from projections.history.session_history import owner
from projections.history.user_history import sessions_of
from projections.immich import PLACE

BY = "command"
"""Who made or ended a session, in its events."""
_SHORTEST_US = 1_000_000


@click.group(cls=Listed)
def session() -> None:
    """Sign devices in and out, list and find them, have one start over."""


@session.command()
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


session.add_command(find)


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


@session.command("list")
@click.option("--user", metavar="USER", required=True, help="Whose sessions.")
@click.option("--all", "with_ended", is_flag=True, help="Also those that have ended, the newest first.")
@limit_option
@store_options
@json_option
def list_sessions(
    user: str, with_ended: bool, limit: int, data_dir: Path | None, redis_url: str | None, as_json: bool
) -> None:
    """List the living sessions of a user, the one used last first; times are UTC.

    Damaged sessions are named after the others, and the exit code is then 1. --limit goes with --all.
    """
    check_name("--user", user)
    if with_ended:
        list_all(user, limit, data_dir, redis_url, as_json)
        return

    async def work() -> tuple[list[tuple[int, State]], dict[str, str]]:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            living, damaged = await found.ledger.all_devices(user)
            states = [await found.ledger.opened(state) for state in living]
            seen_ms = await found.ledger.seen_ms(user, [state.sid for state in states])
            timed = [(max(state.at_us, ms * 1000), state) for state, ms in zip(states, seen_ms, strict=True)]
            return sorted(timed, key=lambda pair: (pair[0], pair[1].created_at_us), reverse=True), damaged

    timed, damaged = run(work())
    if as_json:
        print_json(
            [_json(state, seen_us) for seen_us, state in timed]
            + [{"id": sid, "damaged": why} for sid, why in damaged.items()]
        )
    elif timed:
        _print(timed)
    elif not damaged:
        echo(f"no session of {user} lives; --all shows those that have ended", err=True)
    for sid, why in damaged.items():
        echo(f"session {sid} is damaged: {why}; run syncledger rebuild --session {sid}", err=True)
    if damaged:
        raise click.exceptions.Exit(1)


def _print(timed: list[tuple[int, State]]) -> None:
    header = ("device", "system", "app", "signed in", "last seen", "by")
    lines = columns([header, *(_row(state, seen_us) for seen_us, state in timed)])
    echo(next(lines))
    for line, (_, state) in zip(lines, timed, strict=True):
        echo(line)
        echo(f"  {state.sid}")
        if notes := _notes(state):
            echo(f"  {notes}")


@session.command()
@click.argument("session", required=False, callback=session_id)
@click.option("--user", metavar="USER", help="Whose session, where known; with --all whose sessions.")
@click.option("--all", "all_of_user", is_flag=True, help="End all sessions of the user.")
@store_options
def end(session: str | None, user: str | None, all_of_user: bool, data_dir: Path | None, redis_url: str | None) -> None:
    """End a session and those that belong to it, or with --user and --all every one of a user.

    Their tokens are refused at once, and their history stays. Sessions that Immich admits are ended in Immich.
    """
    if (session is None) == (not all_of_user) or (all_of_user and user is None):
        raise click.UsageError("give either a session's id, or --user and --all")
    if user is not None:
        check_name("--user", user)

    async def work() -> str:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            command = EndSession("revoked", by=plain(BY))
            if session is None:
                assert user is not None
                if any(state.authenticated_by == IMMICH for state in await found.ledger.devices(user)):
                    raise _ended_there(user)
                count = await end_all(found, user, command)
                if not count and not await sessions_of(found.store, found.ledger.partition_of(user), user):
                    raise NoSuchSession(f"{user} has no session here, living or ended: {WHO}")
                return f"{counted(count, 'session')} of {user} ended"
            await _end_one(found, user, session, command)
            return "ended, with what belonged to it"

    try:
        echo(run(work()))
    except SessionEnded:
        raise click.ClickException("this session has ended before") from None


@session.command()
@click.argument("session", callback=session_id)
@click.option("--user", metavar="USER", help="Whose session, where known: saves asking every partition.")
@click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    type=click.Choice([name for name in ENTITY_TYPES if name not in (COMPLETE, RESET)]),
    help="Only send these again, like AssetV2; it forgets nothing first.",
)
@click.option("--take-back", is_flag=True, help="Undo that, where the device was not told yet.")
@store_options
def reset(
    session: str,
    user: str | None,
    types: tuple[str, ...],
    take_back: bool,
    data_dir: Path | None,
    redis_url: str | None,
) -> None:
    """Have a device start over: its next stream tells it to forget its copy, and it gets all of the library again.

    Photos that wait for their upload stay on it.
    """
    if types and take_back:
        raise click.UsageError("--take-back undoes a whole reset; what is sent again by --type cannot be taken back")
    if user is not None:
        check_name("--user", user)

    async def work() -> None:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            whose, sid = await _whose(found, user, session)
            await found.ledger.execute(whose, sid, _reset(types, take_back))

    try:
        run(work())
    except SessionEnded:
        raise click.ClickException("this session has ended: its device must sign in again") from None
    if types:
        echo(f"with its next sync the device is sent all of {', '.join(types)} again")
    elif take_back:
        echo("the device is no longer asked to start over")
    else:
        echo("with its next sync the device starts over")


def _reset(types: Sequence[str], take_back: bool) -> Command:
    if not types:
        return RequestReset(not take_back, by=plain(BY))
    from endpoints.sync.acks import forgotten  # PERF: only who names types waits for what serves HTTP

    return ClearCheckpoints(forgotten(types), ASKED, by=plain(BY))


async def _whose(found: Opened, user: str | None, sid: str) -> tuple[str, str]:
    """Find a session's user and whole id, of this user if one is given; raises NoSuchSession, Ambiguous."""
    partition, sid = await resolved(found.ledger, sid, user)
    whose = await owner(found.ledger, partition, sid)
    if user not in (None, whose):
        raise NoSuchSession(f"No session {sid} of {user}")
    return whose, sid


async def _end_one(found: Opened, user: str | None, sid: str, command: EndSession) -> None:
    """End a session, of this user if one is given; raises NoSuchSession, Ambiguous, SessionEnded."""
    ledger = found.ledger
    whose, sid = await _whose(found, user, sid)
    state = await ledger.look(ledger.partition_of(whose), sid)
    if state is not None and state.authenticated_by == IMMICH:
        raise _ended_there(whose)
    await ledger.execute(whose, sid, command)


def _ended_there(user: str) -> click.UsageError:
    """Say where a session is ended that would only begin again with its phone's next request."""
    return click.UsageError(
        f"Devices of {user} sign in and out {PLACE}; one that is signed out there is refused here within "
        "LEDGER_IMMICH_RECHECK, and ends an hour later"
    )


async def end_all(found: Opened, user: str, command: EndSession) -> int:
    """End every session of a user; returns how many there were."""
    return await found.ledger.end_others(user, "", command)  # no session has an empty id, so none is kept


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


def _row(state: State, seen_us: int) -> tuple[str, ...]:
    created, seen = minute(state.created_at_us), minute(seen_us)
    device = (text_of(text) or "-" for text in (state.device_type, state.device_os, state.app_version))
    return (*device, created, seen, state.authenticated_by or "-")


def _notes(state: State) -> str:
    """Tell what is so of few sessions only."""
    notes = []
    if state.parent:
        notes.append(f"ends with {state.parent[:SHORT_ID_CHARS]}…")
    if state.over_at_us is not None:
        notes.append(f"expires {minute(state.over_at_us)}")
    if state.pending_reset or state.reset_sent:
        notes.append("will start over")
    return ", ".join(notes)


def _json(state: State, seen_us: int) -> dict[str, object]:
    return {
        "id": state.sid,
        "library": state.library,
        "deviceType": text_of(state.device_type),
        "deviceOS": text_of(state.device_os),
        "appVersion": text_of(state.app_version) or None,
        "createdAt": iso_from_us(state.created_at_us),
        "lastSeenAt": iso_from_us(seen_us),
        "parent": state.parent,
        "authenticatedBy": state.authenticated_by,
        "expiresAt": None if state.over_at_us is None else iso_from_us(state.over_at_us),
        "isPendingSyncReset": state.pending_reset,
    }
