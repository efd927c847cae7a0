"""A game day: each fault is caused on a real service, its alert's expression turns true, and the runbook mends it.

The expressions are those of ops/deploy/prometheus/alerts.yml, asked of a real Prometheus that scrapes the service; what
mends is what ops/docs/runbooks.md says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ledger import keys
from tests.support.processes.prometheus import Prometheus, prometheus_binary
from tests.support.processes.running import RunningService
from tests.support.stores.servers import RedisServer, valkey_binary, wait_until

pytestmark = pytest.mark.soak

Game = tuple[RunningService, Prometheus, RedisServer]


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Game]:
    """A service on a store of its own, under Prometheus; each fault is mended before the next one."""
    prometheus_binary()
    folder = tmp_path_factory.mktemp("game")
    with RedisServer(valkey_binary(), folder / "store", durable=True) as store:
        settings = {"archive": (folder / "archive").as_uri(), "expire_interval": "1s"}
        with RunningService(folder / "service", workers=2, redis_url=store.url, **settings) as service:
            service.sign_in()
            key = service.command("key", "create", "--scope=metrics.read").stdout.strip()
            with Prometheus(folder / "prometheus", service.port, key) as prometheus:
                wait_until(lambda: prometheus.says("up == 1"), "the first scrape")
                yield service, prometheus, store


def test_store_down(game: Game) -> None:
    _, prometheus, store = game
    assert not prometheus.firing("LedgerStoreDown")
    store.kill()
    prometheus.wait_for("LedgerStoreDown", firing=True)
    store.start()
    prometheus.wait_for("LedgerStoreDown", firing=False)


def test_disk_full(game: Game) -> None:
    service, prometheus, store = game
    assert not prometheus.firing("LedgerDiskFull")
    store.command("CONFIG", "SET", "maxmemory", "1mb")
    prometheus.wait_for("LedgerDiskFull", firing=True)
    store.command("CONFIG", "SET", "maxmemory", "0")
    prometheus.wait_for("LedgerDiskFull", firing=False)
    assert service.client().get("/readyz").status_code == 200


def test_worker_killed(game: Game) -> None:
    service, prometheus, _ = game
    assert not prometheus.firing("LedgerWorkerKilled")
    time.sleep(3)  # two scrapes that it can increase from
    service.workers()[0].kill()
    prometheus.wait_for("LedgerWorkerKilled", firing=True)
    wait_until(lambda: len(service.workers()) == 2, "another worker")


def test_partition_not_whole(game: Game) -> None:
    service, prometheus, store = game
    assert not prometheus.firing("LedgerPartitionNotWhole")
    partition = keys.partition_of("ann", service.settings.partitions)
    store.command("DEL", keys.whole(partition))
    prometheus.wait_for("LedgerPartitionNotWhole", firing=True)
    service.command("rebuild")
    prometheus.wait_for("LedgerPartitionNotWhole", firing=False)
    service.verify()
