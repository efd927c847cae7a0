"""The official socket client hears of writes, whatever goes down in between, and of its sign-out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest
import redis

from tests.clients.sockets import SocketClients, socket_clients
from tests.support.processes.running import RunningService
from tests.support.stores.servers import RedisCluster, RedisServer, free_port, valkey_binary, wait_until

WAKE = "on_album_update"
NAMES = ("first", "second", "third", "fourth")
"""Enough for connections to come to both workers: they are shared evenly."""
_numbers = count()


@pytest.fixture
def clients() -> Iterator[SocketClients]:
    with socket_clients() as clients:
        yield clients


def write(service: RunningService) -> None:
    """Write something to the library, as soon as the service can."""

    def written() -> bool:
        try:
            service.put("lib", [{"type": "UserDeleteV1", "data": {"userId": f"u{next(_numbers)}"}}])
        except AssertionError as error:
            if '"message"' not in str(error) or "not available" not in str(error):
                raise
            return False
        return True

    wait_until(written, "a write to be taken", 60)


def all_hear(service: RunningService, clients: SocketClients, what: str) -> None:
    """Write, and wait until every socket is woken by that: what it hears for another reason comes within 5 s."""
    wait_until(lambda: time.monotonic() - clients.last(WAKE) > 5.5, "silence", 60)
    before = {name: len(clients.heard(name, WAKE)) for name in NAMES}
    write(service)
    for name in NAMES:
        assert clients.wait(name, WAKE, before[name] + 1), what


def all_open(service: RunningService, clients: SocketClients, token: str) -> None:
    for name in NAMES:
        clients.open(name, service.url, {"x-immich-user-token": token})
    for name in NAMES:
        clients.wait(name, WAKE)  # none of them ever synced


def workers_with_sockets(service: RunningService) -> list[psutil.Process]:
    return [
        worker
        for worker in service.workers()
        if any(each.laddr.port == service.port and each.status == "ESTABLISHED" for each in worker.net_connections())
    ]


def test_a_write_is_heard_at_two_workers_after_a_worker_and_after_the_store_were_killed(
    clients: SocketClients, tmp_path: Path
) -> None:
    with RunningService(tmp_path, workers=2) as service:
        write(service)
        token = service.sign_in()
        all_open(service, clients, token)
        assert len(workers_with_sockets(service)) == 2
        all_hear(service, clients, "at two workers")
        workers_with_sockets(service)[0].kill()
        wait_until(lambda: sum(len(clients.heard(name, "connect")) for name in NAMES) >= 5, "a socket to come again")
        wait_until(lambda: len(service.workers()) == 2, "another worker")
        all_hear(service, clients, "after a worker was killed")
        service.kill_store()
        all_hear(service, clients, "after the store was killed")
        gone = {name: len(clients.heard(name, "disconnect")) for name in NAMES}
        with service.client(token) as client:
            assert client.post("/api/auth/logout").status_code == 200
        for name in NAMES:
            clients.wait(name, "on_session_delete")
            assert clients.wait(name, "disconnect", gone[name] + 1)[-1].args == ["io server disconnect"], (
                "which it takes for final"
            )
        assert service.faults() == []
        assert token not in service.log.read_text()


@pytest.mark.soak
def test_a_write_is_heard_after_a_replica_took_over_in_a_cluster(
    clients: SocketClients, cluster: RedisCluster, tmp_path: Path
) -> None:
    for node in cluster.nodes:
        node.command("CONFIG", "SET", "cluster-node-timeout", 500)
    primary = cluster.node_of(b"{llib}:meta")
    bus_port = free_port()
    options = ("--cluster-enabled", "yes", "--cluster-port", str(bus_port), "--cluster-node-timeout", "500")
    with RedisServer(valkey_binary(), tmp_path / "replica", options=options) as replica:
        replica.command("CLUSTER", "MEET", "127.0.0.1", primary.port, cluster.bus_ports[cluster.nodes.index(primary)])
        primary_id = primary.command("CLUSTER", "MYID")
        wait_until(lambda: primary_id in replica.command("CLUSTER", "NODES"), "the replica to join")
        wait_until(lambda: _follows(replica, primary_id), "the replica to follow its primary")
        with RunningService(tmp_path / "service", workers=2, redis_url=cluster.nodes[0].url) as service:
            write(service)
            all_open(service, clients, service.sign_in())
            all_hear(service, clients, "at two workers")
            wait_until(lambda: primary.command("WAIT", 1, 100) == 1, "the replica to have all")
            primary.kill()
            all_hear(service, clients, "after the replica took over")
            assert service.faults() == []


def _follows(replica: RedisServer, primary_id: bytes) -> bool:
    told = replica.command("INFO", "replication")
    if isinstance(told, dict) and told.get("master_link_status") == "up":
        return True
    try:
        replica.command("CLUSTER", "REPLICATE", primary_id)
    except redis.ResponseError:
        return False
    return False
