"""`syncledger verify`."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import click
import msgspec
from click import echo

from ledger.log.stored_sessions import Strays
from ledger.transparency.notes import VerifierKey
from ops.commands.options import json_option, print_json, progress, run, settings_from, store_options
from ops.commands.storage.strays import strays_of
from ops.commands.storage.verify_log import compare_log, left_alone, tell_log
from ops.commands.tables import counted
from ops.commands.verifier_keys import verifier_keys
from ops.embedded.files import prepare_files
from ops.opening.known_nodes import NotedNodes
from ops.opening.ledger import Opened, opened
from ops.settings.settings import Settings
from ops.verify_processes import Job, Said, collect_rarely, processes_for, verify_in
from projections.archive.catalog import Archive
from projections.checking.findings import lines
from projections.checking.rebuild import Rebuild, RebuildReport
from projections.checking.verify import Report
from projections.checking.verify import verify as verify_ledger

_NEXT = "projections are written anew by syncledger verify --repair, which never changes events and segments"
_LEFT = (
    "what no repair changes is in events, segments or heads of histories: events and segments come back only from a "
    "backup or a copy of the archive; for what stays lost see syncledger rebuild --accept-history and set-aside"
)


class Verified(msgspec.Struct):
    """What was found; with --repair what was done then, and what is left of the differences."""

    found: Report
    repaired: RebuildReport | None = None
    left: Report | None = None

    @property
    def last(self) -> Report:
        """The newest of what was found."""
        return self.left or self.found


@click.command()
@click.option("--repair", is_flag=True, help="Write what the events say in place of what differs; never an event.")
@click.option(
    "--since",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A checkpoint of the log that was kept elsewhere: the log must have grown from it.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    callback=verifier_keys,
    help="A key that verifies the log, in place of the ledger's own.",
)
@store_options
@json_option
def verify(
    repair: bool,
    since: Path | None,
    keys: list[VerifierKey],
    data_dir: Path | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Check every chain, projection, index and archived segment against the events; exits 1 if anything differs.

    If the ledger has a transparency log (LEDGER_PROOF), events are checked against it too: whatever was removed, cut,
    rewritten or inserted is named with its entry. The ledger may be in use meanwhile. Nothing is written without
    --repair; with it, the exit code says whether anything is left. Never written over are a stored head that does not
    match its events, since it is the only trace of what they were, and a session that the log contradicts.
    """
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    kept = None if since is None else since.read_bytes()

    async def work() -> Verified:
        async with opened(settings) as found:
            await found.check_archive()
            log = await compare_log(found, settings, keys, kept)
            archive = found.archive
            every = range(found.ledger.partitions)
            strays = await strays_of(found)
            verified = Verified(await _verify(found, settings, archive, list(every), strays))
            verified.found.log = log
            which = verified.found.differing_partitions
            if repair and which:
                made = Rebuild(found.store, uuid4().hex, sealed=archive, leave=left_alone(log))
                with progress("repairing partitions", len(which)) as advance:
                    for done, partition in enumerate(sorted(which)):
                        advance(done, f"{made.report.written:,} written")
                        await made.repair(partition, strays)
                verified.repaired = made.report
                verified.left = await _verify(found, settings, archive, sorted(which), await strays_of(found))
                verified.left.log = log
            return verified

    verified = run(work())
    if as_json:
        print_json(verified if repair else verified.found)
    else:
        _tell(verified)
    if verified.last.different or ((log := verified.found.log) is not None and log.different):
        raise click.exceptions.Exit(1)


async def _verify(
    found: Opened, settings: Settings, archive: Archive | None, which: list[int], strays: Strays
) -> Report:
    url = settings.redis_url or f"unix://{prepare_files(settings.data_dir).socket}"
    known = NotedNodes.of(settings)
    job = Job(url, settings.reply_timeout_s, found.ledger.partitions, which, strays, settings.archive, known)
    collect_rarely()
    processes = await processes_for(found.store, which, archive)
    with progress("verifying partitions", len(which)) as advance:

        def tell(so_far: Report | Said) -> None:
            events = so_far.events + (so_far.archived if isinstance(so_far, Report) else 0)
            advance(so_far.partitions, f"{counted(events, 'event')}")

        if processes > 1:
            return await verify_in(processes, job, tell)
        return await verify_ledger(
            found.store, found.ledger.partitions, only=which, strays=strays, archive=archive, on_progress=tell
        )


def _tell(verified: Verified) -> None:
    report = verified.found
    if report.log is not None:
        tell_log(report.log)
    _tell_differences(report)
    echo(
        f"{counted(report.events, 'event')} of {report.sessions:,} living and {report.ended:,} ended sessions in "
        f"{report.partitions} partitions"
        + (f", {report.archived:,} archived events in {counted(report.segments, 'segment')}" if report.segments else "")
        + (f": {report.different:,} differ" if report.different else ": all agree")
    )
    if verified.repaired is not None and verified.left is not None:
        echo(
            f"repaired: {counted(verified.repaired.written, 'session')} written, "
            f"{verified.repaired.removed:,} removed; "
            + (f"{verified.left.different:,} differ still" if verified.left.different else "all agree now")
        )
        _tell_differences(verified.left)
    if verified.last.repairable and verified.left is None:
        echo(_NEXT, err=True)
    if verified.last.different > verified.last.repairable:
        echo(_LEFT, err=True)


def _tell_differences(report: Report) -> None:
    for line in lines(report.differences, report.different):
        echo(line)
