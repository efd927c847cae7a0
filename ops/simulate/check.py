"""Compare a device's copy with the catalog, row by row, in bounded memory.

The catalog's listing goes into a temporary database on disk with the same tables, then SQL compares. An entity can
stand in the catalog in more than one form (an own asset that is also in an album): the device keeps one row, which
must equal one of them.
"""

# ruff: noqa: S608 - every name put into a statement comes from tables.py

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from itertools import groupby
from typing import Final, Literal, NamedTuple

import msgspec

from ops.simulate.api import Server
from ops.simulate.copy import WRITES, Copy, create_sql, upsert_sql
from ops.simulate.parse import SHAPES, Row, fields_of, parse_entities, rows_of
from ops.simulate.tables import FORMS, REQUESTS, TABLES, Table

NAMED_DIFFERENCES: Final = 20
_BLOCK_BYTES: Final = 4 << 20
_VERSION: Final = re.compile(r"V\d+$")

Kind = Literal["missing", "extra", "different", "dangling"]


class Difference(msgspec.Struct, frozen=True):
    """One row in which copy and catalog differ.

    `missing` on the device, `extra` there, `different` in `fields`; `dangling`: the catalog's row names a parent that
    the catalog does not hold, so a new device would fail at it.
    """

    kind: Kind
    table: str
    key: tuple[str, ...]
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        fields = f" ({', '.join(self.fields)})" if self.fields else ""
        return f"{self.kind}: {self.table} {' '.join(self.key)}{fields}"


class CheckResult(msgspec.Struct):
    """How many rows of the catalog were compared, and what differs: all counted, the first of each kind named."""

    compared: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    dangling: int = 0
    differences: list[Difference] = []

    @property
    def equal(self) -> bool:
        """Tell whether the copy is exactly the catalog."""
        return not (self.missing or self.extra or self.different or self.dangling)


class _Compared(NamedTuple):
    """A table to compare, and the columns that the requested forms carry."""

    table: Table
    columns: tuple[str, ...]


def check(
    copy: Copy,
    server: Server,
    library: str,
    types: Collection[str],
    *,
    api_key: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> CheckResult:
    """Compare what these request types cover; raises a DeviceError if the listing cannot be read."""
    db = copy.db
    asked = {_family(name) for request in types for name in REQUESTS[request]}
    result = CheckResult()
    db.execute("ATTACH '' AS catalog")
    try:
        db.execute("PRAGMA catalog.synchronous = OFF")
        db.execute("PRAGMA catalog.journal_mode = OFF")
        for table in TABLES.values():
            db.execute(create_sql(table, schema="catalog", extra_key="form", rules=False))
        _load(copy, server, library, api_key, asked, "AlbumsV1" in types, result, progress)
        _as_asked(copy, types)
        compared = [one for table in TABLES.values() if (one := _compared(table, types))]
        tables = {one.table.name for one in compared}
        for one in compared:
            _dangling(copy, one.table, tables, result)
        for one in compared:
            _compare(copy, one, result)
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
        db.execute("DETACH catalog")
    return result


def _family(entity_type: str) -> str:
    """Name an entity type without its version."""
    return _VERSION.sub("", entity_type)


def _load(
    copy: Copy,
    server: Server,
    library: str,
    api_key: str | None,
    asked: Collection[str],
    owners_of_albums: bool,
    result: CheckResult,
    progress: Callable[[int], None] | None,
) -> None:
    statements = {name: _insert(name) for name, form in FORMS.items() if form.table and not form.removes}
    first, held = 1, bytearray()

    def store(block: bytes) -> None:
        nonlocal first
        entities = parse_entities(block, first)
        copy.db.execute("BEGIN")
        for entity_type, group in groupby(entities, lambda entity: entity.type):
            data = [entity.data for entity in group]
            if _family(entity_type) in asked:
                rows = rows_of(entity_type, data, "line {} of the catalog", first)
                copy.db.executemany(statements[entity_type], [(*row, entity_type) for row in _own(entity_type, rows)])
                if entity_type == "AlbumV1" and owners_of_albums:
                    names = SHAPES[entity_type].columns
                    album, owner = names.index("id"), names.index("ownerId")
                    owners = [(row[album], row[owner], "owner", entity_type) for row in rows]
                    copy.db.executemany(statements["AlbumUserV1"], owners)
                result.compared += len(rows)
            first += len(data)
        copy.db.execute("COMMIT")
        if progress is not None:
            progress(result.compared)

    with server.listing(library, api_key) as pieces:
        for piece in pieces:
            held += piece
            if len(held) >= _BLOCK_BYTES and (end := held.rfind(b"\n") + 1):
                store(bytes(held[:end]))
                del held[:end]
        if held:
            store(bytes(held))


def _as_asked(copy: Copy, types: Collection[str]) -> None:
    """Make of what the catalog lists what these request types show of it."""
    if "MemoriesV2" not in types:  # V1 has one type of memories
        others = "SELECT id FROM catalog.memory WHERE type <> 'on_this_day'"
        copy.db.execute(f'DELETE FROM catalog.memory_asset WHERE "memoryId" IN ({others})')
        copy.db.execute("DELETE FROM catalog.memory WHERE type <> 'on_this_day'")
    if "AuthUsersV2" in types:
        copy.db.execute('UPDATE catalog.auth_user SET "oauthId" = NULL WHERE "oauthId" = \'\'')


def _own(entity_type: str, rows: list[Row]) -> list[Row]:
    """Return the values that the type's own table keeps."""
    pick = WRITES[entity_type][0].pick
    return rows if pick is None else [pick(row) for row in rows]


def _insert(entity_type: str) -> str:
    table = TABLES[FORMS[entity_type].table]
    own = {field.name for field in fields_of(table.fields)}
    columns = tuple(column for column in SHAPES[entity_type].columns if column in own)
    return upsert_sql(table, (*columns, "form"), schema="catalog", extra_key="form")


def _compared(table: Table, types: Collection[str]) -> _Compared | None:
    """Return the columns to compare: those in every form of the table that was asked for; None if none was."""
    names = {name for request in types for name in REQUESTS[request] if FORMS[name].table == table.name}
    if not names:
        return None
    common = set.intersection(*(set(SHAPES[name].columns) for name in names))
    return _Compared(table, tuple(field.name for field in fields_of(table.fields) if field.name in common))


def _dangling(copy: Copy, table: Table, tables: Collection[str], result: CheckResult) -> None:
    """Note rows whose parent, of one of these tables, the catalog does not hold; clear references as a device does."""
    nullable = {field.name for field in fields_of(table.fields) if field.nullable}
    for column, parent in table.references.items():
        if parent not in tables:
            continue
        orphan = (
            f'c."{column}" IS NOT NULL AND NOT EXISTS'
            f' (SELECT 1 FROM catalog."{parent}" AS p WHERE p."id" = c."{column}")'
        )
        keys = ", ".join(f'c."{name}"' for name in table.key)
        for row in copy.db.execute(f'SELECT DISTINCT {keys} FROM catalog."{table.name}" AS c WHERE {orphan}'):
            result.dangling += 1
            _name(result, Difference("dangling", table.name, tuple(row), (column,)))
        if column in nullable:
            copy.db.execute(f'UPDATE catalog."{table.name}" AS c SET "{column}" = NULL WHERE {orphan}')


def _compare(copy: Copy, one: _Compared, result: CheckResult) -> None:
    table, name = one.table, one.table.name
    keys = {side: ", ".join(f'{side}."{column}"' for column in table.key) for side in "dc"}
    same_key = " AND ".join(f'c."{column}" = d."{column}"' for column in table.key)
    rest = [column for column in one.columns if column not in table.key]
    same = " AND ".join([same_key, *(f'c."{column}" IS d."{column}"' for column in rest)])
    device, catalog = f'main."{name}" AS d', f'catalog."{name}" AS c'

    missing = f"SELECT DISTINCT {keys['c']} FROM {catalog} WHERE NOT EXISTS (SELECT 1 FROM {device} WHERE {same_key})"
    for row in copy.db.execute(missing):
        result.missing += 1
        _name(result, Difference("missing", name, tuple(row)))
    extra = f"SELECT {keys['d']} FROM {device} WHERE NOT EXISTS (SELECT 1 FROM {catalog} WHERE {same_key})"
    for row in copy.db.execute(extra):
        result.extra += 1
        _name(result, Difference("extra", name, tuple(row)))
    if not rest:
        return
    different = (
        f"SELECT {keys['d']} FROM {device} WHERE EXISTS (SELECT 1 FROM {catalog} WHERE {same_key})"
        f" AND NOT EXISTS (SELECT 1 FROM {catalog} WHERE {same})"
    )
    for row in copy.db.execute(different):
        result.different += 1
        if _room(result, "different"):
            _name(result, Difference("different", name, tuple(row), _fields(copy, one.table, rest, tuple(row))))


def _fields(copy: Copy, table: Table, columns: list[str], key: tuple[str, ...]) -> tuple[str, ...]:
    """Name the fields in which a row differs from the first form that the catalog holds of it."""
    where = " AND ".join(f'"{column}" = ?' for column in table.key)
    names = ", ".join(f'"{column}"' for column in columns)
    ours, theirs = (
        copy.db.execute(f'SELECT {names} FROM {schema}."{table.name}" WHERE {where} LIMIT 1', key).fetchone()
        for schema in ("main", "catalog")
    )
    return tuple(column for column, our, their in zip(columns, ours, theirs, strict=True) if our != their)


def _room(result: CheckResult, kind: Kind) -> bool:
    return sum(difference.kind == kind for difference in result.differences) < NAMED_DIFFERENCES


def _name(result: CheckResult, difference: Difference) -> None:
    if _room(result, difference.kind):
        result.differences.append(difference)
