"""Rows that no device can read, of all libraries: counted by field, whole tables looked through once each.

Branches of shares are left out: their rows are those of another branch as a rule.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from projections.entities.postgres.check.schema import about, blames_the_statement, once, probes_of
from projections.entities.postgres.connections.connecting import apart
from projections.entities.postgres.mapping.compiled import Compiler
from projections.entities.postgres.mapping.mapping import Mapping
from projections.entities.postgres.mapping.probes import Piece, Probe
from projections.entities.postgres.mapping.sql_names import tables_in
from projections.entities.postgres.statements.statements import unfit_anywhere
from projections.entities.source_check import Problem


async def unfit_problems(connection: Any, mapping: Mapping) -> list[Problem]:
    """List the fields that keep rows back, with how many and one of them; the schema must be right.

    Raises SourceUnavailable if the server does not answer.
    """
    compiler = Compiler(mapping)
    problems: list[Problem] = []
    looked_at: set[str] = set()
    probes = [probe for probe in probes_of(mapping) if probe.branch.each is None]
    for probe in sorted(probes, key=lambda probe: len(tables_in(probe.branch.from_))):
        (part, *_) = await compiler.parts(connection, probe.branch.entity_type, probe.branch)
        sql = unfit_anywhere(part)
        if sql and part.keeps.unfit not in looked_at:  # a table that is joined to others says no more than by itself
            looked_at.add(part.keeps.unfit)
            problems += await _counted(connection, probe, sql)
    return once(problems)


async def _counted(connection: Any, probe: Probe, sql: str) -> list[Problem]:
    pieces = dict(zip(probe.branch.data, probe.data(), strict=True))
    try:
        async with apart(connection):
            statement = await connection.prepare(sql)
            rows = await statement.fetch(*(None for _ in statement.get_parameters()))
    except asyncpg.QueryCanceledError:
        says = "whether all its rows can be read is not known: looking through them took longer than a statement may"
        return [about(probe, Piece(probe.place, ""), says, "warning")]
    except asyncpg.PostgresError as error:
        if not blames_the_statement(error):
            raise
        return [about(probe, Piece(probe.place, ""), f"its rows cannot be looked through: {error.args[0]}")]
    return [
        about(
            probe,
            pieces.get(row["field"], Piece(probe.place, "")),
            f"{row['field']} cannot be read by a device in {row['rows']:,} rows, like {row['id']}: each is held back "
            "with all that refers to it",
            "warning",
        )
        for row in rows
    ]
