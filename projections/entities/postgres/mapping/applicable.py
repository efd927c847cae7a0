"""Which branches of a mapping are for this database: a schema has versions, told apart by columns it has or has not.

And which version the backend is whose database it is, where that says so itself.
"""

from __future__ import annotations

from typing import Final

import asyncpg
from msgspec.structs import replace

from projections.entities.postgres.mapping.mapping import Mapping

_THERE: Final = """
SELECT c.name, EXISTS (
  SELECT FROM pg_attribute a
  WHERE a.attrelid = to_regclass(c.of) AND a.attname = c.called AND a.attnum > 0 AND NOT a.attisdropped) AS there
FROM unnest($1::text[], $2::text[], $3::text[]) c(name, of, called)
"""


async def applicable(connection: asyncpg.Connection, mapping: Mapping) -> Mapping:
    """Return a mapping with only the branches and resends that are for the database; asks nothing if all are for any.

    Raises what the connection raises.
    """
    columns = sorted(
        {
            column
            for branches in mapping.entities.values()
            for branch in branches
            for column in (branch.needs_column, branch.lacks_column)
            if column
        }.union(mapping.resend_columns.values())
    )
    if not columns:
        return mapping
    split = [column.rpartition(".") for column in columns]
    rows = await connection.fetch(_THERE, columns, [of for of, _, _ in split], [called for _, _, called in split])
    there = {row["name"] for row in rows if row["there"]}
    kept = {
        name: tuple(
            branch
            for branch in branches
            if (not branch.needs_column or branch.needs_column in there) and branch.lacks_column not in there
        )
        for name, branches in mapping.entities.items()
    }
    return replace(
        mapping,
        entities={name: branches for name, branches in kept.items() if branches},
        resends=mapping.resends_with(there),
    )


async def backend_version(connection: asyncpg.Connection, mapping: Mapping) -> str | None:
    """Tell the version of the backend, as its database has it; None where it is not told, or not to this role.

    Raises what the connection raises.
    """
    if not mapping.source.version:
        return None
    try:
        found = await connection.fetchval(mapping.source.version)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InsufficientPrivilegeError):
        return None
    return None if found is None else str(found)
