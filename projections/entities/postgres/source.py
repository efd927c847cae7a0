"""A PostgreSQL database as a source: its rows are read where they are, in the order of their own stamps.

Every question is one prepared statement, on a connection that is held for just that long: a stream whose reader is slow
holds none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Self

from msgspec import Struct

from ledger.commands import Origin, Resend
from ledger.errors import LedgerError
from ledger.positions import Position
from projections.entities.forms import DELETE
from projections.entities.lines import as_served, position_of
from projections.entities.origins import Found, Origins
from projections.entities.postgres.empty_spans import EmptySpans, is_near, starts_over
from projections.entities.postgres.horizon import MARGIN_US, Horizon, HorizonReader
from projections.entities.postgres.identity import IdentityReader
from projections.entities.postgres.line_check import LineCheck
from projections.entities.postgres.mapping.applicable import backend_version
from projections.entities.postgres.mapping.compiled import Compiled, Compiler
from projections.entities.postgres.mapping.described import MappingError, blaming
from projections.entities.postgres.mapping.mapping import Mapping as SourceMapping
from projections.entities.postgres.newest_rows import NewestRows
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.reading import (
    FETCH_BYTES,
    Batch,
    Fetched,
    Pace,
    PostgresPage,
    place_of,
    stands_of,
    unfit_field_of,
    unfit_parent_of,
)
from projections.entities.postgres.statements.keyset import Ask, library_value
from projections.entities.postgres.statements.statements import Statement
from projections.entities.postgres.unfit_parents import Known, OfProcess, UnfitParents
from projections.entities.registry import EntityTypeRow, row
from projections.entities.source import MOST_BEHIND_S, Ahead, HeldBack, Page, SourceHealth, SourceUnavailable, Waiting

log = logging.getLogger(__name__)

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
        self._compiler = Compiler(mapping)
        self._horizon = HorizonReader(mapping.source.stamps, mapping.source.keeps_deletes_us)
        self._origins = origins
        self._identity = IdentityReader(mapping)
        self._origin = Origin()
        self._read_in: dict[int, Origin] = {}
        self._clock: tuple[int, float] | None = None
        self._shared = NOT_SHARED
        self._reading = asyncio.Lock()
        self._line_bytes: dict[str, float] = {}
        self._unfit = Known(unfit or OfProcess())
        self._told: set[tuple[str, str]] = set()
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
        value = library_value(library, self._mapping.source.library)
        served = {name: mapped for name in sorted(after) if (mapped := self._compiler.served_from(name)) is not None}
        if value is None or not served:
            return frozenset()
        fresh, unfit, quiet = starts_over(after), self._unfit.tables, self._empty_spans
        whose = str(value).lower() if self._mapping.source.library == "uuid" else str(value)
        if not self._newest.is_known(before):
            async with self._postgres.connection() as connection:
                await self._newest.look(connection)
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
        kind = self._mapping.source.library
        values = [(library, value) for library in libraries if (value := library_value(library, kind)) is not None]
        if not values:
            return []
        if not self._newest.is_known(before):
            async with self._postgres.connection() as connection:
                await self._newest.look(connection)
        after, unfit = Position(max(since - 1, 0), ""), self._unfit.tables
        names = [
            name
            for name in sorted(self._mapping.entities)
            if self._compiler.is_mended(name, unfit) or self._newest.may_have(name, after, before)
        ]
        if not names:
            return []
        ask = Ask([value for _, value in values], dict.fromkeys(names, after), before, unfit=unfit)
        async with self._postgres.connection() as connection:
            with self._asking(", ".join(names)):
                statement = await self._compiler.written(connection, names, unfit)
                if statement is None:
                    return []
                await connection.plan_for_values(True)
                rows = await connection.fetch(statement.sql, *statement.values(ask))
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
        if lag_us > MOST_BEHIND_S * 1_000_000 or library_value(library, self._mapping.source.library) is None:
            return 0.0
        served = {mapped for name in types if (mapped := self._compiler.served_from(name)) is not None}
        with self._asking(", ".join(sorted(served))):
            await self._newest.look_since(self._postgres, asked_s)
        unfit = self._unfit.tables
        if not any(self._compiler.is_mended(name, unfit) or self._newest.shows(name, before) for name in served):
            return 0.0
        return (lag_us + ROUNDED_US) / 1_000_000

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
        async with self._postgres.connection() as connection:
            with self._asking(", ".join(asked)):
                statement = await self._compiler.changed(connection, asked, ask.unfit)
                found = await _ask(connection, statement, ask, near=near)
        return [name for name, has in zip(asked, found[0], strict=True) if has]

    async def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        """Yield what comes strictly after a position and before an instant, `limit` rows and at most 64 KiB a page.

        A page whose only line is longer has just that. While pages of one statement are sent the next one is already
        asked, and nothing more: connections are given back whatever the reader does.
        """
        value = library_value(library, self._mapping.source.library)
        mapped = self._compiler.served_from(entity_type)
        if value is None or mapped is None:
            return
        quiet = self._empty_spans  # of the database that is there now
        begin, known = quiet.begin(library, mapped, after)
        empty_from = begin
        pace = Pace(limit, self._line_bytes.get(mapped, 0.0))
        run = _Run(mapped)
        unfit = self._unfit.tables

        def ask(position: Position | None, *, near: bool = False) -> asyncio.Task[Batch | None]:
            values = Ask(value, {mapped: position}, before, pace.rows, FETCH_BYTES, pace.shares, unfit)
            return asyncio.create_task(self._batch(run, values, near=near))

        asked: asyncio.Task[Batch | None] | None = ask(begin, near=known or is_near(begin, before))
        try:
            while asked is not None and (batch := await asked) is not None:
                asked = ask(batch.fetched.last) if pace.learn(batch) else None
                self._line_bytes[mapped] = pace.line_bytes
                cuts = deque(batch.fetched.cut(limit))
                assert run.compiled is not None
                fits = run.compiled.fits
                del batch  # while a reader is slow only what it has not got is kept
                while cuts:
                    page = await self._page(row(entity_type), mapped, fits, cuts.popleft(), before)
                    if page.lines:
                        empty_from = position_of(page.lines[-1])
                    yield page
        finally:
            if asked is not None:
                await _given_up(asked)
        quiet.note(library, mapped, empty_from, before)

    async def _batch(self, run: _Run, ask: Ask, *, near: bool) -> Batch | None:
        """Ask for the next lines of a run; None if there are none. `near`: few are expected.

        From the second batch on only the parts are asked that have rows left: one that has none would be looked through
        for each page again. Where such a part could get rows meanwhile, all are asked again once anything was written.
        """
        async with self._postgres.connection() as connection:
            with self._asking(run.mapped):
                compiled = run.compiled or await self._compiler.entity_type(connection, run.mapped, ask.unfit)
                if run.compiled is not None and run.whole is None and len(compiled.types.parts) > 1:
                    run.whole = compiled
                    if not self._compiler.keeps_parts(run.mapped):
                        run.state = await _state_of(connection)  # before the look, or what it misses would go unnoticed
                    has = await _ask(connection, compiled.left, ask, near=near)
                    compiled = self._compiler.with_parts(compiled, has[0])
                found = await _ask(connection, compiled.page, ask, near=near)
                if run.state and run.whole is not None and run.state != await _state_of(connection):
                    compiled, run.state = run.whole, ""
                    found = await _ask(connection, compiled.page, ask, near=near)
        run.compiled = compiled
        if not found["rows"]:
            return None
        parents = [
            (table, stands_of(found[f"s{at}"], is_uuid=is_uuid))
            for at, (table, is_uuid) in enumerate(compiled.types.stands)
        ]
        lines = found["lines"]
        return Batch(Fetched(lines.split(b"\n"), parents), found["rows"], len(lines), found["more"])

    @contextlib.contextmanager
    def _asking(self, entity_type: str) -> Iterator[None]:
        """Raise MappingError where the database refuses the SQL of an entity type, which is made anew for the next."""
        try:
            with blaming(entity_type):
                yield
        except MappingError:
            self._compiler.forget()
            self._shared = NOT_SHARED  # it may be another database
            raise

    async def first_waiting(
        self, library: str, entity_type: str, page: Page, snapshot_us: int, limits: Mapping[str, Position]
    ) -> Waiting | None:
        """Find a page's first row whose parent was not sent for being too new; None if there is none.

        Asks nothing: where the parents stand was read with the rows, after what was sent of them.
        """
        assert isinstance(page, PostgresPage)
        first = len(page.lines)
        for table, stands in page.parents:
            bound = min((snapshot_us, *self._cuts(table, limits)))
            first = min(first, next((at for at, stand in enumerate(stands) if stand >= bound), first))
        return Waiting(first, position_of(page.lines[first])) if first < len(page.lines) else None

    def rechecked(self, library: str, after_us: int) -> AsyncIterator[list[bytes]] | None:
        """Return None: what rows were before is noted nowhere."""
        return None

    async def held_back(self, library: str) -> Sequence[HeldBack]:
        """Tell what no stream of a library sends for now: rows that no device can read, and those that need another."""
        value = library_value(library, self._mapping.source.library)
        if value is None:
            return ()
        held: list[HeldBack] = []
        for name in self._mapping.entities:
            async with self._postgres.connection() as connection:
                with self._asking(name):
                    compiled = await self._compiler.entity_type(connection, name)
                    if compiled.held is None:
                        continue
                    found = await connection.fetch(compiled.held.sql, *compiled.held.values(Ask(value, {}, 0)))
            held += [HeldBack(name, one["rows"], one["reason"], one["id"] or "", one["parent"] or "") for one in found]
        return tuple(held)

    async def ahead(self, library: str, entity_type: str, after: Position | None, before: int) -> Ahead:
        """Tell how much comes strictly after a position and before an instant: at most 10,001 rows are counted."""
        value = library_value(library, self._mapping.source.library)
        mapped = self._compiler.served_from(entity_type)
        if value is None or mapped is None:
            return Ahead(0, None)
        async with self._postgres.connection() as connection:
            with self._asking(mapped):
                unfit = self._unfit.tables
                compiled = await self._compiler.entity_type(connection, mapped, unfit)
                ask = Ask(value, {mapped: after}, before, unfit=unfit)
                found = await connection.fetchrow(compiled.ahead.sql, *compiled.ahead.values(ask))
        return Ahead(found["rows"], found["newest_us"])

    @property
    def has_backend(self) -> bool:
        """Tell whether the database is that of a backend whose version it tells."""
        return bool(self._mapping.source.version)

    async def backend_version(self) -> str | None:
        """Tell the version of the backend whose database it is, as that has it; None where it is not told.

        Raises SourceUnavailable.
        """
        async with self._postgres.connection() as connection:
            return await backend_version(connection, self._mapping)

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
        return SourceHealth("postgres", ok=True, text=text)

    async def _read_horizon(self) -> Horizon:
        self._shared = NOT_SHARED  # what could not be read is told to everybody
        _, (horizon, found) = await asyncio.gather(self._unfit.refresh(), self._ask_horizon())
        if self._origins is not None and found is not None:
            await self._look_whose(self._origins, found)
        if len(self._read_in) >= HORIZONS:
            self._read_in.clear()
        self._read_in[horizon.us] = self._origin
        self._clock = horizon.us + horizon.behind_us, time.monotonic()
        self._shared = horizon.us, time.monotonic()
        self._newest.passed(horizon.us)
        return horizon

    async def _ask_horizon(self) -> tuple[Horizon, Found | None]:
        async with self._postgres.connection() as connection:
            horizon = await self._horizon.read(connection)
            # Behind it: what is below the horizon was written by then.
            return horizon, None if self._origins is None else await self._identity.read(connection)

    async def _look_whose(self, origins: Origins, found: Found) -> None:
        """Tell which origin was found; what is remembered of another one is forgotten. Raises SourceExchanged."""

        async def again() -> Found:
            async with self._postgres.connection() as connection:
                return await self._identity.read(connection)

        before = origins.current
        self._origin = await origins.of(found, again)
        if before not in (0, origins.current):
            self._empty_spans, self._newest = EmptySpans(), NewestRows(self._mapping)
            self._compiler.forget()
            await self._postgres.expire()

    async def _page(
        self, served: EntityTypeRow, mapped: str, fits: LineCheck, fetched: Fetched, before: int
    ) -> PostgresPage:
        """Make a page of what can be sent of some entries, read as a mapped entity type.

        Raises SourceUnavailable where a line is not what was asked for: what refers to that row might be sent.
        """
        last, rows = fetched.last, len(fetched.entries)
        not_read: dict[str, int] = {}
        if not all(entry.startswith(b"{") for entry in fetched.entries):
            await self._unfit.note({parent for entry in fetched.entries if (parent := unfit_parent_of(entry))})
            not_read = self._tell_unfit(served, fetched)
            fetched = fetched.sent()
        if unfit := fits.unfit(fetched.entries):
            self._compiler.forget()  # the database may have got another schema, or enum
            raise SourceUnavailable(f"A row of {served.name} cannot be read at {unfit[0].field}: {unfit[0].reason}")
        lines = fetched.entries
        if served.name != mapped:
            stored = row(mapped)
            lines = [converted for line in lines if (converted := as_served(line, served, stored)) is not None]
        # What is written meanwhile shows in the parents' places, whatever the horizon.
        return PostgresPage(lines, last, before, rows - len(lines), unfit=not_read, parents=tuple(fetched.parents))

    def _tell_unfit(self, served: EntityTypeRow, fetched: Fetched) -> dict[str, int]:
        """Count the rows of a page that no device can read by field; the first of each is logged."""
        unfit = [(entry, field) for entry in fetched.entries if (field := unfit_field_of(entry))]
        for entry, field in unfit:
            if (served.name, field) not in self._told:
                self._told.add((served.name, field))
                log.warning(
                    "A row of %s (id %s) is not sent: a device cannot read its %s; what refers to it waits too, and "
                    "others of the kind are counted and not logged",
                    served.name,
                    place_of(entry).id,
                    field,
                )
        return Counter(field for _, field in unfit)

    def _cuts(self, table: str, limits: Mapping[str, Position]) -> Sequence[int]:
        """Tell where the runs of a table's entity types were cut.

        Rows that stand where a share or another row does may lie behind the cut wherever they stand themselves.
        """
        cuts = []
        for name, position in limits.items():
            cut = row(name)
            if cut.form is None or cut.form.table != table or cut.letter == DELETE:
                continue
            mapped = self._compiler.served_from(name)
            moves = mapped is not None and self._compiler.moves(mapped, self._unfit.tables)
            cuts.append(0 if moves else position.at_us)
        return cuts


class _Run(Struct):
    """Pages of a mapped entity type, one after the other: with which statements, once that was decided.

    `whole`: those of all its parts, once it was decided which of them are asked. `state`: what was committed
    then, where the decision holds only as long as that is all; else ''.
    """

    mapped: str
    compiled: Compiled | None = None
    whole: Compiled | None = None
    state: str = ""


async def _given_up(asked: asyncio.Task[Any]) -> None:
    """End a question nobody waits for any more; how it ends is nobody's concern."""
    asked.cancel()
    await asyncio.wait([asked])
    if not asked.cancelled():
        asked.exception()


async def _state_of(connection: Any) -> str:
    """Tell which transactions are committed: as long as it is the same, no row was written or deleted for anybody."""
    return str(await connection.fetchval("SELECT pg_current_snapshot()::text"))


async def _ask(connection: Any, statement: Statement, ask: Ask, *, near: bool) -> Any:
    """Ask for one row; `near`: where little is left to look through.

    PERF: planning a page takes as long as reading ten rows, and the question for all entity types 30 ms. So PostgreSQL
    keeps a plan for any values where it takes that for as good. It cannot know how much one library has, and how far
    behind a device is: all that is not near is planned for the values at hand.
    """
    await connection.plan_for_values(not near)
    return await connection.fetchrow(statement.sql, *statement.values(ask))
