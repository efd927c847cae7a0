"""Rows that could not be read while a device passed by what refers to them: their children stand where they are mended.

The database does not tell that a row was once unfit, so it is kept, for all processes and for good: a place that rows
moved to they must not leave again. A device that passed is one whose stream goes on behind a row, so what a page comes
across is kept before the page leaves. A process may be behind by what was added since it looked last, which is before
each horizon is read: a row is mended later than it was seen, and shows below a horizon a second after that.

Bounded: where more than KEPT rows of a table were seen, all of them count, so that children come again with whatever
changes there: more than needed, but nothing is missed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from ledger import keys
from ledger.store.interface import Store

log = logging.getLogger(__name__)

KEPT: Final = 1000
ALL: Final = "*"
"""Stands for every row of a table; no id may hold what comes before it: a bar."""


class UnfitParents(Protocol):
    """Where such rows are kept, as `table|id`; raises Unavailable."""

    async def all(self) -> Collection[str]:
        """Read all."""
        ...

    async def add(self, parents: Collection[str]) -> None:
        """Keep some more; they are kept when this returns."""
        ...


class OfProcess:
    """Keeps them for as long as a process lives: for commands that serve no device."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    async def all(self) -> Collection[str]:
        """Read all."""
        return frozenset(self._known)

    async def add(self, parents: Collection[str]) -> None:
        """Keep some more."""
        self._known.update(parents)


class Stored:
    """Keeps them in the ledger's store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def all(self) -> Collection[str]:
        """Read all."""
        found = await self._store.command("HKEYS", keys.unfit_parents(), key=keys.unfit_parents())
        return frozenset(member.decode() for member in found)

    async def add(self, parents: Collection[str]) -> None:
        """Keep some more."""
        pairs = [part for parent in sorted(parents) for part in (parent, "1")]
        await self._store.command("HSET", keys.unfit_parents(), *pairs, key=keys.unfit_parents())


class Known:
    """What one process knows of them; refreshed before each horizon."""

    def __init__(self, kept: UnfitParents) -> None:
        self._kept = kept
        self._known: frozenset[str] = frozenset()
        self.tables: Mapping[str, Sequence[str] | None] = {}
        """The ids of each table that has any; None: all."""

    async def refresh(self) -> None:
        """Read what others have added."""
        found = frozenset(await self._kept.all())
        if found != self._known:
            self._known = self._known | found
            self.tables = _by_table(self._known)

    async def note(self, parents: Collection[str]) -> None:
        """Keep what a page came across, and only then return."""
        new = [
            one for one in parents if one not in self._known and self.tables.get(one.partition("|")[0], ()) is not None
        ]
        if not new:
            return
        tables = _by_table(self._known.union(new))
        new += [
            f"{table}|{ALL}" for table, ids in tables.items() if ids is None and self.tables.get(table, ()) is not None
        ]
        await self._kept.add(new)
        self._known = self._known.union(new)
        self.tables = tables
        log.warning("%d rows that no device can read keep what refers to them, like %s", len(new), new[0])


def _by_table(members: Collection[str]) -> dict[str, Sequence[str] | None]:
    found: dict[str, list[str]] = {}
    for member in sorted(members):
        table, _, row_id = member.partition("|")
        found.setdefault(table, []).append(row_id)
    return {table: None if ALL in ids or len(ids) > KEPT else ids for table, ids in found.items()}
