"""`syncledger proof close`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click import echo

from ledger.transparency.notes import VerifierKey
from ops.commands.options import progress, run, settings_from, store_options
from ops.commands.verifier_keys import verifier_keys
from ops.opening.ledger import Opened, opened
from ops.opening.proof import keys_in, log_of, new_origin, place_noted, read_any_keys, take_key
from ops.settings.settings import Settings
from projections.transparency.closing import close as close_log
from projections.transparency.closing import closed_by, noted_log, refuse_whole
from projections.transparency.job import notarize
from projections.transparency.noted import read_noted
from projections.transparency.place import Identity


@click.command()
@click.option("--why", required=True, help="The reason, for auditors: the new log begins with it. No names of people.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The newest checkpoint that anybody has: a witness's, an auditor's, or of what is left of the log.",
)
@click.option("--no-checkpoint", is_flag=True, help="Nobody has one any more.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    callback=verifier_keys,
    help="A key that verifies the closed log, if it is not at hand here.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
def close(
    why: str,
    checkpoint: Path | None,
    no_checkpoint: bool,
    keys: list[VerifierKey],
    yes: bool,
    data_dir: Path | None,
    redis_url: str | None,
) -> None:
    """Close a log that went back for good, and begin another one, which says so, in the empty place of LEDGER_PROOF.

    For use when the newest copy of the log is lost: nobody who has a checkpoint of it could believe an older copy. What
    is left of it stays where it is. The new log has another name and key, which auditors and witnesses need, and logs
    all that is kept, from the beginning. If it is interrupted, run it again.
    """
    if (checkpoint is None) != no_checkpoint:
        raise click.UsageError("give the newest --checkpoint that anybody has of the log, or --no-checkpoint")
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody is there to ask: add --yes")
        place = settings.proof_place
        click.confirm(
            f"Close this ledger's log for good, and begin another in {place.url if place else '?'}?", abort=True
        )
    try:
        newest = "" if checkpoint is None else checkpoint.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{checkpoint}: {error}", param_hint="'--checkpoint'") from None

    async def work() -> tuple[Identity, int]:
        async with opened(settings) as found:
            return await _close(found, settings, newest, why, keys)

    identity, size = run(work())
    assert identity.follows is not None
    echo(
        f"log {identity.follows.origin} is closed at {identity.follows.size:,} entries; log {identity.origin} follows "
        f"it, of {size:,} entries by now"
    )
    echo(
        "publish its key (syncledger proof keys), give it to the witnesses, and keep what is left of the closed log",
        err=True,
    )


async def _close(
    found: Opened, settings: Settings, newest: str, why: str, given: list[VerifierKey]
) -> tuple[Identity, int]:
    of = await log_of(found, settings)
    if of is None:
        raise click.UsageError("set LEDGER_PROOF to an empty place, where the log behind the closed one begins")
    origin, size = await noted_log(of)
    closed = closed_by(newest, why, given or _known(settings, newest), origin, size)
    noted = await read_noted(found.store)
    elsewhere = noted.origin == closed.origin and noted.place != of.place.shown
    if elsewhere and (before := place_noted(settings, noted.place)) is not None:
        await refuse_whole(before, closed)
    identity = await close_log(of, closed, new_origin(), lambda name: take_key(settings, name))
    with progress("logging events") as advance:
        report = await notarize(
            of,
            found.ledger.partitions,
            identity.origin,
            lambda: found.ledger.clock() // 1000,
            on_progress=lambda so_far: advance(so_far.events, f"{so_far.events:,} events"),
        )
    return identity, 0 if report is None else report.size


def _known(settings: Settings, newest: str) -> list[VerifierKey]:
    """Give the keys that are at hand, of whichever log."""
    if not newest:
        return []
    texts = [settings.proof.key, keys_in(settings.data_dir, every=True)]
    return [key.public for text in texts if text for key in read_any_keys(text)]
