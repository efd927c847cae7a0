"""Which database this is: what tells that another one, or an older state of the same one, stands behind the address.

It rests on these facts of PostgreSQL (15 to 18):

1. `system_identifier` is made by initdb and copied with the data folder: a dump restored elsewhere has another one, a
   snapshot, a replica or a base backup the same. pg_upgrade makes a new one.
2. A database, schema or table that is dropped and made again has another oid. VACUUM FULL, CLUSTER, TRUNCATE and
   ALTER TABLE keep it: they only change where the rows lie.
3. A server that begins to take writes after it followed another one, or an archive, counts its timeline up. Until its
   next restart pg_last_wal_replay_lsn() stays at where it had got by then: what lies behind in the timeline before is
   not in it. (After a crash on the new timeline it tells the end of that recovery instead: a server that was promoted
   with a loss, wrote, and crashed before any look of ours is taken to have lost less.)
4. Within a timeline pg_current_wal_flush_lsn() only grows, over crashes too. Below what was seen of it lies an older
   state: a volume's snapshot was brought back. A commit is visible to others once it is flushed, unless its session
   has synchronous_commit = off; such commits are not covered where they are lost.
5. Rows that are loaded into the tables that are there (TRUNCATE, COPY) change none of this.

None of it takes more than a role that may connect; where a hoster does not allow a part, that is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec

from projections.entities.origins import Found
from projections.entities.postgres.connections.connecting import apart
from projections.entities.postgres.mapping.mapping import Mapping
from projections.entities.postgres.mapping.sql_names import tables_in

log = logging.getLogger(__name__)

KIND: Final = "postgres"
_PARTS: Final = {
    "system": "(SELECT system_identifier::text FROM pg_control_system())",
    "timeline": "('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int",
    "written": "pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint",
    "replayed": "coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::bigint",
    "database": "(SELECT oid::bigint FROM pg_database WHERE datname = current_database())",
    "tables": "(SELECT coalesce(json_object_agg(t.name, t.oid::bigint), '{}')::text FROM t)",
    "keyed": "ARRAY(SELECT t.name FROM t WHERE EXISTS "
    "(SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary))",
    "loading": "ARRAY(SELECT t.name FROM t JOIN pg_stat_progress_copy c ON c.relid = t.oid "
    "WHERE c.datname = current_database() AND c.command = 'COPY FROM')",
    "shape": """(
      SELECT coalesce(hashtextextended(string_agg(concat_ws(' ', t.name, a.attrelid, a.attnum, a.attname, a.atttypid,
        a.atttypmod, a.attnotnull, a.attacl, c.relacl), ',' ORDER BY t.name, a.attnum), 0), 0)
      FROM t JOIN pg_class c ON c.oid = t.oid JOIN pg_attribute a ON a.attrelid = t.oid
      WHERE a.attnum > 0 AND NOT a.attisdropped)""",
}
# PERF: names are looked up once each; the whole question takes as long as that for the horizon, behind which it stands.
_TABLES: Final = """
WITH t AS MATERIALIZED (
  SELECT name, oid FROM (SELECT name, to_regclass(name)::oid AS oid FROM unnest($1::text[]) n (name)) o
  WHERE oid IS NOT NULL
)
"""
_NOT_ALLOWED: Final = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedTableError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.ObjectNotInPrerequisiteStateError,
)
_tables: Final = msgspec.json.Decoder(dict[str, int])


class IdentityReader:
    """Reads what one database is; remembers which parts it may ask. One for all of a process."""

    def __init__(self, mapping: Mapping) -> None:
        self._names = table_names(mapping)
        self._asked = dict(_PARTS)
        self.shape = 0
        """A hash of the tables' columns and of who may read them, as of the last read; 0 if it is not told."""

    @property
    def left_out(self) -> list[str]:
        """What the server does not tell, of what it was asked last."""
        return [name for name in _PARTS if name not in self._asked]

    async def read(self, connection: Any) -> Found:
        """Read it, outside of any transaction; behind a horizon it tells how far what lies below that is written."""
        try:
            row = await self._ask(connection, self._asked)
        except _NOT_ALLOWED:
            self._asked = {name: sql for name, sql in _PARTS.items() if await self._is_allowed(connection, name, sql)}
            log.warning("PostgreSQL does not tell its %s, so not each exchange is noticed", ", ".join(self.left_out))
            row = await self._ask(connection, self._asked)
        self.shape = row.get("shape", 0)
        return Found(
            kind=KIND,
            system=row.get("system", ""),
            database=row.get("database", 0),
            tables=_tables.decode(row.get("tables", "{}")),
            keyed=tuple(sorted(row.get("keyed", ()))),
            timeline=row.get("timeline", 0),
            written=row.get("written", 0),
            replayed=row.get("replayed", 0),
            loading=tuple(row.get("loading", ())),
        )

    async def _is_allowed(self, connection: Any, name: str, sql: str) -> bool:
        try:
            await self._ask(connection, {name: sql})
        except _NOT_ALLOWED:
            return False
        return True

    async def _ask(self, connection: Any, parts: dict[str, str]) -> dict[str, Any]:
        if not parts:
            return {}
        columns = ", ".join(f"{sql} AS {name}" for name, sql in parts.items())
        async with apart(connection):
            return dict(await connection.fetchrow(f"{_TABLES} SELECT {columns}", self._names))


def table_names(mapping: Mapping) -> Sequence[str]:
    """Name the tables that a mapping reads rows from, as SQL writes them, in order."""
    clauses = [
        clause
        for branches in mapping.entities.values()
        for branch in branches
        for clause in (
            branch.from_,
            *(parent.from_ for parent in branch.parents),
            *(() if branch.each is None else (branch.each.from_,)),
        )
    ]
    return sorted({table for clause in clauses for table in tables_in(clause).values()})
