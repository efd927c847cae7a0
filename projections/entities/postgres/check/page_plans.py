"""How the database would read pages of each branch: explains their statements for its largest library, runs none."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from projections.entities.postgres.check.indexes import Index, lookup_index, order_index
from projections.entities.postgres.check.plans import Trouble, troubles_in
from projections.entities.postgres.check.schema import once, probes_of
from projections.entities.postgres.connections.connecting import apart, encoding_of
from projections.entities.postgres.mapping.compiled import Compiler
from projections.entities.postgres.mapping.described import MappingError
from projections.entities.postgres.mapping.mapping import Branch, Order
from projections.entities.postgres.mapping.mapping import Mapping as SourceMapping
from projections.entities.postgres.mapping.probes import Probe
from projections.entities.postgres.mapping.sql_names import columns_in, library_columns, quoted, tables_in, unquoted
from projections.entities.postgres.newest_rows import stamps_of
from projections.entities.postgres.statements.encodings import is_whole
from projections.entities.postgres.statements.keyset import Ask
from projections.entities.source_check import Problem, Weight

PAGE_ROWS: Final = 1_000
POLLED_ROWS: Final = 1_000
"""A table of so many rows may be read whole where a device only asks whether there is something new."""
_LATER_US: Final = 4_000_000_000_000_000
_MUCH: Final = 1 << 20
_NUMBERED: Final = re.compile(r"_\d+\Z")
_NOBODY: Final[dict[str, Any]] = {"uuid": "00000000-0000-4000-8000-000000000000", "text": "", "bigint": 0}

# Of a table that was never analyzed -1 is known, but that nothing was ever written to it shows all the same.
_SIZES: Final = """
SELECT relname::text AS name,
       max(CASE WHEN relkind <> 'p' AND pg_relation_size(oid) = 0 THEN 0 ELSE reltuples END) AS rows
FROM pg_class
WHERE relkind IN ('r', 'p', 'm') AND pg_table_is_visible(oid) GROUP BY relname
"""
_INDEXES: Final = """
SELECT c.relname::text AS name,
       ARRAY(SELECT pg_get_indexdef(indexrelid, n, true) FROM generate_series(1, indnkeyatts) n) AS columns
FROM pg_index JOIN pg_class c ON c.oid = indrelid
WHERE indpred IS NULL AND indisvalid AND pg_table_is_visible(c.oid)
"""
# The most common value of a column and how often it is there, of what ANALYZE saw.
_COMMONEST: Final = """
SELECT (most_common_vals::text::text[])[1] AS value, most_common_freqs[1] AS share FROM pg_stats
WHERE tablename = $1 AND attname = $2 AND most_common_vals IS NOT NULL
"""


async def plan_problems(connection: Any, mapping: SourceMapping) -> list[Problem]:
    """List where a page would not come off an index; the schema must be right.

    Small tables are no problem, whatever their plan. Raises SourceUnavailable if the server does not answer.
    """
    sizes = {row["name"]: row["rows"] for row in await connection.fetch(_SIZES)}
    indexes = {(row["name"], tuple(map(unquoted, row["columns"]))) for row in await connection.fetch(_INDEXES)}
    library = await _largest_library(connection, mapping, sizes)
    problems = list(_unknown(mapping, sizes))
    for probe in probes_of(mapping):
        try:
            async with apart(connection):
                troubles, texts = await _troubles(connection, mapping, probe.branch, sizes, library)
        except MappingError as error:
            says, name = str(error), probe.branch.entity_type
            problems.append(Problem(weight="problem", says=says, entity_type=name, place=probe.place))
            continue
        problems += [_told(probe, trouble, indexes, texts=texts) for trouble in troubles]
    return once([*problems, *_polls(mapping, sizes, indexes, {problem.index for problem in problems})])


def _polls(
    mapping: SourceMapping,
    sizes: Mapping[str, float],
    known: Collection[tuple[str, tuple[str, ...]]],
    printed: Collection[str],
) -> Iterator[Problem]:
    """Tell of columns that are in no index: whether they have something new costs reading the whole table."""
    stamps = {stamp[:2]: stamp for branches in mapping.entities.values() for stamp in stamps_of(branches) or ()}
    for stamp in stamps.values():
        name, column = unquoted(stamp.table.rpartition(".")[2]), quoted(stamp.column)
        index, rows = Index(stamp.table, (column,)), int(sizes.get(name, 0))
        is_there = any(table == name and stamp.column in columns for table, columns in known)
        is_printed = any(f" {stamp.table} (" in statement and column in statement for statement in printed)
        if rows > POLLED_ROWS and not is_there and not is_printed:
            says = f"all of about {rows:,} rows are read for a poll of a device; an index would save that"
            yield Problem(weight="warning", says=says, table=name, column=stamp.column, index=index.statement)


def _unknown(mapping: SourceMapping, sizes: Mapping[str, float]) -> Iterator[Problem]:
    """Tell of tables that nobody knows the size of: PostgreSQL plans for them blindly."""
    tables = {unquoted(table) for probe in probes_of(mapping) for table in probe.tables.values()}
    for table in sorted(tables):
        if sizes.get(table, 0) < 0:
            says = "was never analyzed, so its plans cannot be judged, and may be bad: run ANALYZE"
            yield Problem(weight="warning", says=says, table=table)


async def _largest_library(connection: Any, mapping: SourceMapping, sizes: Mapping[str, float]) -> Any:
    """Find the library that has the most rows of one table, by the statistics; nobody's where there are none."""
    most, largest = 0.0, _NOBODY[mapping.source.library]
    if mapping.source.library == "text" and not is_whole(encoding_of(connection)):
        return largest  # its id may be none that can be read
    for table, column in _library_columns(mapping):
        found = await connection.fetchrow(_COMMONEST, table, column)
        if found is None or sizes.get(table, 0) * found["share"] <= most:
            continue
        most = sizes[table] * found["share"]
        largest = int(found["value"]) if mapping.source.library == "bigint" else found["value"]
    return largest


def _library_columns(mapping: SourceMapping) -> set[tuple[str, str]]:
    return {
        (unquoted(table), column)
        for branches in mapping.entities.values()
        for branch in branches
        for alias, table in tables_in(branch.from_).items()
        for column in library_columns(branch.where, alias)
    }


async def _troubles(
    connection: Any, mapping: SourceMapping, branch: Branch, sizes: Mapping[str, float], library: Any
) -> tuple[Sequence[Trouble], bool]:
    """Explain the first page of a branch, and tell whether its ids are texts.

    Its statement is made as if it were its entity type's only branch. Raises MappingError.
    """
    name = branch.entity_type
    alone = msgspec.structs.replace(mapping, entities={name: (branch,)})
    compiled = await Compiler(alone).entity_type(connection, name)
    page, texts = compiled.page, any(part.key.id_kind == "text" for part in compiled.types.parts)
    ask = Ask(library, {name: None}, _LATER_US, PAGE_ROWS, _MUCH, 1)
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {page.sql}", *page.values(ask))
    ordered = {column.alias for order in _orders(branch) for column in columns_in(order[0])}
    found = [
        trouble
        for trouble in troubles_in(msgspec.json.decode(explained), sizes)
        if trouble.kind != "filtered scan" or _alias(trouble) in ordered  # a joined table's may be walked for a merge
    ]
    sorts = [trouble for trouble in found if trouble.kind == "sort"]
    return sorts or found, texts  # what is sorted must be read first: with an index there would be neither


def _told(probe: Probe, trouble: Trouble, known: Collection[tuple[str, tuple[str, ...]]], *, texts: bool) -> Problem:
    """Say what is wrong and what would mend it; where PostgreSQL has such an index, that it takes this for cheaper."""
    index = _index(probe.branch, trouble, texts=texts)
    there = index is not None and index.is_among(known)
    weight: Weight = "note" if there else "warning" if trouble.kind == "filtered scan" else "problem"
    remedy = ""
    if index is not None:
        keys = ", ".join(index.keys)
        remedy = (
            f": PostgreSQL takes that for cheaper than its index on ({keys})" if there else "; an index would save that"
        )
    return Problem(
        weight=weight,
        says=f"{trouble.says}{remedy}",
        entity_type=probe.branch.entity_type,
        place=probe.place,
        table=trouble.table,
        index="" if index is None or there else index.statement,
    )


def _index(branch: Branch, trouble: Trouble, *, texts: bool) -> Index | None:
    """Derive the index: of the branch's order, of its shares', or one to find a joined table's rows by."""
    alias, each = _alias(trouble), branch.each
    if each is not None and alias in tables_in(each.from_):
        return order_index(each.from_, each.where, _expressions(each.order))
    order = _expressions(branch.order)
    if trouble.kind == "sort" or alias in {column.alias for column in columns_in(order[0])}:
        shares = () if each is None else tables_in(each.from_)
        return order_index(branch.from_, branch.where, order, texts=order[1:] if texts else (), shares=shares)
    for from_, condition in ((branch.from_, branch.where), *((parent.from_, parent.on) for parent in branch.parents)):
        if (found := lookup_index(from_, condition, alias)) is not None:
            return found
    return None


def _alias(trouble: Trouble) -> str:
    """Tell the alias as the mapping has it: EXPLAIN numbers those that are there twice."""
    return _NUMBERED.sub("", trouble.alias)


def _orders(branch: Branch) -> list[Sequence[str]]:
    return [_expressions(order) for order in (branch.order, *([] if branch.each is None else [branch.each.order]))]


def _expressions(order: Order) -> Sequence[str]:
    return (order.uuid7,) if order.uuid7 else (order.updated_at, order.id)
