"""The floors of `postgres`: the source's own lines as bare statements, without pages, parameters or limits."""

# ruff: noqa: S608 - a mapping is SQL that its operator wrote
from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from ledger.positions import Position
from projections.entities.postgres.mapping.compiled import Compiler
from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.statements.keyset import Ask
from projections.entities.postgres.statements.statements import Statement, Types, parameters_of, shares_of, statement_of
from projections.entities.registry import entity_types_for

_PARAMETER: Final = re.compile(r"\$(\d+)(?=::)")
_LATER_US: Final = 4_000_000_000_000_000


def copy_queries(url: str, library: str, types: Sequence[str]) -> list[str]:
    """Make queries for all lines of a library, one for each entity type that the request types ask for, in order."""
    names = [row.name for row in entity_types_for(types)]
    return asyncio.run(_queries(url, library, names, None))


def lines_after(url: str, library: str, entity_type: str, since_us: int) -> str:
    """Make the query for the lines of one entity type that come after an instant."""
    (query,) = asyncio.run(_queries(url, library, [entity_type], Position(since_us, "")))
    return query


async def _queries(url: str, library: str, names: Sequence[str], after: Position | None) -> list[str]:
    postgres = await Postgres.open(url, size=1, wait_s=10, statement_timeout_s=60)
    compiler = Compiler(load_mapping("immich"))
    made = []
    try:
        async with postgres.connection() as connection:
            for name in names:
                if compiler.served_from(name) != name:
                    continue
                statement = _every_line((await compiler.entity_type(connection, name)).types)
                values = statement.values(Ask(library, {name: after}, _LATER_US))
                made.append(_filled_in(statement.sql, values))
    finally:
        await postgres.close()
    return made


def _every_line(types: Types) -> Statement:
    """Ask for all lines after a position and before an instant, unordered and without an end: to compare the cost."""
    parameters = parameters_of(types.library)
    selects = []
    for part in types.parts:
        line, where = part.line(types.entity_type), part.where(parameters, types.entity_type)
        if part.share is None and not part.each_from:
            selects.append(f"SELECT {line} AS line FROM {part.joined} WHERE {where} ORDER BY {part.key.order_by}")
        else:
            rows = f"SELECT {line} AS line FROM {part.joined} WHERE {where}"
            selects.append(f"SELECT r.line FROM {shares_of(part, parameters, types)} CROSS JOIN LATERAL ({rows}) r")
    several = " UNION ALL ".join(f"({select})" for select in selects)
    return statement_of(f"SELECT line FROM ({several}) every", parameters, types.library)


def _filled_in(sql: str, values: Sequence[Any]) -> str:
    return _PARAMETER.sub(lambda found: _literal(values[int(found[1]) - 1]), sql)


def _literal(value: Any) -> str:
    """Print a parameter's value as SQL."""
    if isinstance(value, int):
        return str(value)
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return "'" + text.replace("'", "''") + "'"
