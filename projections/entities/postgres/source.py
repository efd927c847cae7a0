"""A PostgreSQL database as a source: its rows are read where they are, in the order of their own stamps.

Every question is one prepared statement, on a connection that is held for just that long: a stream whose reader is slow
holds none.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Final, Self

from ledger.commands import Origin, Resend
from ledger.errors import LedgerError
from ledger.positions import Position
from projections.entities.origins import Found, Origins
from projections.entities.postgres.empty_spans import EmptySpans, is_near, starts_over
from projections.entities.postgres.horizon import MARGIN_US, Horizon, HorizonReader, OnReplica
from projections.entities.postgres.identity import IdentityReader
from projections.entities.postgres.mapped_reads import MappedReads
from projections.entities.postgres.mapping.applicable import backend_version
from projections.entities.postgres.mapping.mapping import Mapping as SourceMapping
from projections.entities.postgres.newest_rows import NewestRows
from projections.entities.postgres.page_runs import PageRuns
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.schema_watch import SchemaWatch
from projections.entities.postgres.statements.keyset import Ask
from projections.entities.postgres.unfit_parents import Known, OfProcess, UnfitParents
from projections.entities.source import MOST_BEHIND_S, Ahead, HeldBack, Page, SourceHealth, SourceUnavailable, Waiting

OWN_USER: Final = "AuthUserV1"
"""The entity type whose one row is the user that a library belongs to."""
LATE_US: Final = 5_000_000
"""A horizon further behind is told in the source's health: devices do not see what was written since."""
CLOCK_S: Final = 60.0
"""For so long the server's clock is taken to go on as ours does."""

ROUNDED_US: Final = 5_000
"""What both clocks, and stamps and horizons in whole milliseconds, may be apart."""
SHARED_S: Final = 0.1
"""How old a horizon may be that a stream begins with: it lies a second behind the clock anyway."""
HORIZONS: Final = 64
"""Of so many horizons it is remembered in which origin they were read."""
NOT_SHARED: Final = (0, -math.inf)


class PostgresSource:
    """Serves entities from a PostgreSQL database as a mapping tells; implements `EntitySource`."""

    steady = False

    def __init__(
        self,
        postgres: Postgres,
        mapping: SourceMapping,
        unfit: UnfitParents | None = None,
        origins: Origins | None = None,
    ) -> None:
        """`unfit` keeps what must be known of unfit rows for as long as devices are; None: only this process does.

        `origins` keep which database it was; without them none is taken to be exchanged.
        """
        self._postgres = postgres
        self._mapping = mapping
        self._reads = MappedReads(postgres, mapping, self._refused)
        self._compiler = self._reads.compiler
        self._horizon = HorizonReader(
            mapping.source.stamps, mapping.source.keeps_deletes_us, shares_sessions=postgres.shares_sessions
        )
        self._origins = origins
        self._identity = IdentityReader(mapping)
        self._schema = SchemaWatch(mapping)
        self._origin = Origin()
        self._read_in: dict[int, Origin] = {}
        self._clock: tuple[int, float] | None = None
        self._shared = NOT_SHARED
        self._reading = asyncio.Lock()
        self._unfit = Known(unfit or OfProcess())
        self._runs = PageRuns(self._reads, self._unfit)
        self._empty_spans = EmptySpans()
        self._newest = NewestRows(mapping)

    @property
    def resends(self) -> tuple[Resend, ...]:
        """Tell what is sent otherwise since which revision, as far as the database was asked for its version."""
        return self._compiler.resends

    def of_session(self, user: str, sid: str) -> Self:
        """Return this: a library is the same for all its sessions."""
        return self

    async def provision(self, library: str, horizon_us: int) -> int:
        """Return the horizon: users are made elsewhere."""
        return horizon_us

    async def renamed(self, library: str, user: str) -> None:
        """Do nothing: names come from elsewhere."""

    async def horizon(self, library: str) -> int:
        """Tell the latest instant below which nothing new can appear; raises HorizonUnknown if that cannot be told.

        Streams that begin within SHARED_S of one another take the same.
        """
        horizon_us, read_s = self._shared
        if time.monotonic() - read_s > SHARED_S:
            horizon_us = (await self._read_horizon()).us
        return horizon_us

    async def origin(self, library: str, horizon_us: int) -> Origin:
        """Tell in which origin a horizon was read that was given lately."""
        return self._read_in.get(horizon_us, self._origin)

    async def tombstone_floor(self, library: str) -> int:
        """Tell up to when delete markers may be purged: as long ago, by the server's clock, as the mapping says."""
        keeps_us = self._mapping.source.keeps_deletes_us
        if keeps_us is None:
            return 0
        if self._clock is None or time.monotonic() - self._clock[1] > CLOCK_S:
            await self._read_horizon()
            assert self._clock is not None
        now_us, read_s = self._clock
        return max(now_us + int((time.monotonic() - read_s) * 1_000_000) - keeps_us, 0)

    async def changed(self, library: str, after: Mapping[str, Position | None], before: int) -> frozenset[str]:
        """Tell which entity types may have rows after their positions and before an instant.

        One statement at most, beside the look that streams share. For a device that starts over types may be named
        that only others have rows of.
        """
        value = self._reads.library_value(library)
        served = {name: mapped for name in sorted(after) if (mapped := self._compiler.served_from(name)) is not None}
        if value is None or not served:
            return frozenset()
        fresh, unfit, quiet = starts_over(after), self._unfit.tables, self._empty_spans
        whose = str(value).lower() if self._mapping.source.library == "uuid" else str(value)
        if not self._newest.is_known(before):
            await self._postgres.ask(self._newest.look)
        begins: dict[str, Position | None] = {}
        sure: list[str] = []
        near = not fresh
        for name, mapped in served.items():
            begin = after[name]
            moved = self._compiler.is_mended(mapped, unfit)  # then the newest rows of its tables tell nothing
            if not moved and not self._newest.may_have(mapped, begin, before):
                continue
            if self._newest.has(mapped, whose, begin, before):
                sure.append(name)
                continue
            if not fresh:
                begin, known = quiet.begin(library, mapped, begin)
                if known and not moved and not self._newest.may_have(mapped, begin, before):
                    continue
                near = near and (known or is_near(begin, before))
            begins[name] = begin
        if fresh and sure:  # the answer is not nothing, and what there is of the rest the pages will tell
            changed = frozenset((*sure, *begins))
        else:
            changed = frozenset(
                (*sure, *await self._having(served, Ask(value, begins, before, unfit=unfit), near=near))
            )
        for name, begin in begins.items():
            if name not in changed:
                quiet.note(library, served[name], begin, before)
        if fresh:
            for name in changed:
                quiet.forget(library, served[name])
        return changed

    async def written(self, libraries: Sequence[str], since: int, before: int) -> list[str]:
        """Tell which libraries have rows, of any type, at or above an instant and below a horizon.

        One question for all of them, and none where a look at the newest rows shows that there was nothing. What every
        library is sent does not count.
        """
        values = [
            (library, value) for library in libraries if (value := self._reads.library_value(library)) is not None
        ]
        if not values:
            return []
        if not self._newest.is_known(before):
            await self._postgres.ask(self._newest.look)
        after, unfit = Position(max(since - 1, 0), ""), self._unfit.tables
        names = [
            name
            for name in sorted(self._mapping.entities)
            if self._compiler.is_mended(name, unfit) or self._newest.may_have(name, after, before)
        ]
        if not names:
            return []
        ask = Ask([value for _, value in values], dict.fromkeys(names, after), before, unfit=unfit)

        async def read(connection: Any) -> Any:
            statement = await self._compiler.written(connection, names, unfit)
            if statement is None:
                return []
            await connection.plan_for_values(True)
            return await connection.fetch(statement.sql, *self._reads.values(statement, ask))

        rows = await self._reads.ask(", ".join(names), read)
        return [values[row["at"] - 1][0] for row in rows]

    async def catches_up_in(self, library: str, types: Collection[str], before: int, asked_s: float) -> float:
        """Tell in how many seconds what was committed by an instant of the monotonic clock is below the horizon.

        0 where a look at the newest rows since then shows none of these types at or above `before`. That look is the
        one that `changed` took where it began late enough, and one for all who ask meanwhile.
        """
        horizon_us = before
        if self._lag_us(before) > MARGIN_US + int(SHARED_S * 1_000_000):  # who held it may be done by now
            horizon_us = max(before, await self._horizon_since(asked_s))
        lag_us = self._lag_us(horizon_us)
        if lag_us > MOST_BEHIND_S * 1_000_000 or self._reads.library_value(library) is None:
            return 0.0
        served = {mapped for name in types if (mapped := self._compiler.served_from(name)) is not None}
        with self._reads.asking(", ".join(sorted(served))):
            await self._newest.look_since(self._postgres, asked_s)
        unfit = self._unfit.tables
        if not any(self._compiler.is_mended(name, unfit) or self._newest.shows(name, before) for name in served):
            return 0.0
        return (lag_us + ROUNDED_US) / 1_000_000

    @property
    def moment(self) -> object:
        """Name what was committed at the newest look."""
        return self._newest.state

    def quiet(self, library: str, types: Collection[str], from_us: int) -> bool:
        """Tell whether all was committed before an instant at the newest look, and none of these types is above.

        Nothing may stand at another row's change then, which only a horizon that was read since tells of.
        """
        served = {mapped for name in types if (mapped := self._compiler.served_from(name)) is not None}
        if any(self._compiler.is_mended(name, self._unfit.tables) for name in served):
            return False
        return self._newest.quiet(served, from_us)

    async def is_quiet_since(self, moment: object) -> bool:
        """Tell whether nothing was committed since a moment. One question of a few bytes for all who ask meanwhile.

        None where a look has shown since that something was.
        """
        if moment != self._newest.state:
            return False
        try:
            return await self._newest.state_since(self._postgres, time.monotonic()) == moment
        except SourceUnavailable:  # whoever asks for more is told
            return False

    async def _horizon_since(self, at_s: float) -> int:
        """Tell the horizon as somebody read it since an instant of the monotonic clock; read once for all who ask."""
        async with self._reading:
            if self._shared[1] < at_s:
                await self._read_horizon()
            return self._shared[0]

    def _lag_us(self, horizon_us: int) -> int:
        """Tell how far an instant is behind the server's clock, which is taken to go on as ours does."""
        if self._clock is None:
            return 0
        now_us, read_s = self._clock
        return now_us + int((time.monotonic() - read_s) * 1_000_000) - horizon_us

    async def _having(self, served: Mapping[str, str], ask: Ask, *, near: bool) -> Sequence[str]:
        """Ask which entity types have rows behind their positions, in one statement."""
        if not ask.after:
            return ()
        asked = {name: served[name] for name in ask.after}

        async def read(connection: Any) -> Any:
            statement = await self._compiler.changed(connection, asked, ask.unfit)
            return await self._reads.row(connection, statement, ask, near=near)

        found = await self._reads.ask(", ".join(asked), read)
        return [name for name, has in zip(asked, found[0], strict=True) if has]

    def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        """Yield what comes strictly after a position and before an instant, `limit` rows and at most 120 KiB a page."""
        return self._runs.pages(library, entity_type, after, before, limit, self._empty_spans)

    async def first_waiting(
        self, library: str, entity_type: str, page: Page, snapshot_us: int, limits: Mapping[str, Position]
    ) -> Waiting | None:
        """Find a page's first row whose parent was not sent for being too new; None if there is none. Asks nothing."""
        return self._runs.first_waiting(page, snapshot_us, limits)

    def rechecked(self, library: str, after_us: int) -> AsyncIterator[list[bytes]] | None:
        """Return None: what rows were before is noted nowhere."""
        return None

    async def held_back(self, library: str) -> Sequence[HeldBack]:
        """Tell what no stream of a library sends for now: rows that no device can read, and those that need another."""
        value = self._reads.library_value(library)
        if value is None:
            return ()
        held: list[HeldBack] = []
        for name in self._mapping.entities:
            held += await self._reads.ask(name, functools.partial(self._held_back, name, Ask(value, {}, 0)))
        return tuple(held)

    async def _held_back(self, name: str, ask: Ask, connection: Any) -> Sequence[HeldBack]:
        compiled = await self._compiler.entity_type(connection, name)
        if compiled.held is None:
            return ()
        found = await connection.fetch(compiled.held.sql, *self._reads.values(compiled.held, ask))
        return [HeldBack(name, one["rows"], one["reason"], one["id"] or "", one["parent"] or "") for one in found]

    async def ahead(self, library: str, entity_type: str, after: Position | None, before: int) -> Ahead:
        """Tell how much comes strictly after a position and before an instant: at most 10,001 rows are counted."""
        value = self._reads.library_value(library)
        mapped = self._compiler.served_from(entity_type)
        if value is None or mapped is None:
            return Ahead(0, None)
        unfit = self._unfit.tables

        async def read(connection: Any) -> Any:
            compiled = await self._compiler.entity_type(connection, mapped, unfit)
            ask = Ask(value, {mapped: after}, before, unfit=unfit)
            return await connection.fetchrow(compiled.ahead.sql, *self._reads.values(compiled.ahead, ask))

        found = await self._reads.ask(mapped, read)
        return Ahead(found["rows"], found["newest_us"])

    async def knows(self, library: str) -> bool | None:
        """Tell whether a library has a user of its own; None where the mapping does not tell of one."""
        if self._compiler.served_from(OWN_USER) is None:
            return None
        return (await self.ahead(library, OWN_USER, None, await self.horizon(library))).rows > 0

    @property
    def has_backend(self) -> bool:
        """Tell whether the database is that of a backend whose version it tells."""
        return bool(self._mapping.source.version)

    async def backend_version(self) -> str | None:
        """Tell the version of the backend whose database it is, as that has it; None where it is not told.

        Raises SourceUnavailable.
        """
        return await self._postgres.ask(lambda connection: backend_version(connection, self._mapping))

    async def health(self) -> SourceHealth:
        """Tell whether the database answers, and who keeps devices from seeing what was written; raises nothing."""
        try:
            horizon = await self._read_horizon()
        except LedgerError as error:
            return SourceHealth("postgres", ok=False, text=str(error))
        text = "PostgreSQL answers"
        if horizon.behind_us > LATE_US:
            holder = f", held back by {horizon.oldest.text}" if horizon.oldest is not None else ""
            text += f"; devices see nothing of the last {horizon.behind_us / 1e6:,.0f} s{holder}"
        if self._origins is not None and (told := self._origins.told(time.time_ns() // 1000)):
            text += f"; {told}"
        behind_s = horizon.behind_us / 1e6
        if horizon.oldest is None:
            return SourceHealth("postgres", True, text, behind_s=behind_s)
        open_s = max((horizon.us + horizon.behind_us - horizon.oldest.since_us) / 1e6, 0.0)
        return SourceHealth("postgres", True, text, horizon.oldest.text, open_s, behind_s)

    @property
    def pool_use(self) -> tuple[int, int]:
        """How many connections are in use, and how many there may be."""
        return self._postgres.in_use, self._postgres.size

    async def _read_horizon(self) -> Horizon:
        self._shared = NOT_SHARED  # what could not be read is told to everybody
        _, (horizon, found) = await asyncio.gather(self._unfit.refresh(), self._postgres.ask(self._ask_horizon))
        if self._origins is not None and found is not None:
            await self._look_whose(self._origins, found)
            await self._look_how(self._identity.shape)
        if len(self._read_in) >= HORIZONS:
            self._read_in.clear()
        self._read_in[horizon.us] = self._origin
        self._clock = horizon.us + horizon.behind_us, time.monotonic()
        self._shared = horizon.us, time.monotonic()
        self._newest.passed(horizon.us)
        return horizon

    async def _ask_horizon(self, connection: Any) -> tuple[Horizon, Found | None]:
        try:
            horizon = await self._horizon.read(connection)
        except OnReplica:
            await self._postgres.expire()
            raise
        # Behind it: what is below the horizon was written by then.
        return horizon, None if self._origins is None else await self._identity.read(connection)

    async def _look_whose(self, origins: Origins, found: Found) -> None:
        """Tell which origin was found; what is remembered of another one is forgotten. Raises SourceExchanged."""

        before = origins.current
        self._origin = await origins.of(found, lambda: self._postgres.ask(self._identity.read))
        if before not in (0, origins.current):
            self._empty_spans, self._newest = EmptySpans(), NewestRows(self._mapping)
            self._compiler.forget()
            await self._postgres.expire()

    async def _look_how(self, shape: int) -> None:
        """Hold tables of another shape against the mapping, and make all that is asked of them anew.

        Raises SchemaUnfit.
        """
        if self._schema.is_known(shape):
            return
        await self._postgres.ask(lambda connection: self._schema.look(connection, shape))
        self._newest = NewestRows(self._mapping)
        self._compiler.forget()

    def _refused(self) -> None:
        self._shared = NOT_SHARED  # it may be another database
        self._schema.doubt()
