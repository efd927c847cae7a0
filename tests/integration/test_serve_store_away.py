"""A service whose store is away while a worker begins: all are told to come again, in time, and nobody is ended."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.support.processes.running import RunningService
from tests.support.stores.servers import RedisServer, valkey_binary, wait_until

LONGEST_S = 5.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(valkey_binary(), tmp_path_factory.mktemp("store"), durable=True) as server:
        yield server


@pytest.fixture(scope="module")
def service(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    with RunningService(folder, workers=2, redis_url=store.url.removesuffix("/0")) as service:
        yield service


def asked(service: RunningService, token: str, path: str) -> httpx.Response:
    """Ask on a connection of its own, which either worker may take, as long as a request may take."""
    with service.client(token, Connection="close") as client:
        began_s = time.monotonic()
        answer = client.get(path)
        assert time.monotonic() - began_s < LONGEST_S
        return answer


@pytest.mark.parametrize("away", ["kill", pytest.param("pause", marks=pytest.mark.soak)])
def test_a_worker_that_begins_meanwhile_says_503_and_ends_no_other(
    service: RunningService, store: RedisServer, away: str
) -> None:
    token = service.sign_in()
    assert asked(service, token, "/api/users/me").status_code == 200
    getattr(store, away)()
    one, other = service.workers()
    one.kill()
    wait_until(lambda: len([each for each in service.workers() if each.pid != one.pid]) == 2, "another worker")
    for _ in range(4):
        for path in ("/api/users/me", "/readyz", "/api/server/ping"):
            answer = asked(service, token, path)
            if path == "/api/server/ping" and answer.status_code == 200:
                continue  # which needs no store, where the worker began with one
            assert answer.status_code == 503, (path, answer.text)
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["x-correlation-id"]
        assert f"127.0.0.1:{store.port}" in asked(service, token, "/readyz").json()["message"]
        assert asked(service, token, "/healthz").status_code == 200
    if away == "kill":
        store.start()
    else:
        store.resume()

    def all_serve() -> bool:
        return all(asked(service, token, path).status_code == 200 for path in ("/api/users/me", "/readyz") * 4)

    wait_until(all_serve, "both workers to serve", 30)
    assert other.status() != psutil.STATUS_ZOMBIE
    assert other.pid in [worker.pid for worker in service.workers()]
    assert service.faults() == []


def test_what_the_server_was_set_to_is_told(service: RunningService, store: RedisServer) -> None:
    token = service.sign_in()
    assert asked(service, token, "/readyz").json()["eviction"] == ""
    store.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert "allkeys-lru" in asked(service, token, "/readyz").json()["eviction"]
    store.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    store.command("CONFIG", "SET", "min-replicas-to-write", 1)
    answer = asked(service, token, "/readyz")
    assert answer.status_code == 503
    assert "NOREPLICAS" in answer.json()["message"]
    store.command("CONFIG", "SET", "min-replicas-to-write", 0)
    wait_until(lambda: asked(service, token, "/readyz").status_code == 200, "it to be ready")
