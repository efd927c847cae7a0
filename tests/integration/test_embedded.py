"""The embedded server: started once, found again, kept alive, and stopped by its last user."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import redis

import ops.embedded.process
import ops.embedded.server
from ledger.errors import StoreUnavailable
from ops.embedded.process import Peer
from ops.embedded.server import EmbeddedServer, EmbeddedServerError, embedded_server
from tests.support.processes.services import servers_of
from tests.support.stores.servers import die_with_parent, process_alive, wait_until

JOIN = """
import sys, pathlib, redis
from ops.embedded.server import embedded_server
with embedded_server(pathlib.Path(sys.argv[1])) as url:
    print(redis.Redis.from_url(url).info("server")["run_id"], flush=True)
    sys.stdin.read()
"""


def join_in_process(data_dir: Path) -> subprocess.Popen[str]:
    """Join from a process of its own, which leaves when its stdin closes."""
    return subprocess.Popen(
        [sys.executable, "-c", JOIN, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )


def run_id(url: str) -> str:
    with closing(redis.Redis.from_url(url)) as client:
        return str(client.info("server")["run_id"])


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data folder; a server that a test leaves there is killed."""
    folder = tmp_path / "data"
    yield folder
    for process in servers_of(folder):
        process.kill()
        process.wait(10)


def test_it_is_durable_and_reachable_by_its_owner_only(data_dir: Path) -> None:
    with embedded_server(data_dir) as url, closing(redis.Redis.from_url(url)) as client:
        expected = {
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "maxmemory": "0",
            "save": "",
            "port": "0",
        }
        assert {name: client.config_get(name)[name] for name in expected} == expected
        (server,) = servers_of(data_dir)
        assert not [c for c in server.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert os.getsid(server.pid) == server.pid
        client.set("k", "v")
        modes = {p: stat.S_IMODE(p.lstat().st_mode) & 0o077 for p in [data_dir, *data_dir.rglob("*")] if p.is_dir()}
        assert set(modes.values()) == {0}
        assert stat.S_IMODE((data_dir / "valkey/valkey.sock").stat().st_mode) == 0o600
        assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in data_dir.rglob("*.aof"))


def test_the_last_one_out_stops_it_and_the_next_one_finds_the_data(data_dir: Path) -> None:
    first, second = EmbeddedServer(data_dir), EmbeddedServer(data_dir)
    url = first.join()
    assert second.join() == url
    with closing(redis.Redis.from_url(url)) as client:
        client.set("k", "v")
        (server,) = servers_of(data_dir)
        first.leave()
        first.leave()
        assert client.get("k") == b"v"
        second.leave()
    assert not process_alive(server.pid)
    assert not (data_dir / "valkey/valkey.sock").exists()
    with embedded_server(data_dir) as url, closing(redis.Redis.from_url(url)) as client:
        assert client.get("k") == b"v"


def test_it_survives_a_killed_user_and_is_found_again(data_dir: Path) -> None:
    user = join_in_process(data_dir)
    assert user.stdout is not None
    first_run = user.stdout.readline().strip()
    user.kill()
    user.communicate()
    (server,) = servers_of(data_dir)
    with embedded_server(data_dir) as url:
        assert run_id(url) == first_run
    assert not process_alive(server.pid)


@pytest.mark.parametrize("left_over", ["pid and socket", "socket only", "a file in the socket's place"])
def test_what_a_crash_leaves_is_no_obstacle_and_a_recycled_pid_is_not_signalled(data_dir: Path, left_over: str) -> None:
    with embedded_server(data_dir) as url, closing(redis.Redis.from_url(url)) as client:
        client.set("k", "v")
        (server,) = servers_of(data_dir)
        server.kill()
        server.wait(10)
    folder = data_dir / "valkey"
    assert (folder / "valkey.sock").exists()
    innocent = subprocess.Popen(["sleep", "60"], preexec_fn=die_with_parent)
    try:
        match left_over:
            case "pid and socket":
                (folder / "valkey.pid").write_text(f"{innocent.pid}\n")
            case "socket only":
                (folder / "valkey.pid").unlink()
            case _:
                (folder / "valkey.sock").unlink()
                (folder / "valkey.sock").write_text("")
        with embedded_server(data_dir) as url, closing(redis.Redis.from_url(url)) as client:
            assert client.get("k") == b"v"
        assert servers_of(data_dir) == []
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.soak)])
def test_of_five_processes_that_start_together_one_starts_the_server(data_dir: Path, rounds: int) -> None:
    for _ in range(rounds):
        users = [join_in_process(data_dir) for _ in range(5)]
        try:
            runs = [user.stdout.readline().strip() for user in users if user.stdout is not None]
            assert len(set(runs)) == 1
            assert all(runs)
            (server,) = servers_of(data_dir)
            for user in users:
                assert process_alive(server.pid)
                user.communicate()
                assert user.returncode == 0
            assert servers_of(data_dir) == []
        finally:
            for user in users:
                user.kill()
                user.communicate()


def test_joining_and_leaving_at_once_never_meets_two_or_no_servers(data_dir: Path) -> None:
    script = (
        "import sys, pathlib, redis\nfrom ops.embedded.server import embedded_server\n"
        "for i in range(15):\n"
        "  with embedded_server(pathlib.Path(sys.argv[1])) as url:\n"
        "    redis.Redis.from_url(url).incr('joined')\n"
    )
    users = [
        subprocess.Popen([sys.executable, "-c", script, str(data_dir)], preexec_fn=die_with_parent) for _ in range(4)
    ]
    try:
        assert [user.wait(60) for user in users] == [0] * 4
    finally:
        for user in users:
            user.kill()
            user.wait()
    assert servers_of(data_dir) == []
    with embedded_server(data_dir) as url, closing(redis.Redis.from_url(url)) as client:
        assert client.get("joined") == b"60"


def test_a_watched_server_is_started_again_within_a_second(data_dir: Path) -> None:
    both = EmbeddedServer(data_dir), EmbeddedServer(data_dir)
    for server in both:
        server.join()
        server.watch()
    url = both[0].url
    try:
        for round_number in range(3):
            with closing(redis.Redis.from_url(url)) as client:
                client.set("k", round_number)
            (process,) = servers_of(data_dir)
            process.kill()
            began = time.monotonic()
            wait_until(lambda: _answer(url) == str(round_number).encode(), "the server to be back")  # noqa: B023
            assert time.monotonic() - began < 2
            assert len(servers_of(data_dir)) == 1
    finally:
        for server in both:
            server.leave()
    assert servers_of(data_dir) == []


def _answer(url: str) -> object:
    try:
        with closing(redis.Redis.from_url(url)) as client:
            return client.get("k")
    except redis.RedisError:
        return None


def test_a_path_too_long_for_a_socket_moves_the_socket(tmp_path: Path) -> None:
    data_dir = tmp_path / ("x" * 120)
    server = EmbeddedServer(data_dir)
    url = server.join()
    try:
        socket_path = server.files.socket
        assert len(os.fsencode(socket_path)) <= 100
        assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700
        with embedded_server(data_dir) as other:
            assert other == url
    finally:
        server.leave()
    assert servers_of(data_dir) == []
    assert not socket_path.parent.exists()
    socket_path.parent.mkdir()
    socket_path.parent.chmod(0o777)
    try:
        with pytest.raises(EmbeddedServerError, match="not a folder of ours alone"):
            EmbeddedServer(data_dir).join()
    finally:
        socket_path.parent.rmdir()


def test_a_path_with_odd_characters_works(tmp_path: Path) -> None:
    data_dir = tmp_path / "a b%20'\"ü"
    with embedded_server(data_dir) as url, closing(redis.Redis.from_url(url)) as client:
        assert client.ping()
        assert len(servers_of(data_dir)) == 1


def test_no_second_server_starts_where_one_works_unseen(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.embedded.server, "ANSWER_TIMEOUT_S", 0.3)
    first = EmbeddedServer(data_dir)
    first.join()
    (server,) = servers_of(data_dir)
    (data_dir / "valkey/valkey.sock").unlink()
    with pytest.raises(EmbeddedServerError, match=rf"does not answer.* {server.pid} "):
        EmbeddedServer(data_dir).join()
    assert servers_of(data_dir) == [server]
    server.terminate()
    server.wait(10)
    with embedded_server(data_dir) as url:
        assert run_id(url)
    first.leave()


def test_a_hanging_server_is_ended_by_force(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.embedded.server, "SHUTDOWN_TIMEOUT_S", 0.3)
    user = EmbeddedServer(data_dir)
    user.join()
    (server,) = servers_of(data_dir)
    server.suspend()
    user.leave()
    assert not process_alive(server.pid)


def test_a_hanging_server_is_not_waited_for_for_ever(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.embedded.process, "START_TIMEOUT_S", 0.5)
    monkeypatch.setattr(ops.embedded.process, "ANSWER_TIMEOUT_S", 0.2)
    user = EmbeddedServer(data_dir)
    user.join()
    (server,) = servers_of(data_dir)
    server.suspend()
    with pytest.raises(EmbeddedServerError, match="does not answer"):
        EmbeddedServer(data_dir).join()
    server.resume()
    user.leave()


def test_a_long_load_is_waited_for_and_its_progress_told(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.embedded.process, "REPORT_EVERY_S", 0.05)
    with embedded_server(data_dir):
        pass
    (log,) = data_dir.rglob("*.incr.aof")
    log.write_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n" * 1_500_000)
    told: list[str] = []
    with embedded_server(data_dir, told.append) as url:
        assert _answer(url) == b"v"
    assert told
    assert all(line.startswith("Loading the ledger: ") for line in told)


def test_a_load_can_be_given_up(data_dir: Path) -> None:
    with embedded_server(data_dir):
        pass
    (log,) = data_dir.rglob("*.incr.aof")
    log.write_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n" * 1_500_000)
    with pytest.raises(EmbeddedServerError, match="Stopped while"):
        EmbeddedServer(data_dir, cancelled=lambda: True).join()
    assert servers_of(data_dir) == []


def test_a_write_cut_off_by_a_crash_is_no_obstacle(data_dir: Path) -> None:
    with embedded_server(data_dir) as url, closing(redis.Redis.from_url(url)) as client:
        client.set("k", "v")
    (log,) = data_dir.rglob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nhal")
    with embedded_server(data_dir) as url:
        assert _answer(url) == b"v"


def test_a_damaged_file_is_told_with_what_the_server_says(data_dir: Path) -> None:
    with embedded_server(data_dir) as url, closing(redis.Redis.from_url(url)) as client:
        client.set("k", "v")
    (log,) = data_dir.rglob("*.incr.aof")
    log.write_bytes(b"this is no append-only file\r\n" + log.read_bytes())
    with pytest.raises(EmbeddedServerError, match=r"(?i)bad file format"):
        EmbeddedServer(data_dir).join()
    assert servers_of(data_dir) == []


def test_a_folder_of_somebody_else_is_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with embedded_server(data_dir):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(EmbeddedServerError, match=r"belongs to .*--data-dir"):
        EmbeddedServer(data_dir).join()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedServerError, match=r"Cannot use the data folder.*Not a directory"):
        EmbeddedServer(tmp_path / "file" / "data").join()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "data").mkdir()
    monkeypatch.setattr("ops.embedded.files.os.open", full)
    with pytest.raises(EmbeddedServerError, match="No space left on device"):
        EmbeddedServer(tmp_path / "data").join()


def test_why_the_server_ended_is_told_in_place_of_a_lost_connection(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = StoreUnavailable("the connection to the store was lost", maybe_done=True)
    with pytest.raises(StoreUnavailable, match="was lost"), embedded_server(data_dir):
        raise lost

    def full(_: object) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=3, f_frsize=4096)

    with pytest.raises(EmbeddedServerError, match=r"ended \(killed by SIGKILL\)") as caught:  # noqa: PT012
        with embedded_server(data_dir):
            [server] = servers_of(data_dir)
            server.kill()
            wait_until(lambda: not process_alive(server.pid), "its end")
            monkeypatch.setattr("ops.embedded.server.os.statvfs", full)
            raise lost
    assert f"Only 12 KiB are free on the disk of {data_dir}" in str(caught.value)


def test_a_platform_without_a_binary_is_told_of_redis(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EmbeddedServerError, match="--redis URL"):
        EmbeddedServer(data_dir).join()


def test_the_process_behind_a_socket_is_known_from_the_kernel(data_dir: Path) -> None:
    user = EmbeddedServer(data_dir)
    user.join()
    try:
        (server,) = servers_of(data_dir)
        peer = Peer.connect(user.files.socket)
        assert peer is not None
        assert (peer.pid, peer.gone) == (server.pid, False)
        peer.signal(signal.SIGKILL)
        assert peer.wait_ended(10)
        assert peer.gone
        peer.signal(signal.SIGKILL)  # its id may be another's by now: nothing is sent
        peer.close()
        assert Peer.connect(user.files.socket) is None
    finally:
        user.leave()
