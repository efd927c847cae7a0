"""`syncledger notarize`."""

from __future__ import annotations

from pathlib import Path

import click
from click import echo

from ops.commands.options import json_option, print_json, progress, run, settings_from, store_options
from ops.opening.ledger import opened
from ops.opening.proof import log_of, new_origin
from projections.transparency.going_on import told as what_was_made_good
from projections.transparency.job import notarize as bring_up
from projections.transparency.job import told
from projections.transparency.notary import NotaryReport


@click.command()
@store_options
@json_option
def notarize(data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """Bring the transparency log (LEDGER_PROOF) up to what the store holds now, and sign a checkpoint of it.

    A running service does it by itself, every LEDGER_PROOF_INTERVAL; both may do so at once. Exits 1 if events are not
    logged because they contradict the log, or a partition is held up; 2 if this is not the ledger's log.
    """
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)

    async def work() -> NotaryReport | None:
        async with opened(settings) as found:
            log = await log_of(found, settings)
            if log is None:
                raise click.UsageError(
                    "there is no place for a log: set LEDGER_PROOF, like file:///srv/proof or s3://bucket/proof, "
                    "where nobody who holds the store can change it"
                )
            if found.archive is not None:
                await found.check_archive()
            with progress("logging events") as advance:
                return await bring_up(
                    log,
                    found.ledger.partitions,
                    new_origin(),
                    lambda: found.ledger.clock() // 1000,
                    ledger=found.ledger,
                    on_progress=lambda report: advance(report.events, f"{report.events:,} events"),
                )

    report = run(work())
    if report is None:
        raise click.ClickException("another job writes the log just now, most likely a service: try again later")
    if as_json:
        print_json(
            {
                "events": report.events,
                "size": report.size,
                "refused": report.refused,
                "foreign": report.foreign,
                "refusals": [
                    {"session": each.sid.hex(), "partition": each.partition, "event": each.event, "what": each.what}
                    for each in report.refusals
                ],
                "unwitnessed": report.unwitnessed,
                "made_good": report.made_good,
                "stopped": {str(number): why for number, why in report.stopped.items()},
            }
        )
    else:
        for each in report.refusals:
            echo(f"session {each.sid.hex()}: event {each.event} of partition {each.partition}: {each.what}", err=True)
        if report.made_good is not None:
            echo(what_was_made_good(report.made_good), err=True)
        if wrong := told(report):
            echo(wrong, err=True)
        echo(f"{report.events:,} events logged; the log has {report.size:,} entries")
    if report.refusals or report.stopped or (report.made_good is not None and report.made_good.failed):
        raise click.exceptions.Exit(1)
