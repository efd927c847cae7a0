"""The part of `syncledger verify` that compares with the transparency log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click
from click import echo

from ledger.transparency.notes import VerifierKey
from ops.commands.options import progress
from ops.commands.tables import counted
from ops.opening.ledger import Opened
from ops.opening.proof import log_of
from ops.settings.settings import Settings
from projections.transparency.job import LogOf
from projections.transparency.monitor.findings import LogReport
from projections.transparency.monitor.monitor import monitor
from projections.transparency.noted import read_noted

_CONTRADICTED: Final = (
    "what the log contradicts no repair touches: after a loss of the store syncledger fence has devices start over; "
    "else somebody changed events: keep the store as it is, and the log, for whoever looks into it"
)


async def compare_log(
    found: Opened, settings: Settings, given: Sequence[VerifierKey], since: bytes | None
) -> LogReport | None:
    """Compare with the log, if there is one; says so where there is one that is not at hand."""
    of, noted = await log_of(found, settings), await read_noted(found.store)
    if of is None:
        if noted.origin or since is not None:
            which = f" {noted.origin} in {noted.place}" if noted.origin else ""
            echo(f"not checked against log{which}: set LEDGER_PROOF as it is set where the service runs", err=True)
            if since is not None:
                raise click.UsageError("--since needs the log: set LEDGER_PROOF")
        return None
    keys = given or await _own_keys(of, noted.origin)
    with progress("comparing with the log") as advance:
        return await monitor(
            of,
            keys,
            found.ledger.partitions,
            since=since,
            on_progress=lambda so_far: advance(0, f"{so_far.events:,} events, {so_far.entries:,} entries"),
        )


async def _own_keys(of: LogOf, origin: str) -> list[VerifierKey]:
    """Give the ledger's own keys, of a log that has begun; none where it has not."""
    if not origin:
        identity = await of.place.identity()
        origin = "" if identity is None else identity.origin
    return [key.public for key in of.keys(origin, False)] if origin else []


def left_alone(log: LogReport | None) -> dict[str, int]:
    """Tell which sessions no repair may touch; raises ClickException where that could not be found out."""
    if log is not None and log.origin and not log.compared:
        raise click.ClickException(
            "nothing is repaired, for the log, which tells what must not be touched, could not be compared: mend "
            "LEDGER_PROOF, or set it to off to repair without it"
        )
    return {} if log is None else log.contradicted


def tell_log(log: LogReport) -> None:
    """Say what was compared, and what differs."""
    for finding in log.differences:
        echo(finding.text)
    if log.different > len(log.differences):
        echo(f"… and {log.different - len(log.differences):,} more")
    if not log.size:
        return
    if log.follows:
        echo(f"log {log.origin} follows {log.follows}, of {log.follows_size:,} entries, closed: {log.closed_why}")
    echo(
        f"log {log.origin}, {log.size:,} entries: {counted(log.sessions, 'session')} compared"
        + (f", {counted(log.behind, 'event')} not logged yet" if log.behind else "")
        + (f", {log.unkept:,} ended and removed by retention, which only the ledger says" if log.unkept else "")
        + (f", nothing below entry {log.minimum:,}, where it is pruned" if log.minimum else "")
        + (f": {log.different:,} differ" if log.different else ": all agree")
    )
    if log.contradicted:
        echo(_CONTRADICTED, err=True)
