"""The rows of one mapped branch in SQL: joined to their parents, in their order, each printed as a line. Pure.

A branch may stand for two orders of rows: those where they stand themselves, and those that can be seen only since a
parent can, which stand there. Each is a `Part`; parts of an entity type hold each row once and are merged by position.
"""

# ruff: noqa: S608 - a mapping is SQL that its operator wrote; what comes from outside is a parameter
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ledger.errors import LedgerError
from projections.entities.postgres.fitting import Field, fields_of
from projections.entities.postgres.keyset import (
    ISO_US,
    IdKind,
    Key,
    Parameters,
    StampKind,
    share_after,
    stamped_key,
    uuid7_at,
    uuid7_below,
    uuid7_key,
    uuid_text,
)
from projections.entities.postgres.mapping import Branch, Order, ParentJoin
from projections.entities.postgres.printing import INTEGERS, STAMPS, Printed, literal, printed, template
from projections.entities.postgres.sql_text import with_library
from projections.entities.registry import row

NO_STAMP: Final = f"decode('80{'00' * 7}', 'hex')"
NO_UUID: Final = f"decode('{'00' * 16}', 'hex')"
_ALIAS: Final = re.compile(r'[A-Za-z_][\w$]*|"(?:[^"]|"")+"')
_TEXTS: Final = frozenset({"text", "varchar", "bpchar", "name"})


class MappingError(LedgerError):
    """What a mapping says does not fit the database; the message names the entity type and what the database says."""


class Stands(Struct, frozen=True):
    """Where a row's parents of one table stand: an SQL expression, of type uuid (a UUIDv7) or timestamptz."""

    table: str
    sql: str
    is_uuid: bool


class Part(Struct, frozen=True):
    """Rows of one order: where they are (`joined` with their parents), and what is selected of them.

    `lone` is FROM without parents, where `conditions` need none: for asking whether there is a row at all. `missing` is
    true of rows that lack a parent; `waits` of those that may get it yet, with the `row_id` of the row and `parent_id`
    of the parent (`table|id`). `share` is the key of the shares, of which `each_from` and `each_where` tell; or None.
    """

    key: Key
    joined: str
    lone: str
    conditions: tuple[str, ...]
    data: tuple[Printed, ...]
    names: tuple[str, ...]
    missing: str = ""
    waits: str = ""
    row_id: str = ""
    parent_id: str = ""
    stands: tuple[Stands, ...] = ()
    share: Key | None = None
    each_from: str = ""
    each_where: str = ""

    @property
    def at(self) -> str:
        """Print the instant of a row's position."""
        return self.key.at if self.share is None else self.share.at

    @property
    def id(self) -> str:
        """Print the id of a row's position."""
        return self.key.id if self.share is None else f"{self.share.id} || ':' || {self.key.id}"

    @property
    def each_alias(self) -> str:
        """Name the table of shares as the mapping's expressions do."""
        return list(_ALIAS.finditer(self.each_from))[-1][0]

    def line(self, entity_type: str) -> str:
        """Print a whole line without its end; of a row whose parent is missing only `|<time>|<id>`."""
        pieces = ",".join(
            f'"{template(name)}":{piece.template}' for name, piece in zip(self.names, self.data, strict=True)
        )
        whole = f'{{"type":"{entity_type}","data":{{{pieces}}},"ack":"{entity_type}|%s|%s'
        iso = f"to_char({self.at}, {ISO_US})"
        entity_id = self.key.escaped_id if self.share is None else self.id
        arguments = ", ".join((*(piece.argument for piece in self.data), iso, entity_id))
        line = f"format({literal(whole)}, {arguments})"
        if not self.missing:
            return line
        return f"CASE WHEN {self.missing} THEN format('|%s|%s', {iso}, {entity_id}) ELSE {line} END"

    def where(self, parameters: Parameters, entity_type: str) -> str:
        """Print the conditions of rows that come after the entity type's position and before the instant."""
        if self.share is None:
            bounds = (self.key.after(parameters, entity_type), self.key.before(parameters))
            return " AND ".join((*self.conditions, *bounds))
        share, done = _share_bounds(parameters, entity_type)
        begun = f"CASE WHEN {self.share.columns[0]} = {share} THEN {done} ELSE '{uuid_text(0)}'::uuid END"
        return " AND ".join((*self.conditions, f"{self.key.columns[0]} > {begun}"))

    def shares(self, parameters: Parameters, entity_type: str) -> str:
        """Print FROM and WHERE of the shares at or behind the position that have rows left."""
        assert self.share is not None
        share, _ = _share_bounds(parameters, entity_type)
        column = self.share.columns[0]
        left = f"EXISTS (SELECT 1 FROM {self.lone} WHERE {self.where(parameters, entity_type)})"
        return (
            f"FROM {self.each_from} WHERE {self.each_where} AND {column} >= {share}"
            f" AND {self.share.before(parameters)} AND {left}"
        )


class SqlTypes(Struct, frozen=True):
    """The types of a branch's expressions, as pg_type names them."""

    order: tuple[str, ...]
    each: tuple[str, ...]
    stands: tuple[str, ...]
    since: tuple[str | None, ...]
    data: tuple[str, ...]


class Expressions(Struct, frozen=True):
    """A branch's expressions with the library's parameter in them."""

    branch: Branch
    order: tuple[str, ...]
    each: tuple[str, ...]
    stands: tuple[str, ...]
    since: tuple[str | None, ...]
    data: tuple[str, ...]

    @property
    def all(self) -> list[str]:
        """List all of them, the shares' last."""
        return [*self.order, *self.stands, *(sql for sql in self.since if sql is not None), *self.data, *self.each]


def expressions_of(branch: Branch, library: str) -> Expressions:
    """Put the library's parameter into a branch, and each expression into parentheses."""

    def put(sql: str) -> str:
        return f"({with_library(sql, library)})"

    def order(order: Order) -> tuple[str, ...]:
        return (put(order.uuid7),) if order.uuid7 else (put(order.updated_at), put(order.id))

    return Expressions(
        branch,
        order(branch.order),
        () if branch.each is None else order(branch.each.order),
        tuple(put(parent.stands.uuid7 or parent.stands.updated_at) for parent in branch.parents),
        tuple(put(parent.since) if isinstance(parent.since, str) else None for parent in branch.parents),
        tuple(put(sql) for sql in branch.data.values()),
    )


def probe_of(found: Expressions, library: str) -> str:
    """Print a statement that returns no row, and whose columns are of the types of a branch's expressions."""
    branch = found.branch
    wanted = ", ".join(f"{sql} AS c{at}" for at, sql in enumerate(found.all))
    where = with_library(branch.where, library)
    if branch.each is None:
        return f"SELECT {wanted} FROM {_joined(branch, library)} WHERE ({where}) LIMIT 0"
    each_from, each_where = (with_library(sql, library) for sql in (branch.each.from_, branch.each.where))
    rows = f"SELECT {wanted} FROM {_joined(branch, library)} WHERE ({where})"
    return f"SELECT r.* FROM {each_from} CROSS JOIN LATERAL ({rows}) r WHERE ({each_where}) LIMIT 0"


def types_of(found: Expressions, names: Sequence[str]) -> SqlTypes:
    """Sort the types that a probe's columns have."""
    left = iter(names)
    order = tuple(next(left) for _ in found.order)
    stands = tuple(next(left) for _ in found.stands)
    since = tuple(None if sql is None else next(left) for sql in found.since)
    data = tuple(next(left) for _ in found.data)
    return SqlTypes(order, tuple(left), stands, since, data)


def parts_of(found: Expressions, types: SqlTypes, library: str) -> list[Part]:
    """Make the parts of a branch; raises MappingError if an order is of a type that positions cannot hold."""
    return list(_parts(found, types, library))


def _parts(found: Expressions, types: SqlTypes, library: str) -> Iterator[Part]:
    branch = found.branch
    key = _key(branch.entity_type, found.order, types.order)
    where = f"({with_library(branch.where, library)})"
    fields = {field.name: field for field in fields_of(branch.entity_type)}
    data = tuple(
        printed(branch.entity_type, fields[name], sql[1:-1], sql_type)
        for name, sql, sql_type in zip(branch.data, found.data, types.data, strict=True)
    )
    missing, waits, parent_id = _missing(found)
    part = Part(
        key=key,
        joined=_joined(branch, library),
        lone=with_library(branch.from_, library),
        conditions=(where,),
        data=data,
        names=tuple(branch.data),
        missing=missing,
        waits=waits,
        row_id=_row_id(found),
        parent_id=parent_id,
        stands=_stands(found, types),
    )
    if branch.each is not None:
        yield replace(
            part,
            share=_key(branch.entity_type, found.each, types.each),
            each_from=with_library(branch.each.from_, library),
            each_where=f"({with_library(branch.each.where, library)})",
        )
        return
    since = [
        (at, _since(parent, stands, own, type_, own_type))
        for at, (parent, stands, own, type_, own_type) in enumerate(
            zip(branch.parents, found.stands, found.since, types.stands, types.since, strict=True)
        )
        if parent.since is not False
    ]
    if not since:
        yield part
        return
    own = tuple(f"({sql} > {key.at}) IS NOT TRUE" for _, sql in since)
    yield replace(part, conditions=(where, *own), lone=part.joined)
    for number, (at, sql) in enumerate(since):
        later = f"{found.order[0]} < {uuid7_below(sql)}" if key.is_uuid7 else f"{sql} > {key.at}"
        before = [f"({sql} > {other}) IS NOT FALSE" for _, other in since[:number]]
        behind = [f"({sql} >= {other}) IS NOT FALSE" for _, other in since[number + 1 :]]
        joined = _joined(branch, library, inner=at)
        yield replace(
            part,
            key=stamped_key(sql, "timestamptz", found.order[-1], key.id_kind),
            joined=joined,
            lone=joined,
            conditions=(where, later, *before, *behind),
            waits="",  # told by the other part
        )


def _joined(branch: Branch, library: str, inner: int | None = None) -> str:
    """Join the parents; of each, `_sl_there<n>` is null where it was not found."""
    joins = [with_library(branch.from_, library)]
    for at, parent in enumerate(branch.parents):
        kind = "JOIN" if at == inner else "LEFT JOIN"
        there = f"(SELECT true AS _sl_there{at}) _sl_join{at}"
        joins.append(
            f"{kind} ({with_library(parent.from_, library)} CROSS JOIN {there}) ON ({with_library(parent.on, library)})"
        )
    return " ".join(joins)


def _key(entity_type: str, order: Sequence[str], types: Sequence[str]) -> Key:
    if len(order) == 1:
        if types[0] != "uuid":
            raise MappingError(f"The rows of {entity_type} are ordered by a uuid7 that is {types[0]}, not uuid")
        return uuid7_key(order[0])
    at, entity_id = types
    if at not in STAMPS:
        raise MappingError(f"The rows of {entity_type} are ordered by an updated_at that is {at}, not timestamptz")
    kind: IdKind
    if entity_id == "uuid":
        kind = "uuid"
    elif entity_id in INTEGERS:
        kind = "bigint"
    elif entity_id in _TEXTS:
        kind = "text"
    else:
        raise MappingError(f"The rows of {entity_type} have an id of the type {entity_id}: cast it to text")
    stamps: StampKind = "timestamp" if at == "timestamp" else "timestamptz"
    return stamped_key(order[0], stamps, order[1], kind)


def _since(parent: ParentJoin, stands: str, since: str | None, stands_type: str, since_type: str | None) -> str:
    """Print since when a parent can be seen, as a timestamptz."""
    if since is None:
        return uuid7_at(stands) if parent.stands.uuid7 else _zoned(stands, stands_type)
    return _zoned(since, since_type or "")


def _zoned(sql: str, sql_type: str) -> str:
    return f"({sql} AT TIME ZONE 'UTC')" if sql_type == "timestamp" else sql


def _stands(found: Expressions, types: SqlTypes) -> tuple[Stands, ...]:
    """Tell where the parents of each table stand: the latest of those that are of one table."""
    by_table: dict[str, list[tuple[str, str]]] = {}
    for parent, sql, sql_type in zip(found.branch.parents, found.stands, types.stands, strict=True):
        by_table.setdefault(parent.table, []).append((sql, sql_type))
    made = []
    for table, several in by_table.items():
        is_uuid = all(sql_type == "uuid" for _, sql_type in several)
        parts = [sql if is_uuid else uuid7_at(sql) if kind == "uuid" else _zoned(sql, kind) for sql, kind in several]
        made.append(Stands(table, parts[0] if len(parts) == 1 else f"greatest({', '.join(parts)})", is_uuid))
    return tuple(made)


def _missing(found: Expressions) -> tuple[str, str, str]:
    """Print that a parent is missing, that one is which may come yet, and which that is: `table|id`.

    A reference that is null has no parent to miss.
    """
    branch = found.branch
    served = row(branch.entity_type)
    refs = [] if served.form is None else list(served.form.parents)
    fields = _fields(branch.entity_type)
    data = dict(zip(branch.data, found.data, strict=True))
    missing, waits, ids = [], [], []
    for at, parent in enumerate(branch.parents):
        referring = [fields[ref.field] for ref in refs if ref.table == parent.table]
        ref = data[referring[0].name] if len(referring) == 1 else "null"
        gone = f"_sl_there{at} IS NULL"
        if len(referring) == 1 and referring[0].nullable:
            gone = f"({gone} AND {ref} IS NOT NULL)"
        missing.append(gone)
        if parent.since is not False:
            waits.append(gone)
            ids.append(f"WHEN {gone} THEN {literal(parent.table + '|')} || coalesce({ref}::text, '')")
    return _any_of(missing), _any_of(waits), f"CASE {' '.join(ids)} END" if ids else ""


def _any_of(conditions: Sequence[str]) -> str:
    return f"({' OR '.join(conditions)})" if conditions else ""


def _row_id(found: Expressions) -> str:
    """Print a row's id as its data has it; the parts of a pair with a colon between them."""
    data = dict(zip(found.branch.data, found.data, strict=True))
    fields = _fields(found.branch.entity_type)
    parts = ", ".join(f"{data[fields[attribute].name]}::text" for attribute in row(found.branch.entity_type).key)
    return f"concat_ws(':', {parts})"


def _fields(entity_type: str) -> dict[str, Field]:
    """Map a payload's attributes to what is known of them."""
    return dict(zip(row(entity_type).payload.__struct_fields__, fields_of(entity_type), strict=True))


def _share_bounds(parameters: Parameters, entity_type: str) -> tuple[str, str]:
    share = parameters.use(
        ("share", entity_type), "uuid", lambda ask: uuid_text(share_after(ask.after[entity_type])[0])
    )
    done = parameters.use(("done", entity_type), "uuid", lambda ask: uuid_text(share_after(ask.after[entity_type])[1]))
    return share, done
