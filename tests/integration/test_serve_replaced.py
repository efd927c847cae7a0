"""What can go wrong while a service is replaced, and who asks for it: signals, terminals, systemd, other processes."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import termios
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from ops.server.replacing.handover import FOLDER
from ops.server.supervisor import MOST_DRAINING
from projections.accounts.credentials import Cipher
from tests.support.processes.services import Service, servers_of
from tests.support.stores.servers import end_with_parent, wait_until

KEY = Cipher.make_key()
ON_AS_BEFORE = "not replaced, and served on as before"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder."""
    return tmp_path / "data"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test enters."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that goes on, whatever becomes of its replacements; its store is the same in the end."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "key").write_text(KEY)
    with Service(folder / "data", grace="1s", LEDGER_CREDENTIAL_KEY_FILE=str(folder / "key")) as service:
        (store,) = servers_of(service.data_dir)
        yield service
        assert servers_of(service.data_dir) == [store]
        assert "Traceback" not in service.log.read_text()


def hang_up(service: Service) -> None:
    """Ask for a replacement, and wait for it."""
    before = service.said("msg=replaced")
    service.signal(signal.SIGHUP)
    wait_until(lambda: service.said("msg=replaced") > before, f"a replacement:\n{service.log.read_text()}", 30)


def held_in_replacement(service: Service) -> psutil.Process:
    """Ask for a replacement, and return the new arbiter, stopped before it is ready."""
    before = service.arbiters
    service.signal(signal.SIGHUP)
    wait_until(lambda: len(service.arbiters) > len(before), "a second arbiter")
    new = service.arbiters[-1]
    new.suspend()
    return new


def successor_of(service: Service, stack: ExitStack) -> Service:
    """Have another process take over, and return it once it holds the sockets, with its arbiter stopped."""
    successor = Service(service.data_dir)
    stack.callback(successor.end)
    before = service.said("about to take over")
    successor.spawn("--replace")
    wait_until(lambda: service.said("about to take over") > before, "a successor")
    wait_until(lambda: successor.arbiters, "its arbiter")
    successor.arbiter.suspend()
    return successor


def test_settings_that_do_not_fit_leave_the_old_ones_in_place(service: Service) -> None:
    key = service.data_dir.with_name("key")
    before, told = service.arbiters, service.said(ON_AS_BEFORE)
    key.write_text("no key")
    service.signal(signal.SIGHUP)
    wait_until(lambda: service.said(ON_AS_BEFORE) > told, "a refusal")
    assert "LEDGER_CREDENTIAL_KEY: " in service.log.read_text().split(ON_AS_BEFORE)[-1]
    assert service.arbiters == before
    key.write_text(KEY)
    hang_up(service)
    assert httpx.get(service.url).status_code == 200


def test_a_replacement_that_is_killed_leaves_the_service_as_it_was(service: Service) -> None:
    wait_until(lambda: len(service.arbiters) == 1, "the ends of others")
    before, told = service.arbiters, service.said(ON_AS_BEFORE)
    held_in_replacement(service).kill()
    wait_until(lambda: service.said(ON_AS_BEFORE) > told, "it to be told")
    assert service.arbiters == before
    assert httpx.get(service.url).status_code == 200


def test_one_replacement_at_a_time(service: Service, stack: ExitStack) -> None:
    replaced = service.said("msg=replaced")
    new = held_in_replacement(service)
    other = Service(service.data_dir)
    stack.callback(other.end)
    assert other.spawn("--replace").wait(30) == 1
    assert "under way already" in other.log.read_text()
    service.signal(signal.SIGHUP)
    new.resume()
    wait_until(lambda: service.said("msg=replaced") == replaced + 2, "both replacements", 30)
    wait_until(lambda: len(service.arbiters) == 1, "the others' ends")
    assert httpx.get(service.url).status_code == 200


def test_a_successor_that_is_killed_leaves_the_service_as_it_was(service: Service, stack: ExitStack) -> None:
    told = service.said(ON_AS_BEFORE)
    successor = successor_of(service, stack)
    successor.arbiter.kill()
    assert successor.wait() == 1
    wait_until(lambda: service.said(ON_AS_BEFORE) > told, "it to be told")
    assert httpx.get(service.url).status_code == 200


def test_an_idle_connection_gets_one_more_answer_that_says_it_is_the_last(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as idle:
        before = service.arbiters[-1]
        answers = idle.makefile("rb")

        def ask() -> tuple[int, bool]:
            idle.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            lines = list(iter(answers.readline, b"\r\n"))
            while size := int(answers.readline(), 16):
                answers.read(size + 2)
            answers.readline()
            return int(lines[0].split()[1]), b"connection: close\r\n" in lines

        assert ask() == (200, False)
        hang_up(service)
        assert before.is_running()
        assert ask() == (200, True)
        assert answers.read() == b""
        wait_until(lambda: not before.is_running(), "the end of the old arbiter")


@pytest.mark.soak
def test_a_parent_that_is_killed_in_mid_replacement_leaves_the_store(data_dir: Path, stack: ExitStack) -> None:
    with Service(data_dir, grace="1s") as service:
        (store,) = servers_of(data_dir)
        new = held_in_replacement(service)
        service.processes()
        service.parent.kill()
        new.resume()
        service.wait()
        service.wait_ended()
        again = stack.enter_context(Service(data_dir, port=str(service.port)))
        assert httpx.get(again.url).status_code == 200
        assert servers_of(data_dir) == [store]


@pytest.mark.soak
def test_a_successor_goes_on_where_its_predecessor_was_killed(data_dir: Path, stack: ExitStack) -> None:
    with Service(data_dir, grace="1s") as service:
        (store,) = servers_of(data_dir)
        successor = successor_of(service, stack)
        service.processes()
        service.parent.kill()
        service.wait()
        successor.arbiter.resume()
        successor.wait_ready()
        assert successor.url == service.url
        assert httpx.get(service.url).status_code == 200
        service.wait_ended()
        assert servers_of(data_dir) == [store]
        assert successor.stop() == 0
        assert servers_of(data_dir) == []
        assert list((data_dir / FOLDER).iterdir()) == []


@pytest.mark.soak
def test_where_none_runs_a_replacement_is_a_start(data_dir: Path) -> None:
    (data_dir / FOLDER).mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as door:  # left behind by one that was killed
        door.bind(str(data_dir / FOLDER / "127.0.0.1-2283.sock"))
    service = Service(data_dir)
    try:
        assert httpx.get(service.start("--replace").url).status_code == 200
    finally:
        service.kill()


@pytest.mark.soak
def test_old_generations_are_bounded_and_end_with_the_drain(data_dir: Path) -> None:
    with Service(data_dir, drain="600s", grace="1s") as service, ExitStack() as streams:
        for _ in range(MOST_DRAINING + 1):
            reader = streams.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            reader.sendall(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
            assert reader.recv(1)
            hang_up(service)
        wait_until(lambda: len(service.arbiters) == MOST_DRAINING + 1, "the oldest one's end")
        service.processes()
        assert service.stop() == 0
        service.wait_ended()
    with Service(data_dir, drain="1s", grace="1s") as service:
        with socket.create_connection(("127.0.0.1", service.port)) as reader:
            reader.sendall(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
            assert reader.recv(1)
            hang_up(service)
            wait_until(lambda: len(service.arbiters) == 1, "the end of the drain")


def test_the_end_of_its_terminal_stops_it_and_a_hang_up_there_does_not(data_dir: Path) -> None:
    ours, its = pty.openpty()

    def take_terminal() -> None:
        end_with_parent()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    service = Service(data_dir)
    try:
        service.start(stdin=its, preexec_fn=take_terminal)
        os.close(its)
        hang_up(service)
        service.processes()
        os.close(ours)
        assert service.wait() == 0
        assert service.said("signal=SIGHUP")
        service.wait_ended()
    finally:
        service.kill()


def test_sockets_of_systemd_are_served_and_it_is_told_how_things_are(data_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(30)
        service = Service(data_dir, port="1", NOTIFY_SOCKET=str(tmp_path / "notify"))
        fd = listener.fileno()
        try:
            given = f"exec 3<&{fd}; export LISTEN_PID=$$ LISTEN_FDS=1;"
            service.start(before=given, pass_fds=(fd,))
            assert service.port == listener.getsockname()[1]
            assert httpx.get(service.url).status_code == 200
            assert b"STATUS=" in told.recv(1000)
            assert told.recv(1000).startswith(b"READY=1\nMAINPID=%d\n" % service.parent.pid)
            hang_up(service)
            assert told.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert told.recv(1000).startswith(b"READY=1\n")
            other = Service(data_dir)
            assert other.spawn("--replace").wait(30) == 1
            assert "systemctl reload" in other.log.read_text()
            assert service.stop() == 0
            assert told.recv(1000).startswith(b"STOPPING=1")
        finally:
            service.kill()
