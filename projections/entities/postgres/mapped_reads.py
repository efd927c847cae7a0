"""Asking a database by the statements that a mapping is made into, whatever becomes of its schema meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import asyncpg

from ledger.positions import Position
from projections.entities.postgres.mapping.compiled import Compiler
from projections.entities.postgres.mapping.described import MappingError, blaming
from projections.entities.postgres.mapping.mapping import Mapping as SourceMapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.statements.encodings import UTF8, can_hold
from projections.entities.postgres.statements.keyset import Ask, library_value
from projections.entities.postgres.statements.statements import Statement

T = TypeVar("T")


class MappedReads:
    """Asks one database about mapped entity types; one for all streams of a process."""

    def __init__(self, postgres: Postgres, mapping: SourceMapping, refused: Callable[[], None]) -> None:
        """`refused` is called when the database refused what was made of the mapping."""
        self.compiler = Compiler(mapping)
        self._postgres = postgres
        self._library = mapping.source.library
        self._refused = refused

    def library_value(self, library: str) -> Any:
        """Return a library's id as its SQL type takes it; None if it is none, so that the library is empty."""
        return library_value(library, self._library) if can_hold(self._postgres.encoding, library) else None

    def values(self, statement: Statement, ask: Ask) -> list[Any]:
        """Make the values for a statement, all of them such that the database can hold them."""
        encoding = self._postgres.encoding
        if encoding == UTF8:
            return statement.values(ask)
        after = {name: _held(position, encoding) for name, position in ask.after.items()}
        unfit = {
            table: None if ids is None else [one for one in ids if can_hold(encoding, one)]
            for table, ids in ask.unfit.items()
        }
        return statement.values(ask._replace(after=after, unfit=unfit))

    async def row(self, connection: Any, statement: Statement, ask: Ask, *, near: bool) -> Any:
        """Ask for one row; `near`: where little is left to look through.

        PERF: planning a page takes as long as reading ten rows, and the question for all entity types 30 ms. So
        PostgreSQL keeps a plan for any values where it takes that for as good. It cannot know how much one library has,
        and how far behind a device is: all that is not near is planned for the values at hand.
        """
        await connection.plan_for_values(not near)
        return await connection.fetchrow(statement.sql, *self.values(statement, ask))

    async def ask(self, entity_types: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Do some work on a connection, for entity types that are named; raises what `asking` does, SourceUnavailable.

        What the database refuses is tried once more with new statements: its schema may have got another that fits too.
        """

        async def blamed(connection: asyncpg.Connection) -> T:
            with self.asking(entity_types):
                return await work(connection)

        try:
            return await self._postgres.ask(blamed)
        except MappingError:
            return await self._postgres.ask(blamed)

    @contextlib.contextmanager
    def asking(self, entity_types: str) -> Iterator[None]:
        """Raise MappingError where the database refuses the SQL of entity types, which is made anew for the next."""
        try:
            with blaming(entity_types):
                yield
        except MappingError:
            self.compiler.forget()
            self._refused()
            raise


def _held(position: Position | None, encoding: str) -> Position | None:
    """Return the position that all rows strictly after one are above, in a database that may not hold its id."""
    if position is None or can_hold(encoding, position.id):
        return position
    return Position(position.at_us - 1, "") if position.at_us else None  # all of the instant comes again
