"""What is made of a mapping for one database: its statements, with the types that the database has.

Each entity type is asked about once, when it is first used, without reading a row; anew after the database refused one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from ledger.commands import Resend
from projections.entities.postgres.line_check import LineCheck
from projections.entities.postgres.mapping.described import Describer, ancestors
from projections.entities.postgres.mapping.mapping import Branch
from projections.entities.postgres.mapping.mapping import Mapping as SourceMapping
from projections.entities.postgres.statements import statements
from projections.entities.postgres.statements.branches import Part, parts_of
from projections.entities.postgres.statements.statements import Statement, Types
from projections.entities.postgres.statements.waits import Described, waits_of
from projections.entities.registry import row

KNOWN_SETS: Final = 64
"""How many sets of entity types keep their statement; an app asks for the same ones each time."""


class Compiled(Struct, frozen=True):
    """One mapped entity type's statements. `fits` checks the lines of each part alike.

    `is_mended`: with rows that stand where a parent was mended.
    """

    types: Types
    page: Statement
    left: Statement
    ahead: Statement
    held: Statement | None
    fits: LineCheck
    is_mended: bool = False


class Compiler:
    """Makes the statements of a mapping as they are needed, and keeps them."""

    def __init__(self, mapping: SourceMapping) -> None:
        self._mapping = mapping
        self._library = f"$1::{mapping.source.library}"
        self._describer = Describer(mapping)
        self.forgotten = 0
        """How often what was made was forgotten."""
        self._known: dict[tuple[str, bool], Compiled] = {}
        self._parts: dict[tuple[str, bool, tuple[bool, ...]], Compiled] = {}
        self._changed: dict[tuple[tuple[str, ...], frozenset[str]], Statement] = {}
        self._written: dict[tuple[tuple[str, ...], frozenset[str]], Statement | None] = {}

    @property
    def resends(self) -> tuple[Resend, ...]:
        """What is sent again by this database, as far as it was asked."""
        return self._describer.resends

    def served_from(self, entity_type: str) -> str | None:
        """Name the mapped entity type whose rows are served as this one; None if it has none.

        A version that is not mapped itself is made of the stored one, but not where that lacks a part (AlbumV1).
        """
        if entity_type in self._mapping.entities:
            return entity_type
        served = row(entity_type)
        made = served.is_other_version and not served.needs_owner and served.stored in self._mapping.entities
        return served.stored if made else None

    def moves(self, name: str, unfit: Collection[str]) -> bool:
        """Tell whether rows of a mapped entity type may stand elsewhere than where their own stamp says.

        `unfit` are the tables of which rows were seen not to fit.
        """
        branches = self._mapping.entities[name]
        return self.is_mended(name, unfit) or any(
            branch.each is not None or any(parent.since is not False for parent in branch.parents)
            for branch in branches
        )

    def is_mended(self, name: str, unfit: Collection[str]) -> bool:
        """Tell whether rows of a mapped entity type may stand where a parent was mended."""
        form = row(name).form
        if not unfit or form is None or row(name).is_delete:
            return False
        tables = [parent.table for parent in row(name).parents]
        if row(name).needs_owner:
            tables.append("user")
        return not set(unfit).isdisjoint(ancestors(tables))

    def keeps_parts(self, name: str) -> bool:
        """Tell whether a part of a mapped entity type that has no more rows stays without, below the horizon.

        Not so where shares are only some of its branches: what one share that ended showed, another part may show then.
        """
        branches = self._mapping.entities[name]
        return len(branches) == 1 or all(branch.each is None for branch in branches)

    async def entity_type(self, connection: asyncpg.Connection, name: str, unfit: Collection[str] = ()) -> Compiled:
        """Return a mapped entity type's statements; raises MappingError and what the connection raises.

        `unfit` are the tables of which rows were seen not to fit.
        """
        key = (name, self.is_mended(name, unfit))
        known = self._known.get(key)
        if known is None:
            forgotten = self.forgotten
            known = await self._compile(connection, name, mended=key[1])
            if forgotten == self.forgotten:  # else it may be of a schema that is gone
                self._known[key] = known
        return known

    def with_parts(self, compiled: Compiled, wanted: Sequence[bool]) -> Compiled:
        """Return an entity type's statements for some of its parts; for all if none is wanted."""
        types = compiled.types
        if all(wanted) or not any(wanted):
            return compiled
        key = (types.entity_type, compiled.is_mended, tuple(wanted))
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
        self.forgotten += 1
        self._describer = Describer(self._mapping)
        for made in (self._known, self._parts, self._changed, self._written):
            made.clear()

    async def changed(
        self, connection: asyncpg.Connection, served: Mapping[str, str], unfit: Collection[str]
    ) -> Statement:
        """Return the statement that asks which entity types have rows; `served` maps each to what it is served from."""
        names = (tuple(served), frozenset(name for name, mapped in served.items() if self.is_mended(mapped, unfit)))
        known = self._changed.get(names)
        if known is None:
            several = [
                (name, (await self.entity_type(connection, mapped, unfit)).types) for name, mapped in served.items()
            ]
            if len(self._changed) >= KNOWN_SETS:
                del self._changed[next(iter(self._changed))]
            known = self._changed[names] = statements.changed(several, self._mapping.source.library)
        return known

    async def written(
        self, connection: asyncpg.Connection, names: Sequence[str], unfit: Collection[str]
    ) -> Statement | None:
        """Return the statement that asks which libraries have rows of mapped entity types; None if that tells none."""
        key = (tuple(names), frozenset(name for name in names if self.is_mended(name, unfit)))
        if key not in self._written:
            several = [(await self.entity_type(connection, name, unfit)).types for name in names]
            if len(self._written) >= KNOWN_SETS:
                del self._written[next(iter(self._written))]
            self._written[key] = statements.written(several, self._mapping.source.library)
        return self._written[key]

    async def parts(self, connection: asyncpg.Connection, name: str, branch: Branch) -> list[Part]:
        """Return the parts of one branch that is for the database."""
        return await self._parts_of(connection, await self._describer.branch(connection, branch), name, mended=False)

    async def _compile(self, connection: asyncpg.Connection, name: str, *, mended: bool) -> Compiled:
        parts: list[Part] = []
        for one in await self._describer.entity_type(connection, name):
            parts += await self._parts_of(connection, one, name, mended=mended)
        types = statements.types_from(name, parts, self._mapping.source.library)
        checks = [pair for part in parts for pair in zip(part.names, part.data, strict=True)]
        text_ids = any(part.key.id_kind == "text" for part in parts)
        return Compiled(
            types,
            statements.page(types),
            statements.left(types),
            statements.ahead(types),
            statements.held(types),
            LineCheck(checks, text_ids=text_ids),
            mended,
        )

    async def _parts_of(self, connection: asyncpg.Connection, one: Described, name: str, *, mended: bool) -> list[Part]:
        sources = await self._describer.sources(connection, name)
        return parts_of(one, waits_of(one, sources, mended=mended), self._library, mended=mended)
