"""`syncledger session`: signed-in devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from click import echo

from ledger.commands import ClearCheckpoints, Command, EndSession, RequestReset
from ledger.entity_types import COMPLETE, ENTITY_TYPES, RESET
from ledger.errors import NoSuchSession, SessionEnded
from ledger.events import ASKED, IMMICH
from ledger.keys import check_name
from ledger.personal import plain, text_of
from ledger.positions import iso_from_us
from ledger.session_ids import short_id
from ledger.state import State
from ops.commands.devices.creating import BY, create
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
from ops.commands.tables import columns, counted, minute
from ops.opening.ledger import Opened, opened
from projections.finding.prefixes import resolved
from projections.history.session_history import owner
from projections.history.user_history import sessions_of
from projections.immich import PLACE


@click.group(cls=Listed)
def session() -> None:
    """Sign devices in and out, list and find them, have one start over."""


session.add_command(create)
session.add_command(find)


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
            states = [await found.ledger.sealing.opened(state) for state in living]
            seen_ms = await found.ledger.sessions.seen_ms(user, [state.sid for state in states])
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


def _row(state: State, seen_us: int) -> tuple[str, ...]:
    created, seen = minute(state.created_at_us), minute(seen_us)
    device = (text_of(text) or "-" for text in (state.device_type, state.device_os, state.app_version))
    return (*device, created, seen, state.authenticated_by or "-")


def _notes(state: State) -> str:
    """Tell what is so of few sessions only."""
    notes = []
    if state.parent:
        notes.append(f"ends with {short_id(state.parent)}…")
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
