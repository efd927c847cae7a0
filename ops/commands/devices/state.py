"""`syncledger state`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from click import echo

from ops.commands.instants import FORMS, instant
from ops.commands.options import json_option, print_json, progress, run, session_id, settings_from, store_options
from ops.commands.tables import columns
from ops.opening.ledger import opened
from projections.finding.prefixes import resolved
from projections.history.state_at import StateThen, describe, fold_at

_WIDEST = 120


@click.command()
@click.argument("session", callback=session_id)
@click.option("--at", "at_us", callback=instant, metavar="TIME", help=f"When: {FORMS} [default: now].")
@click.option("--user", metavar="USER", help="The session's user, where known: saves asking every partition.")
@store_options
@json_option
def state(
    session: str, at_us: int | None, user: str | None, data_dir: Path | None, redis_url: str | None, as_json: bool
) -> None:
    """Show a session and its checkpoints as they were at a time, folded from its events alone."""

    async def work() -> StateThen:
        async with opened(settings_from(data_dir=data_dir, redis_url=redis_url)) as found:
            if found.archive is not None:
                await found.check_archive()
            ledger = found.ledger
            partition, sid = await resolved(ledger, session, user)
            when_us = ledger.clock() if at_us is None else at_us
            with progress("folding events"):
                moment = await fold_at(found.past, partition, sid, when_us)
            return describe(moment, when_us, await ledger.sealing.key_of(moment.state.user))

    found = run(work())
    if as_json:
        print_json(found)
        return
    for line in columns(list(_facts(found)), _WIDEST):
        echo(line)
    if found.checkpoints:
        echo()
        rows = [("acknowledged", "at")] + [(held.ack, held.acknowledged_at) for held in found.checkpoints.values()]
        for line in columns(rows, _WIDEST):
            echo(line)


def _facts(found: StateThen) -> Iterator[tuple[str, str]]:
    """List what is known of the session, without what is not."""
    over = f"{found.ended.reason}, by {found.ended.by or 'itself'}, at {found.ended.at}" if found.ended else ""
    facts = {
        "session": found.session_id,
        "at": found.at,
        "status": f"{found.status}: {over}" if over else found.status,
        "user": found.user,
        "library": found.library,
        "belongs to": found.parent,
        "device": " ".join(filter(None, (found.device_type, found.device_os, found.app_version))),
        "signed in": f"{found.created_at} {found.authenticated_by}",
        "expires": found.expires_at,
        "will start over": "yes, it was asked to" if found.pending_reset else None,
        "told to start over": f"yes, and it has not acknowledged it ({found.reset_sent})" if found.reset_sent else None,
        "epoch": f"{found.epoch}" + "".join(f", {name} {epoch}" for name, epoch in found.epochs.items()),
        "offered up to": ", ".join(f"{offer.snapshot} ({len(offer.types)} types)" for offer in found.offered),
        "completed up to": ", ".join(f"{offer.snapshot} ({len(offer.types)} types)" for offer in found.heard),
        "ignored acks": ", ".join(found.ignored),
        "token": f"number {found.tokens.number}"
        + (f", until {found.tokens.expires_at}" if found.tokens.expires_at else "")
        + (f", {found.tokens.not_used_yet} new" if found.tokens.not_used_yet else "")
        + (f", {found.tokens.replaced} replaced" if found.tokens.replaced else ""),
        "last event": f"{found.event.seq} at {found.event.at}, hash {found.event.hash}",
    }
    yield from ((name, value) for name, value in facts.items() if value)
