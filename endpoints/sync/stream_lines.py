"""What a sync stream says: the entities behind a session's checkpoints and below one snapshot, as chunks of lines.

Stored lines are joined, never decoded: a source gives them without their end, and the joint closes each one, with the
epoch in it from the second epoch on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from endpoints.sync.stream_ahead import PAGE_ROWS, Ahead
from endpoints.sync.turns import Going
from ledger.acks import RESET_TEXT, completion, format_ack
from ledger.entity_types import COMPLETE, RESET, mask_of
from ledger.errors import DeletesPurged
from ledger.positions import Position, iso_from_us
from ledger.starting_over import missed_deletes
from ledger.state import State
from projections.entities.checksums import excludes
from projections.entities.lines import joined
from projections.entities.registry import EntityTypeRow
from projections.entities.source import EntitySource

CHUNK_BYTES: Final = 32 * 1024
"""Small pages are sent together once they reach this; a page is never split."""

_NOTHING_OFFERED: Final[Mapping[str, int]] = MappingProxyType({})

RESET_LINE: Final = f'{{"type":"{RESET}","data":{{}},"ack":"{RESET_TEXT}"}}\n'.encode()


class Passed(msgspec.Struct):
    """What a stream did not send: rows held back by entity type, unfit ones of them by `Type.field`, types cut."""

    held_back: Counter[str] = msgspec.field(default_factory=Counter)
    unfit: Counter[str] = msgspec.field(default_factory=Counter)
    cut: list[str] = []


def complete_line(snapshot_us: int, types: int, epoch: int) -> bytes:
    """Print the last line of a whole stream of `types` (a mask)."""
    ack = format_ack(completion(snapshot_us, types, epoch))
    return f'{{"type":"{COMPLETE}","data":{{}},"ack":"{ack}","ids":["{iso_from_us(snapshot_us)}"]}}\n'.encode()


def joint(epoch: int) -> bytes:
    """Print what closes a line of an entity type in this epoch."""
    return b'"}\n' if epoch == 1 else b'|%d"}\n' % epoch


async def chunks(
    source: EntitySource,
    state: State,
    rows: Sequence[EntityTypeRow],
    snapshot_us: int,
    passed: Passed | None = None,
    types: int | None = None,
    offered: Mapping[str, int] = _NOTHING_OFFERED,
    going: Going | None = None,
) -> AsyncGenerator[bytes]:
    """Yield a stream in chunks of tens of KB, the completion at the end, the next chunk fetched while one is sent.

    Each but the first is made when `going` has a place.

    `types` (a mask) are all that the stream is of, where those of `rows` are only the ones that may have anything. What
    it does not send is added to `passed`. `offered` tells up to when each entity type was offered before.
    """
    types = mask_of(row.name for row in rows) if types is None else types
    ahead = Ahead(source, state, rows, snapshot_us, offered)
    made = _chunks(source, state, rows, snapshot_us, Passed() if passed is None else passed, types, ahead)
    going = going or Going()

    async def next_one() -> bytes:
        async with going.one():
            return await anext(made, b"")

    pending = asyncio.ensure_future(anext(made, b""))
    try:
        while chunk := await pending:
            pending = asyncio.ensure_future(next_one())
            yield chunk
    finally:
        pending.cancel()
        await asyncio.wait([pending])
        await made.aclose()


async def _chunks(
    source: EntitySource,
    state: State,
    rows: Sequence[EntityTypeRow],
    snapshot_us: int,
    passed: Passed,
    types: int,
    ahead: Ahead,
) -> AsyncGenerator[bytes]:
    parts: list[bytes] = []
    size = 0
    limits: dict[str, Position] = {}
    for row in rows:
        async for part in _run(source, state, row, snapshot_us, limits, passed, ahead):
            parts.append(part)
            size += len(part)
            if size >= CHUNK_BYTES:
                yield b"".join(parts) if len(parts) > 1 else part
                parts.clear()
                size = 0
    if missed_deletes(state, await source.tombstone_floor(state.library), types):
        raise DeletesPurged("Delete markers were purged in mid-stream; the next sync starts over")
    yield b"".join((*parts, complete_line(snapshot_us, types, state.epoch_of(COMPLETE))))


async def _run(
    source: EntitySource,
    state: State,
    row: EntityTypeRow,
    snapshot_us: int,
    limits: dict[str, Position],
    passed: Passed,
    ahead: Ahead,
) -> AsyncIterator[bytes]:
    """Yield one entity type's pages, up to the first row whose parent is not below its limit in this stream.

    Where a run was cut is noted in `limits`: children of rows behind the cut are held back too.
    """
    checkpoint = state.checkpoints.get(row.name)
    after = None if checkpoint is None else checkpoint.position
    end = joint(state.epoch_of(row.name))
    pages = source.pages(state.library, row.name, after, snapshot_us, PAGE_ROWS)
    async for page in ahead.lead(row, pages) if excludes(row) else pages:
        if isinstance(page, bytes):
            yield page
            continue
        if page.held_back:
            passed.held_back[row.name] += page.held_back
        for field, number in page.unfit.items():
            passed.unfit[f"{row.name}.{field}"] += number
        if page.cut:
            passed.cut.append(row.name)
        if not page.lines:  # all of it is held back
            continue
        held = await source.first_waiting(state.library, row.name, page, snapshot_us, limits)
        if held is None:
            text = joined(page.lines, end)
            page.lines = ()  # while a chunk waits for its reader only its text is kept
            yield text
            continue
        if held.index:
            yield joined(page.lines[: held.index], end)
        limits[row.name] = held.position
        passed.cut.append(row.name)
        return
