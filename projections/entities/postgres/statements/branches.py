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

from projections.entities.postgres.mapping.column_types import fields_of
from projections.entities.postgres.mapping.described import MappingError as MappingError
from projections.entities.postgres.mapping.expressions import Expressions, SqlTypes, joined
from projections.entities.postgres.mapping.mapping import ParentJoin
from projections.entities.postgres.statements.encodings import in_unicode
from projections.entities.postgres.statements.json_sql import Printed, literal, printed, template
from projections.entities.postgres.statements.keyset import (
    ISO_US,
    IdKind,
    Key,
    Parameters,
    StampKind,
    share_after,
    stamped_key,
    uuid7_below,
    uuid7_key,
    uuid_text,
)
from projections.entities.postgres.statements.readable import INTEGERS, STAMPS
from projections.entities.postgres.statements.waits import Described, Waits, instant

NO_STAMP: Final = f"decode('80{'00' * 7}', 'hex')"
NO_UUID: Final = f"decode('{'00' * 16}', 'hex')"
_ALIAS: Final = re.compile(r'[A-Za-z_][\w$]*|"(?:[^"]|"")+"')
_TEXTS: Final = frozenset({"text", "varchar", "bpchar", "name"})


class Stands(Struct, frozen=True):
    """Where a row's parents of one table stand: an SQL expression, of type uuid (a UUIDv7) or timestamptz."""

    table: str
    sql: str
    is_uuid: bool


class Part(Struct, frozen=True):
    """Rows of one order: where they are (`joined` with their parents), and what is selected of them.

    `lone` is FROM without parents, where `conditions` need none: for asking whether there is a row. `keeps` tells
    what keeps rows from being sent. `share` is the key of the shares, of which `each_from` and `each_where` tell; or
    None. Where there are shares all the same, rows of any of them stand by themselves. `is_told`: what is kept of it is
    told by another part.
    """

    key: Key
    joined: str
    lone: str
    conditions: tuple[str, ...]
    data: tuple[Printed, ...]
    names: tuple[str, ...]
    keeps: Waits
    stands: tuple[Stands, ...] = ()
    share: Key | None = None
    each_from: str = ""
    each_where: str = ""
    is_told: bool = False

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

    @property
    def is_plain(self) -> bool:
        """Tell whether each of its entries is a line that is sent as it is."""
        keeps = self.keeps
        return not (keeps.unfit or keeps.missing or keeps.needs_unfit[0] or keeps.set_null_for[0])

    def line(self, entity_type: str) -> str:
        """Print a whole line without its end; of a row that waits only `|<time>|<id>`.

        Behind a tab comes `table|id` of a parent that cannot be read, as JSON, and behind two the field of its own that
        cannot; a line that is sent without a reference to such a row begins with `~`, that, and a tab.
        """
        pieces = ",".join(
            f'"{template(name)}":{piece.template}' for name, piece in zip(self.names, self.data, strict=True)
        )
        whole = f'{{"type":"{entity_type}","data":{{{pieces}}},"ack":"{entity_type}|%s|%s'
        iso = f"to_char({self.at}, {ISO_US})"
        entity_id = self.key.escaped_id if self.share is None else self.id
        arguments = ", ".join((*(piece.argument for piece in self.data), iso, entity_id))
        line = f"format({literal(whole)}, {arguments})"
        keeps = self.keeps
        without, named = keeps.set_null_for
        if without:
            line = f"CASE WHEN {without} THEN '~' || to_json({named})::text || chr(9) ELSE '' END || {line}"
        place = f"format('|%s|%s', {iso}, {entity_id})"
        cases = []
        if keeps.unfit:
            cases.append(f"WHEN {keeps.unfit} THEN {place} || repeat(chr(9), 2) || {keeps.unfit_field}")
        if keeps.missing:
            cases.append(f"WHEN {keeps.missing} THEN {place}")
        needs, named = keeps.needs_unfit
        if needs:
            cases.append(f"WHEN {needs} THEN {place} || chr(9) || to_json({named})::text")
        return f"CASE {' '.join(cases)} ELSE {line} END" if cases else line

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


def parts_of(one: Described, keeps: Waits, library: str, *, mended: bool) -> list[Part]:
    """Make the parts of a branch; raises MappingError if an order is of a type that positions cannot hold.

    `mended`: with parts for rows that stand where a parent was mended.
    """
    return list(_parts(one, keeps, library, mended=mended))


def _parts(one: Described, keeps: Waits, library: str, *, mended: bool) -> Iterator[Part]:
    found, types = one
    branch = found.branch
    key = _key(branch.entity_type, found.order, types.order)
    looked_up = "".join(guard.join for guard in keeps.guards)
    # What no position can name is not passed by: it is told with all that is held back.
    placed = [in_unicode(found.order[1], types.encoding)] if key.id_kind == "text" else []
    conditions = (found.where, *filter(None, placed))
    part = Part(
        key=key,
        joined=joined(branch, library) + looked_up,
        lone=found.from_,
        conditions=conditions,
        data=tuple(_data(one, keeps)),
        names=tuple(branch.data),
        keeps=keeps,
        stands=_stands(found, types),
    )
    since = [
        _Since(_since(parent, stands, own, type_, own_type), at)
        for at, (parent, stands, own, type_, own_type) in enumerate(
            zip(branch.parents, found.stands, found.since, types.stands, types.since, strict=True)
        )
        if parent.since is not False and branch.each is None
    ]
    if mended:
        since += [_Since(guard.at, None, guard.member) for guard in keeps.guards]
    if branch.each is not None:
        share = _key(branch.entity_type, found.each, types.each)
        part = replace(part, share=share, each_from=found.each_from, each_where=found.each_where)
    if not since:
        yield part
        return
    own = tuple(f"({one.sql} > {part.at}) IS NOT TRUE" for one in since)
    yield replace(part, conditions=(*conditions, *own), lone=part.joined)
    for number, one_since in enumerate(since):
        before = [f"({one_since.sql} > {other.sql}) IS NOT FALSE" for other in since[:number]]
        behind = [f"({one_since.sql} >= {other.sql}) IS NOT FALSE" for other in since[number + 1 :]]
        from_ = joined(branch, library, inner=one_since.inner) + looked_up
        yield replace(
            part,
            key=stamped_key(one_since.sql, "timestamptz", found.order[-1], key.id_kind),
            joined=from_,
            lone=from_,
            conditions=(*conditions, one_since.member, one_since.is_behind(part, found), *before, *behind),
            share=None,
            is_told=True,
        )


class _Since(Struct, frozen=True):
    """An instant that a row stands at where it is later than its own place; null: its own.

    `inner` is the parent that must be there, if it is one's; `member` is true of all rows that have the instant.
    """

    sql: str
    inner: int | None = None
    member: str = "true"

    def is_behind(self, part: Part, found: Expressions) -> str:
        """Print that the instant is later than a row's own place, by the own column where there is an index on it."""
        if part.share is None and part.key.is_uuid7:
            reach = f"CASE WHEN {self.sql} >= '1970-01-01' AND {self.sql} < '10000-01-01' THEN {self.sql} END"
            return f"{found.order[0]} < {uuid7_below(reach)}"
        return f"{self.sql} > {part.at}"


def _data(one: Described, keeps: Waits) -> Iterator[Printed]:
    """Print a branch's expressions; a reference to what cannot be read is null where a device sets it so."""
    found, types = one
    fields = {field.name: field for field in fields_of(found.branch.entity_type)}
    without = {guard.reference.field: guard.wrong for guard in keeps.guards if guard.reference.set_null}
    for name, sql, given in zip(found.branch.data, found.data, types.data, strict=True):
        shown = f"CASE WHEN {without[name]} THEN NULL ELSE {sql} END" if name in without else sql[1:-1]
        yield printed(found.branch.entity_type, fields[name], shown, given)


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
    return instant(stands, stands_type) if since is None else instant(since, since_type or "")


def _stands(found: Expressions, types: SqlTypes) -> tuple[Stands, ...]:
    """Tell where the parents of each table stand: the latest of those that are of one table."""
    by_table: dict[str, list[tuple[str, str]]] = {}
    for parent, sql, sql_type in zip(found.branch.parents, found.stands, types.stands, strict=True):
        by_table.setdefault(parent.table, []).append((sql, sql_type))
    made = []
    for table, several in by_table.items():
        is_uuid = all(sql_type == "uuid" for _, sql_type in several)
        parts = [sql if is_uuid else instant(sql, kind) for sql, kind in several]
        made.append(Stands(table, parts[0] if len(parts) == 1 else f"greatest({', '.join(parts)})", is_uuid))
    return tuple(made)


def _share_bounds(parameters: Parameters, entity_type: str) -> tuple[str, str]:
    share = parameters.use(
        ("share", entity_type), "uuid", lambda ask: uuid_text(share_after(ask.after[entity_type])[0])
    )
    done = parameters.use(("done", entity_type), "uuid", lambda ask: uuid_text(share_after(ask.after[entity_type])[1]))
    return share, done
