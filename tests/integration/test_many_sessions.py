"""Many sessions in the real service: listed, ended by their owner, by the command, and by the background job."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ledger import keys
from ledger.commands import CreateSession
from ledger.events import SessionEnded as SessionEndedEvent
from ledger.log.reader import read_partition
from ledger.transparency.entries import KINDS
from ledger.transparency.notes import parse_signer
from ops.opening.ledger import Opened
from ops.opening.proof import log_of
from projections.accounts.tokens import read_token
from projections.expiry import expire
from projections.transparency.job import notarize
from tests.support.ledger.ledgers import sid_of
from tests.support.ledger.logs import Audit, place_at
from tests.support.processes.running import COMMAND, RunningService
from tests.support.stores.servers import wait_until

IDLE_S = 5.0


@contextmanager
def timed(what: str, at_most_s: float, report: list[str]) -> Iterator[None]:
    """Measure; the bound is far above what it takes, to notice only what has gone wrong."""
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    report.append(f"{what}: {took_s * 1000:,.0f} ms")
    assert took_s < at_most_s, what


def sid(token: str) -> str:
    """Tell the session a token opens."""
    caller = read_token(token)
    assert caller is not None
    return caller.sid


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.soak)])
def test_many_sessions_of_one_user_are_listed_and_ended(tmp_path: Path, count: int) -> None:
    times: list[str] = []
    with RunningService(tmp_path, workers=2) as service:
        other = service.sign_in("bob")
        with timed("signed in", 120, times):
            tokens = service.sign_in_many(count)
        with service.client(tokens[-1]) as client:
            with timed("GET /api/sessions", 20, times):
                listed = client.get("/api/sessions")
            assert [session["current"] for session in listed.json()].count(True) == 1
            assert {session["id"] for session in listed.json()} == set(map(sid, tokens))
            assert len(listed.json()) == count
            with timed("DELETE /api/sessions", 60, times):
                assert client.delete("/api/sessions").status_code == 204
            assert [session["id"] for session in client.get("/api/sessions").json()] == [sid(tokens[-1])]
        for token in (tokens[0], tokens[count // 2], tokens[-2]):
            with service.client(token) as client:
                assert client.get("/api/sessions").status_code == 401
        assert service.verify()["ended"] == count - 1

        tokens = [tokens[-1], *service.sign_in_many(count - 1)]
        with timed("session list", 30, times):
            shown = service.command("session", "list", "--user", "ann").stdout
        assert all(sid(token) in shown for token in tokens)
        with timed("session end --all", 60, times):
            assert (
                service.command("session", "end", "--user", "ann", "--all").stdout
                == f"{count:,} sessions of ann ended\n"
            )
        with service.client(tokens[0]) as client:
            assert client.get("/api/sessions").status_code == 401
        with service.client(other) as client:
            assert len(client.get("/api/sessions").json()) == 1
        report = service.verify()
        assert (report["sessions"], report["ended"]) == (1, 2 * count - 1)
        assert service.faults() == []
    print("; ".join(times))


def test_an_interrupted_command_leaves_nothing_half_done(tmp_path: Path, valkey_url: str) -> None:
    service = RunningService(tmp_path, redis_url=valkey_url, max_sessions="4000")
    count = 4000

    async def sign_in(found: Opened) -> None:
        sids = [sid_of(str(number)) for number in range(count)]
        await asyncio.gather(*(found.ledger.execute("ann", sid, CreateSession("ann", "lib")) for sid in sids))

    service.inside(sign_in)
    devices = keys.devices(keys.partition_of("ann", service.settings.partitions), "ann")
    with service.store() as store:
        ending = subprocess.Popen(
            [*COMMAND, "session", "end", "--user", "ann", "--all"],
            env=service.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: store.hlen(devices) < count, "the first sessions to be ended")
        ending.send_signal(signal.SIGINT)
        out, err = ending.communicate(timeout=30)
        assert (ending.returncode, out, err.strip()) == (130, "", "interrupted")
        left = store.hlen(devices)
    assert 0 < left < count
    assert service.verify()["sessions"] == left
    assert service.command("session", "end", "--user", "ann", "--all").stdout == f"{left:,} sessions of ann ended\n"
    assert service.verify()["ended"] == count


@pytest.mark.parametrize(("workers", "count"), [(2, 50), pytest.param(4, 500, marks=pytest.mark.soak)])
def test_the_background_job_on_many_workers_ends_each_idle_session_exactly_once(
    tmp_path: Path, workers: int, count: int
) -> None:
    quick = {"expire_interval": "1s", "proof_interval": "1s"}
    service = RunningService(tmp_path, workers=workers, idle=f"{IDLE_S}s", **quick)
    idle: set[str] = set()

    def sign_in(wave: int) -> None:
        async def work(found: Opened) -> None:
            for user, count in {"many": 10, **{f"user-{number}": 5 for number in range(8)}}.items():
                sids = [sid_of(f"{wave} {user} {number}") for number in range(count)]
                for number, name in enumerate(sids):
                    parent = sids[number - 1] if number % 5 == 4 else None
                    await found.ledger.execute(user, name, CreateSession(user, "lib", parent=parent))
                idle.update(sids)

        service.inside(work)

    with service:
        busy = service.sign_in("many")
        over = threading.Event()

        def act() -> None:
            """Do something that is on record, again and again."""
            with service.client(busy) as client:
                while not over.wait(IDLE_S / 8):
                    for pending in (True, False):
                        answer = client.put(f"/api/sessions/{sid(busy)}", json={"isPendingSyncReset": pending})
                        assert answer.status_code == 200, (answer.text, service.faults())

        def expire_too() -> None:
            """Do what `syncledger expire` does, again and again, beside the service."""

            async def work(found: Opened) -> None:
                await expire(found.ledger, found.catalog, idle_us=int(IDLE_S * 1e6), tombstones_us=10**15)

            while not over.wait(0.05):
                service.inside(work)

        with ThreadPoolExecutor() as pool:
            try:
                beside = [pool.submit(act)]
                deadline = time.monotonic() + 90
                while len(idle) < count or len(ended_by(service)) < 2:
                    assert time.monotonic() < deadline, "one worker alone runs the job"
                    sign_in(len(idle))
                    time.sleep(0.7)  # so that they are idle in turns of many workers
                beside.append(pool.submit(expire_too))
                wait_until(lambda: len(ends(service)) >= len(idle), "the idle sessions to be ended", 120)
                time.sleep(3)  # for more turns of the job
                found = ends(service)
                assert service.verify()["ended"] == len(idle)
                with service.client(busy) as client:
                    assert [session["id"] for session in client.get("/api/sessions").json()] == [sid(busy)]
            finally:
                over.set()
            for future in beside:
                future.result(30)
        assert found.keys() == idle
        assert set(found.values()) == {1}
        assert service.faults() == []
        assert "will try again" not in service.log.read_text()

        async def bring_up(found: Opened) -> bool:
            """Log what the workers have not logged yet, unless one of them is at it."""
            log = await log_of(found, service.settings)
            assert log is not None
            return await notarize(log, found.ledger.partitions, "", lambda: found.ledger.clock() // 1000) is not None

        wait_until(lambda: service.inside(bring_up), "the workers to leave the log")
    asyncio.run(is_logged(service, idle))


async def is_logged(service: RunningService, idle: set[str]) -> None:
    """Check that the log, which the workers wrote in turns, has the end of each idle session once."""
    place = place_at((service.data_dir / "proof").as_uri())
    audit = await Audit.of(place, parse_signer((service.data_dir / "proof-key").read_text()))
    of_end = [leaf.sid.hex() for leaf in audit.events if leaf.kind == KINDS["session_ended"]]
    assert len(of_end) == len(set(of_end))
    assert set(of_end) == idle


def ended_by(service: RunningService) -> Counter[str]:
    """Count for each worker how often it says that it ended sessions."""
    told = [line for line in service.log.read_text().splitlines() if "expired:" in line]
    return Counter(line.partition("pid=")[2].split()[0] for line in told)


def ends(service: RunningService) -> Counter[str]:
    """Count the ends of each session in all streams."""

    async def count(found: Opened) -> Counter[str]:
        counted: Counter[str] = Counter()
        for partition in range(found.ledger.partitions):
            async for page in read_partition(found.store, partition):
                counted.update(
                    entry.recorded.sid for entry in page if isinstance(entry.recorded.event, SessionEndedEvent)
                )
        return counted

    return service.inside(count)
