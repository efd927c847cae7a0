"""The device of `postgres`: its own process, reads streams through the PostgreSQL source as the service makes them.

Reads a `Job` as JSON from stdin, prints `Reads` as JSON. There is no HTTP and no ledger in it: what is measured is the
source and the lines made of it. A stream in an incremental job is measured in turn with the floor's query.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import uvloop

from endpoints.sync.stream import positions
from endpoints.sync.stream_lines import chunks
from ledger.errors import LedgerError
from ledger.positions import Position
from ledger.state import Checkpoint, State
from projections.entities.lines import count_in
from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from projections.entities.registry import EntityTypeRow, entity_types_for

_WARM_UP = 10


class Job(msgspec.Struct, frozen=True):
    """What to read: streams of a device that has acknowledged all up to `since_us` (0: nothing), `times` times.

    With `floor` this query is measured before each stream, through the same driver and pool, `pause_s` after the last.
    """

    url: str
    library: str
    types: tuple[str, ...]
    since_us: int = 0
    times: int = 1
    floor: str = ""
    pause_s: float = 0.0


class Reads(msgspec.Struct, frozen=True):
    """The entities of one stream, the rows of the floor, and seconds of wall and own CPU time of each, in order."""

    entities: int
    rows: int
    seconds: tuple[float, ...]
    cpu_s: tuple[float, ...]
    floor_s: tuple[float, ...]
    floor_cpu_s: tuple[float, ...]


class Timed:
    """Runs something and notes what it took; each time must give the same count."""

    def __init__(self, work: Callable[[], Awaitable[int]]) -> None:
        self._work = work
        self.count = 0
        self.seconds: list[float] = []
        self.cpu_s: list[float] = []

    async def once(self, *, counts: bool = True) -> None:
        """Run it once; without `counts` to warm up."""
        started, cpu = time.perf_counter(), time.process_time()
        count = await self._work()
        if counts:
            self.seconds.append(time.perf_counter() - started)
            self.cpu_s.append(time.process_time() - cpu)
        if self.count and count != self.count:
            raise ValueError(f"a stream held {count:,} entities, the one before {self.count:,}")
        self.count = count


async def read(job: Job) -> Reads:
    """Read the streams of a job one after the other."""
    postgres = await Postgres.open(job.url, size=8, wait_s=10, statement_timeout_s=300)
    source = PostgresSource(postgres, load_mapping("immich"))
    rows = entity_types_for(job.types)
    state = _state(job, rows)
    ours = Timed(lambda: stream(source, state, rows))
    floor = Timed(_nothing)
    try:
        if not job.floor:
            for _ in range(job.times):
                await ours.once()
        else:
            floor = Timed(lambda: _fetched(postgres, job.floor))
            for number in range(_WARM_UP + job.times):
                await asyncio.sleep(job.pause_s)
                for each in (floor, ours):
                    await each.once(counts=number >= _WARM_UP)
    finally:
        await postgres.close()
    return Reads(
        ours.count, floor.count, tuple(ours.seconds), tuple(ours.cpu_s), tuple(floor.seconds), tuple(floor.cpu_s)
    )


async def stream(source: PostgresSource, state: State, rows: Sequence[EntityTypeRow]) -> int:
    """Make one stream as POST /sync/stream does, and count its entities; raises ValueError if it is not whole."""
    read = source.of_session(state.user, state.sid)
    horizon_us, _ = await asyncio.gather(read.horizon(state.library), read.tombstone_floor(state.library))
    changed = await read.changed(state.library, positions(state, rows), horizon_us)
    lines, last = 0, b""
    async for chunk in chunks(read, state, [row for row in rows if row.name in changed], horizon_us):
        lines += count_in(chunk)
        last = chunk
    if b'{"type":"SyncCompleteV1"' not in last:
        raise ValueError(f"a stream of {lines:,} lines has no end")
    return lines - 1


async def _fetched(postgres: Postgres, query: str) -> int:
    async with postgres.connection() as connection:
        return len(await connection.fetch(query))


async def _nothing() -> int:
    return 0


def _state(job: Job, rows: Sequence[EntityTypeRow]) -> State:
    now_us = time.time_ns() // 1000
    acked = Checkpoint(Position(job.since_us, ""), now_us)
    return State(
        sid="0" * 64,
        user=job.library,
        library=job.library,
        seq=1,
        at_us=now_us,
        hash=b"",
        created_at_us=now_us,
        checkpoints={row.name: acked for row in rows} if job.since_us else {},
    )


def main() -> None:
    """Read as stdin says."""
    try:
        reads = uvloop.run(read(msgspec.json.decode(sys.stdin.buffer.read(), type=Job)))
    except (ValueError, LedgerError) as error:
        sys.exit(str(error))
    sys.stdout.write(msgspec.json.encode(reads).decode())


if __name__ == "__main__":
    main()
