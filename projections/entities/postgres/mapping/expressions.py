"""A mapped branch's expressions, what is asked of the database about them, and what it says. Pure."""

# ruff: noqa: S608 - a mapping is SQL that its operator wrote; what comes from outside is a parameter
from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from projections.entities.postgres.mapping.mapping import Branch, Order
from projections.entities.postgres.mapping.sql_text import with_library
from projections.entities.postgres.statements.encodings import UTF8
from projections.entities.postgres.statements.readable import Given


class SqlTypes(Struct, frozen=True):
    """The types of a branch's expressions, as pg_type names them; of what is printed all that the database holds.

    `encoding` is the database's.
    """

    order: tuple[str, ...]
    each: tuple[str, ...]
    stands: tuple[str, ...]
    since: tuple[str | None, ...]
    data: tuple[Given, ...]
    parents: tuple[tuple[Given, ...], ...]
    changes: tuple[str | None, ...]
    encoding: str = UTF8


class Expressions(Struct, frozen=True):
    """A branch's expressions with the library's parameter in them; `parents` are those of each parent's payload."""

    branch: Branch
    from_: str
    where: str
    each_from: str
    each_where: str
    order: tuple[str, ...]
    each: tuple[str, ...]
    stands: tuple[str, ...]
    since: tuple[str | None, ...]
    data: tuple[str, ...]
    parents: tuple[dict[str, str], ...]
    changes: tuple[str | None, ...]

    @property
    def all(self) -> list[str]:
        """List all of them, the shares' last."""
        return [
            *(*self.order, *self.stands, *_given(self.since), *self.data),
            *(sql for data in self.parents for sql in data.values()),
            *(*_given(self.changes), *self.each),
        ]


def expressions_of(branch: Branch, library: str) -> Expressions:
    """Put the library's parameter into a branch, and each expression into parentheses."""

    def put(sql: str) -> str:
        return f"({with_library(sql, library)})"

    def order(order: Order) -> tuple[str, ...]:
        return (put(order.uuid7),) if order.uuid7 else (put(order.updated_at), put(order.id))

    each = branch.each
    changes = [parent.changes.uuid7 or parent.changes.updated_at for parent in branch.parents]
    return Expressions(
        branch,
        with_library(branch.from_, library),
        put(branch.where),
        "" if each is None else with_library(each.from_, library),
        "" if each is None else put(each.where),
        order(branch.order),
        () if each is None else order(each.order),
        tuple(put(parent.stands.uuid7 or parent.stands.updated_at) for parent in branch.parents),
        tuple(put(parent.since) if isinstance(parent.since, str) else None for parent in branch.parents),
        tuple(put(sql) for sql in branch.data.values()),
        tuple({key: put(sql) for key, sql in parent.data.items()} for parent in branch.parents),
        tuple(put(sql) if sql else None for sql in changes),
    )


def joined(branch: Branch, library: str, inner: int | None = None) -> str:
    """Join the parents; of each, `_sl_there<n>` is null where it was not found."""
    joins = [with_library(branch.from_, library)]
    for at, parent in enumerate(branch.parents):
        kind = "JOIN" if at == inner else "LEFT JOIN"
        there = f"(SELECT true AS _sl_there{at}) _sl_join{at}"
        joins.append(
            f"{kind} ({with_library(parent.from_, library)} CROSS JOIN {there}) ON ({with_library(parent.on, library)})"
        )
    return " ".join(joins)


def probe_of(found: Expressions, library: str) -> str:
    """Print a statement that returns no row, and whose columns are of the types of a branch's expressions."""
    wanted = ", ".join(f"{sql} AS c{at}" for at, sql in enumerate(found.all))
    rows = f"SELECT {wanted} FROM {joined(found.branch, library)} WHERE {found.where}"
    if found.branch.each is None:
        return f"{rows} LIMIT 0"
    return f"SELECT r.* FROM {found.each_from} CROSS JOIN LATERAL ({rows}) r WHERE {found.each_where} LIMIT 0"


def types_of(found: Expressions, columns: Sequence[Given]) -> SqlTypes:
    """Sort what the database says of a probe's columns."""
    left = iter(columns)
    order = tuple(next(left).sql_type for _ in found.order)
    stands = tuple(next(left).sql_type for _ in found.stands)
    since = tuple(None if sql is None else next(left).sql_type for sql in found.since)
    data = tuple(next(left) for _ in found.data)
    parents = tuple(tuple(next(left) for _ in data) for data in found.parents)
    changes = tuple(None if sql is None else next(left).sql_type for sql in found.changes)
    each = tuple(given.sql_type for given in left)
    return SqlTypes(order, each, stands, since, data, parents, changes, columns[0].encoding)


def _given(several: Sequence[str | None]) -> list[str]:
    return [sql for sql in several if sql is not None]
