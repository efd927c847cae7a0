"""Servers as fixtures. The session-scoped ones are shared by the tests of one xdist worker and emptied before each.

| fixture | gives |
|---|---|
| `valkey_url`, `redis7_url`, `cluster_url` | the address of a shared, empty server |
| `store_url` | each of the three in turn |
| `valkey_server`, `redis7_server`, `cluster` | the test's own, durable, to be killed, paused and started again |
| `s3` | the shared S3 server, on which a test makes buckets of its own |
| `postgres` | the shared PostgreSQL |
| `postgres_url` | the address of an empty database on it, the test's own |
| `postgres_server` | a PostgreSQL of the test alone, to be killed, stopped and started again |

Tests over every kind of store run on Valkey in `make test` and on the others in `make soak`; those marked `each_store`,
where the kind can matter, run on all in both. With `--store KIND` all run on that kind alone (`make stores`).
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

import httpx._transports.default
import pytest
import redis.utils
from hypothesis import HealthCheck, settings

from tests.support.stores.as_run import KINDS, AsRun
from tests.support.stores.postgres_server import PostgresServer, postgres_binaries
from tests.support.stores.s3_server import S3Server
from tests.support.stores.servers import GIVEN_SERVER, RedisCluster, RedisServer, redis7_binary, valkey_binary

STORES: Final = ("store", "real_store", "store_url")
"""The fixtures that give each kind of store in turn."""
OTHER_STORES: Final = {"redis7", "cluster", "fake"}

# The same examples on every machine and in every run; `--hypothesis-profile=soak` takes more of them.
settings.register_profile(
    "syncledger",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("soak", settings.get_profile("syncledger"), max_examples=1000)
settings.load_profile("syncledger")

# redis-py reads its own version from disk for every connection; tests open thousands.
redis.utils.get_lib_version = cache(redis.utils.get_lib_version)
# So does each application with ours.
importlib.metadata.version = cache(importlib.metadata.version)
# httpx reads the authorities that everybody trusts for every client; nothing here is signed by one of them.
vars(httpx._transports.default)["create_ssl_context"] = cache(httpx.create_ssl_context)


def pytest_xdist_auto_num_workers() -> int:
    """Run twice as many tests at once as there are cores, and one: most of them wait for servers, kills and clocks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 * cores + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the one kind of store to run on, and the server program that is to be its."""
    parser.addoption("--store", choices=sorted(KINDS), help="run what runs on every kind of store on this one alone")
    parser.addoption("--server", metavar="PROGRAM", help="the redis-server or valkey-server, in place of the wheel's")


def pytest_configure(config: pytest.Config) -> None:
    """Have the given server program used, by the processes of this run too."""
    if given := config.getoption("--server"):
        os.environ[GIVEN_SERVER] = str(Path(given).absolute())


def pytest_collection(session: pytest.Session) -> None:
    """In a run of all tests, have each worker begin with other modules: what one has compiled the others read."""
    gc.disable()  # all that is made here stays
    of_worker = getattr(session.config, "workerinput", None)
    if of_worker is None or session.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    paths = sorted(Path(__file__).parent.rglob("test_*.py"))
    first = int(of_worker["workerid"].removeprefix("gw")) * len(paths) // of_worker["workercount"]
    for path in (*paths[first:], *paths[:first]):
        with suppress(Exception, pytest.skip.Exception):  # it is told when the module is collected
            importlib.import_module(".".join(path.relative_to(session.config.rootpath).with_suffix("").parts))


def pytest_collection_finish() -> None:
    """Keep what stays to the end, the tests themselves, from being looked through again and again for garbage."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the other kinds of stores to the soak where nothing depends on the kind, and the other event loop."""
    if config.getoption("--store"):
        _keep_one_kind(config, items)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            other_store = any(item.callspec.params.get(name) in OTHER_STORES for name in STORES)
            if (other_store and not item.get_closest_marker("each_store")) or item.callspec.id.startswith("asyncio"):
                item.add_marker(pytest.mark.soak)


def _keep_one_kind(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what uses no shared store, and other kinds: what runs on the first one runs on what was asked for."""
    kept: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        uses = isinstance(item, pytest.Function) and {*STORES, "valkey_url"} & set(item.fixturenames)
        other = any(params.get(name) in OTHER_STORES for name in STORES)
        (kept if uses and not other else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = kept


@pytest.fixture(scope="session", autouse=True)
def _watchdog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have embedded servers that outlive the tests ended, also when the test process is killed."""
    script = Path(__file__).parent / "support" / "watchdog.py"
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


@pytest.fixture(scope="session")
def shared_as_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsRun]:
    """The store of the kind that `--store` names, which tests of this worker share."""
    kind = request.config.getoption("--store")
    with KINDS[kind](valkey_binary(), tmp_path_factory.mktemp(kind)) as store:
        yield store


@pytest.fixture
def valkey_url(request: pytest.FixtureRequest) -> str:
    """The address of an empty Valkey 9, or of a store of the kind that `--store` names."""
    wanted = "shared_as_run" if request.config.getoption("--store") else "shared_valkey"
    store: AsRun = request.getfixturevalue(wanted)
    store.flush()
    return store.url


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


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The S3 server that tests of this worker share; each makes buckets of its own."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


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
