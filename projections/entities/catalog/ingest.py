"""Takes entities in: NDJSON of any size, in bounded memory, each line taken, unchanged or refused with its reason."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from ledger.errors import InvalidInput
from projections.counters import Counters
from projections.entities.catalog.write_arguments import BATCH_ROWS
from projections.entities.catalog.writer import Written
from projections.entities.entity import MAX_LINE_BYTES, Entity, read_line
from projections.entities.source import HeldBack

BATCH_LINES: Final = BATCH_ROWS
BATCH_BYTES: Final = 128 * 1024
IN_FLIGHT: Final = 4
MAX_REFUSALS: Final = 1000
_BOM: Final = b"\xef\xbb\xbf"


class Refusal(Struct, frozen=True):
    """A line that was not taken: its number from 1, what it said of itself, and where and why it does not fit."""

    line: int
    type: str | None
    id: str | None
    path: tuple[str | int, ...]
    message: str


class IngestReport(Struct):
    """What became of the lines; `refusals` are the first 1,000 of the `refused`.

    `waiting`: how many rows of the library wait at the end, from these lines or from before, for rows that are not
    there; `waits` tells it for each entity type, with one of them and the row it waits for (`table|id`). `held_back`:
    how many of these lines began to wait, by entity type.
    """

    lines: int = 0
    taken: int = 0
    unchanged: int = 0
    refused: int = 0
    refusals: list[Refusal] = []
    waiting: int = 0
    waits: list[HeldBack] = []
    held_back: dict[str, int] = {}
    origin: str | None = None


class EntitySink(Protocol):
    """What entities are written into."""

    async def put(self, library: str, entities: list[Entity]) -> Written:
        """Write entities in their order."""
        ...

    async def held_back(self, library: str) -> Sequence[HeldBack]:
        """Tell which rows wait."""
        ...


async def ingest(
    catalog: EntitySink,
    library: str,
    chunks: AsyncIterator[bytes],
    *,
    on_progress: Callable[[IngestReport], None] | None = None,
    origin: str | None = None,
) -> IngestReport:
    """Write the entities of NDJSON lines `{"type","id","data"}` into a library.

    A refused line stops no other. Parents may come behind their children, in these lines or another time. Blank lines
    are passed over. `on_progress` is called after each batch with the report so far, `origin` only names the input in
    it. Raises what the store raises; the lines before may be written, and writing all again is harmless.
    """
    run = _Run(catalog, library, IngestReport(origin=origin), on_progress)
    lines = LineSplitter()
    try:
        async for chunk in chunks:
            for line in lines.feed(chunk):
                await run.take(line)
        for line in lines.end():
            await run.take(line)
        await run.finish()
    finally:
        await run.cancel()
    return run.report


async def note_held_back(counters: Counters, report: IngestReport) -> None:
    """Count the rows that began to wait and still do: the same lines again, which change nothing, count nothing."""
    for held in report.waits:
        if rows := min(held.rows, report.held_back.get(held.entity_type, 0)):
            await counters.note("rows_held_back", rows, entity_type=held.entity_type)


class LineSplitter:
    """Cuts a stream of chunks into lines; of a line that is too long only so much is kept that it shows."""

    def __init__(self) -> None:
        self._rest = b""
        self._first = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that end in this chunk."""
        first, *others = chunk.split(b"\n")
        if not others:
            self._keep(self._rest + first if len(self._rest) <= MAX_LINE_BYTES else self._rest)
            return
        last = others.pop()
        yield self._whole(self._rest + first if len(self._rest) <= MAX_LINE_BYTES else self._rest)
        yield from others
        self._keep(last)

    def end(self) -> Iterator[bytes]:
        """Yield the last line if it has no end."""
        if self._rest:
            yield self._whole(self._rest)
            self._rest = b""

    def _keep(self, rest: bytes) -> None:
        self._rest = rest[: MAX_LINE_BYTES + 1]

    def _whole(self, line: bytes) -> bytes:
        if self._first:
            self._first = False
            return line.removeprefix(_BOM)
        return line


class _Run:
    """One ingest: a batch being filled, and those on their way to the store."""

    def __init__(
        self,
        catalog: EntitySink,
        library: str,
        report: IngestReport,
        on_progress: Callable[[IngestReport], None] | None,
    ) -> None:
        self.report = report
        self._catalog = catalog
        self._library = library
        self._on_progress = on_progress
        self._batch = _Batch()
        self._flying: deque[_Batch] = deque()
        # The first batch lands alone: while a server loads the script, a second one could overtake it.
        self._landed = False

    async def take(self, line: bytes) -> None:
        self.report.lines += 1
        if not line or line.isspace():
            return
        try:
            entity = read_line(line)
        except InvalidInput as error:
            self._refuse(self.report.lines, line, error.problems[0])
            return
        batch = self._batch
        if batch.needs_barrier(entity):
            await self._send()
            batch = self._batch
        batch.add(self.report.lines, entity, len(line))
        if len(batch.entities) >= BATCH_LINES or batch.size >= BATCH_BYTES:
            await self._send()

    async def finish(self) -> None:
        await self._send()
        while self._flying:
            await self._land()
        self.report.waits = list(await self._catalog.held_back(self._library))
        self.report.waiting = sum(held.rows for held in self.report.waits)

    async def cancel(self) -> None:
        """Stop what is still on its way, after an error."""
        tasks = [batch.task for batch in self._flying if batch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self) -> None:
        """Send the batch off; waits until there is room, and for batches that hold the same ids or must come first."""
        batch, self._batch = self._batch, _Batch()
        if not batch.entities:
            return
        while self._flying and (not self._landed or self._must_wait(batch)):
            await self._land()
        batch.task = asyncio.create_task(self._catalog.put(self._library, batch.entities))
        self._flying.append(batch)
        await asyncio.sleep(0)

    def _must_wait(self, batch: _Batch) -> bool:
        return len(self._flying) >= IN_FLIGHT or any(batch.follows(other) for other in self._flying)

    async def _land(self) -> None:
        batch = self._flying[0]
        assert batch.task is not None
        written = await batch.task
        self._flying.popleft()
        self._landed = True
        self.report.taken += written.taken
        self.report.unchanged += written.unchanged
        for stored, rows in written.held_back.items():
            self.report.held_back[stored] = self.report.held_back.get(stored, 0) + rows
        for index, path, message in written.refused:
            entity = batch.entities[index]
            self._note(Refusal(batch.numbers[index], entity.row.name, entity.id, path, message))
        if self._on_progress is not None:
            self._on_progress(self.report)

    def _refuse(self, number: int, line: bytes, problem: tuple[tuple[str | int, ...], str]) -> None:
        said = _Said()
        if self.report.refused < MAX_REFUSALS and len(line) <= MAX_LINE_BYTES:
            try:
                said = _decode_said(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                said = _Said()  # not even that is readable; the problem says so
        self._note(Refusal(number, said.text("type"), said.text("id"), *problem))

    def _note(self, refusal: Refusal) -> None:
        self.report.refused += 1
        if len(self.report.refusals) < MAX_REFUSALS:
            self.report.refusals.append(refusal)


class _Batch:
    """Entities that are written together."""

    def __init__(self) -> None:
        self.entities: list[Entity] = []
        self.numbers: list[int] = []
        self.size = 0
        self.ids: set[str] = set()
        self.task: asyncio.Task[Written] | None = None

    def add(self, number: int, entity: Entity, size: int) -> None:
        self.entities.append(entity)
        self.numbers.append(number)
        self.size += size
        self.ids.add(entity.id)

    def needs_barrier(self, entity: Entity) -> bool:
        """Tell whether this entity must go into another batch: deletes and upserts are not mixed."""
        return bool(self.entities) and self.entities[-1].row.is_delete != entity.row.is_delete

    def follows(self, other: _Batch) -> bool:
        """Tell whether the other batch must be done first: one of them deletes, or both write the same row."""
        deletes = self.entities[0].row.is_delete or other.entities[0].row.is_delete
        return deletes or not self.ids.isdisjoint(other.ids)


class _Said(Struct):
    """What a refused line says of itself, however wrong."""

    type: object = None
    id: object = None

    def text(self, name: str) -> str | None:
        value = getattr(self, name)
        return value[:256] if isinstance(value, str) else None


_decode_said: Final = msgspec.json.Decoder(_Said).decode
