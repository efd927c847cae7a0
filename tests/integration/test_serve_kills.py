"""kill -9 of the parent, the arbiter, the workers and the embedded server, in every combination.

`make test` kills each alone; all at once are killed in tests/faults/test_crashes.py too.
"""

from __future__ import annotations

import signal
import socket
import time
from contextlib import closing, suppress
from itertools import combinations
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from tests.support.processes.services import Service, servers_of
from tests.support.stores.servers import wait_until

PARTS = ("parent", "arbiter", "workers", "server")
COMBINATIONS = [
    pytest.param(parts, id="+".join(parts), marks=[pytest.mark.soak] if count > 1 else [])
    for count in range(1, 5)
    for parts in combinations(PARTS, count)
]
GRACE_S = 1


def answered_store(url: str) -> str | None:
    """Return the store's URL that a worker names; None while none answers."""
    try:
        return httpx.get(url, timeout=5).text.split()[1]
    except httpx.HTTPError:
        return None


def read(store: str) -> object:
    with suppress(redis.RedisError), closing(redis.Redis.from_url(store)) as client:
        return client.get("k")
    return None


@pytest.mark.parametrize("parts", COMBINATIONS)
def test_kill(tmp_path: Path, parts: tuple[str, ...]) -> None:
    data_dir = tmp_path / "data"
    with Service(data_dir, workers="2", grace=f"{GRACE_S}s") as service:
        store = answered_store(service.url)
        assert store is not None
        with closing(redis.Redis.from_url(store)) as client:
            client.set("k", "v")
        server = servers_of(data_dir)
        victims: list[psutil.Process] = []
        for part in parts:
            match part:
                case "parent":
                    victims.append(service.parent)
                case "arbiter":
                    victims.append(service.arbiter)
                case "workers":
                    victims += service.workers
                case _:
                    victims += server
        service.processes()
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        psutil.wait_procs(victims, timeout=10)

        if "parent" in parts:
            service.wait()
            service.wait_ended(GRACE_S + 5)
            assert servers_of(data_dir) == ([] if "server" in parts else server)
            with Service(data_dir, workers="2", port=str(service.port)) as successor:
                healed(successor, data_dir)
                assert "server" in parts or servers_of(data_dir) == server
                assert successor.stop() == 0
                successor.wait_ended()
        else:
            healed(service, data_dir)
            assert "server" in parts or servers_of(data_dir) == server
            assert service.stop() == 0
            service.wait_ended()
        assert servers_of(data_dir) == []


def healed(service: Service, data_dir: Path) -> None:
    """Wait until a service is whole again: it answers, has its data, and each part the right number of times."""
    wait_until(lambda: (store := answered_store(service.url)) and read(store) == b"v", "answers and data", 10)

    def whole() -> bool:
        with suppress(psutil.Error, ValueError):
            return len(service.processes()) == 4 and len(service.workers) == 2 and len(servers_of(data_dir)) == 1
        return False

    wait_until(whole, "one parent, one arbiter, two workers and one server", GRACE_S + 10)


def test_connections_wait_at_the_door_while_the_arbiter_is_replaced(tmp_path: Path) -> None:
    with Service(tmp_path / "data", workers="2") as service:
        for process in (service.arbiter, *service.workers):
            process.kill()
        began = time.monotonic()
        assert httpx.get(service.url, timeout=10).status_code == 200
        assert time.monotonic() - began < 5


def test_a_killed_parent_frees_its_port_though_streams_are_open(tmp_path: Path) -> None:
    with Service(tmp_path / "data", grace="20s") as service:
        with socket.create_connection(("127.0.0.1", service.port)) as reader:
            reader.sendall(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
            assert reader.recv(1)
            service.processes()
            service.parent.kill()
            service.wait()
            with Service(tmp_path / "data", port=str(service.port)) as successor:
                assert httpx.get(successor.url).status_code == 200
                assert successor.stop() == 0


def test_a_server_that_dies_again_and_again_does_not_stop_the_service(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with Service(data_dir) as service:
        store = answered_store(service.url)
        assert store is not None
        for _ in range(4):
            wait_until(lambda: len(servers_of(data_dir)) == 1, "a server", 5)
            for process in servers_of(data_dir):
                process.kill()
        wait_until(lambda: len(servers_of(data_dir)) == 1, "a server", 5)
        assert answered_store(service.url) == store
        assert service.stop() == 0
        assert servers_of(data_dir) == []
