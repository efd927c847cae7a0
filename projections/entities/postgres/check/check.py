"""`source check` for PostgreSQL: the server, the mapping against the schema, rows and plans, and the horizon."""

from __future__ import annotations

import time
from typing import Any, Final

from projections.entities.postgres.check.page_plans import plan_problems
from projections.entities.postgres.check.samples import sample_problems
from projections.entities.postgres.check.schema import schema_problems
from projections.entities.postgres.check.unfit_rows import unfit_problems
from projections.entities.postgres.horizon import HorizonReader, HorizonUnknown
from projections.entities.postgres.mapping.applicable import applicable, backend_version
from projections.entities.postgres.mapping.from_toml import PRESETS
from projections.entities.postgres.mapping.mapping import Mapping
from projections.entities.postgres.pool import PRINTING, Postgres
from projections.entities.protocol_version import NEWEST, read_version
from projections.entities.source import SourceUnavailable
from projections.entities.source_check import CheckReport, Problem

OLDEST_TESTED: Final = 15
LATE_US: Final = 60_000_000
"""A horizon this far behind the clock is worth a word: devices see nothing newer."""
CLOCKS_APART_US: Final = 10_000_000

_PRINTING: Final = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)"
_PLACE: Final = "source"
_OF_IMMICH: Final = ("user", "asset", "album", "version_history")
"""Tables that every database of Immich has."""
_LACKS: Final = """
SELECT current_database() AS database,
       EXISTS (SELECT FROM unnest($1::text[]) name WHERE to_regclass(quote_ident(name)) IS NOT NULL) AS found
"""
_SERVER: Final = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,
       current_database() AS database, current_user AS role,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all,
       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS clock_us
"""


async def check(postgres: Postgres, mapping: Mapping) -> CheckReport:
    """Check all there is to check; a server that does not answer is a problem of the report, and raises nothing."""
    report = CheckReport(kind="postgres", facts={"mapping": mapping.name}, problems=[])
    try:
        async with postgres.connection() as connection:
            report.problems += await _server(connection, report.facts)
            report.problems += await _printing(connection)
            report.problems += await _horizon(connection, mapping, report.facts)
            if another := await _another_database(connection, mapping):
                report.problems.append(another)
                return report
            report.problems += await _backend(connection, mapping, report.facts)
            mapping = await applicable(connection, mapping)
            refused = await schema_problems(connection, mapping)
            report.problems += refused
            if not any(problem.weight == "problem" for problem in refused):
                report.problems += await sample_problems(connection, mapping)
                report.problems += await unfit_problems(connection, mapping)
                report.problems += await plan_problems(connection, mapping)
    except SourceUnavailable as error:
        report.problems.append(Problem(weight="problem", says=str(error)))
    return report


async def check_schema(postgres: Postgres, mapping: Mapping) -> list[Problem]:
    """Check what a service must not start without: that the database has what the mapping names, in types that fit.

    Reads no row. Raises SourceUnavailable if the server does not answer.
    """
    async with postgres.connection() as connection:
        if another := await _another_database(connection, mapping):
            return [another]
        return await schema_problems(connection, await applicable(connection, mapping))


def is_another(report: CheckReport) -> bool:
    """Tell whether the database is none of the backend that the mapping is for."""
    return any(problem.place == _PLACE and problem.weight == "problem" for problem in report.problems)


async def _another_database(connection: Any, mapping: Mapping) -> Problem | None:
    """Say in one line that a database is not Immich's, rather than name all that it lacks; None where it may be."""
    if mapping.name not in PRESETS:
        return None
    row = await connection.fetchrow(_LACKS, list(_OF_IMMICH))
    if row["found"]:
        return None
    says = (
        f"database {row['database']} is not Immich's, or Immich has not filled it yet: it has none of the tables "
        f"{', '.join(_OF_IMMICH)}. Name Immich's database in LEDGER_POSTGRES, or in LEDGER_POSTGRES_MAPPING a mapping "
        "of this one"
    )
    return Problem(weight="problem", says=says, place=_PLACE)


async def _server(connection: Any, facts: dict[str, str]) -> list[Problem]:
    before_us = time.time_ns() // 1000
    row = await connection.fetchrow(_SERVER)
    apart_us = row["clock_us"] - (before_us + time.time_ns() // 1000) // 2
    facts["server"] = f"PostgreSQL {row['version']}, database {row['database']}, as {row['role']}"
    facts["clock"] = f"{apart_us / 1e6:+.3f} s from this machine's"
    problems = []
    if row["major"] < OLDEST_TESTED:
        says = f"PostgreSQL {row['version']} is older than what this service is tested with ({OLDEST_TESTED})"
        problems.append(Problem(weight="warning", says=says))
    if not row["sees_all"]:
        says = (
            f"{row['role']} sees only its own sessions; as soon as another role has one open, how far the database can "
            f'be read is not known: GRANT pg_read_all_stats TO "{row["role"]}"'
        )
        problems.append(Problem(weight="warning", says=says))
    if abs(apart_us) > CLOCKS_APART_US:
        says = f"the server's clock is {apart_us / 1e6:+.0f} s from this machine's; what counts is the server's"
        problems.append(Problem(weight="note", says=says))
    return problems


async def _printing(connection: Any) -> list[Problem]:
    """Tell what a connection prints otherwise than we ask for: a pooler in between may leave that out."""
    found = {row["name"]: row["setting"] for row in await connection.fetch(_PRINTING, list(PRINTING))}
    return [
        Problem(weight="problem", says=f"{name} is {found[name]!r}, and must be {wanted!r}: ALTER ROLE … RESET {name}")
        for name, wanted in PRINTING.items()
        if found.get(name, wanted) != wanted
    ]


async def _backend(connection: Any, mapping: Mapping, facts: dict[str, str]) -> list[Problem]:
    """Tell which version the backend is, and whether its apps ask for types that are not known here."""
    text = await backend_version(connection, mapping)
    if text is None:
        if mapping.source.version:
            says = "which version the backend is cannot be read: GRANT SELECT ON version_history, or set"
            return [Problem(weight="note", says=f"{says} LEDGER_PROTOCOL_VERSION")]
        return []
    facts["backend"] = text
    try:
        version = read_version(text)
    except ValueError as error:
        return [Problem(weight="note", says=f"which version the backend is cannot be read: {error}")]
    if version[:2] <= NEWEST[:2]:
        return []
    says = f"the backend is {version}; types that came after {NEWEST.major}.{NEWEST.minor} are left out of streams"
    return [Problem(weight="warning", says=f"{says}, so phones lack what they hold: upgrade this service")]


async def _horizon(connection: Any, mapping: Mapping, facts: dict[str, str]) -> list[Problem]:
    try:
        horizon = await HorizonReader(mapping.source.stamps, mapping.source.keeps_deletes_us).read(connection)
    except HorizonUnknown as error:
        return [Problem(weight="problem", says=str(error))]
    held = f", held back by {horizon.oldest.text}" if horizon.oldest is not None else ""
    facts["horizon"] = f"{horizon.behind_us / 1e6:.1f} s behind the clock{held}"
    if horizon.behind_us <= LATE_US:
        return []
    says = f"devices see nothing of the last {horizon.behind_us / 1e6:,.0f} s{held}; it comes when that ends"
    if mapping.source.keeps_deletes_us is not None:
        says += (
            f"; after {mapping.source.keeps_deletes_us / 1e6:,.0f} s, as long as deletes are kept, streams are refused"
        )
    return [Problem(weight="warning", says=says)]
