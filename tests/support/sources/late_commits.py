"""Writers that commit out of order while devices sync: what the horizon of a PostgreSQL database is for.

A database of the test's own with three tables, and its mapping; writers that stamp by now() or by clock_timestamp(),
hundreds of rows alike, and pause before they commit or roll back; simulated devices over a real service. As a command
it does the same for longer and prints what happened, also with the horizon replaced by the time of day:

    python -m tests.support.sources.late_commits --seconds 120 --stamps clock [--horizon now]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, Self
from unittest import mock

import asyncpg

from ops.simulate.device import Device
from ops.simulate.errors import BrokenStream, NotReachable, TryLater
from projections.entities.postgres.horizon import Horizon, HorizonReader
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import SHARED_S, PostgresSource
from tests.support.phones.http import Live, Service
from tests.support.processes.running import RunningService
from tests.support.stores.postgres_server import PostgresServer
from tests.support.stores.servers import RedisServer, valkey_binary

Stamps = Literal["transaction", "clock"]

LIBRARY: Final = uuid.UUID("11111111-1111-4111-8111-111111111111")
TYPES: Final = ("UsersV1", "StacksV1")
WRITERS: Final = 8
DEVICES: Final = 20
ROWS: Final = (1, 1, 1, 2, 5, 20, 100, 1000)
"""How many rows a statement writes, drawn from these; all of one statement have one stamp."""
PAUSES_S: Final = (0, 0, 0, 0.02, 0.1, 0.3, 1.0, 2.5)
"""How long a writer waits between a stamp and its commit; the longest is beyond every margin."""
BUSY_S: Final = 10.0
"""How much longer writers write on a machine that lets them do little."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

SCHEMA: Final = f"""
CREATE TABLE owner (id uuid PRIMARY KEY, library uuid NOT NULL, at timestamptz NOT NULL);
CREATE TABLE item (id uuid PRIMARY KEY, library uuid NOT NULL, owner uuid NOT NULL REFERENCES owner,
                   version int NOT NULL, at timestamptz NOT NULL);
CREATE TABLE gone (id uuid PRIMARY KEY, library uuid NOT NULL, at timestamptz NOT NULL);
CREATE INDEX ON owner (library, at, id);
CREATE INDEX ON item (library, at, id);
CREATE INDEX ON gone (library, at, id);
INSERT INTO owner VALUES ('{LIBRARY}', '{LIBRARY}', now() - interval '1 day');
"""
_MAPPING: Final = """
[source]
library = "uuid"
stamps = "{stamps}"

[[entities.UserV1]]
from = 'owner u'
where = 'u.library = :library'
updated_at = 'u.at'
id = 'u.id'
[entities.UserV1.data]
id = 'u.id'
name = "'Ann'"
email = "'ann@example.org'"
deletedAt = 'null'
hasProfileImage = 'false'
profileChangedAt = 'u.at'

[[entities.StackV1]]
from = 'item i'
where = 'i.library = :library'
updated_at = 'i.at'
id = 'i.id'
[entities.StackV1.data]
id = 'i.id'
ownerId = 'i.owner'
primaryAssetId = "'version ' || i.version"
createdAt = 'i.at'
updatedAt = 'i.at'
[[entities.StackV1.parents]]
table = "user"
from = 'owner u'
on = 'u.id = i.owner'
updated_at = 'u.at'
since = false

[[entities.StackDeleteV1]]
from = 'gone g'
where = 'g.library = :library'
updated_at = 'g.at'
id = 'g.id'
data = {{ stackId = 'g.id' }}
"""
_STAMP: Final = {"transaction": "now()", "clock": "(SELECT clock_timestamp())"}
_INSERT: Final = """
INSERT INTO item SELECT id, $1::uuid, $1::uuid, 1, {stamp} FROM unnest($2::uuid[]) id RETURNING at
"""
_UPDATE: Final = """
UPDATE item SET version = version + 1, at = {stamp}
WHERE id IN (SELECT id FROM item WHERE id = ANY($1::uuid[]) FOR UPDATE SKIP LOCKED) RETURNING at
"""
_DELETE: Final = """
WITH lost AS (DELETE FROM item WHERE id IN (SELECT id FROM item WHERE id = ANY($1::uuid[]) FOR UPDATE SKIP LOCKED)
              RETURNING id, library)
INSERT INTO gone SELECT id, library, {stamp} FROM lost RETURNING at
"""


def mapping_text(stamps: Stamps) -> str:
    """Print the mapping of these tables."""
    return _MAPPING.format(stamps=stamps)


@dataclass
class Figures:
    """What a run came to. `late`: commits of rows stamped before others that had been committed already.

    `broken`: syncs that the way to the service cut off. `missing`, `outdated` and `left_over` are rows of all devices.
    """

    seconds: float = 0.0
    transactions: int = 0
    rolled_back: int = 0
    late: int = 0
    rows_written: int = 0
    rows: int = 0
    syncs: int = 0
    broken: int = 0
    lines: int = 0
    duplicates: int = 0
    missing: int = 0
    outdated: int = 0
    left_over: int = 0
    devices_wrong: int = 0
    examples: list[str] = field(default_factory=list)


class Writers:
    """What writes: `one` again and again, each on a connection of its own."""

    def __init__(self, url: str, stamps: Stamps, seed: int) -> None:
        self._url = url
        self._sql = [text.format(stamp=_STAMP[stamps]) for text in (_INSERT, _UPDATE, _DELETE)]
        self._seed = seed
        self._ids: list[uuid.UUID] = []
        self.newest = _EPOCH
        self.figures = Figures()

    async def run(self, seconds: float) -> None:
        """Write for so long, on a busy machine until it is worth a look; then all is committed or rolled back."""
        until = time.monotonic() + seconds
        await asyncio.gather(*[self._one(random.Random(f"{self._seed} {number}"), until) for number in range(WRITERS)])

    async def _one(self, dice: random.Random, until: float) -> None:
        connection = await asyncpg.connect(self._url, server_settings={"application_name": "writer"})
        try:
            while time.monotonic() < until or (self._is_little() and time.monotonic() < until + BUSY_S):
                await self._transaction(connection, dice)
        finally:
            await connection.close()

    def _is_little(self) -> bool:
        return self.figures.late < 10 or self.figures.rows_written < 1000

    async def _transaction(self, connection: asyncpg.Connection, dice: random.Random) -> None:
        stamps: list[datetime] = []
        new: list[uuid.UUID] = []
        transaction = connection.transaction()
        await transaction.start()
        for _ in range(dice.choice((1, 1, 2, 3))):
            await asyncio.sleep(dice.choice(PAUSES_S) * dice.random())
            kind = dice.choice((0, 0, 1, 1, 2)) if self._ids else 0
            count = dice.choice(ROWS)
            if kind == 0:
                ids = [uuid.UUID(int=dice.getrandbits(128), version=4) for _ in range(count)]
                new += ids
                found = await connection.fetch(self._sql[0], LIBRARY, ids)
            else:
                ids = dice.sample(self._ids, min(count, 100, len(self._ids)))
                found = await connection.fetch(self._sql[kind], ids)
            stamps += [row["at"] for row in found]
        await asyncio.sleep(dice.choice(PAUSES_S))
        if dice.random() < 0.1:
            await transaction.rollback()
            self.figures.rolled_back += 1
            return
        await transaction.commit()
        self._ids += new
        self.figures.transactions += 1
        self.figures.rows_written += len(stamps)
        self.figures.late += bool(stamps) and min(stamps) < self.newest
        self.newest = max(self.newest, *stamps, self.newest)


class Fleet:
    """Devices that sync all the time, each in a thread, until they are stopped; then once more."""

    def __init__(self, url: str, tokens: Sequence[str], folder: Path) -> None:
        self._devices = [
            Device(url, token, folder / f"device{number}.sqlite", types=TYPES) for number, token in enumerate(tokens)
        ]
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(len(tokens))
        self._running: list[Future[None]] = []
        self.figures = Figures()

    def start(self) -> None:
        """Let them begin."""
        self._running = [self._pool.submit(self._sync, device) for device in self._devices]

    def stop(self, expected: dict[str, str], figures: Figures) -> None:
        """Let each sync twice more, and note what it has against what it should have."""
        self._stop.set()
        for running in self._running:
            running.result()
        for done in [self._pool.submit(self._twice, device) for device in self._devices]:
            done.result()
        for device in self._devices:
            _compare(device, expected, figures)
            device.close()
        self._pool.shutdown()
        for name in ("syncs", "broken", "lines", "duplicates"):
            setattr(figures, name, getattr(self.figures, name))

    def _sync(self, device: Device) -> None:
        while not self._stop.is_set():
            self._once(device)
            self._stop.wait(0.02)

    def _twice(self, device: Device) -> None:
        done = sum(self._once(device) for _ in range(2))
        while done < 2:
            time.sleep(0.5)
            done += self._once(device)

    def _once(self, device: Device) -> bool:
        """Sync, and tell whether that came to its end: on a busy machine the way to the service may break."""
        try:
            result = device.sync()
        except (NotReachable, BrokenStream, TryLater):
            with _counting:
                self.figures.broken += 1
                assert self.figures.broken < 50, "the service is not there"
            return False
        assert result.complete
        assert not result.reset
        with _counting:
            self.figures.syncs += 1
            self.figures.lines += result.lines
            self.figures.duplicates += result.duplicates
        return True


_counting = threading.Lock()


def _compare(device: Device, expected: dict[str, str], figures: Figures) -> None:
    held = dict(device.copy.db.execute('SELECT id, "primaryAssetId" FROM stack'))
    missing, extra = expected.keys() - held.keys(), held.keys() - expected.keys()
    outdated = [one for one in expected.keys() & held.keys() if expected[one] != held[one]]
    figures.missing += len(missing)
    figures.left_over += len(extra)
    figures.outdated += len(outdated)
    figures.devices_wrong += held != expected
    if len(figures.examples) < 3:
        figures.examples += [*missing, *extra, *outdated][:1]


async def run(
    service_url: str,
    tokens: Sequence[str],
    database_url: str,
    folder: Path,
    *,
    stamps: Stamps,
    seconds: float,
    seed: int,
) -> Figures:
    """Write for so many seconds while a device per token syncs; tell what each of them ended with."""
    writers = Writers(database_url, stamps, seed)
    fleet = Fleet(service_url, tokens, folder)
    fleet.start()
    began = time.monotonic()
    try:
        await writers.run(seconds)
        expected, figures = await settled(database_url, writers)
    except BaseException:
        await asyncio.to_thread(fleet.stop, {}, Figures())
        raise
    await asyncio.to_thread(fleet.stop, expected, figures)
    figures.seconds = round(time.monotonic() - began, 1)
    return figures


async def settled(database_url: str, writers: Writers) -> tuple[dict[str, str], Figures]:
    """Wait until the last stamp lies well behind the clock, and tell what the table holds.

    And until no stream begins any more with a horizon that was read for others, before the last commit.
    """
    connection = await asyncpg.connect(database_url)
    try:
        left = writers.newest + timedelta(seconds=1.5) - await connection.fetchval("SELECT clock_timestamp()")
        await asyncio.sleep(max(2 * SHARED_S, left.total_seconds()))
        rows = await connection.fetch("SELECT id::text, 'version ' || version FROM item")
    finally:
        await connection.close()
    writers.figures.rows = len(rows)
    return {row[0]: row[1] for row in rows}, writers.figures


async def now_horizon(reader: HorizonReader, connection: asyncpg.Connection) -> Horizon:
    """Stand where the horizon is read, as if the time of day were one."""
    us = (await connection.fetchval("SELECT now()") - _EPOCH) // timedelta(microseconds=1)
    return Horizon(us - us % 1000, us % 1000, None)


@contextlib.contextmanager
def horizon_of(kind: Literal["safe", "now"]) -> Iterator[None]:
    """Replace the horizon of this process, or leave it."""
    with contextlib.nullcontext() if kind == "safe" else mock.patch.object(HorizonReader, "read", now_horizon):
        yield


class LiveSource(Live):
    """The app in this process over the test's tables, so that its horizon can be replaced."""

    def __init__(self, store_url: str, database_url: str, stamps: Stamps) -> None:
        super().__init__(store_url)
        self._database_url, self._stamps = database_url, stamps
        self.postgres: Postgres

    async def _open(self) -> Service:
        self.postgres = await Postgres.open(self._database_url, size=8, wait_s=30, statement_timeout_s=30)
        mapping = read_mapping(mapping_text(self._stamps), "late commits")
        self._options["source"] = PostgresSource(self.postgres, mapping)
        return await super()._open()

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, *told: object) -> None:
        self.run(self.postgres.close())
        super().__exit__(*told)


@contextlib.contextmanager
def real_service(folder: Path, database_url: str, stamps: Stamps, *, pool: int = 8) -> Iterator[RunningService]:
    """Run `syncledger serve` on the test's tables."""
    mapping = folder / "mapping.toml"
    mapping.write_text(mapping_text(stamps))
    with RunningService(
        folder / "service",
        source="postgres",
        postgres=database_url,
        postgres_mapping=str(mapping),
        postgres_pool=str(pool),
        postgres_wait="60s",  # what is asked here is not how fast the machine is
    ) as service:
        yield service


def main() -> None:
    """Do it for as long as asked, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--stamps", choices=["transaction", "clock"], default="transaction")
    parser.add_argument("--horizon", choices=["safe", "now"], default="safe", help="now: the time of day instead")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, PostgresServer(Path(name) / "postgres") as postgres:
        url = postgres.create_database()
        postgres.psql(SCHEMA, url.rpartition("/")[2])
        options: dict[str, Any] = {"stamps": args.stamps, "seconds": args.seconds, "seed": args.seed}
        if args.horizon == "safe":
            with real_service(Path(name), url, args.stamps) as service:
                tokens = service.sign_in_many(DEVICES, "ann", str(LIBRARY))
                figures = asyncio.run(run(service.url, tokens, url, Path(name), **options))
        else:
            with horizon_of("now"), RedisServer(valkey_binary(), Path(name) / "valkey") as valkey:
                with LiveSource(valkey.url, url, args.stamps) as live:
                    tokens = [live.run(live.service.sign_in("ann", str(LIBRARY))).token for _ in range(DEVICES)]
                    figures = asyncio.run(run(live.url, tokens, url, Path(name), **options))
    print({**asdict(figures), "horizon": args.horizon, "stamps": args.stamps})


if __name__ == "__main__":
    main()
