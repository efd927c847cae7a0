"""`syncledger backup`."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import click
from click import echo

from ledger.errors import LedgerError
from ops.backup.job import BackupOptions, BackupReport, back_up
from ops.backup.listing import list_backups
from ops.backup.signing import seal_keys
from ops.commands.options import json_option, objects_at, print_json, progress, run, settings_from, store_options
from ops.commands.tables import counted
from ops.figures.runs import note_failed, noted, opened_to_run
from projections.archive.objects import Objects


@click.command()
@click.option("--to", "to_url", help="Where to, like s3://bucket/prefix [default: LEDGER_ARCHIVE].")
@click.option("--keep", type=click.IntRange(1), help="Keep this many of the newest backups, and remove the others.")
@click.option("--with-catalog", is_flag=True, help="Also the libraries of the embedded catalog.")
@click.option("--list", "listing", is_flag=True, help="Only list the backups that are there.")
@store_options
@json_option
def backup(
    to_url: str | None,
    keep: int | None,
    with_catalog: bool,
    listing: bool,
    data_dir: Path | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Write all that a ledger needs to object storage, while it is in use.

    Archived events stay where they are, and the backup says where. Signing keys are in it only encrypted, with
    LEDGER_CREDENTIAL_KEY. An interrupted backup is no backup: it is listed as unfinished, and --keep removes it once
    nothing was written to it for an hour. Exits 1 if something could not be read; that is named, and all else saved.
    """
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    if not to_url and settings.archive is None:
        raise click.UsageError("say where to: --to, or LEDGER_ARCHIVE, like file:///srv/ledger or s3://bucket/ledger")
    try:
        if to_url:
            objects = objects_at("--to", to_url, make=not listing)
        else:
            assert settings.archive is not None
            objects = settings.archive.open(make=not listing)
    except (LedgerError, click.UsageError):
        if not listing:
            run(note_failed(settings, "backup"))
        raise
    if listing:
        _list(objects, as_json)
        return
    if with_catalog and settings.source != "catalog":
        echo(f"the entities that devices get are not in it: they come from LEDGER_SOURCE={settings.source}", err=True)
    archive_url = "" if settings.archive is None else settings.archive.url

    async def work() -> BackupReport:
        sealed, words = seal_keys(settings)
        async with opened_to_run(settings, "backup") as found:
            options = BackupOptions(
                version=version("syncledger"),
                archive_url=archive_url,
                with_catalog=with_catalog,
                keep=keep,
                signing_keys=sealed,
            )
            with progress("backing up partitions", found.ledger.partitions) as advance:
                async with noted(found.store, "backup") as this:
                    await found.check_archive()
                    report = await back_up(
                        found.store,
                        found.archive,
                        objects,
                        found.ledger.partitions,
                        options,
                        found.ledger.clock(),
                        on_progress=lambda report: advance(report.partitions, f"{counted(report.events, 'event')}"),
                    )
                    this.ok = not report.damage
            report.signing_keys = words
            return report

    report = run(work())
    if as_json:
        print_json(report)
    else:
        _tell(report, archive_url)
    if report.damage:
        raise click.exceptions.Exit(1)


def _tell(report: BackupReport, archive_url: str) -> None:
    echo(
        f"{report.name}: {counted(report.events, 'event')} of {counted(report.partitions, 'partition')}, "
        f"{counted(report.libraries, 'library', 'libraries')}, "
        f"in {counted(report.files, 'file')} of {counted(report.bytes, 'byte')}"
    )
    if report.segments:
        echo(f"older events stay in {counted(report.segments, 'segment')} in {archive_url}")
    echo(report.signing_keys)
    for name in report.removed:
        echo(f"removed {name}")
    for what in report.damage:
        echo(f"not in it: {what}", err=True)
    if report.damage:
        echo("the ledger is damaged: all else is saved, and no old backup was removed. Run syncledger verify", err=True)


def _list(objects: Objects, as_json: bool) -> None:
    found = run(list_backups(objects))
    if as_json:
        print_json(found)
        return
    if not found:
        echo("there are no backups", err=True)
    for listed in found:
        unfinished = "" if listed.complete else "  unfinished"
        echo(f"{listed.name}  {counted(listed.files, 'file')}  {counted(listed.bytes, 'byte')}{unfinished}")
