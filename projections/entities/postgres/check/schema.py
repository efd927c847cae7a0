"""Whether the database has what a mapping names, of types that fit the payloads; reads no row.

Each branch is asked for as a whole. Only what fails is taken apart, piece by piece, to name the place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import asyncpg
import msgspec

from projections.entities.postgres.connections.connecting import apart
from projections.entities.postgres.mapping.column_types import SqlType, fields_of, misfit
from projections.entities.postgres.mapping.mapping import Mapping
from projections.entities.postgres.mapping.probes import Piece, Probe
from projections.entities.postgres.mapping.sql_names import Column, columns_in, unquoted
from projections.entities.postgres.statements.readable import STAMPS
from projections.entities.source_check import Problem, Weight

_OF_STATEMENTS: Final = ("22", "42", "0A", "2B", "3F", "55")
"""Classes of SQLSTATE that blame the statement, and not the server or the connection."""
_NO_TABLE: Final = re.compile(
    r'(?:relation|FROM-clause entry for table) "([^"]+)"|permission denied for (?:table|view|schema) (\S+)'
)
_NO_COLUMN: Final = re.compile(r'column (?:"?([\w$]+)"?\.)?"?([\w$]+)"? (?:of relation "[^"]+" )?does not exist')
_TYPES: Final = """
SELECT t.oid, coalesce(b.typname, t.typname) AS name,
       ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid IN (b.oid, t.oid) ORDER BY enumsortorder) AS labels
FROM pg_type t LEFT JOIN pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype WHERE t.oid = ANY($1::oid[])
"""
_NULL: Final = re.compile(r"\s*null\s*", re.IGNORECASE)


def probes_of(mapping: Mapping) -> list[Probe]:
    """Make a probe for each branch, in the mapping's order."""
    return [
        Probe(branch, index, mapping.source.library)
        for branches in mapping.entities.values()
        for index, branch in enumerate(branches)
    ]


async def schema_problems(connection: Any, mapping: Mapping) -> list[Problem]:
    """List what of a mapping the database refuses and which expressions do not fit their payload's keys.

    Raises SourceUnavailable if the server does not answer.
    """
    problems: list[Problem] = []
    database = _Database(connection)
    for probe in probes_of(mapping):
        problems += await _of_branch(database, probe)
    return once(problems)


def blames_the_statement(error: asyncpg.PostgresError) -> bool:
    """Tell whether an error is about what was asked, so that asking again will not help."""
    of_session = isinstance(error, asyncpg.DuplicatePreparedStatementError)  # one that a pooler shares
    return not of_session and str(getattr(error, "sqlstate", "") or "").startswith(_OF_STATEMENTS)


class _Database:
    """Runs statements that return no row, and remembers what types the database has."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._known: dict[int, SqlType] = {}

    async def types(self, sql: str) -> list[SqlType]:
        """Tell the types of a statement's columns; it is run, since rights are looked at only then."""
        async with apart(self._connection):
            statement = await self._connection.prepare(sql)
            await statement.fetch(*(None for _ in statement.get_parameters()))
        return await sql_types(self._connection, statement, self._known)


async def sql_types(connection: Any, statement: Any, known: dict[int, SqlType]) -> list[SqlType]:
    """Tell the types of a prepared statement's columns; what the database has to be asked is added to `known`."""
    oids = [attribute.type.oid for attribute in statement.get_attributes()]
    if unknown := sorted(set(oids) - known.keys()):
        for row in await connection.fetch(_TYPES, unknown):
            known[row["oid"]] = SqlType(row["name"], tuple(row["labels"]))
    return [known[oid] for oid in oids]


async def _of_branch(database: _Database, probe: Probe) -> list[Problem]:
    data, order = probe.data(), probe.order()
    try:
        types = await database.types(probe.whole([*data, *order, *probe.parents_data()]))
    except asyncpg.PostgresError as error:
        if not blames_the_statement(error):
            raise
        found = await _taken_apart(database, probe)
        return found or [_refused(probe, Piece(probe.place, ""), error)]
    problems = list(_misfits(probe, data, types))
    problems += _order_misfits(probe, order, types[len(data) : len(data) + len(order)])
    if each := probe.each_order():
        problems += _order_misfits(probe, each, await database.types(probe.shares(each)))
    return problems


async def _taken_apart(database: _Database, probe: Probe) -> list[Problem]:
    """Ask for each piece alone and list those that are refused; a wrong table or join ends it there."""
    problems = []
    for piece, sql in probe.steps():
        try:
            await database.types(sql)
        except asyncpg.PostgresError as error:
            if not blames_the_statement(error):
                raise
            problems.append(_refused(probe, piece, error))
            if piece.place.endswith((".from", ".on")):
                break
    return problems


def _misfits(probe: Probe, data: Sequence[Piece], types: Sequence[SqlType]) -> Iterator[Problem]:
    """Compare each expression's type with what a device reads there."""
    branch = probe.branch
    fields = {field.name: field for field in fields_of(branch.entity_type)}
    for key, piece, sql_type in zip(branch.data, data, types, strict=False):
        field = fields[key]
        if _NULL.fullmatch(piece.sql):
            if not field.nullable:
                yield about(probe, piece, f"{key} is null, but a device needs a value there")
        elif says := misfit(field.kind, sql_type):
            yield about(probe, piece, f"{key} {says}")
        elif field.values and (others := [label for label in sql_type.labels if label not in field.values]):
            says = f"{key} can be {', '.join(others)}, which no device knows: such a row is held back"
            yield about(probe, piece, says, "warning")


def _order_misfits(probe: Probe, order: Sequence[Piece], types: Sequence[SqlType]) -> Iterator[Problem]:
    for piece, sql_type in zip(order, types, strict=False):
        if piece.place.endswith(".uuid7") and sql_type.name != "uuid":
            yield about(probe, piece, f"rows are to be in the order of a UUIDv7, but this is {sql_type.name}")
        elif piece.place.endswith(".updated_at") and sql_type.name not in STAMPS:
            yield about(probe, piece, f"must be a timestamptz (or a timestamp in UTC), not {sql_type.name}")
        elif piece.place.endswith(".id") and (says := misfit("id", sql_type)):
            yield about(probe, piece, says)


def _refused(probe: Probe, piece: Piece, error: asyncpg.PostgresError) -> Problem:
    """Put the database's refusal in words, with the table and column it names."""
    message = str(getattr(error, "message", "") or error)
    hint = getattr(error, "hint", None)
    table, column = "", ""
    if found := _NO_COLUMN.search(message):
        alias = found[1] or next((each.alias for each in columns_in(piece.sql) if each.name == found[2]), "")
        table, column = _table(probe, alias), found[2]
    elif found := _NO_TABLE.search(message):
        table = found[1] or found[2]
    elif columns := columns_in(piece.sql):
        table, column = _table(probe, columns[0].alias), columns[0].name
    says = f"PostgreSQL says: {message}" + (f" ({hint})" if hint else "")
    return _problem(probe, piece, says, table, column)


def about(probe: Probe, piece: Piece, says: str, weight: Weight = "problem") -> Problem:
    """Make a problem of a piece, with the first column in it."""
    column = next(iter(columns_in(piece.sql)), Column("", ""))
    return _problem(probe, piece, says, _table(probe, column.alias), column.name, weight)


def _problem(probe: Probe, piece: Piece, says: str, table: str, column: str, weight: Weight = "problem") -> Problem:
    return Problem(
        weight=weight,
        says=says,
        entity_type=probe.branch.entity_type,
        place=piece.place,
        table=table,
        column=column,
    )


def _table(probe: Probe, alias: str) -> str:
    return unquoted(probe.tables[alias].rpartition(".")[2]) if alias in probe.tables else ""


def once(problems: Sequence[Problem]) -> list[Problem]:
    """Tell the same trouble of the same column once, and name the entity types where it comes again."""
    again: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        again.setdefault((problem.table, problem.column, problem.says), []).append(problem)
    told = []
    for first, *others in again.values():
        names = dict.fromkeys(other.entity_type for other in others if other.entity_type != first.entity_type)
        says = first.says + (f"; so also in {', '.join(names)}" if names else "")
        told.append(msgspec.structs.replace(first, says=says))
    return told
