"""The statements a source asks its database: made once per entity type, run as prepared statements. Pure.

A page's statement builds whole lines and puts them together: one value for a page costs the driver a fraction of a
record per line. Each part reads at most a page's rows off its index. Lines that begin
behind `size` bytes are cut off by the server, so that long rows never come all at once.
"""

# ruff: noqa: S608 - a mapping is SQL that its operator wrote; what comes from outside is a parameter
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from projections.entities.lines import END
from projections.entities.postgres.mapping.described import MappingError
from projections.entities.postgres.mapping.sql_names import columns_in, tables_in
from projections.entities.postgres.statements.branches import NO_STAMP, NO_UUID, Part
from projections.entities.postgres.statements.json_sql import literal
from projections.entities.postgres.statements.keyset import Ask, Parameters, members_of, uuid7_at
from projections.entities.postgres.statements.waits import MEMBERS

AHEAD_ROWS: Final = 10_001
"""As many rows as are counted ahead."""
HELD_ROWS: Final = 1_001
"""As many rows with a missing parent as are counted."""
_PLAIN: Final = f"coalesce(bool_and(ascii(line) = {ord('{')}) FILTER (WHERE kept), true)"


class Statement(Struct, frozen=True):
    """SQL with numbered parameters, and what makes their values."""

    sql: str
    parameters: Parameters

    def values(self, ask: Ask) -> list[Any]:
        """Make the parameters' values."""
        return self.parameters.values(ask)


class Types(Struct, frozen=True):
    """All that is known of one mapped entity type: its parts, and the tables its rows' parents are in.

    `stands` pairs each table with whether its column holds UUIDv7s (else: instants). `guarded` are the tables whose
    rows, where they cannot be read, keep rows of this type.
    """

    entity_type: str
    parts: tuple[Part, ...]
    stands: tuple[tuple[str, bool], ...]
    library: str
    guarded: frozenset[str] = frozenset()


def types_from(entity_type: str, parts: Sequence[Part], library: str) -> Types:
    """Put an entity type's parts together; raises MappingError if their positions have no common order.

    `library` is the SQL type of library ids.
    """
    kinds = {part.key.id_kind for part in parts} | {"uuid" for part in parts if part.share is not None}
    if len(kinds) > 1:
        raise MappingError(f"The ids of {entity_type} are of several types ({', '.join(sorted(kinds))}): cast them")
    tables: dict[str, bool] = {}
    for part in parts:
        for stands in part.stands:
            tables[stands.table] = tables.get(stands.table, True) and stands.is_uuid
    guarded = frozenset[str]().union(*(guard.tables for part in parts for guard in part.keeps.guards))
    return Types(entity_type, tuple(parts), tuple(tables.items()), library, guarded)


def parameters_of(library: str) -> Parameters:
    """Begin a statement's parameters: the first is the library."""
    parameters = Parameters()
    parameters.use(("library",), library, lambda ask: ask.library)
    return parameters


def statement_of(sql: str, parameters: Parameters, library: str) -> Statement:
    """Make a statement of SQL that a condition may be put behind: the library's parameter must be used somewhere."""

    def members(found: re.Match[str]) -> str:
        table, kind = found.groups()
        return parameters.use(("unfit", table), f"{kind}[]", lambda ask: members_of(ask.unfit, table, kind))

    sql = sql if "$1::" in sql else f"{sql} WHERE $1::{library} IS NOT NULL"
    return Statement(MEMBERS.sub(members, sql), parameters)


def page(types: Types) -> Statement:
    """Ask for the lines after a position and before an instant.

    One row: `rows` read, how many of them are `kept`, whether those are `plain` lines to be sent as they are, whether
    there may be `more` shares, `lines` as bytes with CLOSED between them (null without rows), and for each table of
    parents, as `s0`, `s1`, …, where they stand: a UUIDv7 (16 bytes) or a timestamptz (8) a line.
    """
    parameters = parameters_of(types.library)
    rows = parameters.use(("rows",), "bigint", lambda ask: ask.rows)
    size = parameters.use(("size",), "bigint", lambda ask: ask.size)
    shares, selected = _selected(types, parameters, rows)
    keys = _keys(types)
    order = ", ".join(f"k{at}" for at in range(keys))
    cut = f"sum(octet_length(line)) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) - octet_length(line) < {size}"
    stands = [f"s{at}" for at in range(len(types.stands))]
    aggregates = [
        "count(*) AS rows",
        "count(*) FILTER (WHERE kept) AS kept",
        f"{'true' if all(part.is_plain for part in types.parts) else _PLAIN} AS plain",
        f"{_more(shares)} AS more",
        f"convert_to(string_agg(line, {literal(END.decode())} || chr(10)) FILTER (WHERE kept), 'UTF8') AS lines",
        *(f"string_agg({name}, '') FILTER (WHERE kept) AS {name}" for name in stands),
    ]
    with_ = f"WITH {', '.join(shares)} " if shares else ""
    source = f"SELECT line, {''.join(f'{name}, ' for name in stands)}{cut} AS kept FROM ({selected}) page"
    return statement_of(f"{with_}SELECT {', '.join(aggregates)} FROM ({source}) cut", parameters, types.library)


def changed(several: Sequence[tuple[str, Types]], library: str) -> Statement:
    """Ask of each entity type whether any row comes after its position and before the instant: one array of booleans.

    Each is paired with what it is served from. Rows whose parent is missing count.
    """
    parameters = parameters_of(library)
    found = []
    for name, types in several:
        exists = [f"({_any(part, parameters, name)}) IS NOT NULL" for part in types.parts]
        found.append(" OR ".join(exists))
    return statement_of(f"SELECT ARRAY[{', '.join(found)}]::boolean[]", parameters, library)


def written(several: Sequence[Types], library: str) -> Statement | None:
    """Ask of which libraries, an array, any of several entity types has rows after a position and before an instant.

    A row for each: where it stands `at` in the array, from 1. Rows that every library has are left out: what is news to
    everybody wakes nobody. None where that is all there is.
    """
    parameters = Parameters()
    every = parameters.use(("library",), f"{library}[]", lambda ask: ask.library)
    one, trial = f"$1::{library}", parameters_of(library)
    theirs = [
        f"({_any(part, parameters, types.entity_type)}) IS NOT NULL".replace(one, "_sl_one.id")
        for types in several
        for part in types.parts
        if one in _any(part, trial, types.entity_type)
    ]
    if not theirs:
        return None
    libraries = f"unnest({every}) WITH ORDINALITY _sl_one (id, at)"
    sql = f"SELECT _sl_one.at FROM {libraries} WHERE {' OR '.join(theirs)}"
    return statement_of(sql, parameters, library)


def left(types: Types) -> Statement:
    """Ask of each part whether it has rows after a position and before an instant: one array of booleans."""
    parameters = parameters_of(types.library)
    found = [f"({_any(part, parameters, types.entity_type)}) IS NOT NULL" for part in types.parts]
    return statement_of(f"SELECT ARRAY[{', '.join(found)}]::boolean[]", parameters, types.library)


def ahead(types: Types) -> Statement:
    """Ask how many `rows` come after a position and before an instant (some at most), and when the `newest` was."""
    parameters = parameters_of(types.library)
    counted, newest = [], []
    for part in types.parts:
        where = part.where(parameters, types.entity_type)
        rows = f"SELECT {part.at} AS at FROM {part.lone} WHERE {where}"
        if part.share is not None:
            shares = part.shares(parameters, types.entity_type)
            newest.append(f"SELECT {part.at} AS at {shares} ORDER BY {part.share.order_by_newest} LIMIT 1")
        elif part.each_from:
            newest.append(
                f"SELECT max(r.at) AS at FROM {shares_of(part, parameters, types)} CROSS JOIN LATERAL ({rows}) r"
            )
        else:
            newest.append(f"{rows} ORDER BY {part.key.order_by_newest} LIMIT 1")
        if part.each_from:
            counted.append(
                f"SELECT 1 FROM {shares_of(part, parameters, types)}"
                f" CROSS JOIN LATERAL (SELECT 1 FROM {part.lone} WHERE {where}) r LIMIT {AHEAD_ROWS}"
            )
        else:
            counted.append(f"SELECT 1 FROM {part.lone} WHERE {where} LIMIT {AHEAD_ROWS}")
    several = " UNION ALL ".join(f"({sql})" for sql in counted)
    latest = " UNION ALL ".join(f"({sql})" for sql in newest)
    rows = f"SELECT count(*) FROM (SELECT 1 FROM ({several}) several LIMIT {AHEAD_ROWS}) counted"
    newest_us = f"(SELECT (extract(epoch FROM max(at)) * 1000000)::bigint FROM ({latest}) latest)"
    sql = f"SELECT ({rows}) AS rows, {newest_us} AS newest_us"
    return statement_of(sql, parameters, types.library)


def held(types: Types) -> Statement | None:
    """Ask for rows of a library that are not sent for now: of each reason how many (`rows`, some at most in all).

    A row of each `reason`: for `unfit` of each field, which is its `parent`; for `missing_parent` the `parent` as
    `table|id`, also of one that is there and cannot be read; with an `id`. None where no row can be held back.
    """
    parameters = parameters_of(types.library)
    told = [part for part in types.parts if not part.is_told]
    # What stands in several places may be sent in another of them.
    selects = [select for part in told for select in _held(part, stamp=len(types.parts) == 1 and part.share is None)]
    if not selects:
        return None
    several = " UNION ALL ".join(f"({sql})" for sql in selects)
    found = f"SELECT reason, id, parent FROM ({several}) several LIMIT {HELD_ROWS}"
    sql = "SELECT reason, count(*) AS rows, min(id) AS id, (array_agg(parent ORDER BY id))[1] AS parent"
    sql = f"{sql} FROM ({found}) waiting WHERE $1::{types.library} IS NOT NULL"
    return statement_of(f"{sql} GROUP BY reason, CASE reason WHEN 'unfit' THEN parent END", parameters, types.library)


def _held(part: Part, *, stamp: bool) -> Iterator[str]:
    keeps = part.keeps._replace(fits=(*part.keeps.fits, part.keeps.stamp)) if stamp else part.keeps
    unfit, (needs, named) = keeps.unfit, keeps.needs_unfit
    kept = [keeps.waits, unfit, needs]
    if not any(kept):
        return
    cases = [f"WHEN {unfit} THEN {keeps.unfit_field}"] if unfit else []
    cases += [f"WHEN {keeps.waits} THEN {keeps.parent_id}"] if keeps.waits else []
    cases += [f"WHEN {needs} THEN {named}"] if needs else []
    reason = f"CASE WHEN {unfit} THEN 'unfit' ELSE 'missing_parent' END" if unfit else "'missing_parent'"
    wanted = f"{reason} AS reason, {keeps.row_id} AS id, CASE {' '.join(cases)} END AS parent"
    where = f"{part.conditions[0]} AND ({' OR '.join(filter(None, kept))})"
    from_ = part.joined if keeps.waits or keeps.guards else part.lone
    if not part.each_from:
        yield f"SELECT {wanted} FROM {from_} WHERE {where} LIMIT {HELD_ROWS}"
        return
    rows = f"SELECT {wanted} FROM {from_} WHERE {where}"
    yield (f"SELECT r.* FROM {part.each_from} CROSS JOIN LATERAL ({rows}) r WHERE {part.each_where} LIMIT {HELD_ROWS}")


def unfit_anywhere(part: Part) -> str:
    """Ask for rows of all libraries that no device can read: of each `field` how many (`rows`), and an `id`.

    Empty where the database has no such rows.
    """
    keeps = part.keeps
    if not keeps.unfit:
        return ""
    own = tables_in(part.lone)
    alone = all(column.alias in own for column in columns_in(f"{keeps.unfit} {keeps.row_id}"))
    from_ = part.lone if alone else part.joined
    rows = f"SELECT {keeps.unfit_field} AS field, {keeps.row_id} AS id FROM {from_} WHERE {keeps.unfit}"
    return f"SELECT field, count(*) AS rows, min(id) AS id FROM ({rows}) unfit GROUP BY field ORDER BY field"


def shares_of(part: Part, parameters: Parameters, types: Types) -> str:
    """Print the shares whose rows are looked at, under their own name."""
    alias = part.each_alias
    if part.share is not None:
        return f"(SELECT {alias}.* {part.shares(parameters, types.entity_type)}) {alias}"
    return f"(SELECT {alias}.* FROM {part.each_from} WHERE {part.each_where}) {alias}"


def _any(part: Part, parameters: Parameters, entity_type: str) -> str:
    """Select a row, if there is one: by the order, whose index has few of them where little is left."""
    if part.share is not None:
        return f"SELECT 1 {part.shares(parameters, entity_type)} ORDER BY {part.share.order_by} LIMIT 1"
    where = part.where(parameters, entity_type)
    if part.each_from:
        rows = f"SELECT 1 FROM {part.lone} WHERE {where} LIMIT 1"
        return f"SELECT 1 FROM {part.each_from} CROSS JOIN LATERAL ({rows}) r WHERE {part.each_where} LIMIT 1"
    return f"SELECT 1 FROM {part.lone} WHERE {where} ORDER BY {part.key.order_by} LIMIT 1"


def _selected(types: Types, parameters: Parameters, rows: str) -> tuple[list[str], str]:
    """Print the shares that are looked at, and what selects a page's rows: k0, k1, …, line, s0, s1, …"""
    shares, selects = [], []
    alone = len(types.parts) == 1
    for at, part in enumerate(types.parts):
        keys = _part_keys(part) if alone else [part.at, f'({part.id}) COLLATE "C"']
        columns = [f"{sql} AS k{number}" for number, sql in enumerate(keys)]
        columns.append(f"{part.line(types.entity_type)} AS line")
        columns += [f"{sql} AS s{number}" for number, sql in enumerate(_stands(types, part))]
        where = part.where(parameters, types.entity_type)
        select = (
            f"SELECT {', '.join(columns)} FROM {part.joined} WHERE {where} ORDER BY {part.key.order_by} LIMIT {rows}"
        )
        if part.share is None and part.each_from:
            lateral = f"SELECT {', '.join(columns)} FROM {part.joined} WHERE {where}"
            select = (
                f"SELECT r.* FROM {shares_of(part, parameters, types)} CROSS JOIN LATERAL ({lateral}) r"
                f" ORDER BY r.k0, r.k1 LIMIT {rows}"
            )
        if part.share is not None:
            limit = parameters.use(("shares",), "bigint", lambda ask: ask.shares)
            alias = part.each_alias
            shares.append(
                f"_sl_shares{at} AS MATERIALIZED (SELECT {alias}.* {part.shares(parameters, types.entity_type)}"
                f" ORDER BY {part.share.order_by} LIMIT {limit})"
            )
            shares.append(
                f"_sl_last{at} AS MATERIALIZED (SELECT {part.share.at} AS at, {part.share.id} || ';' AS id"
                f" FROM _sl_shares{at} {alias} ORDER BY {part.share.order_by} OFFSET {limit} - 1)"
            )
            select = f"SELECT r.* FROM _sl_shares{at} {alias} CROSS JOIN LATERAL ({select}) r"
        selects.append(select)
    order = ", ".join(f"k{number}" for number in range(_keys(types)))
    if alone and types.parts[0].share is None:
        return shares, selects[0]
    united = " UNION ALL ".join(f"({select})" for select in selects)
    # Rows behind the last share that was looked at wait: shares that were not may come before them.
    bounds = [
        f'NOT EXISTS (SELECT 1 FROM _sl_last{at} b WHERE (u.k0, u.k1) >= (b.at, b.id COLLATE "C"))'
        for at, part in enumerate(types.parts)
        if part.share is not None and not alone
    ]
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    return shares, f"SELECT * FROM ({united}) u{where} ORDER BY {order} LIMIT {rows}"


def _more(shares: Sequence[str]) -> str:
    last = [share.split()[0] for share in shares if share.startswith("_sl_last")]
    return " OR ".join(f"EXISTS (SELECT 1 FROM {name})" for name in last) or "false"


def _part_keys(part: Part) -> list[str]:
    return [*(part.share.columns if part.share is not None else ()), *part.key.columns]


def _keys(types: Types) -> int:
    return len(_part_keys(types.parts[0])) if len(types.parts) == 1 else 2


def _stands(types: Types, part: Part) -> list[str]:
    """Print where the parents of each of the entity type's tables stand, as bytes; far in the past where none is."""
    own = {stands.table: stands for stands in part.stands}
    columns = []
    for table, is_uuid in types.stands:
        nothing = NO_UUID if is_uuid else NO_STAMP
        if table not in own:
            columns.append(nothing)
        elif is_uuid:
            columns.append(f"coalesce(uuid_send({own[table].sql}), {nothing})")
        else:
            sql = uuid7_at(own[table].sql) if own[table].is_uuid else own[table].sql
            columns.append(f"coalesce(timestamptz_send({sql}), {nothing})")
    return columns
