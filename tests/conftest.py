"""Servers as fixtures. The session-scoped ones are shared by the tests of one xdist worker and emptied before each.

| fixture | gives |
|---|---|
| `valkey_url`, `redis7_url`, `cluster_url` | the address of a shared, empty server |
| `store_url` | each of the three in turn |
| `valkey_server`, `redis7_server`, `cluster` | the test's own, durable, to be killed, paused and started again |
| `postgres` | the shared PostgreSQL |
| `postgres_url` | the address of an empty database on it, the test's own |
| `postgres_server` | a PostgreSQL of the test alone, to be killed, stopped and started again |
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres_server import PostgresServer, postgres_binaries
from tests.servers import RedisCluster, RedisServer, redis7_binary, valkey_binary


@pytest.fixture(scope="session", autouse=True)
def _watchdog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have embedded servers that outlive the tests ended, also when the test process is killed."""
    script = Path(__file__).with_name("watchdog.py")
    process = subprocess.Popen(
        [sys.executable, "-I", str(script), str(tmp_path_factory.getbasetemp())],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    yield
    process.communicate(timeout=30)


def _redis7() -> str:
    binary = redis7_binary()
    if binary is None:
        pytest.skip("redis-server 7 is not installed")
    return binary


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Valkey 9 that tests of this worker share; not durable."""
    with RedisServer(valkey_binary(), tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_redis7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis 7 that tests of this worker share; not durable."""
    with RedisServer(_redis7(), tmp_path_factory.mktemp("redis7")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """The cluster that tests of this worker share; not durable."""
    with RedisCluster(valkey_binary(), tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def valkey_url(shared_valkey: RedisServer) -> str:
    """The address of an empty Valkey 9."""
    shared_valkey.flush()
    return shared_valkey.url


@pytest.fixture
def redis7_url(shared_redis7: RedisServer) -> str:
    """The address of an empty Redis 7."""
    shared_redis7.flush()
    return shared_redis7.url


@pytest.fixture
def cluster_url(shared_cluster: RedisCluster) -> str:
    """The address of an empty three-node cluster."""
    shared_cluster.flush()
    return shared_cluster.url


@pytest.fixture(params=["valkey", "redis7", "cluster"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The address of an empty server, of each kind in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def valkey_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A durable Valkey 9 of this test alone."""
    with RedisServer(valkey_binary(), tmp_path / "valkey", durable=True) as server:
        yield server


@pytest.fixture
def redis7_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A durable Redis 7 of this test alone."""
    with RedisServer(_redis7(), tmp_path / "redis7", durable=True) as server:
        yield server


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """A durable three-node cluster of this test alone."""
    with RedisCluster(valkey_binary(), tmp_path / "cluster", durable=True) as cluster:
        yield cluster


def _postgres_or_skip() -> None:
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL 15 or later is not installed")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """The PostgreSQL that tests of this worker share; each takes a database of its own."""
    _postgres_or_skip()
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The address of an empty database, removed behind the test."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def postgres_server(tmp_path: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL of this test alone."""
    _postgres_or_skip()
    with PostgresServer(tmp_path / "postgres") as server:
        yield server
