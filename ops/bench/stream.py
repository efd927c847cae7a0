"""`stream`: entities a second to one fast reader, beside a bare endpoint that reads the same from the same Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from redis import Redis

from ops.bench.children.reader import Read, Taken
from ops.bench.rig import assets, floors, servers, wire
from ops.bench.rig.processes import BenchFailed, Server, tool
from ops.bench.rig.results import Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import STREAM_BODY, STREAM_PATH, Scene, scene

LIBRARY: Final = "stream"
AT_LEAST: Final = 0.6
_BATCH: Final = 1000
_FRAMING_BYTES: Final = 1 << 20


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure one fast reader over the whole library."""
    count = scale.assets
    with scene() as found:
        progress(f"importing {count:,} assets")
        found.load_assets(LIBRARY, count)
        (device,) = found.sign_in(1, LIBRARY)
        bare = wire.request("POST", STREAM_PATH, STREAM_BODY)
        with floor_server(found, count) as floor, servers.service(found, workers=1) as service:
            floors, own = alternate(
                rounds,
                lambda: entities_per_s(floor, bare, count),
                lambda: entities_per_s(service, device.stream_request, count),
                progress,
            )
    return [
        Comparison(name=f"stream of {count:,} assets", unit="/s", floor=floors, ours=own, at_least=AT_LEAST),
    ]


@contextmanager
def floor_server(found: Scene, count: int) -> Iterator[Server]:
    """Fill the floor's own sorted set and hash beside the library and serve them; they are removed at the end."""
    with Redis.from_url(found.url) as redis:
        _fill(redis, count)
        found.settle()
        try:
            with servers.floor("stream", found.folder, workers=1, env={floors.REDIS_VARIABLE: found.url}) as server:
                yield server
        finally:
            redis.delete(floors.IDS, floors.LINES)


def entities_per_s(server: Server, request: bytes, count: int) -> float:
    """The rate of one whole stream; raises BenchFailed unless it held exactly `count` entities."""
    line_bytes = len(assets.served_line(0)[1])
    read = Read(port=server.port, request=request, at_most_bytes=count * (line_bytes + 64) + _FRAMING_BYTES)
    taken = msgspec.json.decode(tool("ops.bench.children.reader", msgspec.json.encode(read), timeout_s=120), type=Taken)
    entities = taken.lines - ('"SyncCompleteV1"' in taken.last_line)
    if entities != count:
        raise BenchFailed(f"a stream of {count:,} entities held {entities:,}; its last line is {taken.last_line[:200]}")
    return entities / taken.seconds


def _fill(redis: Redis, count: int) -> None:
    for start in range(0, count, _BATCH):
        lines: dict[Any, Any] = dict(assets.served_line(number) for number in range(start, min(start + _BATCH, count)))
        pipeline = redis.pipeline(transaction=False)
        pipeline.zadd(floors.IDS, {key: assets.START_US + (start + n) * assets.STEP_US for n, key in enumerate(lines)})
        pipeline.hset(floors.LINES, mapping=lines)
        pipeline.execute()
