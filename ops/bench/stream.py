"""`stream`: entities a second to one fast reader, beside a bare endpoint that reads the same from the same Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from redis import Redis

from ops.bench import assets, floors, servers, wire
from ops.bench.processes import BenchFailed, Server, tool
from ops.bench.reader import Read, Taken

PATH: Final = "/api/sync/stream"
BODY: Final = msgspec.json.encode({"types": [assets.REQUEST_TYPE]})
_BATCH: Final = 1000
_FRAMING_BYTES: Final = 1 << 20


@contextmanager
def floor_server(url: str, folder: Path, count: int) -> Iterator[Server]:
    """Fill the floor's own sorted set and hash with `count` assets and serve them; they are removed at the end."""
    with Redis.from_url(url) as redis:
        line_bytes = _fill(redis, count) // count
        env = {floors.REDIS_VARIABLE: url, floors.LINE_BYTES_VARIABLE: str(line_bytes)}
        try:
            with servers.floor("stream", folder, workers=1, env=env) as server:
                yield server
        finally:
            redis.delete(floors.IDS, floors.LINES)


def take(server: Server, count: int, *, token: str | None = None) -> Taken:
    """Read one whole stream of `count` assets as fast as it comes."""
    line_bytes = len(assets.served_line(0)[1])
    read = Read(
        port=server.port,
        request=wire.request("POST", PATH, BODY, token=token),
        at_most_bytes=count * (line_bytes + 64) + _FRAMING_BYTES,
    )
    return msgspec.json.decode(tool("ops.bench.reader", msgspec.json.encode(read), timeout_s=120), type=Taken)


def entities_per_s(taken: Taken, count: int) -> float:
    """The rate of a stream that must have held exactly `count` entities; raises BenchFailed if it did not."""
    entities = taken.lines - ('"SyncCompleteV1"' in taken.last_line)
    if entities != count:
        raise BenchFailed(f"a stream of {count:,} entities held {entities:,}; its last line is {taken.last_line[:200]}")
    return entities / taken.seconds


def _fill(redis: Redis, count: int) -> int:
    size = 0
    for start in range(0, count, _BATCH):
        lines: dict[Any, Any] = dict(assets.served_line(number) for number in range(start, min(start + _BATCH, count)))
        size += sum(map(len, lines.values()))
        pipeline = redis.pipeline(transaction=False)
        pipeline.zadd(floors.IDS, {key: assets.START_US + (start + n) * assets.STEP_US for n, key in enumerate(lines)})
        pipeline.hset(floors.LINES, mapping=lines)
        pipeline.execute()
    return size
