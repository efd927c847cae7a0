"""The runs of pages that a stream reads: one mapped entity type after the other, each statement read ahead by one."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from ledger.positions import Position
from projections.entities.forms import DELETE
from projections.entities.lines import CLOSED, JoinedLines, as_served, last_of, position_of
from projections.entities.postgres.empty_spans import EmptySpans, is_near
from projections.entities.postgres.line_check import LineCheck
from projections.entities.postgres.mapped_reads import MappedReads
from projections.entities.postgres.mapping.compiled import Compiled
from projections.entities.postgres.reading import (
    Batch,
    Fetched,
    Pace,
    PostgresPage,
    Room,
    Stands,
    place_of,
    unfit_field_of,
    unfit_parent_of,
)
from projections.entities.postgres.statements.keyset import Ask
from projections.entities.postgres.unfit_parents import Known
from projections.entities.registry import EntityTypeRow, row
from projections.entities.source import Page, SourceUnavailable, Waiting

log = logging.getLogger(__name__)


class PageRuns:
    """Reads pages; remembers how long lines are, and which unfit rows were told. One for all streams of a process."""

    def __init__(self, reads: MappedReads, unfit: Known) -> None:
        self._reads = reads
        self._compiler = reads.compiler
        self._unfit = unfit
        self._line_bytes: dict[str, float] = {}
        self._room = Room()
        self._told: set[tuple[str, str]] = set()

    async def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int, quiet: EmptySpans
    ) -> AsyncIterator[Page]:
        """Yield what comes strictly after a position and before an instant, `limit` rows and at most 120 KiB a page.

        `quiet` are the spans of the database that is there now. A page whose only line is longer has just that. While
        pages of one statement are sent the next one is already asked, and nothing more: connections are given back
        whatever the reader does.
        """
        value = self._reads.library_value(library)
        mapped = self._compiler.served_from(entity_type)
        if value is None or mapped is None:
            return
        begin, known = quiet.begin(library, mapped, after)
        newest = b""
        pace = Pace(limit, self._line_bytes.get(mapped, 0.0), self._room)
        run = _Run(mapped, self._compiler.forgotten)
        unfit = self._unfit.tables

        def ask(position: Position | None, *, near: bool = False) -> asyncio.Task[Batch | None]:
            values = Ask(value, {mapped: position}, before, pace.rows, pace.size, pace.shares, unfit)
            return asyncio.create_task(self._batch(run, values, near=near))

        asked: asyncio.Task[Batch | None] | None = ask(begin, near=known or is_near(begin, before))
        try:
            while asked is not None:
                keeps_up = not asked.done()  # what was sent of the statement before is gone already
                if (batch := await asked) is None:
                    break
                asked = ask(batch.fetched.last) if pace.learn(batch, keeps_up=keeps_up) else None
                self._line_bytes[mapped] = pace.line_bytes
                cuts = deque(batch.fetched.cut(limit, pace.page_bytes))
                assert run.compiled is not None
                fits = run.compiled.fits
                del batch  # while a reader is slow only what it has not got is kept
                while cuts:
                    page = await self._page(row(entity_type), mapped, fits, cuts.popleft(), before)
                    if page.lines:
                        newest = last_of(page.lines)
                    yield page
        finally:
            pace.give_back()
            if asked is not None:
                await _given_up(asked)
        quiet.note(library, mapped, position_of(newest) if newest else begin, before)

    async def _batch(self, run: _Run, ask: Ask, *, near: bool) -> Batch | None:
        """Ask for the next lines of a run; None if there are none. `near`: few are expected.

        From the second batch on only the parts are asked that have rows left: one that has none would be looked through
        for each page again. Where such a part could get rows meanwhile, all are asked again once anything was written.
        """

        async def read(connection: Any) -> tuple[Any, Compiled, Compiled | None, str]:
            if run.forgotten != self._compiler.forgotten:
                run.compiled, run.whole, run.state, run.forgotten = None, None, "", self._compiler.forgotten
            whole, state = run.whole, run.state
            compiled = run.compiled or await self._compiler.entity_type(connection, run.mapped, ask.unfit)
            if run.compiled is not None and whole is None and len(compiled.types.parts) > 1:
                whole = compiled
                if not self._compiler.keeps_parts(run.mapped):
                    state = await _state_of(connection)  # before the look, or what it misses would go unnoticed
                has = await self._reads.row(connection, compiled.left, ask, near=near)
                compiled = self._compiler.with_parts(compiled, has[0])
            found = await self._reads.row(connection, compiled.page, ask, near=near)
            if state and whole is not None and state != await _state_of(connection):
                compiled, state = whole, ""
                found = await self._reads.row(connection, compiled.page, ask, near=near)
            return found, compiled, whole, state

        found, compiled, run.whole, run.state = await self._reads.ask(run.mapped, read)
        run.compiled = compiled
        if not found["rows"]:
            return None
        parents = tuple(
            (table, Stands(found[f"s{at}"], is_uuid=is_uuid))
            for at, (table, is_uuid) in enumerate(compiled.types.stands)
        )
        text = found["lines"] + CLOSED
        return Batch(Fetched(text, found["plain"], parents), found["rows"], found["kept"], found["more"])

    def first_waiting(self, page: Page, snapshot_us: int, limits: Mapping[str, Position]) -> Waiting | None:
        """Find a page's first row whose parent was not sent for being too new; None if there is none.

        Asks nothing: where the parents stand was read with the rows, after what was sent of them.
        """
        assert isinstance(page, PostgresPage)
        found = [stands.first_at(min((snapshot_us, *self._cuts(table, limits)))) for table, stands in page.parents]
        first = min((at for at in found if at is not None), default=None)
        return None if first is None else Waiting(first, position_of(page.lines[first]))

    async def _page(
        self, served: EntityTypeRow, mapped: str, fits: LineCheck, fetched: Fetched, before: int
    ) -> PostgresPage:
        """Make a page of what can be sent of some entries, read as a mapped entity type.

        Raises SourceUnavailable where a line is not what was asked for: what refers to that row might be sent.
        """
        last, held_back = fetched.last, 0
        not_read: dict[str, int] = {}
        if not fetched.plain:
            entries = fetched.entries
            await self._unfit.note({parent for entry in entries if (parent := unfit_parent_of(entry))})
            not_read = self._tell_unfit(served, entries)
            fetched = fetched.sent()
            held_back = len(entries) - len(fetched.entries)
        lines: Sequence[bytes] = JoinedLines(fetched.text)
        if unfit := fits.unfit(fetched.text):
            self._compiler.forget()  # the database may have got another schema, or enum
            raise SourceUnavailable(f"A row of {served.name} cannot be read at {unfit[0].field}: {unfit[0].reason}")
        if served.name != mapped:
            stored = row(mapped)
            made = [as_served(line, served, stored) for line in lines]
            kept = [at for at, line in enumerate(made) if line is not None]
            if len(kept) < len(made):  # an older version leaves some out
                held_back += len(made) - len(kept)
                fetched.parents = tuple((name, stands.only(kept)) for name, stands in fetched.parents)
            lines = [line for line in made if line is not None]
        # What is written meanwhile shows in the parents' places, whatever the horizon.
        return PostgresPage(lines, last, before, held_back, unfit=not_read, parents=fetched.parents)

    def _tell_unfit(self, served: EntityTypeRow, entries: Sequence[bytes]) -> dict[str, int]:
        """Count the rows of a page that no device can read by field; the first of each is logged."""
        unfit = [(entry, field) for entry in entries if (field := unfit_field_of(entry))]
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
    then, where the decision holds only as long as that is all; else ''. `forgotten`: what was made before that the
    compiler does not have any more.
    """

    mapped: str
    forgotten: int
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
