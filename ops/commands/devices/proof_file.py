"""Writing the proof of a session's history into a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import msgspec
from click import echo

from ledger.errors import NoSuchSession
from ledger.session_ids import SID_CHARS
from ops.commands.options import progress
from ops.opening.key_files import replace
from ops.opening.ledger import opened
from ops.opening.proof import TRIES_NOTE, open_place
from ops.settings.settings import Settings
from projections.finding.prefixes import resolved
from projections.transparency.proving import prove


async def write_proof(settings: Settings, sid: str, user: str | None, file: Path) -> None:
    """Write the proof of a session's history; raises UsageError where there is no log, and what `prove` does."""
    place = open_place(settings)
    if place is None:
        raise click.UsageError("there is no log that proves anything: set LEDGER_PROOF as where the service runs")
    async with opened(settings) as found:
        if found.archive is not None:
            await found.check_archive()
        partition: int | None
        try:
            partition, sid = await resolved(found.ledger, sid, user)
        except NoSuchSession:
            if len(sid) < SID_CHARS:
                raise
            partition = None  # that it never was, or that nothing is kept of it, is told by the log
        with progress("reading events and proving them"):
            note = TRIES_NOTE if settings.proof_tries else ""
            proof = await prove(place, found.past, partition, sid, note=note)
    if proof is None:
        raise click.ClickException("nothing is logged yet: run syncledger notarize, or wait for the service to do so")
    text = msgspec.json.format(msgspec.json.encode(proof)).decode()
    await asyncio.to_thread(replace, file, text + "\n")
    end = proof.state.end
    logged = end.seq if end is not None and end.session == sid else 0
    echo(f"{file}: {len(proof.events):,} events of {logged:,} that are logged; check it with syncledger proof verify")
