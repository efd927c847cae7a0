"""What the database says of a mapping's branches: types, enums' values, what is never null. Asked once, no row read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import asyncpg

from ledger.commands import Resend
from projections.entities.forms import forms_of
from projections.entities.postgres.check.schema import blames_the_statement, sql_types
from projections.entities.postgres.connections.connecting import encoding_of
from projections.entities.postgres.mapping.applicable import applicable
from projections.entities.postgres.mapping.column_types import SqlType
from projections.entities.postgres.mapping.expressions import Expressions, expressions_of, probe_of, types_of
from projections.entities.postgres.mapping.mapping import Branch
from projections.entities.postgres.mapping.mapping import Mapping as SourceMapping
from projections.entities.postgres.mapping.sql_names import columns_in, tables_in
from projections.entities.postgres.statements.readable import Given
from projections.entities.postgres.statements.waits import Described, parent_types
from projections.entities.registry import row
from projections.entities.source import SourceUnavailable

_OUTER: Final = re.compile(r"\b(?:LEFT|RIGHT|FULL)\b", re.IGNORECASE)
_DEFAULT: Final = re.compile(r"\s*coalesce\(.*,\s*(?:'(?:[^']|'')*'|true|false|\d+)\s*\)\s*", re.IGNORECASE | re.DOTALL)
_QUOTED: Final = re.compile(r"""[eE]?'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
_WORDS: Final = re.compile(r"[A-Za-z_]\w*|->|[?@#]")
_STRICT: Final = frozenset({"translate", "encode", "length", "lower", "upper", "text", "bigint"})
"""Words of expressions that are null only where a column in them is."""
_NOT_NULL: Final = """
SELECT coalesce(a.attnotnull, false) AS not_null
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY c(of, called, at)
LEFT JOIN pg_attribute a ON a.attrelid = to_regclass(nullif(c.of, '')) AND a.attname = c.called AND a.attnum > 0
ORDER BY c.at
"""


class MappingError(SourceUnavailable):
    """What a mapping says does not fit the database for now; the message names the entity type and what that says."""


class Describer:
    """Asks about the branches of a mapping as they are needed, and keeps what it was told."""

    def __init__(self, mapping: SourceMapping) -> None:
        self._mapping = mapping
        self._library = f"$1::{mapping.source.library}"
        self._applicable: SourceMapping | None = None
        self._types: dict[int, SqlType] = {}
        self._known: dict[str, list[Described]] = {}

    @property
    def resends(self) -> tuple[Resend, ...]:
        """What is sent again by this database; as long as it was asked nothing, only what is by any."""
        return self._mapping.resends_with(()) if self._applicable is None else self._applicable.resends

    async def entity_type(self, connection: asyncpg.Connection, name: str) -> list[Described]:
        """Describe the branches of an entity type; raises MappingError and what the connection raises."""
        known = self._known.get(name)
        if known is None:
            mapped = await self._for_database(connection)
            if name not in mapped:
                raise MappingError(f"No branch of {name} in {self._mapping.name} is for this version of the schema")
            known = [await self.branch(connection, branch) for branch in mapped[name]]
            self._known[name] = known
        return known

    async def sources(self, connection: asyncpg.Connection, name: str) -> dict[str, list[Described]]:
        """Describe the branches of all that rows of an entity type refer to, by the device's table."""
        form = row(name).form
        if form is None or row(name).is_delete:
            return {}
        direct = [parent.table for parent in row(name).parents]
        if row(name).needs_owner:
            direct.append("user")
        found: dict[str, list[Described]] = {}
        for table in ancestors(direct):
            found[table] = []
            for upsert in parent_types(name, table):
                if upsert in await self._for_database(connection):
                    found[table] += await self.entity_type(connection, upsert)
        return found

    async def _for_database(self, connection: asyncpg.Connection) -> Mapping[str, tuple[Branch, ...]]:
        if self._applicable is None:
            self._applicable = await applicable(connection, self._mapping)
        return self._applicable.entities

    async def branch(self, connection: asyncpg.Connection, branch: Branch) -> Described:
        """Describe one branch."""
        found = expressions_of(branch, self._library)
        with blaming(branch.entity_type):
            probe = await connection.prepare(probe_of(found, self._library))
        types = await sql_types(connection, probe, self._types)
        needed, encoding = list(_columns(found)), encoding_of(connection)
        columns = sorted({column for several in needed for column in several or ()})
        rows = await connection.fetch(_NOT_NULL, [of for of, _ in columns], [called for _, called in columns])
        held = {column for column, at in zip(columns, rows, strict=True) if at["not_null"]}
        given = [
            Given(sql_type.name, sql_type.labels, several is not None and held.issuperset(several), encoding)
            for sql_type, several in zip(types, needed, strict=True)
        ]
        return Described(found, types_of(found, given))


def ancestors(tables: Sequence[str]) -> list[str]:
    """List tables of the device and all that their rows refer to."""
    found: dict[str, None] = {}
    left = list(tables)
    while left:
        table = left.pop()
        if table not in found:
            found[table] = None
            left += [parent.table for form in forms_of(table) for parent in form.parents]
    return list(found)


def _columns(found: Expressions) -> Iterator[set[tuple[str, str]] | None]:
    """Name for each expression the tables and columns that must never be null for it not to be; None: it may be."""
    branch = found.branch
    own = _inner_tables(branch.from_) | ({} if branch.each is None else tables_in(branch.each.from_))
    parents = [own | _inner_tables(parent.from_) for parent in branch.parents]
    of_parents = [parents[at] for at, data in enumerate(found.parents) for _ in data]
    before = len(found.order) + len(found.stands) + sum(sql is not None for sql in found.since)
    changes = sum(sql is not None for sql in found.changes) + len(found.each)
    known = [*([{}] * before), *([own] * len(found.data)), *of_parents, *([{}] * changes)]
    for sql, tables in zip(found.all, known, strict=True):
        yield _needed(sql[1:-1], tables)


def _needed(sql: str, tables: Mapping[str, str]) -> set[tuple[str, str]] | None:
    """Name the columns that an expression is null with, and only with: one of them, or a strict function of some."""
    if _DEFAULT.fullmatch(sql):
        return set()
    columns = columns_in(sql)
    words = set(_WORDS.findall(_QUOTED.sub("", sql)))
    if not columns or not words <= _STRICT.union(*columns) or not all(column.alias in tables for column in columns):
        return None
    return {(tables[column.alias], column.name) for column in columns}


def _inner_tables(from_: str) -> dict[str, str]:
    return {} if _OUTER.search(from_) else tables_in(from_)


@contextlib.contextmanager
def blaming(entity_type: str) -> Iterator[None]:
    """Raise MappingError where the database refuses the SQL of an entity type, rather than that it is unavailable.

    What it says of values it stumbled over is left out: they are somebody's data.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        if not blames_the_statement(error):
            raise
        code = str(error.sqlstate)
        said = f"{type(error).__name__} ({code})" if code.startswith("22") else f"{error.args[0]} ({code})"
        text = f"The rows of {entity_type} cannot be read as they are mapped; PostgreSQL says: {said}"
        raise MappingError(text) from None
