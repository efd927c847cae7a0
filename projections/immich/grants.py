"""What our role may read and write in Immich's database: what is needed, column by column, and what is too much.

Immich keeps users' ID tokens, its own secrets and password hashes in the clear or nearly so, beside what is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from projections.entities.postgres.mapping.mapping import Mapping as SourceMapping
from projections.entities.postgres.mapping.sql_names import quoted, tables_in, unquoted
from projections.entities.postgres.pool import Postgres
from projections.entities.source_check import Problem

READ: Final[Mapping[str, tuple[str, ...]]] = {
    "session": (
        "id", "token", "userId", "parentId", "createdAt", "updatedAt", "expiresAt", "deviceType", "deviceOS",
        "appVersion", "isPendingSyncReset", "updateId",
    ),
    "api_key": ("key", "userId", "permissions"),
}  # fmt: skip
"""Tables of which only some columns are read."""
READ_BUT: Final[Mapping[str, tuple[str, ...]]] = {"user": ("password",)}
"""Tables of which all columns are read but these."""
READ_WHOLE: Final = ("session_sync_checkpoint", "version_history")
"""Tables that are read beside those of the mapping."""
WRITTEN: Final[Mapping[str, tuple[str, ...]]] = {"session": ("isPendingSyncReset", "updatedAt")}
_WITHOUT: Final = {
    "isPendingSyncReset": "a second wish to reset sync is seen only after the first was taken back in Immich",
    "updatedAt": "Immich deletes sessions that are used here alone after 90 days",
}
SECRET: Final[Mapping[str, tuple[str, ...]]] = {
    "session": ("oauthBearerToken",),
    "user": ("password",),
    "shared_link": ("password", "key"),
    "system_metadata": ("value",),
}
"""Columns that nobody else should read; tables that a database does not have do not matter."""

_COLUMNS: Final = """
SELECT c.relname::text AS "table", a.attname::text AS name, has_column_privilege(c.oid, a.attnum, 'SELECT') AS read,
       has_column_privilege(c.oid, a.attnum, 'UPDATE') AS updated
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid = ANY(ARRAY(SELECT to_regclass(quote_ident(name)) FROM unnest($1::text[]) name))
ORDER BY c.relname, a.attnum
"""
_ROLE: Final = """
SELECT current_user::text AS role, r.rolsuper AS super, current_database()::text AS database,
       coalesce(current_schema(), 'public')::text AS schema,
       coalesce(pg_get_userbyid(c.relowner)::text, 'postgres') AS owner,
       EXISTS (SELECT FROM pg_class t WHERE t.relkind = 'r' AND t.relnamespace = c.relnamespace
               AND has_table_privilege(t.oid, 'INSERT, DELETE, TRUNCATE')) AS writes
FROM pg_roles r LEFT JOIN pg_class c ON c.oid = to_regclass('session') WHERE r.rolname = current_user
"""
_SOURCES: Final = re.compile(r'\b(?:from|join)\s+("[^"]+"|[a-z_][\w$]*)', re.IGNORECASE)


class Column(NamedTuple):
    """A column there is, and what our role may do with it."""

    table: str
    name: str
    read: bool
    updated: bool


async def grant_problems(postgres: Postgres, mapping: SourceMapping) -> list[Problem]:
    """List what our role lacks, and what it should not be able to do; the statements that mend it are with the first.

    Reads no row. Raises SourceUnavailable.
    """
    of_mapping = sorted({*_tables_of(mapping)} - {*READ, *READ_BUT})
    names = sorted({*of_mapping, *READ, *READ_BUT, *READ_WHOLE, *SECRET})
    async with postgres.connection() as connection:
        role = await connection.fetchrow(_ROLE)
        columns = [Column(*row.values()) for row in await connection.fetch(_COLUMNS, names)]
    there = {column.table for column in columns}
    of_mapping = [name for name in of_mapping if name in there]
    problems = [*_lacking(columns, of_mapping), *_too_much(columns, role)]
    if problems:
        statements = "\n".join(_statements(columns, of_mapping, role))
        problems[0] = msgspec.structs.replace(problems[0], index=statements)
    return problems


def _tables_of(mapping: SourceMapping) -> Iterator[str]:
    """Name all tables that a mapping may read, and some words that are none."""
    for branches in mapping.entities.values():
        for branch in branches:
            for text in _texts(branch):
                yield from (unquoted(name) for name in _SOURCES.findall(text))
            yield from (unquoted(name) for name in tables_in(branch.from_).values())
            joined = [parent.from_ for parent in branch.parents]
            joined += [branch.each.from_] if branch.each is not None else []
            for from_ in joined:
                yield from (unquoted(name) for name in tables_in(from_).values())


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a structure."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, Sequence | frozenset):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _texts(getattr(value, name))


def _needed(columns: Sequence[Column], table: str) -> list[str]:
    """Name the columns of a table that must be readable."""
    if table in READ:
        return list(READ[table])
    left_out = READ_BUT.get(table, ())
    return [column.name for column in columns if column.table == table and column.name not in left_out]


def _lacking(columns: Sequence[Column], of_mapping: Sequence[str]) -> Iterator[Problem]:
    known = {(column.table, column.name): column for column in columns}
    there = {column.table for column in columns}
    for table in (*READ, *READ_BUT, *READ_WHOLE, *of_mapping):
        if table not in there:
            yield Problem(weight="problem", says="is not there, or out of our role's sight", table=table)
            continue
        for name in _needed(columns, table):
            found = known.get((table, name))
            if found is None:
                yield Problem(weight="problem", says="is not there: Immich 3.0 to 3.3 has it", table=table, column=name)
            elif not found.read:
                yield Problem(weight="problem", says="our role may not read it", table=table, column=name)
    for table, name in ((table, name) for table, names in WRITTEN.items() for name in names):
        found = known.get((table, name))
        if found is not None and not found.updated:
            yield Problem(weight="note", says=f"our role may not update it: {_WITHOUT[name]}", table=table, column=name)


def _too_much(columns: Sequence[Column], role: Any) -> Iterator[Problem]:
    if role["super"]:
        yield Problem(
            weight="warning", says=f"{role['role']} is a superuser, who may do everything: use a role of its own"
        )
        return
    for column in columns:
        if column.read and column.name in SECRET.get(column.table, ()):
            says = "our role may read it and needs not: whoever gets hold of its password has them all"
            yield Problem(weight="warning", says=says, table=column.table, column=column.name)
    written = [column for column in columns if column.updated and column.name not in WRITTEN.get(column.table, ())]
    if written or role["writes"]:
        where = f"{written[0].table}.{written[0].name}" if written else "whole tables"
        yield Problem(weight="warning", says=f"{role['role']} may write more than it needs to ({where})")


def _statements(columns: Sequence[Column], of_mapping: Sequence[str], role: Any) -> Iterator[str]:
    """Print the statements that give a role what it needs, and no more."""
    who, schema = quoted(role["role"]), quoted(role["schema"])
    if role["super"]:
        who = "ledger"
        yield "CREATE ROLE ledger LOGIN PASSWORD '…';  -- and its name and password in LEDGER_POSTGRES"
    else:
        yield f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {who};"
    yield f"GRANT CONNECT ON DATABASE {quoted(role['database'])} TO {who};"
    yield f"GRANT USAGE ON SCHEMA {schema} TO {who};"
    yield f"GRANT pg_read_all_stats TO {who};"
    yield f"GRANT SELECT ON {', '.join(map(quoted, (*of_mapping, *READ_WHOLE)))} TO {who};"
    for table in (*READ, *READ_BUT):
        yield f"GRANT SELECT ({', '.join(map(quoted, _needed(columns, table)))}) ON {quoted(table)} TO {who};"
    owner = quoted(role["owner"])
    yield f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {who};"
    for table, names in WRITTEN.items():
        columns_sql = ", ".join(map(quoted, names))
        yield f"GRANT UPDATE ({columns_sql}) ON {quoted(table)} TO {who};  -- optional: {_WHY}"


_WHY: Final = "keeps sessions alive that are used here alone, and takes followed wishes to reset back"
