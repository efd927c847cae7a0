"""`syncledger restore`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click
from click import echo

from ledger import keys
from ledger.clocks.steady import SteadyClock
from ledger.log.service import Ledger
from ledger.log.store_check import read_id
from ledger.store.interface import Store
from ops.backup.listing import find_backup, load_manifest
from ops.backup.restore import RestoreReport
from ops.backup.restore import restore as restore_ledger
from ops.backup.signing import open_keys
from ops.commands.options import json_option, objects_at, print_json, progress, run, settings_from, store_options
from ops.commands.tables import counted
from ops.opening.known_ledgers import KnownLedgers
from ops.opening.ledger import open_user_keys
from ops.opening.proof import open_place, signers
from ops.opening.store import store_of
from ops.settings.places import StoragePlace
from ops.settings.settings import Settings
from projections.archive.catalog import Archive
from projections.backup.origin import FromBackup, FromSegments, Origin, find_records
from projections.checking.findings import lines
from projections.transparency.errors import LogRefused
from projections.transparency.going_on import GoneOn, go_on
from projections.transparency.going_on import told as what_was_made_good
from projections.transparency.noted import note, read_noted


@click.command()
@click.argument("source", metavar="[FROM]", required=False)
@click.option("--from-segments", is_flag=True, help="Without a backup: from the segments in LEDGER_ARCHIVE alone.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
@json_option
def restore(
    source: str | None, from_segments: bool, yes: bool, data_dir: Path | None, redis_url: str | None, as_json: bool
) -> None:
    """Fill an empty server from a backup: its URL, or its name in LEDGER_ARCHIVE, or `latest`.

    Everything is checked before anything is written. Every restored session is asked to start over. Sessions of which
    the transparency log (LEDGER_PROOF) knows more go on behind that, and those that ended since then are ended again.
    May be interrupted and run again; until it is done, no service starts on that server. Exits 1 if something differs
    at the end.
    """
    if (source is None) != from_segments:
        raise click.UsageError("give a backup, or --from-segments")
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    place, known = settings.archive, KnownLedgers(settings)
    what = _named(source, place)
    if not yes:
        _confirm(what, settings)

    async def work() -> tuple[RestoreReport, Origin]:
        async with store_of(settings) as store:
            clock = SteadyClock(store)
            await clock.look()
            origin = await (
                _from_segments(store, place, settings) if source is None else _from_backup(store, source, place)
            )
            with progress("restoring", origin.partitions) as advance:
                report = await restore_ledger(
                    store,
                    origin,
                    clock,
                    on_progress=lambda report: advance(
                        report.partitions, f"{report.doing}, {counted(report.events, 'event')}"
                    ),
                    open_signing_keys=lambda sealed: open_keys(settings, sealed),
                    user_keys=open_user_keys(store, settings),
                    ledger_id=known.newest,
                    behind_log=partial(_behind_log, settings, known.newest),
                )
            known.note(await read_id(store), make=False)
            return report, origin

    report, origin = run(work())
    print_json(report) if as_json else _tell(report, origin, place, settings)
    if not report.is_complete:
        raise click.exceptions.Exit(1)


async def _behind_log(settings: Settings, known_id: str, ledger: Ledger) -> GoneOn | None:
    """Compare what was restored with the ledger's log; None where none is at hand, which is told if there was one."""
    noted, place = await read_noted(ledger.store), open_place(settings)
    name = keys.meta()
    ledger_id = (await ledger.store.command("HGET", name, "id", key=name) or known_id.encode()).decode()
    identity = None if place is None else await place.identity()
    if place is None or identity is None or ledger_id not in ("", identity.ledger):
        if noted.origin:
            where = place.shown if place is not None else "LEDGER_PROOF, which is not set"
            echo(
                f"not compared with log {noted.origin} in {noted.place}, which is not in {where}: what it has of these "
                "sessions since the backup will contradict what they do from now on. Where it is not lost, set "
                "LEDGER_PROOF to it and restore into an empty server again",
                err=True,
            )
        return None
    try:
        verifiers = [key.public for key in signers(settings)(identity.origin, False)]
    except LogRefused:
        verifiers = []
        echo(f"log {identity.origin} is believed as it is, for its key is not at hand", err=True)
    report = await go_on(ledger, place, identity.origin, verifiers, must_sign=bool(verifiers))
    await note(ledger.store, identity.origin, place.shown, report.size)  # so that nobody looks again
    return report


async def _from_backup(store: Store, source: str, place: StoragePlace | None) -> Origin:
    """Open a backup and check all of it."""
    if "://" in source:
        objects, folder = objects_at("FROM", source, make=False), ""
    else:
        assert place is not None, "checked before"
        objects = place.open()
        folder = await find_backup(objects, source)
    manifest = await load_manifest(objects, folder)
    origin = FromBackup(objects, folder, manifest, None if place is None else Archive(store, place.open()))
    with progress("checking files", len(manifest.parts)) as advance:
        done = 0
        async for part in origin.check():
            done += 1
            advance(done, part.name)
    return origin


async def _from_segments(store: Store, place: StoragePlace | None, settings: Settings) -> Origin:
    """Find all segments and check them."""
    assert place is not None, "checked before"
    objects, records = place.open(), {}
    with progress("checking segments", settings.partitions) as advance:
        async for partition, record in find_records(store, objects, settings.partitions):
            if record.floor:
                records[partition] = record
            advance(partition + 1, record.segment)
    if not records:
        raise click.ClickException(f"there are no segments in {place.url}")
    return FromSegments(store, objects, settings.partitions, records)


def _named(source: str | None, place: StoragePlace | None) -> str:
    """Name what is to be restored; raises UsageError where it is not said where that lies."""
    if source is None:
        if place is None:
            raise click.UsageError("say where the segments are: set LEDGER_ARCHIVE")
        return f"the segments in {place.url}"
    if place is None and "://" not in source:
        raise click.UsageError(
            "give the backup as a URL, like file:///srv/ledger/backups/ledger-…, or set LEDGER_ARCHIVE"
        )
    return source


def _confirm(source: str, settings: Settings) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to ask: add --yes")
    where = settings.data_dir if settings.redis_url is None else "the server given"
    click.confirm(f"Restore {source} into {where}?", abort=True)


def _tell(report: RestoreReport, origin: Origin, place: StoragePlace | None, settings: Settings) -> None:
    verified = report.verified
    for line in (*lines(report.broken, len(report.broken)), *lines(verified.differences, verified.different)):
        echo(line)
    echo(
        f"{counted(report.events, 'event')} restored in {counted(report.partitions, 'partition')}; "
        f"{counted(report.sessions, 'living session')}, "
        f"{report.resets:,} of them asked to start over"
    )
    if report.rows_refused:
        echo(f"left out, as they do not fit this version: {counted(report.rows_refused, 'row')} of libraries")
    for what in origin.manifest.damage if isinstance(origin, FromBackup) else ():
        echo(f"not in the backup, which was made of a damaged ledger: {what}")
    if report.logged is not None:
        echo(what_was_made_good(report.logged))
    if report.erased:
        echo(f"erased since, and again here: {counted(report.erased, 'user')} in it")
    if report.signing_keys:
        echo(report.signing_keys)
    if isinstance(origin, FromSegments):
        echo("what lay behind the newest segments is lost, and so are API keys, identities, credentials and catalogs")
    elif isinstance(origin, FromBackup) and origin.manifest.archive and place is None:
        echo(f"older events are in segments in {origin.manifest.archive}: set LEDGER_ARCHIVE to it")
    if settings.partitions != origin.partitions:
        echo(f"this ledger has {origin.partitions} partitions: set LEDGER_PARTITIONS={origin.partitions}")
    different = report.verified.different
    echo("verified: " + (f"{different:,} differ" if different else "all agree"))
