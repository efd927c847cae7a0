"""What a benchmark runs on: a temp folder, the embedded durable server in it, and a ledger with devices and entities.

Everything goes the product's own ways: the embedded server as `serve` runs it, sessions as `session create` makes them,
entities as `import` writes them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any, Final, TypeVar

import msgspec
import uvloop
from redis import Redis

from ledger import keys
from ledger.log.reader import read_partition
from ops.bench.rig import assets, wire
from ops.bench.rig.processes import BenchFailed
from ops.commands.devices.creating import sign_in
from ops.embedded.server import embedded_server
from ops.opening.ledger import Opened, open_all
from ops.settings.settings import Settings
from projections.accounts.tokens import Issued
from projections.entities.catalog.ingest import ingest

T = TypeVar("T")

STREAM_PATH: Final = "/api/sync/stream"
ACK_PATH: Final = "/api/sync/ack"
STREAM_BODY: Final = msgspec.json.encode({"types": [assets.REQUEST_TYPE]})
_REWRITE_S: Final = 120.0


class Device(msgspec.Struct, frozen=True):
    """A signed-in device."""

    user: str
    sid: str
    token: str

    @property
    def stream_request(self) -> bytes:
        """The request that opens its sync stream."""
        return wire.request("POST", STREAM_PATH, STREAM_BODY, token=self.token)


class Scene(msgspec.Struct, frozen=True):
    """A ledger on an embedded server of its own."""

    folder: Path
    url: str
    settings: Settings

    def with_ledger(self, work: Callable[[Opened], Coroutine[Any, Any, T]]) -> T:
        """Open the ledger in this process for one piece of work."""

        async def opened() -> T:
            found = await open_all(self.url, self.settings, begin=True)
            try:
                return await work(found)
            finally:
                await found.store.close()

        return uvloop.run(opened())

    def sign_in(self, count: int, users: str, library: str = "") -> list[Device]:
        """Sign devices in, each of a user of its own; `users` begins their names, and is the library without one."""
        return self._sign_in([f"{users}-user-{number}" for number in range(count)], library or users)

    def sign_in_at(self, user: str, library: str, count: int) -> list[Device]:
        """Sign devices of one user in."""
        return self._sign_in([user] * count, library)

    def _sign_in(self, users: Sequence[str], library: str) -> list[Device]:
        async def work(found: Opened) -> list[Device]:
            issued: list[Issued] = [await sign_in(found, self.settings, user, library) for user in users]
            return [Device(user, one.sid, one.token) for user, one in zip(users, issued, strict=True)]

        return self.with_ledger(work)

    def load_assets(self, library: str, count: int) -> None:
        """Import the first `count` assets of the benchmarks' library; raises BenchFailed if one is refused."""

        async def chunks() -> AsyncIterator[bytes]:
            yield assets.owner()  # without whom the assets would wait
            for start in range(0, count, 1000):
                yield assets.ndjson(start, min(start + 1000, count))

        async def work(found: Opened) -> None:
            report = await ingest(found.catalog, library, chunks())
            if (report.taken, report.refused, report.waiting) != (count + 1, 0, 0):
                became = f"{report.taken:,} were taken and {report.waiting:,} of these wait; {report.refusals[:3]}"
                raise BenchFailed(f"of {count:,} assets and their owner {became}")

        self.with_ledger(work)
        self.settle()

    def settle(self) -> None:
        """Wait until the server no longer rewrites its append-only file."""
        until = monotonic() + _REWRITE_S
        with Redis.from_url(self.url) as redis:
            while redis.info("persistence")["aof_rewrite_in_progress"]:
                if monotonic() > until:
                    raise BenchFailed("the embedded server does not finish rewriting its append-only file")
                sleep(0.1)

    def event_count(self) -> int:
        """Count the entries of all streams."""
        with Redis.from_url(self.url) as redis:
            return sum(map(redis.xlen, self.streams()))

    def streams_bytes(self) -> int:
        """The memory of all streams, every node counted."""
        with Redis.from_url(self.url) as redis:
            return sum(redis.memory_usage(name, samples=0) or 0 for name in self.streams())

    def count_events(self, kind: type) -> int:
        """Read the whole ledger and count the events of one type."""

        async def work(found: Opened) -> int:
            count = 0
            for partition in range(self.settings.partitions):
                async for entries in read_partition(found.store, partition):
                    count += sum(isinstance(entry.recorded.event, kind) for entry in entries)
            return count

        return self.with_ledger(work)

    def streams(self) -> list[bytes]:
        """The keys of all event streams."""
        return [keys.stream(partition) for partition in range(self.settings.partitions)]


@contextmanager
def scene(**chosen: Any) -> Iterator[Scene]:
    """Start an embedded server in a temp folder, for a ledger of these settings; both are gone afterwards."""
    with TemporaryDirectory(prefix="syncledger-bench-") as name:
        folder = Path(name)
        settings = Settings(data_dir=folder / "data", **chosen)
        with embedded_server(settings.data_dir) as url:
            yield Scene(folder, url, settings)
