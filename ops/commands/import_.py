"""`syncledger import`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import click
from click import echo

from ledger.keys import check_name
from ops.commands.options import json_option, print_json, progress, run, settings_from, store_options
from ops.opening.ledger import opened
from projections.counters import Counters
from projections.entities.catalog.ingest import IngestReport, ingest, note_held_back

_READ_BYTES = 1 << 20


@click.command("import")
@click.option("--library", metavar="LIBRARY", required=True, help="The library the entities belong to.")
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True, path_type=Path))
@store_options
@json_option
def import_entities(
    library: str, files: tuple[Path, ...], data_dir: Path | None, redis_url: str | None, as_json: bool
) -> None:
    """Load entities into a library: NDJSON lines {"type", "id", "data"}; "-" reads stdin.

    Lines that do not fit are named as file:line:field and left out, and the others are taken; exits 1 if any was
    refused. Rows that refer to missing rows are reported, and are sent to devices once the missing ones are there.
    """
    check_name("--library", library)
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    if settings.source != "catalog":
        raise click.UsageError(f"LEDGER_SOURCE={settings.source}: entities come from there, and are written there")
    for file in files:
        if str(file) != "-" and not (file.is_file() or file.is_fifo()):
            raise click.BadParameter(f"{file} is not a file", param_hint="FILE")

    async def work() -> dict[str, IngestReport]:
        reports = {}
        async with opened(settings, begin=True) as found:
            for file in files:
                size = file.stat().st_size if file.is_file() else None
                with progress(f"importing {file}", size) as advance:
                    reports[str(file)] = await ingest(found.catalog, library, _chunks(file, advance))
                await note_held_back(Counters(found.store), reports[str(file)])
        return reports

    reports = run(work())
    if as_json:
        print_json(reports)
    refused = 0
    for name, report in reports.items():
        refused += report.refused
        if as_json:
            continue
        for refusal in report.refusals:
            field = ".".join(map(str, refusal.path)) or "line"
            echo(f"{name}:{refusal.line}:{field}: {refusal.message}", err=True)
        if report.refused > len(report.refusals):
            echo(f"{name}: … and {report.refused - len(report.refusals):,} more refused lines", err=True)
        echo(f"{name}: {report.taken:,} taken, {report.unchanged:,} unchanged, {report.refused:,} refused")
        for held in report.waits:
            echo(f"{held.rows:,} {held.entity_type} wait, like {held.example_id} for {held.parent}", err=True)
    if refused:
        raise click.exceptions.Exit(1)


async def _chunks(file: Path, advance: Callable[[int, str], None]) -> AsyncIterator[bytes]:
    """Read a file in pieces, off the event loop."""
    stream = sys.stdin.buffer if str(file) == "-" else file.open("rb")
    done = 0
    try:
        while piece := await asyncio.to_thread(stream.read, _READ_BYTES):
            yield piece
            done += len(piece)
            advance(done, "bytes")
    finally:
        if stream is not sys.stdin.buffer:
            stream.close()
