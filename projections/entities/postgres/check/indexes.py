"""The index that a page of a mapped query needs, as a statement to run. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from projections.entities.postgres.mapping.sql_names import (
    columns_in,
    joined_columns,
    library_columns,
    only_column,
    quoted,
    tables_in,
    unquoted,
)


class Index(NamedTuple):
    """An index: its table as SQL names it, and its keys as SQL."""

    table: str
    keys: tuple[str, ...]

    @property
    def statement(self) -> str:
        """Print the statement that makes it while the table is in use."""
        return f"CREATE INDEX CONCURRENTLY ON {self.table} ({', '.join(self.keys)});"

    def is_among(self, known: Collection[tuple[str, tuple[str, ...]]]) -> bool:
        """Tell whether an index begins with these keys; `known` pairs tables with the columns of their indexes."""
        table, columns = unquoted(self.table.rpartition(".")[2]), tuple(map(unquoted, self.keys))
        return any(name == table and has[: len(columns)] == columns for name, has in known)


def order_index(
    from_: str, where: str, order: Sequence[str], *, texts: Collection[str] = (), shares: Collection[str] = ()
) -> Index | None:
    """Derive the index that rows come off in their order; None where it cannot be told.

    It begins with the column that the condition holds equal to the library, or to a share (the aliases `shares`), and
    goes on with the expressions of `order`; those named in `texts` compare as bytes, as positions do.
    """
    first = columns_in(order[0])
    tables = tables_in(from_)
    if not first or first[0].alias not in tables:
        return None
    alias = first[0].alias
    keys = [_key(expression, alias) for expression in order]
    if not all(keys):
        return None
    keys = [key + ' COLLATE "C"' if sql in texts else key for key, sql in zip(keys, order, strict=True)]
    leading = [*library_columns(where, alias), *joined_columns(where, alias, shares)][:1]
    return Index(tables[alias], tuple(dict.fromkeys((*map(quoted, leading), *keys))))


def lookup_index(from_: str, condition: str, alias: str) -> Index | None:
    """Derive the index that a joined table's rows are found by; None where it cannot be told."""
    table = tables_in(from_).get(alias)
    text = f"{condition} AND {from_}"
    columns = (*library_columns(text, alias), *joined_columns(text, alias))
    return None if table is None or not columns else Index(table, (quoted(columns[0]),))


def _key(expression: str, alias: str) -> str:
    """Print an expression as a key of an index on its own table; empty if it needs another table."""
    column = only_column(expression)
    if column is not None:
        return quoted(column.name) if column.alias == alias else ""
    if any(found.alias != alias for found in columns_in(expression)):
        return ""
    return "(" + re.sub(rf'(?<![\w"$.])(?:{re.escape(alias)}|{re.escape(quoted(alias))})\s*\.\s*', "", expression) + ")"
