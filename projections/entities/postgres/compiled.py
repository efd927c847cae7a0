"""What is made of a mapping for one database: its statements, with the types that the database has.

Each entity type is asked about once, when it is first used, without reading a row; anew after the database refused one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from projections.entities.postgres import statements
from projections.entities.postgres.applicable import applicable
from projections.entities.postgres.branches import (
    MappingError,
    Part,
    expressions_of,
    parts_of,
    probe_of,
    types_of,
)
from projections.entities.postgres.fits import Fits
from projections.entities.postgres.mapping import Branch
from projections.entities.postgres.mapping import Mapping as SourceMapping
from projections.entities.postgres.schema import blames_the_statement
from projections.entities.postgres.statements import Statement, Types
from projections.entities.registry import row

KNOWN_SETS: Final = 64
"""How many sets of entity types keep their statement; an app asks for the same ones each time."""


class Compiled(Struct, frozen=True):
    """One mapped entity type's statements. `fits` checks the lines of each part alike."""

    types: Types
    page: Statement
    left: Statement
    ahead: Statement
    held: Statement | None
    fits: Fits


class Compiler:
    """Makes the statements of a mapping as they are needed, and keeps them."""

    def __init__(self, mapping: SourceMapping) -> None:
        self._mapping = mapping
        self._library = f"$1::{mapping.source.library}"
        self._applicable: SourceMapping | None = None
        self._known: dict[str, Compiled] = {}
        self._parts: dict[tuple[str, tuple[bool, ...]], Compiled] = {}
        self._changed: dict[tuple[str, ...], Statement] = {}

    def served_from(self, entity_type: str) -> str | None:
        """Name the mapped entity type whose rows are served as this one; None if it has none.

        An older version that is not mapped itself is made of the newest, but not where that lacks a part (AlbumV1).
        """
        if entity_type in self._mapping.entities:
            return entity_type
        served = row(entity_type)
        made = served.is_older_version and not served.needs_owner and served.stored in self._mapping.entities
        return served.stored if made else None

    def moves(self, name: str) -> bool:
        """Tell whether rows of a mapped entity type may stand elsewhere than where their own stamp says."""
        branches = self._mapping.entities[name]
        return any(
            branch.each is not None or any(parent.since is not False for parent in branch.parents)
            for branch in branches
        )

    def keeps_parts(self, name: str) -> bool:
        """Tell whether a part of a mapped entity type that has no more rows stays without, below the horizon.

        Not so where shares are only some of its branches: what one share that ended showed, another part may show then.
        """
        branches = self._mapping.entities[name]
        return len(branches) == 1 or all(branch.each is None for branch in branches)

    async def entity_type(self, connection: asyncpg.Connection, name: str) -> Compiled:
        """Return a mapped entity type's statements; raises MappingError and what the connection raises."""
        known = self._known.get(name)
        if known is None:
            if self._applicable is None:
                self._applicable = await applicable(connection, self._mapping)
            if name not in self._applicable.entities:
                raise MappingError(f"No branch of {name} in {self._mapping.name} is for this version of the schema")
            known = self._known[name] = await self._compile(connection, name, self._applicable.entities[name])
        return known

    def with_parts(self, compiled: Compiled, wanted: Sequence[bool]) -> Compiled:
        """Return an entity type's statements for some of its parts; for all if none is wanted."""
        types = compiled.types
        if all(wanted) or not any(wanted):
            return compiled
        key = (types.entity_type, tuple(wanted))
        known = self._parts.get(key)
        if known is None:
            parts = [part for part, is_wanted in zip(types.parts, wanted, strict=True) if is_wanted]
            fewer = statements.types_from(types.entity_type, parts, types.library)
            known = self._parts[key] = replace(
                compiled, types=fewer, page=statements.page(fewer), left=statements.left(fewer)
            )
        return known

    def forget(self) -> None:
        """Take nothing of what was made for granted any more: the database may have got another schema."""
        self._applicable = None
        for made in (self._known, self._parts, self._changed):
            made.clear()

    async def changed(self, connection: asyncpg.Connection, served: Mapping[str, str]) -> Statement:
        """Return the statement that asks which entity types have rows; `served` maps each to what it is served from."""
        names = tuple(served)
        known = self._changed.get(names)
        if known is None:
            several = [(name, (await self.entity_type(connection, mapped)).types) for name, mapped in served.items()]
            if len(self._changed) >= KNOWN_SETS:
                del self._changed[next(iter(self._changed))]
            known = self._changed[names] = statements.changed(several, self._mapping.source.library)
        return known

    async def _compile(self, connection: asyncpg.Connection, name: str, branches: Sequence[Branch]) -> Compiled:
        parts: list[Part] = []
        for branch in branches:
            found = expressions_of(branch, self._library)
            with blaming(name):
                probe = await connection.prepare(probe_of(found, self._library))
            columns = [attribute.type.name for attribute in probe.get_attributes()]
            parts += parts_of(found, types_of(found, columns), self._library)
        types = statements.types_from(name, parts, self._mapping.source.library)
        checks = [pair for part in parts for pair in zip(part.names, part.data, strict=True)]
        text_ids = any(part.key.id_kind == "text" for part in parts)
        return Compiled(
            types,
            statements.page(types),
            statements.left(types),
            statements.ahead(types),
            statements.held(types),
            Fits(checks, text_ids=text_ids),
        )


@contextlib.contextmanager
def blaming(entity_type: str) -> Iterator[None]:
    """Raise MappingError where the database refuses the SQL of an entity type, rather than that it is unavailable.

    What it says of values it stumbled over is left out: they are somebody's data.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        if not blames_the_statement(error):
            raise
        code = str(error.sqlstate)
        said = f"{type(error).__name__} ({code})" if code.startswith("22") else f"{error.args[0]} ({code})"
        text = f"The rows of {entity_type} cannot be read as they are mapped; PostgreSQL says: {said}"
        raise MappingError(text) from None
