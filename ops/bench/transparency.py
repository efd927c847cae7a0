"""`log`: events a second that the transparency log takes in, beside reading and hashing them; what it costs at rest and
in storage; a session's proof beside reading its history; and acks with the log on, beside the same with it off.
"""

from __future__ import annotations

import shutil
import time
from hashlib import sha256
from statistics import median
from typing import Final

from redis import Redis

from ops.bench import acks, rebuild
from ops.bench.rig import filling, servers
from ops.bench.rig.processes import BenchFailed, Server
from ops.bench.rig.results import Bound, Comparison, Result
from ops.bench.rig.rounds import Progress, alternate
from ops.bench.rig.scale import Scale
from ops.bench.rig.scene import Scene, scene
from ops.opening.ledger import Opened
from ops.opening.proof import make_key
from projections.archive.objects import open_objects
from projections.transparency.job import LogOf, notarize
from projections.transparency.noted import read_noted
from projections.transparency.place import LogPlace
from projections.transparency.proving import prove

AT_MOST_US: Final = 20.0
"""50,000 events a second on one core."""
AT_MOST_BYTES: Final = 120.0
AT_MOST_IDLE_MS: Final = 250.0
"""Of a run with nothing new, once a minute: less than half a percent of a core."""
AT_MOST_PROOF_MS: Final = 50.0
ACKS_AT_LEAST: Final = 0.9
ORIGIN: Final = "bench.example/log"
_PAGE: Final = 1000
_PROOFS: Final = 20
_IDLE_RUNS: Final = 5


def run(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    """Fill streams and log them, each round in an empty place; then have acks logged while they come."""
    return [*_taken_in(rounds, scale, progress), _acks(rounds, scale, progress)]


def _taken_in(rounds: int, scale: Scale, progress: Progress) -> list[Result]:
    with scene() as found:
        count, devices = scale.log_events, scale.log_devices
        progress(f"writing {count:,} events of {devices:,} devices")
        rebuild.fill(found, devices, count)
        rebuild.rebuild(found, count, devices)
        found.settle()
        log = _Log(found)
        floors, own = alternate(rounds, lambda: _hashed_per_s(found, count), lambda: log.begin_per_s(count), progress)
        progress("looking at a log with nothing new, and proving sessions")
        stored, idle_ms = log.stored_bytes(), median(log.idle_ms() for _ in range(_IDLE_RUNS))
        proof_ms, read_ms = log.proof_ms(devices)
    partitions = found.settings.partitions
    return [
        Comparison(
            name=f"log of {count:,} events of {devices:,} devices",
            unit="/s of CPU",
            floor=floors,
            ours=own,
            notes=("the floor reads and hashes",),
        ),
        Bound(
            name="log, CPU of an event",
            unit="µs",
            value=1e6 / median(own),
            at_most=AT_MOST_US,
            base=1e6 / median(floors),
            rounds=tuple(1e6 / rate for rate in own),
        ),
        Bound(name="log, storage of an event", unit="bytes", value=stored / count, at_most=AT_MOST_BYTES),
        Bound(name=f"log, idle run over {partitions} partitions", unit="ms", value=idle_ms, at_most=AT_MOST_IDLE_MS),
        Bound(
            name="log, a proof beside reading the history",
            unit="ms",
            value=max(proof_ms - read_ms, 0.0),
            at_most=AT_MOST_PROOF_MS,
            base=read_ms,
        ),
    ]


class _Log:
    """The log of a scene, begun anew each round in a folder of its own."""

    def __init__(self, found: Scene) -> None:
        self._found = found
        self._folder = found.folder / "log"
        self._key = make_key(ORIGIN)

    def begin_per_s(self, count: int) -> float:
        """Log all events in an empty place; gives how many a second of CPU."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with Redis.from_url(self._found.url) as redis:
            redis.hdel("ledger:meta", "proof_origin", "proof_size")
        events, cpu_s = self._run()
        if events != count:
            raise BenchFailed(f"of {count:,} events {events:,} were logged")
        return count / cpu_s

    def idle_ms(self) -> float:
        """Run the job where nothing is new; gives its CPU time."""
        events, cpu_s = self._run()
        if events:
            raise BenchFailed(f"{events:,} events were logged twice")
        return cpu_s * 1000

    def stored_bytes(self) -> int:
        """Tell how much the place holds."""
        return sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())

    def proof_ms(self, devices: int) -> tuple[float, float]:
        """Prove some sessions, and only read them; gives what either takes."""

        async def work(opened: Opened) -> tuple[float, float]:
            proofs, reads = [], []
            for number in range(min(_PROOFS, devices)):
                sid, partition = filling.sid(number), opened.ledger.partition_of(filling.user(number))
                started = time.perf_counter()
                if await prove(self._place(), opened.past, partition, sid) is None:
                    raise BenchFailed("there is no checkpoint to prove anything by")
                proved = time.perf_counter()
                async for _ in opened.past.runs(partition, sid, forward=True):
                    pass
                proofs.append(proved - started)
                reads.append(time.perf_counter() - proved)
            return median(proofs) * 1000, median(reads) * 1000

        return self._found.with_ledger(work)

    def _place(self) -> LogPlace:
        return LogPlace(open_objects(self._folder.as_uri()), self._folder.as_uri())

    def _run(self) -> tuple[int, float]:
        async def work(opened: Opened) -> tuple[int, float]:
            of = LogOf(opened.store, self._place(), "bench", "", lambda origin, may_make: [self._key])
            started = time.process_time()
            report = await notarize(of, opened.ledger.partitions, ORIGIN, lambda: 1, ledger=opened.ledger)
            cpu_s = time.process_time() - started
            if report is None or report.refused or report.stopped:
                raise BenchFailed(f"the log could not be brought up: {report}")
            return report.events, cpu_s

        return self._found.with_ledger(work)


def _hashed_per_s(found: Scene, count: int) -> float:
    """Read all streams in pages with redis-py and hiredis, and hash each event; gives events a second of CPU."""
    with Redis.from_url(found.url) as redis:
        hashed, started = 0, time.process_time()
        for name in found.streams():
            start = "-"
            while rows := redis.xrange(name, start, count=_PAGE):
                for _, fields in rows:
                    sha256(fields[b"event"]).digest()
                hashed += len(rows)
                if len(rows) < _PAGE:
                    break
                start = f"({rows[-1][0].decode()}"
        cpu_s = time.process_time() - started
    if hashed != count:
        raise BenchFailed(f"the streams hold {count:,} events, {hashed:,} were read")
    return count / cpu_s


def _acks(rounds: int, scale: Scale, progress: Progress) -> Result:
    """Push acks to a service without a log and to one that logs every second, on one ledger."""
    with scene() as found:
        place = (found.folder / "log").as_uri()
        with (
            servers.service(found, workers=1, env={"LEDGER_PROOF": "off"}) as without,
            servers.service(found, workers=1, env={"LEDGER_PROOF": place, "LEDGER_PROOF_INTERVAL": "1s"}) as with_log,
        ):
            pusher = acks.Pusher(acks.offered(found, with_log, scale.devices))
            cpu: dict[bool, list[float]] = {True: [], False: []}

            def rate(server: Server, is_on: bool) -> float:
                before = server.cpu_s()
                loaded = pusher.push(server, scale.ack_s, scale.ack_limit)
                cpu[is_on].append((server.cpu_s() - before) / loaded.answered * 1e6)
                return loaded.rate

            off, on = alternate(rounds, lambda: rate(without, False), lambda: rate(with_log, True), progress)
            acks.check_recorded(found, pusher.answered)
        logged = found.with_ledger(_size)
    note = f"CPU of the workers: {min(cpu[True]):.0f} µs an ack, {min(cpu[False]):.0f} µs without; {logged:,} entries"
    return Comparison(
        name=f"acks of {scale.devices} devices while they are logged each second, beside no log",
        unit="/s",
        floor=off,
        ours=on,
        at_least=ACKS_AT_LEAST,
        notes=(note,),
    )


async def _size(opened: Opened) -> int:
    return (await read_noted(opened.store)).size
