"""The service as processes: how it starts, answers, shares its connections, and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
import redis

from ops.opening.known_ledgers import FILE
from tests.support.processes.services import Service, servers_of
from tests.support.stores.servers import RedisServer, free_port, valkey_binary, wait_until


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder."""
    return tmp_path / "data"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test enters."""
    with ExitStack() as stack:
        yield stack


async def worker_of(url: str, held: list[asyncio.StreamWriter]) -> int:
    """Open a connection, keep it in `held`, ask on it once, and return the worker that answered."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    held.append(writer)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await reader.readline()
    return int((await reader.readline()).split()[0])


async def shares(url: str, connections: int) -> Counter[int]:
    """Open many connections at once and count those of each worker."""
    held: list[asyncio.StreamWriter] = []
    try:
        return Counter(await asyncio.gather(*(worker_of(url, held) for _ in range(connections))))
    finally:
        for writer in held:
            writer.close()


def test_it_answers_and_ends_in_order(data_dir: Path) -> None:
    with Service(data_dir, workers="2") as service:
        pid, store, _ = httpx.get(service.url).text.split()
        assert int(pid) in {worker.pid for worker in service.workers}
        assert store.startswith("unix://")
        assert len(servers_of(data_dir)) == 1
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 5
        service.wait_ended()
        assert servers_of(data_dir) == []
        log = service.log.read_text()
        assert "msg=ready" in log
        assert "Traceback" not in log
        assert all(line.startswith("ts=") for line in log.splitlines())


async def test_two_workers_share_64_connections_evenly(data_dir: Path) -> None:
    with Service(data_dir, workers="2") as service:
        for _ in range(5):
            counts = await shares(service.url, 64)
            assert len(counts) == 2
            assert min(counts.values()) >= 24
            await asyncio.sleep(0.2)


async def test_a_new_worker_gets_the_connections_until_it_has_its_share(data_dir: Path) -> None:
    with Service(data_dir, workers="2") as service:
        held: list[asyncio.StreamWriter] = []
        before = [await worker_of(service.url, held) for _ in range(20)]
        victim, survivor = before[0], next(pid for pid in before if pid != before[0])
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(service.workers) == 2 and victim not in {w.pid for w in service.workers}, "a new worker")
        await asyncio.sleep(1)
        after = Counter([await worker_of(service.url, held) for _ in range(10)])
        assert after[survivor] <= 4
        for writer in held:
            writer.close()


async def test_a_blocked_worker_does_not_hold_up_the_others(data_dir: Path) -> None:
    with Service(data_dir, workers="2") as service:
        async with httpx.AsyncClient(timeout=30) as client:
            blocked = asyncio.create_task(client.get(f"{service.url}/block?s=4"))
            await asyncio.sleep(0.3)
            began = time.monotonic()
            held: list[asyncio.StreamWriter] = []
            assert len({await worker_of(service.url, held) for _ in range(10)}) == 1
            assert time.monotonic() - began < 2
            await blocked
            for writer in held:
                writer.close()


async def test_a_stop_lets_open_streams_go_on_and_breaks_them_within_the_grace(data_dir: Path) -> None:
    with Service(data_dir, workers="2", grace="2s") as service:
        async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", f"{service.url}/stream") as response:
            chunks = response.aiter_raw()
            await anext(chunks)
            service.processes()
            began = time.monotonic()
            service.signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in chunks:
                    pass
            assert time.monotonic() - began > 0.9
        assert service.wait() == 0
        assert time.monotonic() - began < 3  # the grace, and patience with a busy machine
        service.wait_ended()
        assert servers_of(data_dir) == []
        assert "Traceback" not in service.log.read_text()


async def test_a_stop_lets_requests_end_and_refuses_new_ones(data_dir: Path) -> None:
    with Service(data_dir) as service:
        async with httpx.AsyncClient(timeout=30) as client:
            slow = asyncio.create_task(client.get(f"{service.url}/wait?s=1.5"))
            await asyncio.sleep(0.3)
            service.signal(signal.SIGTERM)
            await asyncio.sleep(0.6)
            with pytest.raises(httpx.ConnectError):
                await client.get(service.url)
            assert (await slow).status_code == 200
        assert service.wait() == 0


async def test_a_second_signal_does_not_wait_for_streams(data_dir: Path) -> None:
    with Service(data_dir, grace="60s") as service:
        async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", f"{service.url}/stream") as response:
            await anext(response.aiter_raw())
            began = time.monotonic()
            os.killpg(service.parent.pid, signal.SIGINT)
            await asyncio.sleep(0.7)
            assert service.processes()
            os.killpg(service.parent.pid, signal.SIGINT)
            assert await asyncio.to_thread(service.wait) == 0
            assert time.monotonic() - began < 6
        service.wait_ended()
        assert servers_of(data_dir) == []


@pytest.mark.parametrize(
    "delays_s", [(0.0, 0.2, 0.4), pytest.param((0.0, 0.1, 0.2, 0.3, 0.4, 0.6), marks=pytest.mark.soak)]
)
def test_a_stop_while_it_starts_leaves_nothing(data_dir: Path, delays_s: Sequence[float]) -> None:
    for delay_s in delays_s:
        service = Service(data_dir)
        process = service.spawn()
        try:
            wait_until(lambda: _handles_signals(process.pid), "the parent's handlers")  # noqa: B023
            time.sleep(delay_s)
            service.processes()
            process.terminate()
            assert process.wait(15) == 0
            service.wait_ended()
            assert servers_of(data_dir) == []
        finally:
            service.kill()


def _handles_signals(pid: int) -> bool:
    """Tell whether a process has handlers for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_a_port_in_use_is_told_in_a_line_and_leaves_no_server(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = Service(data_dir, port=str(taken.getsockname()[1]))
        assert service.spawn().wait(20) == 1
    lines = service.log.read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: Cannot listen on 127.0.0.1 port ")
    assert servers_of(data_dir) == []
    service.kill()


def test_an_address_of_another_machine_is_told_in_a_line(data_dir: Path) -> None:
    for host in ("192.0.2.1", "no-such-host.invalid"):
        service = Service(data_dir, host=host)
        assert service.spawn().wait(20) == 1
        (line,) = service.log.read_text().splitlines()
        assert line.startswith(f"error: Cannot listen on {host}")
        service.kill()


@pytest.mark.parametrize(("how", "message"), [("refuses", "other partitions"), ("fails", "no store here")])
def test_an_application_that_cannot_start_ends_the_service(data_dir: Path, how: str, message: str) -> None:
    service = Service(data_dir, SMALL_APP=how)
    try:
        assert service.spawn().wait(20) == 1
        assert message in service.log.read_text()
        assert "Traceback" not in service.log.read_text()
        assert servers_of(data_dir) == []
    finally:
        service.kill()


def test_two_services_share_a_folder_and_the_last_one_out_stops_its_server(data_dir: Path, stack: ExitStack) -> None:
    first = stack.enter_context(Service(data_dir))
    second = stack.enter_context(Service(data_dir))
    (server,) = servers_of(data_dir)
    assert httpx.get(first.url).text.split()[1] == httpx.get(second.url).text.split()[1]
    assert first.stop() == 0
    assert servers_of(data_dir) == [server]
    assert httpx.get(second.url).status_code == 200
    assert second.stop() == 0
    assert servers_of(data_dir) == []


def test_a_server_named_by_url_is_used_and_left_alone(data_dir: Path, valkey_server: RedisServer) -> None:
    with Service(data_dir, redis=valkey_server.url) as service:
        assert httpx.get(service.url).text.split()[1] == valkey_server.url
        assert servers_of(data_dir) == []
        assert sorted(file.name for file in data_dir.iterdir()) == [FILE, "serve"]
        assert service.stop() == 0
    assert valkey_server.command("PING")


def test_a_server_that_is_not_there_yet_is_waited_for(data_dir: Path, tmp_path: Path) -> None:
    server = RedisServer(valkey_binary(), tmp_path / "store")
    service = Service(data_dir, redis=f"redis://127.0.0.1:{server.port}")
    process = service.spawn()
    try:
        wait_until(lambda: "waiting for the store" in service.log.read_text(), "it to wait")
        server.start()
        assert process.stdout is not None
        assert "ready at http" in process.stdout.readline()
        assert "the store is there, after" in service.log.read_text()
        assert service.stop() == 0
    finally:
        service.kill()
        server.kill()


def test_who_waits_for_a_server_can_be_stopped_and_tells_no_password(data_dir: Path) -> None:
    service = Service(data_dir, redis=f"redis://:hunter2@127.0.0.1:{free_port()}")
    service.spawn()
    try:
        wait_until(lambda: "waiting for the store" in service.log.read_text(), "it to wait")
        assert service.stop() == 0
        assert "hunter2" not in service.log.read_text()
    finally:
        service.kill()


def test_a_wrong_password_is_not_waited_for(data_dir: Path, tmp_path: Path) -> None:
    with RedisServer(valkey_binary(), tmp_path / "store") as server:
        server.command("CONFIG", "SET", "requirepass", "hunter2")
        for given in ("", ":hunter3@"):
            service = Service(data_dir, redis=f"redis://{given}127.0.0.1:{server.port}")
            try:
                assert service.spawn().wait(20) == 1
                assert "hunter" not in service.log.read_text()
                told = service.log.read_text()
                assert "Authentication required" in told or "username-password" in told
            finally:
                service.kill()


def test_it_listens_on_several_addresses_of_both_families(data_dir: Path) -> None:
    with Service(data_dir, host="127.0.0.1, ::1") as service:
        assert service.url.startswith("http://[::1]:"), "all are printed"
        assert httpx.get(service.url).status_code == 200
        assert httpx.get(f"http://127.0.0.1:{service.port}").status_code == 200


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that is only asked."""
    with Service(tmp_path_factory.mktemp("shared") / "data") as service:
        yield service


def test_the_application_can_abort_a_connection(shared: Service) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{shared.url}/abort")
    assert httpx.get(shared.url).status_code == 200


def test_no_packet_waits_for_another(shared: Service) -> None:
    """A small answer goes out at once: with Nagle's algorithm each of these would take 40 ms."""
    with httpx.Client() as client:
        client.get(shared.url)
        began = time.monotonic()
        for _ in range(50):
            client.get(shared.url)
        assert time.monotonic() - began < 1


def test_clients_are_told_nothing_of_what_serves(shared: Service) -> None:
    headers = httpx.get(shared.url).headers
    assert "server" not in headers
    assert "date" in headers


def test_a_restart_of_the_embedded_server_keeps_the_service(data_dir: Path) -> None:
    with Service(data_dir) as service:
        url = httpx.get(service.url).text.split()[1]
        with closing(redis.Redis.from_url(url)) as client:
            client.set("k", "v")
        (server,) = servers_of(data_dir)
        server.kill()
        wait_until(lambda: _get(url) == b"v", "the server to be back", 3)
        assert httpx.get(service.url).status_code == 200


def _get(url: str) -> object:
    try:
        with closing(redis.Redis.from_url(url)) as client:
            return client.get("k")
    except redis.RedisError:
        return None
