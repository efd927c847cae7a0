"""What is newest in each table of the database, of all libraries: looked at once for all streams of a process.

Most of what a device asks for did not change since it asked last, whoever's it is. That a table holds nothing behind a
position is seen from the last entry of one index; and if that is of the very library, that there is something. Only
what is left is worth a question of its own. Such a look holds for every stream whose snapshot was known before it:
below a horizon nothing new appears.

A column of a large table that no index begins with is not looked at, nor is an order that is more than a column: their
entity types are always asked about.
"""

# ruff: noqa: S608 - a mapping is SQL that its operator wrote; its tables and columns stand here as they do there
from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import asyncpg

from ledger.positions import Position
from projections.entities.postgres.connections.connecting import encoding_of
from projections.entities.postgres.mapping.applicable import applicable
from projections.entities.postgres.mapping.mapping import Branch, Order
from projections.entities.postgres.mapping.mapping import Mapping as SourceMapping
from projections.entities.postgres.mapping.sql_names import only_column, quoted, tables_in
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.statements.encodings import is_whole
from projections.entities.postgres.statements.keyset import uuid7_after

_MS_BITS: Final = 80
_OF_LIBRARY: Final = re.compile(r"\s*(\S+)\s*=\s*:library\s*")

SMALL_ROWS: Final = 10_000
"""A table of so many rows may be read whole."""
EMPTY_US: Final = 10_000

# Of each table and column whether a whole index begins with it, and whether the table is small.
_CHEAP: Final = """
SELECT EXISTS (
         SELECT 1 FROM pg_index i JOIN pg_attribute c ON c.attrelid = i.indrelid AND c.attnum = i.indkey[0]
         WHERE i.indrelid = to_regclass(t.name) AND c.attname = t.column AND i.indpred IS NULL AND i.indisvalid
       ) AS indexed,
       EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = to_regclass(t.name) AND c.reltuples BETWEEN 0 AND $3) AS small
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY t (name, "column", at) ORDER BY at
"""

# Which transactions are committed: as long as it is the same, nothing was written for anybody. A transaction that has
# written changes it as it ends. What stands behind the address otherwise began at another instant.
_STATE: Final = "concat_ws(' ', pg_current_snapshot(), pg_postmaster_start_time(), current_database())"
_NOW_US: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


class Stamp(NamedTuple):
    """A column that rows are ordered by, of a table as SQL names it.

    `is_own`: it is all of a row's order; else rows of one value have an order of their own. `library` is the column
    that alone tells whose a row is; empty if that takes more.
    """

    table: str
    column: str
    is_uuid: bool
    is_own: bool
    library: str = ""

    def newest(self, column: str) -> str:
        """Print a column of the newest row as a value: an instant in µs. What no position holds is left out."""
        order, value, where = quoted(self.column), quoted(column), f"{quoted(self.column)} IS NOT NULL"
        if not self.is_uuid:
            where = f"{order} >= '1970-01-01' AND {order} < '10000-01-01'"
            value = f"(extract(epoch FROM {order}) * 1000000)::bigint" if column == self.column else value
        return f"(SELECT {value} FROM {self.table} WHERE {where} ORDER BY {order} DESC LIMIT 1)"


class Last(NamedTuple):
    """The newest row by a stamp: when it stands (µs), its UUIDv7 as a number, and whose it is, where that is known.

    `at_us` is below all positions where there is no row.
    """

    at_us: int
    number: int = 0
    library: str = ""

    def is_behind(self, stamp: Stamp, after: Position | None) -> bool:
        """Tell whether it may stand strictly after a position."""
        if after is None:
            return self.at_us >= 0
        if self.at_us + 999 < after.at_us:  # a UUIDv7 tells the millisecond
            return False
        return not stamp.is_own or not stamp.is_uuid or self.number > uuid7_after(after)


class NewestRows:
    """Remembers the newest rows of one database; one for all streams of a process."""

    def __init__(self, mapping: SourceMapping) -> None:
        self._mapping = mapping
        self._stamps: dict[str, tuple[Stamp, ...] | None] = {}
        self._asked: tuple[Stamp, ...] | None = None
        self._statement = ""
        self._horizon_us = -1
        self._began_s = -math.inf
        self._looking = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._told = ("", -math.inf)
        self._state = ""
        self._quiet_since_us = 0
        self._last: dict[str, list[tuple[Stamp, Last]] | None] = {}
        self._below_us = -1

    def passed(self, horizon_us: int) -> None:
        """Take in a horizon that was read: what is looked at from now on shows all below it."""
        self._horizon_us = max(self._horizon_us, horizon_us)

    def is_known(self, before: int) -> bool:
        """Tell whether what is known holds for a snapshot, or cannot: one that is no horizon."""
        return before <= self._below_us or before > self._horizon_us

    @property
    def began_s(self) -> float:
        """When the look began that is the newest, by the monotonic clock: it shows what was committed by then."""
        return self._began_s

    async def look_since(self, postgres: Postgres, at_s: float) -> None:
        """Look at the tables unless somebody has since an instant of the monotonic clock; one at a time.

        Raises what `look` does, and SourceUnavailable.
        """
        async with self._looking:
            if self._began_s < at_s:
                await postgres.ask(self.look)

    @property
    def state(self) -> str:
        """Name what was committed at the newest look; '' before the first."""
        return self._state

    def quiet(self, entity_types: Iterable[str], from_us: int) -> bool:
        """Tell whether at the newest look all was committed before an instant.

        And none of these mapped entity types had a row at or above it, as one that is stamped ahead of its time.
        """
        if not self._state or self._quiet_since_us >= from_us:
            return False
        return not any(self._last.get(name) is None or self.shows(name, from_us) for name in entity_types)

    async def state_since(self, postgres: Postgres, at_s: float) -> str:
        """Name what is committed, as somebody asked since an instant of the monotonic clock; once for all who ask.

        Raises SourceUnavailable.
        """
        async with self._asking:
            if self._told[1] < at_s:
                began_s = time.monotonic()
                self._told = await postgres.ask(lambda connection: connection.fetchval(f"SELECT {_STATE}")), began_s
            return self._told[0]

    async def look(self, connection: Any) -> None:
        """Look at the tables, for all snapshots up to now; outside of any transaction."""
        if self._asked is None:
            mapped = (await applicable(connection, self._mapping)).entities
            self._stamps = {name: stamps_of(branches) for name, branches in mapped.items()}
            self._asked = await self._affordable(connection)
            columns = [stamp.newest(name) for stamp in self._asked for name in (stamp.column, stamp.library) if name]
            self._statement = f"SELECT {', '.join((*columns, _STATE, _NOW_US))}"
        below_us, began_s = self._horizon_us, time.monotonic()
        try:
            *found, state, now_us = await connection.fetchrow(self._statement)
        except asyncpg.PostgresError:
            self._asked = None  # the database may have got another schema
            raise
        if began_s <= self._began_s:
            return  # a later one was faster
        if state != self._state:
            self._state, self._quiet_since_us = state, now_us
        values = iter(found)
        last = {stamp[:3]: _last(stamp, next(values), next(values) if stamp.library else "") for stamp in self._asked}
        whose = {stamp[:3]: stamp.library for stamp in self._asked}
        for name, stamps in self._stamps.items():
            self._last[name] = None
            if stamps is not None and all(stamp[:3] in last for stamp in stamps):
                self._last[name] = [
                    (stamp if stamp.library == whose[stamp[:3]] else stamp._replace(library=""), last[stamp[:3]])
                    for stamp in stamps
                ]
        self._below_us, self._began_s = max(below_us, self._below_us), began_s

    def may_have(self, entity_type: str, after: Position | None, before: int) -> bool:
        """Tell whether a mapped entity type may have rows after a position and before a snapshot."""
        if before > self._below_us:
            return True
        known = self._last.get(entity_type)
        return known is None or any(last.is_behind(stamp, after) for stamp, last in known)

    def shows(self, entity_type: str, from_us: int) -> bool:
        """Tell whether there may have been rows of a mapped entity type at or above an instant at the newest look.

        Of a type that is not looked at there were none where nothing at all was committed since that instant.
        """
        known = self._last.get(entity_type)
        if known is None:
            return self._quiet_since_us >= from_us
        return any(last.at_us + 999 >= from_us for _, last in known)

    def has(self, entity_type: str, library: str, after: Position | None, before: int) -> bool:
        """Tell whether a mapped entity type surely has a row of a library after a position and before a snapshot.

        The library is as its SQL type prints it.
        """
        if before > self._below_us:
            return False
        return any(
            stamp.library and last.library == library and last.at_us < before - 999 and last.is_behind(stamp, after)
            for stamp, last in self._last.get(entity_type) or ()
        )

    async def _affordable(self, connection: Any) -> tuple[Stamp, ...]:
        """List what can be looked at without reading much: each column once, with the library where an index has it."""
        every: dict[Any, Stamp] = {}
        for stamp in (stamp for several in self._stamps.values() for stamp in several or ()):
            every[stamp[:3]] = max(stamp, every.get(stamp[:3], stamp), key=lambda found: found.library)
        tables, names = [stamp.table for stamp in every.values()], [stamp.column for stamp in every.values()]
        asked = []
        for stamp, row in zip(every.values(), await connection.fetch(_CHEAP, tables, names, SMALL_ROWS), strict=True):
            if row["indexed"] and (self._mapping.source.library != "text" or is_whole(encoding_of(connection))):
                asked.append(stamp)
            elif row["indexed"] or row["small"]:
                asked.append(stamp._replace(library=""))
        return tuple(asked)


def _last(stamp: Stamp, value: Any, library: Any) -> Last:
    if value is None:  # the table is empty
        return Last(-EMPTY_US)
    if stamp.is_uuid:
        return Last((value.int >> _MS_BITS) * 1000, value.int, str(library))
    return Last(value)


def stamps_of(branches: tuple[Branch, ...]) -> tuple[Stamp, ...] | None:
    """List what the rows of an entity type are ordered by; None if that is more than columns."""
    stamps = [stamp for branch in branches for stamp in _stamps(branch)]
    return None if None in stamps else tuple(stamp for stamp in stamps if stamp is not None)


def _stamps(branch: Branch) -> Iterator[Stamp | None]:
    tables = tables_in(branch.from_)
    if branch.each is not None:
        yield _stamp(branch.each.order, tables_in(branch.each.from_), is_own=False)
        return
    stamp = _stamp(branch.order, tables, is_own=True)
    if stamp is not None and stamp.is_uuid and (whose := _OF_LIBRARY.fullmatch(branch.where)) is not None:
        of = only_column(whose[1])
        if of is not None and len(tables) == 1 and of.alias in tables and not branch.parents:
            stamp = stamp._replace(library=of.name)
    yield stamp
    for parent in branch.parents:
        if parent.since is None:
            yield _stamp(parent.stands, tables | tables_in(parent.from_), is_own=False)
        elif parent.since is not False:
            yield None


def _stamp(order: Order, tables: Mapping[str, str], *, is_own: bool) -> Stamp | None:
    column = only_column(order.uuid7 or order.updated_at)
    if column is None or column.alias not in tables:
        return None
    return Stamp(tables[column.alias], column.name, bool(order.uuid7), is_own)
