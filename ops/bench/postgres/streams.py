"""`postgres`: a library of a million rows in Immich's schema, read through the source beside bare statements.

A first sync beside `psql` copying the same lines out, a sync of ten changed rows beside one indexed query for just
these, and what slow readers cost a worker in memory and connections. The database is made once, on its own server.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import time
from collections.abc import Iterator
from statistics import median
from typing import Final

import msgspec

from ops.bench.children.slow_readers import Slow
from ops.bench.postgres import immich_library
from ops.bench.postgres.immich_library import USER, sizes_of
from ops.bench.postgres.queries import copy_queries, lines_after
from ops.bench.postgres.reader import Job, Reads
from ops.bench.postgres.server import NoPostgres, PostgresServer, postgres_server
from ops.bench.rig import servers, wire
from ops.bench.rig.peak import Peak
from ops.bench.rig.processes import BenchFailed, tool
from ops.bench.rig.results import Bound, Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import STREAM_PATH, scene
from ops.bench.rss import BYTES_PER_S, MIB, growth
from ops.simulate.tables import TYPES_V2
from projections.entities.postgres.check.check import check
from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.pool import APPLICATION, Postgres
from projections.entities.source_check import CheckReport

FIRST_AT_LEAST: Final = 0.85
AGAIN_AT_LEAST: Final = 1 / 3
ALONE_S: Final = 0.15
CHANGED: Final = 10
AHEAD: Final = CHANGED - 1
"""Changed assets that another one comes behind are sent ahead too, for they may have given their checksum up."""
STREAM_KIB: Final = 1024
"""What a stream may hold: what two statements brought, 192 KB each, and some pages on their way."""
POOL: Final = 8
_READ_S: Final = 1200.0
_STREAM_BODY: Final = msgspec.json.encode({"types": TYPES_V2})


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Measure first syncs, syncs of a few changes, and slow readers; nothing where PostgreSQL is not installed."""
    try:
        with postgres_server() as server:
            immich_library.fill(server, sizes_of(scale.postgres_rows), progress)
            for index in _add_indexes(server):
                progress(f"as `source check` says: {index}")
            first = _first(server, rounds, progress)
            again = list(_again(server, rounds, scale.postgres_polls, progress))
            return [first, *again, *_slow(server, scale, progress)]
    except NoPostgres as error:
        progress(f"skipped: {error}")
        return []


def _add_indexes(server: PostgresServer) -> list[str]:
    """Add the indexes that the check prints; raises BenchFailed if it finds a problem that none mends."""
    added: list[str] = []
    while True:
        problems = asyncio.run(_checked(server.url)).problems
        wanted = [found.index for found in problems if found.index and found.index not in added]
        if not wanted:
            break
        server.run(wanted[0])
        added.append(wanted[0])
    if wrong := [found.told for found in problems if found.weight == "problem"]:
        raise BenchFailed(f"the database cannot be read as it must: {wrong[0]}")
    return added


async def _checked(url: str) -> CheckReport:
    postgres = await Postgres.open(url, size=1, wait_s=10, statement_timeout_s=60)
    try:
        return await check(postgres, load_mapping("immich"))
    finally:
        await postgres.close()


class _Rounds:
    """Collects what rounds cost their client and the server in CPU time, and how long they took."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._client_s: list[float] = []
        self._server_s: list[float] = []
        self._clock_s: list[float] = []

    def note(self, client_s: float, server_before_s: float, clock_s: float) -> float:
        """Note one round; returns the CPU seconds of both sides."""
        self._client_s.append(client_s)
        self._server_s.append(self._server.cpu_s() - server_before_s)
        self._clock_s.append(clock_s)
        return client_s + self._server_s[-1]

    @property
    def told(self) -> str:
        """Tell the medians of all rounds."""
        client_s, server_s, clock_s = median(self._client_s), median(self._server_s), median(self._clock_s)
        return f"{client_s:.2f} s of CPU in the client, {server_s:.2f} s in the server, {clock_s:.2f} s on the clock"


def _first(server: PostgresServer, rounds: int, progress: Progress) -> Comparison:
    """Read the whole library as a device that has nothing, and copy the same lines out with psql.

    By the CPU time of both sides, for what else the machine does must not tell.
    """
    commands = [
        part for query in copy_queries(server.url, USER, TYPES_V2) for part in ("-c", f"COPY ({query}) TO STDOUT")
    ]
    copied = _count_lines(server.psql(*commands))
    progress(f"psql copies {copied:,} lines")
    copying, reading = _Rounds(server), _Rounds(server)

    def copy() -> float:
        before_s, seconds, cpu_s = server.cpu_s(), *_run(server.psql(*commands))
        return copied / copying.note(cpu_s, before_s, seconds)

    def read() -> float:
        before_s, reads = server.cpu_s(), _read(Job(server.url, USER, TYPES_V2))
        if reads.entities != copied:
            raise BenchFailed(f"a first sync held {reads.entities:,} entities, psql copied {copied:,}")
        return copied / reading.note(reads.cpu_s[0], before_s, reads.seconds[0])

    floors, own = alternate(rounds, copy, read, progress)
    return Comparison(
        name=f"PostgreSQL: first sync of {copied:,} rows, beside psql's COPY",
        unit="/s of CPU",
        floor=floors,
        ours=own,
        at_least=FIRST_AT_LEAST,
        notes=(f"ours {reading.told}; psql {copying.told}",),
    )


def _again(server: PostgresServer, rounds: int, times: int, progress: Progress) -> Iterator[Comparison]:
    """Sync after ten rows have changed: all types asked for, beside one query for just these rows.

    At first one after the other, as in a service with many devices, where the streams of a tenth of a second share what
    they ask of all tables. Then each alone, as in one with few.
    """
    for name, pause_s, at_least in (("", 0.0, AGAIN_AT_LEAST), (", alone", ALONE_S, None)):
        since_us = immich_library.touch(server, CHANGED)
        query = lines_after(server.url, USER, "AssetV2", since_us)
        count = times if not pause_s else max(times // 5, 1)
        job = Job(server.url, USER, TYPES_V2, since_us=since_us, times=count, floor=query, pause_s=pause_s)
        floors, own, cpu = [], [], []
        for number in range(1, rounds + 1):
            reads = _read(job)
            if (reads.entities, reads.rows) != (CHANGED + AHEAD, CHANGED):
                raise BenchFailed(f"of {CHANGED} changed rows {reads.entities} were synced, {reads.rows} were queried")
            floors.append(1 / median(reads.floor_s))
            own.append(1 / median(reads.seconds))
            cpu.append(f"{median(reads.cpu_s) * 1e3:.2f} against {median(reads.floor_cpu_s) * 1e3:.2f} ms")
            progress(
                f"round {number}/{rounds}: {1e3 / own[-1]:.2f} ms a sync{name}, {1e3 / floors[-1]:.2f} ms the query"
            )
        yield Comparison(
            name=f"PostgreSQL: sync of {CHANGED} changed rows{name}, beside one query",
            unit="/s",
            floor=tuple(floors),
            ours=tuple(own),
            at_least=at_least,
            notes=(
                f"{len(TYPES_V2)} types are asked for; a round is the median of {count:,} syncs in turn with the query",
                f"CPU of the client, round by round: {'; '.join(cpu)}",
            ),
        )


def _slow(server: PostgresServer, scale: Scale, progress: Progress) -> list[Result]:
    """Let one device and then many read slowly from a worker of the service."""
    settings = {
        "LEDGER_SOURCE": "postgres",
        "LEDGER_POSTGRES": server.url,
        "LEDGER_POSTGRES_POOL": str(POOL),
        "LEDGER_POSTGRES_WAIT": "60s",
    }
    asked = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{APPLICATION}'"  # noqa: S608
    results: list[Result] = []
    with scene() as found:
        devices = found.sign_in(scale.slow_readers, USER)
        for readers, at_most in ((devices[:1], 16 * 1024), (devices, STREAM_KIB)):
            requests = tuple(wire.request("POST", STREAM_PATH, _STREAM_BODY, token=device.token) for device in readers)
            slow = Slow(0, requests, BYTES_PER_S, scale.slow_s)
            with (
                servers.service(found, workers=1, env=settings) as service,
                Peak(lambda: int(server.run(asked)), 0.3) as held,
            ):
                idle, grown, dripped = growth(service, slow)
            progress(f"{len(readers)} readers: {grown / MIB:.1f} MiB, {held.most} connections")
            results.append(
                Bound(
                    name=f"PostgreSQL: growth of a worker per stream, {len(readers)} slow readers",
                    unit="KiB",
                    value=grown / 1024 / len(readers),
                    at_most=at_most,
                    base=idle / 1024,
                    notes=(f"{dripped.open} streams open to the end, each took {dripped.least_bytes:,} bytes or more",),
                )
            )
        results.append(
            Bound(
                name=f"PostgreSQL: connections of a worker, {len(devices)} slow readers",
                unit="",
                value=held.most,
                at_most=POOL,
            )
        )
    return results


def _read(job: Job) -> Reads:
    return msgspec.json.decode(
        tool("ops.bench.postgres.reader", msgspec.json.encode(job), timeout_s=_READ_S), type=Reads
    )


def _run(command: list[str]) -> tuple[float, float]:
    """Run a command whose output nobody wants; return its seconds of wall and of CPU time."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=_READ_S, check=False, text=True
    )
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise BenchFailed(f"psql: {done.stderr.strip()[-2000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _count_lines(command: list[str]) -> int:
    """Run a command and count the lines it prints."""
    lines = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(1 << 20):
            lines += piece.count(b"\n")
    if process.returncode:
        raise BenchFailed(f"psql ended with {process.returncode}")
    return lines
