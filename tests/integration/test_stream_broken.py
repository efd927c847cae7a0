"""How a stream ends that cannot go on: never cleanly, soon, and without work for nobody."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ledger import keys
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.running import RunningService
from tests.support.sources.samples import sample
from tests.support.stores.servers import RedisServer, valkey_binary, wait_until

ROWS = 400
ROW_BYTES = 30_000
"""12 MB: far more than all buffers between the service and a reader hold, even after a fast start."""
SMALL_BUFFER = 4096
SLACK_S = 3.0
"""For a machine that is busy with other tests."""
LOOK_S = 5.0


def fill(service: RunningService) -> None:
    service.put(
        "lib",
        (
            {"type": "UserV1", "id": f"u{n}", "data": sample("UserV1", id=f"u{n}", name="n" * ROW_BYTES)}
            for n in range(ROWS)
        ),
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service of two workers that is impatient with stalled readers."""
    with RunningService(tmp_path_factory.mktemp("broken"), workers=2, stall="2s") as service:
        fill(service)
        yield service
        assert service.faults() == []


@pytest.fixture
def own_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RunningService]]:
    """Start a service of the test's own, with these settings, over the library."""
    started = []

    def start(*, workers: int = 1, **settings: str) -> RunningService:
        service = RunningService(tmp_path_factory.mktemp("own"), workers=workers, **settings).start()
        started.append(service)
        fill(service)
        return service

    yield start
    for service in started:
        service.kill_all()
        assert service.faults() == []


def opened(service: RunningService, token: str) -> RawStream:
    """Open a stream whose reader has taken the first few rows."""
    stream = RawStream(service.port, token, ["UsersV1"], receive_buffer_bytes=SMALL_BUFFER)
    stream.read_until(3 * ROW_BYTES)
    assert (stream.status, stream.clean) == (200, None)
    return stream


def connected(service: RunningService, stream: RawStream) -> bool:
    """Tell whether a worker still holds the stream's connection."""
    return any(stream.local_port in clients_of(worker) for worker in service.workers())


def clients_of(worker: psutil.Process) -> list[int]:
    """List the ports of the clients that a worker holds connections of."""
    return [getattr(connection.raddr, "port", 0) for connection in worker.net_connections("tcp")]


def wait_for_store(service: RunningService, token: str) -> None:
    """Wait until every worker answers again; until then they say 503."""

    def answers() -> bool:
        found = []
        for _ in range(8):
            with service.client(token) as client:
                found.append(client.get("/api/users/me").status_code)
        assert set(found) <= {200, 503}
        return set(found) == {200}

    wait_until(answers, "the store to be back", 30)


def assert_broken(stream: RawStream) -> None:
    stream.read_to_end()
    assert stream.clean is False
    assert b"SyncCompleteV1" not in stream.body
    assert len(stream.body) < ROWS * ROW_BYTES


def last_stream(service: RunningService, token: str) -> dict[str, Any]:
    """Wait until the service has kept how a stream that did not come to its end was over, and tell it."""
    found: list[dict[str, Any]] = []

    def kept() -> bool:
        with service.client(token) as client:
            sid = sha256(token.encode()).hexdigest()
            found[:] = client.get(f"/ledger/sessions/{sid}/streams").json()["streams"]
        return bool(found) and found[0]["how"] != "completed"

    wait_until(kept, "the end of the broken stream to be kept", 20)
    return found[0]


def assert_serves(service: RunningService, token: str) -> None:
    with RawStream(service.port, token, ["UsersV1"]) as stream:
        assert stream.read_to_end().clean is True
        assert len(stream.lines) == ROWS + 1


def test_a_killed_store_breaks_the_stream_and_the_next_one_is_whole(own_service: Callable[..., RunningService]) -> None:
    service = own_service()
    token = service.sign_in("u0")
    with opened(service, token) as stream:
        service.kill_store()
        assert_broken(stream)
    wait_for_store(service, token)
    assert_serves(service, token)


def test_a_killed_worker_breaks_its_streams_alone(own_service: Callable[..., RunningService]) -> None:
    service = own_service(workers=2)
    token = service.sign_in("u0")
    with ExitStack() as stack:
        streams: list[RawStream] = []
        while not all(any(s.local_port in clients_of(worker) for s in streams) for worker in service.workers()):
            assert len(streams) < 8, "connections are shared, if not evenly while a worker has no CPU"
            streams.append(stack.enter_context(opened(service, token)))
        victim, *_ = service.workers()
        victims = clients_of(victim)
        victim.kill()
        for stream in streams:
            if stream.local_port in victims:
                assert_broken(stream)
            else:
                stream.read_to_end()
                assert (stream.clean, len(stream.lines)) == (True, ROWS + 1)
    wait_until(lambda: len(service.workers()) == 2, "the worker to be replaced", 30)
    assert_serves(service, token)


def test_a_silent_store_breaks_the_stream(tmp_path: Path) -> None:
    with RedisServer(valkey_binary(), tmp_path / "valkey", unix=True) as server:
        with RunningService(tmp_path, redis_url=server.url, redis_timeout="1s") as service:
            fill(service)
            token = service.sign_in("u0")
            with opened(service, token) as stream:
                server.pause()
                assert_broken(stream)
                server.resume()
            assert_serves(service, token)
            assert service.faults() == []


def test_trouble_in_the_store_is_503_and_never_401(tmp_path: Path) -> None:
    with RedisServer(valkey_binary(), tmp_path / "valkey", durable=True) as server:
        with RunningService(tmp_path, workers=2, redis_url=server.url, redis_timeout="1s") as service:
            service.put("lib", [{"type": "UserV1", "id": "u", "data": sample("UserV1", id="u")}])
            token = service.sign_in("u0")
            requests = [
                ("POST", "/api/sync/stream", {"types": ["UsersV1"]}),
                ("POST", "/api/sync/stream", {"types": ["UsersV1"], "reset": True}),
                ("POST", "/api/sync/ack", {"acks": ["SyncResetV1|reset"]}),
                ("GET", "/api/sync/ack", None),
                ("DELETE", "/api/sync/ack", {}),
                ("GET", "/api/users/me", None),
                ("GET", "/api/sessions", None),
                ("POST", "/api/sessions", {}),
                ("POST", "/api/auth/validateToken", None),
                ("POST", "/api/auth/logout", None),
                ("GET", "/readyz", None),
            ]
            # Each way of being away: gone, and there without an answer.
            for leave, come_back in ((server.kill, server.start), (server.pause, server.resume)):
                leave()
                with service.client(token) as client, httpx.Client(base_url=service.url) as with_key:
                    for method, path, body in requests:
                        answer = client.request(method, path, json=body)
                        assert answer.status_code == 503, f"{method} {path}: {answer.status_code} {answer.text}"
                        assert path == "/readyz" or int(answer.headers["retry-after"]) >= 1
                        assert answer.headers["content-type"].startswith("application/json")
                    answer = with_key.get("/api/sync/ack", headers={"x-api-key": service.entities_key})
                    assert answer.status_code == 503
                    assert client.get("/api/server/ping").json() == {"res": "pong"}
                come_back()
                wait_for_store(service, token)  # a 401 would mean that the logout answered 503 happened
            assert service.faults() == []


def test_logout_elsewhere_ends_the_stream_of_a_slow_reader(service: RunningService) -> None:
    for token in service.sign_in_many(4, "u0"):  # on two workers: so that logout comes to the other one
        with opened(service, token) as stream, service.client(token) as client:
            assert client.post("/api/auth/logout").status_code == 200
            ended = time.monotonic()
            while stream.read(16 * 1024):
                assert time.monotonic() - ended < LOOK_S + SLACK_S
                time.sleep(0.002)
            assert_broken(stream)


def test_logout_ends_the_stream_of_a_reader_that_takes_nothing(own_service: Callable[..., RunningService]) -> None:
    service = own_service()
    token = service.sign_in("u0")
    with opened(service, token) as stream, service.client(token) as client:
        assert client.post("/api/auth/logout").status_code == 200
        wait_until(lambda: not connected(service, stream), "the connection to be broken", LOOK_S + SLACK_S)
        taken = len(stream.body)
        assert_broken(stream)
        assert len(stream.body) - taken < 64 * 1024, "what the kernel held for it is gone too"


def test_a_stalled_reader_is_cut_off_and_a_slow_one_is_not(service: RunningService) -> None:
    token = service.sign_in("u0")
    outcome: list[tuple[bool | None, int, float]] = []

    def read_slowly() -> None:
        """Take what a page holds, then wait for most of the patience, again and again; then the rest."""
        with opened(service, token) as slow:
            began = time.monotonic()
            for _ in range(6):
                slow.read_until(len(slow.body) + 64 * 1024)
                time.sleep(1.2)
            lasted = time.monotonic() - began
            slow.read_to_end()
            outcome.append((slow.clean, len(slow.lines), lasted))

    slow_reader = threading.Thread(target=read_slowly)
    slow_reader.start()
    with opened(service, token) as stalled:
        began = time.monotonic()
        wait_until(lambda: not connected(service, stalled), "the stalled reader to be cut off", 20)
        assert 1.5 < time.monotonic() - began < 2 + 1 + SLACK_S
        assert_broken(stalled)
        told = last_stream(service, token)
    assert told["how"] == "stalled"
    assert told["correlationId"] == stalled.headers["x-correlation-id"]
    assert told["bytes"] >= len(stalled.body) - 2 * 64 * 1024
    assert (told["first"].partition("|")[0], told["last"].partition("|")[0]) == ("UserV1", "UserV1")
    slow_reader.join(60)
    ((clean, lines, lasted),) = outcome
    assert (clean, lines) == (True, ROWS + 1)
    assert lasted > 6


def pages_read(service: RunningService, meanwhile: Callable[[], object]) -> int:
    """Count how often rows of the library are read from the store while something is done, by what the store does."""
    rows = keys.catalog_rows("lib", "UserV1").decode()
    with service.store() as store, store.monitor() as monitor:
        meanwhile()
        store.echo("over")
        done = takewhile(lambda one: "over" not in one["command"], monitor.listen())
        return sum(rows in one["command"] and one["client_type"] != "lua" for one in done)


def test_a_departed_client_leaves_no_work_behind(service: RunningService) -> None:
    token = service.sign_in("u0")
    whole = pages_read(service, lambda: assert_serves(service, token))
    assert whole > 50

    def leave() -> None:
        with opened(service, token) as stream:
            pass
        wait_until(lambda: not connected(service, stream), "the service to notice", 20)
        time.sleep(0.5)

    assert 0 < pages_read(service, leave) < whole / 2
    assert pages_read(service, lambda: time.sleep(0.5)) == 0, "a stream that went on would ask for dozens"
    last = last_stream(service, token)
    assert last["how"] == "gone"
    assert 3 <= last["rows"] < ROWS


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_sigterm_is_answered_within_the_grace_with_streams_open(
    own_service: Callable[..., RunningService], workers: int
) -> None:
    grace_s = 6.0
    service = own_service(workers=workers, grace=f"{grace_s:g}s")
    tokens = service.sign_in_many(3, "u0")
    with opened(service, tokens[0]) as stalled, opened(service, tokens[1]) as slow, opened(service, tokens[2]) as quick:
        service.signal(signal.SIGTERM)
        told = time.monotonic()
        with pytest.raises(httpx.HTTPError):
            wait_until(lambda: httpx.get(f"{service.url}/healthz", timeout=5) is None, "the door to be shut", 5)
        quick.read_to_end()
        assert quick.clean is True, "who takes what there is within the grace gets it whole"
        while slow.read(4096, timeout_s=grace_s + 1):
            time.sleep(0.01)
        assert service.process is not None
        service.process.wait(grace_s + 1)
        assert time.monotonic() - told < grace_s + 1, "the grace, and patience with a busy machine"
        assert service.process.returncode == 0
        assert_broken(slow)
        assert_broken(stalled)
    assert service.processes() == []
