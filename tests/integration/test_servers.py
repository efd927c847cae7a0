"""The test servers themselves: what other tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.stores.postgres_server import PostgresServer
from tests.support.stores.servers import (
    RedisCluster,
    RedisServer,
    killed_at_end,
    process_alive,
    valkey_binary,
    wait_until,
)


def connect(url: str) -> redis.Redis | redis.RedisCluster:
    if url.startswith("redis+cluster://"):
        return redis.RedisCluster.from_url(url.replace("redis+cluster", "redis"))
    return redis.Redis.from_url(url)


@pytest.mark.parametrize("round_number", [1, 2])
def test_shared_server_is_empty_at_the_start_of_each_test(store_url: str, round_number: int) -> None:
    client = connect(store_url)
    assert client.get("left over") is None
    client.set("left over", round_number)


def test_durable_server_keeps_answered_writes_and_its_address_over_kill(valkey_server: RedisServer) -> None:
    url = valkey_server.url
    valkey_server.command("SET", "k", "v")
    valkey_server.kill()
    with pytest.raises(redis.ConnectionError):
        valkey_server.command("GET", "k")
    valkey_server.start()
    assert (valkey_server.url, valkey_server.command("GET", "k")) == (url, b"v")


def test_paused_server_answers_after_resume(redis7_server: RedisServer) -> None:
    with redis.Redis(port=redis7_server.port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)) as client:
        redis7_server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        redis7_server.resume()
        assert client.ping()


def test_unix_socket_server(tmp_path: Path) -> None:
    with RedisServer(valkey_binary(), tmp_path, unix=True) as server:
        assert redis.Redis.from_url(server.url).ping()


def test_cluster_forms_quickly_and_heals(tmp_path: Path) -> None:
    cluster = RedisCluster(valkey_binary(), tmp_path, durable=True)
    began = time.monotonic()
    with cluster:
        assert time.monotonic() - began < 5
        node = cluster.node_of("{p17}:stream")
        node.command("SET", "{p17}:stream", "v")
        node.kill()
        node.start()
        wait_until(cluster.healthy, "the cluster to heal")
        assert node.command("GET", "{p17}:stream") == b"v"


@pytest.mark.skipif(sys.platform != "linux", reason="parent death signals are Linux's")
def test_servers_end_with_a_killed_test_process(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; from tests.support.stores.servers import *\n"
        "server = RedisServer(valkey_binary(), pathlib.Path(sys.argv[1])).start()\n"
        "print(server.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with killed_at_end(process):
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process_alive(pid)
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not process_alive(pid), "the server to end")


@pytest.mark.skipif(sys.platform != "linux", reason="the watchdog looks into /proc")
def test_watchdog_ends_what_a_run_leaves(tmp_path: Path) -> None:
    left = subprocess.Popen(["sleep", "60"], cwd=tmp_path, start_new_session=True)
    other = subprocess.Popen(["sleep", "60"], cwd=tmp_path.parent, start_new_session=True)
    with killed_at_end(left), killed_at_end(other):
        script = Path(__file__).parent.parent / "support" / "watchdog.py"
        watchdog = subprocess.Popen([sys.executable, "-I", str(script), str(tmp_path)], stdin=subprocess.PIPE)
        assert left.poll() is None
        watchdog.communicate(timeout=10)
        assert left.wait(5) == -signal.SIGKILL
        assert other.poll() is None


@pytest.mark.parametrize("round_number", [1, 2])
def test_a_database_is_empty_at_the_start_of_each_test(
    postgres: PostgresServer, postgres_url: str, round_number: int
) -> None:
    database = postgres_url.rpartition("/")[2]
    assert postgres.psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database) == "0"
    postgres.psql(f"CREATE TABLE left_over AS SELECT {round_number}", database)


def test_postgres_keeps_data_and_address_over_kill_and_stop(postgres_server: PostgresServer) -> None:
    postgres_server.psql("CREATE TABLE kept AS SELECT 1 AS n; CHECKPOINT")
    port = postgres_server.port
    for end in (postgres_server.kill, postgres_server.stop):
        end()
        with pytest.raises(RuntimeError, match=r"No such file or directory"):
            postgres_server.psql("SELECT 1")
        assert postgres_server.start().port == port
        assert postgres_server.psql("SELECT n FROM kept") == "1"


@pytest.mark.usefixtures("postgres")  # skips where there is none
@pytest.mark.skipif(sys.platform != "linux", reason="parent death signal and keeper")
def test_postgres_goes_with_a_killed_test_process(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tests.support.stores.postgres_server import PostgresServer\n"
        "server = PostgresServer(Path(sys.argv[1])).start(); print(server.process.pid, server.home, flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with killed_at_end(process):
        assert process.stdout is not None
        pid, home = process.stdout.readline().split()
        assert process_alive(int(pid))
        process.kill()
        wait_until(lambda: not process_alive(int(pid)), "the server to follow")
        wait_until(lambda: not Path(home).exists(), "its folder to go")
