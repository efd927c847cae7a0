"""Statements that ask the database what it makes of a mapped branch, without reading a row. Pure."""

# ruff: noqa: S608 - a mapping is SQL that its operator wrote; sql_text.py holds its pieces to being pieces
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from projections.entities.postgres.mapping.mapping import Branch, LibraryType, Order, ParentJoin
from projections.entities.postgres.mapping.sql_names import tables_in
from projections.entities.postgres.mapping.sql_text import with_library


class Piece(NamedTuple):
    """One expression of a branch: where the mapping says it, and what it says."""

    place: str
    sql: str


class Probe:
    """Makes statements about one branch; each returns no row."""

    def __init__(self, branch: Branch, index: int, library: LibraryType) -> None:
        """`index` counts the branches of the entity type; `library` is the SQL type of library ids."""
        self.branch = branch
        self.place = f"entities.{branch.entity_type}[{index}]"
        self.tables = tables_in(branch.from_)
        for parent in branch.parents:
            self.tables |= tables_in(parent.from_)
        if branch.each is not None:
            self.tables |= tables_in(branch.each.from_)
        self._library = f"$1::{library}"

    def order(self) -> list[Piece]:
        """List what the rows are ordered by."""
        return _order(self.place, self.branch.order)

    def each_order(self) -> list[Piece]:
        """List what the shares are ordered by; empty without shares."""
        each = self.branch.each
        return [] if each is None else _order(f"{self.place}.each", each.order)

    def data(self) -> list[Piece]:
        """List the payload's expressions in the order of their keys."""
        return [Piece(f"{self.place}.data.{key}", sql) for key, sql in self.branch.data.items()]

    def parents_data(self) -> list[Piece]:
        """List what tells whether parents can be read."""
        return [piece for at, parent in enumerate(self.branch.parents) for piece in _own_of(parent, self._parent(at))]

    def whole(self, wanted: Sequence[Piece]) -> str:
        """Select expressions from the branch's rows with all its conditions."""
        branch = self.branch
        joins = [f"LEFT JOIN {parent.from_} ON ({parent.on})" for parent in branch.parents]
        return self._select(wanted, [branch.from_, *joins], branch.where)

    def shares(self, wanted: Sequence[Piece]) -> str:
        """Select expressions from the shares alone, with their condition."""
        each = self.branch.each
        assert each is not None
        listed = ", ".join(piece.sql for piece in wanted)
        return self._bound(f"SELECT {listed} FROM {each.from_} WHERE ({each.where}) LIMIT 0")

    def rows(self, wanted: Sequence[str], limit: int) -> str:
        """Select expressions from the first rows of the branch's own tables, of all libraries."""
        listed = ", ".join(f"{sql} AS f{at}" for at, sql in enumerate(wanted))
        return self._bound(f"SELECT {listed} FROM {self.branch.from_} LIMIT {limit}")

    def steps(self) -> Iterator[tuple[Piece, str]]:
        """Yield each piece with a statement that fails if just that piece is wrong, those before it being right."""
        branch, each = self.branch, self.branch.each
        if each is not None:
            shares = Piece(f"{self.place}.each.from", each.from_)
            yield shares, self._bound(f"SELECT 1 FROM {each.from_} LIMIT 0")
            condition = Piece(f"{self.place}.each.where", each.where)
            yield condition, self._bound(f"SELECT 1 FROM {each.from_} WHERE ({each.where}) LIMIT 0")
            for piece in self.each_order():
                yield piece, self._bound(f"SELECT {piece.sql} FROM {each.from_} LIMIT 0")
        yield Piece(f"{self.place}.from", branch.from_), self._select((), [branch.from_], "true")
        yield Piece(f"{self.place}.where", branch.where), self._select((), [branch.from_], branch.where)
        for piece in self.order():
            yield piece, self._select([piece], [branch.from_], "true")
        joined = [branch.from_]
        for at, parent in enumerate(branch.parents):
            place = self._parent(at)
            yield Piece(f"{place}.from", parent.from_), self._bound(f"SELECT 1 FROM {parent.from_} LIMIT 0")
            on = Piece(f"{place}.on", parent.on)
            joined.append(f"LEFT JOIN {parent.from_} ON ({parent.on})")
            yield on, self._select((), joined, "true")
            for piece in (*_times_of(parent, place), *_own_of(parent, place)):
                yield piece, self._select([piece], joined, "true")
        for piece in self.data():
            yield piece, self._select([piece], joined, "true")

    def _select(self, wanted: Sequence[Piece], tables: Sequence[str], where: str) -> str:
        listed = ", ".join(f"{piece.sql} AS f{at}" for at, piece in enumerate(wanted)) or "1 AS f0"
        inner = f"SELECT {listed} FROM {' '.join(tables)} WHERE ({where})"
        each = self.branch.each
        if each is None:
            return self._bound(f"{inner} LIMIT 0")
        return self._bound(f"SELECT r.* FROM {each.from_} CROSS JOIN LATERAL ({inner}) r WHERE ({each.where}) LIMIT 0")

    def _parent(self, at: int) -> str:
        return f"{self.place}.parents[{at}]"

    def _bound(self, sql: str) -> str:
        return with_library(sql, self._library)


def _order(place: str, order: Order) -> list[Piece]:
    given = (("uuid7", order.uuid7), ("updated_at", order.updated_at), ("id", order.id))
    return [Piece(f"{place}.{name}", sql) for name, sql in given if sql]


def _times_of(parent: ParentJoin, place: str) -> list[Piece]:
    since = [Piece(f"{place}.since", parent.since)] if isinstance(parent.since, str) else []
    return _order(place, parent.stands) + since


def _own_of(parent: ParentJoin, place: str) -> list[Piece]:
    changes = parent.changes.uuid7 or parent.changes.updated_at
    own = [Piece(f"{place}.data.{key}", sql) for key, sql in parent.data.items()]
    return [*own, Piece(f"{place}.changes", changes)] if changes else own
