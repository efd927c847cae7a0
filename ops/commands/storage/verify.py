"""`syncledger verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import click
import msgspec
from click import echo

from ledger.log.stored_sessions import Strays, find_strays
from ledger.transparency.notes import BadNote, VerifierKey, parse_verifier
from ops.commands.options import json_option, print_json, progress, run, settings_from, store_options
from ops.commands.tables import counted
from ops.embedded.files import prepare_files
from ops.opening.known_nodes import NotedNodes
from ops.opening.ledger import Opened, opened
from ops.opening.proof import log_of
from ops.settings.settings import Settings
from ops.verify_processes import Job, Said, collect_rarely, processes_for, verify_in
from projections.archive.catalog import Archive
from projections.checking.findings import lines
from projections.checking.rebuild import Rebuild, RebuildReport
from projections.checking.verify import Report
from projections.checking.verify import verify as verify_ledger
from projections.transparency.job import LogOf
from projections.transparency.monitor.findings import LogReport
from projections.transparency.monitor.monitor import monitor
from projections.transparency.noted import read_noted

_NEXT = "projections are written anew by syncledger verify --repair, which never changes events and segments"
_LEFT = (
    "what no repair changes is in events, segments or heads of histories: events and segments come back only from a "
    "backup or a copy of the archive; for what stays lost see syncledger rebuild --accept-history and set-aside"
)

_CONTRADICTED = (
    "what the log contradicts no repair touches: after a loss of the store syncledger fence has devices start over; "
    "else somebody changed events: keep the store as it is, and the log, for whoever looks into it"
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
@click.option("--key", "keys", multiple=True, help="A key that verifies the log, in place of the ledger's own.")
@store_options
@json_option
def verify(
    repair: bool,
    since: Path | None,
    keys: tuple[str, ...],
    data_dir: Path | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Check every chain, projection, index and archived segment against the events; exits 1 if anything differs.

    Where the ledger has a transparency log (LEDGER_PROOF), events are checked against it, too: what was removed, cut,
    rewritten or put there is named with its entry. The ledger may be in use meanwhile. Nothing is written without
    --repair; with it the exit code tells what is left. A head that proves another history than the events are is never
    written over, for it is all that tells of it, and neither is a session that the log contradicts.
    """
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    given = read_keys(keys)
    kept = None if since is None else since.read_bytes()

    async def work() -> Verified:
        async with opened(settings) as found:
            await found.check_archive()
            log = await _compare_log(found, settings, given, kept)
            archive = found.archive
            every = range(found.ledger.partitions)
            strays = await _strays(found)
            verified = Verified(await _verify(found, settings, archive, list(every), strays))
            verified.found.log = log
            which = verified.found.differing_partitions
            if repair and which:
                made = Rebuild(found.store, uuid4().hex, sealed=archive, leave=_left_alone(log))
                with progress("repairing partitions", len(which)) as advance:
                    for done, partition in enumerate(sorted(which)):
                        advance(done, f"{made.report.written:,} written")
                        await made.repair(partition, strays)
                verified.repaired = made.report
                verified.left = await _verify(found, settings, archive, sorted(which), await _strays(found))
                verified.left.log = log
            return verified

    verified = run(work())
    if as_json:
        print_json(verified if repair else verified.found)
    else:
        _tell(verified)
    if verified.last.different or ((log := verified.found.log) is not None and log.different):
        raise click.exceptions.Exit(1)


def read_keys(texts: Sequence[str]) -> list[VerifierKey]:
    """Read verifier keys given with an option; raises UsageError."""
    try:
        return [parse_verifier(text) for text in texts]
    except BadNote as error:
        raise click.UsageError(str(error)) from None


async def _compare_log(
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


def _left_alone(log: LogReport | None) -> dict[str, int]:
    """Tell which sessions no repair may touch; raises ClickException where that could not be found out."""
    if log is not None and log.origin and not log.compared:
        raise click.ClickException(
            "nothing is repaired, for the log, which tells what must not be touched, could not be compared: mend "
            "LEDGER_PROOF, or set it to off to repair without it"
        )
    return {} if log is None else log.contradicted


async def _strays(found: Opened) -> Strays:
    with progress("looking at all keys") as advance:
        return await find_strays(
            found.store, found.ledger.partitions, lambda looked: advance(0, f"{counted(looked, 'key')}")
        )


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
        _tell_log(report.log)
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


def _tell_log(log: LogReport) -> None:
    for finding in log.differences:
        echo(finding.text)
    if log.different > len(log.differences):
        echo(f"… and {log.different - len(log.differences):,} more")
    if not log.size:
        return
    echo(
        f"log {log.origin}, {log.size:,} entries: {counted(log.sessions, 'session')} compared"
        + (f", {counted(log.behind, 'event')} not logged yet" if log.behind else "")
        + (f", {log.unkept:,} ended and removed by retention, which only the ledger says" if log.unkept else "")
        + (f": {log.different:,} differ" if log.different else ": all agree")
    )
    if log.contradicted:
        echo(_CONTRADICTED, err=True)


def _tell_differences(report: Report) -> None:
    for line in lines(report.differences, report.different):
        echo(line)
