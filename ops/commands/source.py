"""`syncledger source`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click import echo

from ledger.errors import LedgerError, NoLedger
from ledger.events import IMMICH
from ops.commands.options import Listed, json_option, print_json, progress, run, settings_from, store_options
from ops.commands.tables import columns, counted
from ops.embedded.files import EmbeddedServerError, check_begun
from ops.opening.identity_provider import gumnut_config
from ops.opening.ledger import opened
from ops.opening.sources import open_postgres, open_source
from ops.settings.settings import Settings
from projections.entities.origins import Origins
from projections.entities.source import HeldBack, SourceUnavailable
from projections.entities.source_check import CheckReport, Problem
from projections.unknown_types import UnknownTypes, told

if TYPE_CHECKING:
    from projections.entities.postgres.mapping.mapping import Mapping
    from projections.entities.postgres.pool import Postgres

_WIDEST = 200
_MOST_HELD = 200


@click.group(cls=Listed)
def source() -> None:
    """Check where entities come from, or accept an exchanged database."""


@source.command()
@store_options
@json_option
def check(data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """Check that LEDGER_SOURCE can be read as it must: server, mapping, rows, plans, horizon. Exits 1 on a problem.

    With LEDGER_IDENTITY=immich it also says which rights the role lacks or has too many of, with the statements that
    mend that. It only reads PostgreSQL's catalogs and plans, and tables once to find rows that no device can read, so
    the database may be in use. Indexes to add are printed ready to run. Warnings and notes do not make it fail.
    """
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    with progress("checking the source"):
        report = run(report_of(settings))
    if as_json:
        print_json(report)
    else:
        for line in _told(report):
            echo(line)
    if not report.ok:
        raise click.exceptions.Exit(1)


@source.command()
@click.option("--same", is_flag=True, help="It has all that it had before: no device starts over.")
@store_options
def accept(same: bool, data_dir: Path | None, redis_url: str | None) -> None:
    """Take the database behind LEDGER_POSTGRES for the source from now on, without waiting until it has settled.

    A service does that by itself after a minute, and each device that synced with another database starts over. With
    --same no more of them do: for use after pg_upgrade, or where a table was made anew with the same rows.
    """
    settings = settings_from(data_dir=data_dir, redis_url=redis_url)
    if settings.source != "postgres":
        raise click.UsageError(f"LEDGER_SOURCE is {settings.source}: only a database can be exchanged for another")

    async def work() -> tuple[int, bool]:
        from projections.entities.postgres.identity import IdentityReader
        from projections.entities.postgres.mapping.from_toml import load_mapping

        async with opened(settings) as found, AsyncExitStack() as closing:
            postgres = await open_postgres(settings.postgres)
            closing.push_async_callback(postgres.close)
            async with postgres.connection() as connection:
                identity = await IdentityReader(load_mapping(settings.postgres.mapping)).read(connection)
            return await Origins(found.store).accept(identity, same=same)

    number, changed = run(work())
    if not changed:
        echo(f"it is the source already (number {number}); nothing was changed")
    elif same:
        echo(f"it is the source from now on (number {number}), and devices go on from what they have")
    else:
        echo(f"it is the source from now on (number {number}); devices that synced with another one start over")


async def report_of(settings: Settings) -> CheckReport:
    """Check the source that settings name. Raises LedgerError where a ledger is needed and cannot be opened."""
    if settings.source == "postgres":
        from projections.entities.postgres.check.check import check as check_postgres
        from projections.entities.postgres.check.check import is_another
        from projections.entities.postgres.mapping.from_toml import load_mapping

        mapping = load_mapping(settings.postgres.mapping)
        postgres = await open_postgres(settings.postgres)
        try:
            report = await check_postgres(postgres, mapping)
            if settings.identity == IMMICH and not is_another(report):
                report.problems[:0] = await _grants(postgres, mapping)
        finally:
            await postgres.close()
        if mapping.source.version and not is_another(report):
            report.problems += await _unknown_types(settings)
        return report
    try:
        if settings.redis_url is None:
            check_begun(settings.data_dir)
        async with opened(settings) as found, AsyncExitStack() as closing:
            source = await open_source(settings, found, closing)
            health = await source.health()
            held_back_everywhere = await source.held_back_everywhere() if settings.source == "gumnut" else {}  # type: ignore[attr-defined]
    except (EmbeddedServerError, NoLedger) as error:  # nothing is made to look at
        return await _without_ledger(settings, str(error))
    if not health.ok:
        return CheckReport(kind=health.kind, facts={}, problems=[Problem(weight="problem", says=health.text)])
    held = [(library, each) for library, rows in held_back_everywhere.items() for each in rows]
    problems = [_held_back(library, each) for library, each in held[:_MOST_HELD]]
    if len(held) > _MOST_HELD:
        problems.append(Problem(weight="warning", says=f"{len(held) - _MOST_HELD:,} more kinds of rows are not sent"))
    return CheckReport(kind=health.kind, facts={"source": health.text}, problems=problems)


async def _without_ledger(settings: Settings, why: str) -> CheckReport:
    """Check what can be told of a source before there is a ledger."""
    note = Problem(weight="note", says=f"what devices were not sent is not known before there is a ledger: {why}")
    if settings.source == "catalog":
        return CheckReport(kind="catalog", facts={"source": "in the ledger's own store"}, problems=[note])
    from projections.entities.gumnut.client import Pool, health_of

    config = gumnut_config(settings)
    pool = Pool(config)
    try:
        found = await health_of(pool, config.issuer)
    finally:
        await pool.close()
    if not found.ok:
        return CheckReport(kind=found.kind, facts={}, problems=[Problem(weight="problem", says=found.text)])
    return CheckReport(kind=found.kind, facts={"source": found.text}, problems=[note])


async def _unknown_types(settings: Settings) -> list[Problem]:
    """Tell of what apps asked the service for and this version does not know, where there is a ledger yet."""
    if settings.redis_url is None:
        try:
            check_begun(settings.data_dir)
        except EmbeddedServerError:  # nobody asked for anything here yet
            return []
    try:
        async with opened(settings) as found:
            unknown = await UnknownTypes(found.store).all(found.ledger.clock())
    except LedgerError as error:
        return [Problem(weight="note", says=f"what apps ask for in vain is not known: {error}")]
    return [Problem(weight="warning", says=told(unknown))] if unknown else []


async def _grants(postgres: Postgres, mapping: Mapping) -> list[Problem]:
    """Check what our role may do in Immich's database; one that does not answer is told by the rest of the check."""
    from projections.immich.grants import grant_problems

    try:
        return await grant_problems(postgres, mapping)
    except SourceUnavailable:
        return []


def _held_back(library: str, held: HeldBack) -> Problem:
    """Tell of rows that devices were not sent."""
    why = f"at {held.parent}" if held.reason == "unfit" else f"which waits for {held.parent}"
    rows = "1 row is" if held.rows == 1 else f"{counted(held.rows, 'row')} are"
    says = f"{rows} not sent in library {library}, like {held.example_id}, {why}"
    return Problem(weight="warning", says=says, entity_type=held.entity_type)


def _told(report: CheckReport) -> Iterator[str]:
    yield from columns([("kind", report.kind), *report.facts.items()], _WIDEST)
    for problem in report.problems:
        yield ""
        yield f"{problem.weight}: {problem.told}" + (f"  [{problem.place}]" if problem.place else "")
        for statement in problem.index.splitlines():
            yield f"    {statement}"
    yield ""
    counts = [sum(problem.weight == weight for problem in report.problems) for weight in ("problem", "warning")]
    yield f"{counts[0] or 'no'} problem{'s' * (counts[0] != 1)}, {counts[1] or 'no'} warning{'s' * (counts[1] != 1)}"
