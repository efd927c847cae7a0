"""What arrives at a worker in one moment: connections are taken, and requests read, a few in each turn; acks first.

All that is sent here is there before the event loop turns, as if it had come while the worker did something else.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from uvicorn.config import Config

import ops.server.http_protocol
from ops.server import connection_balance
from ops.server.arrivals import A_TURN, Arrivals
from ops.server.connection_balance import A_TURN as ACCEPTED_A_TURN
from ops.server.connection_balance import Acceptor, Load
from ops.server.http_protocol import HEADER_LIMIT_BYTES, MOST_PIPELINED, READ_AHEAD, LedgerHttpProtocol
from ops.server.proxies import ProxyHint
from ops.server.worker_state import WorkerState

ACK = b"POST /api/sync/ack HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


async def until(condition: Callable[[], bool]) -> None:
    """Have the loop turn until something is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - turn by turn
            await asyncio.sleep(0)


class Worker:
    """A worker's protocol behind a listener, before an application that answers `ok` and notes the paths."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.config = Config(self._answer, log_config=None, lifespan="off", ws="none", interface="asgi3")
        self.state = WorkerState(Load(1), 0, ProxyHint(lambda host: False))
        self.protocols: list[LedgerHttpProtocol] = []

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def protocol(self) -> LedgerHttpProtocol:
        """Make the protocol of one more connection."""
        self.protocols.append(LedgerHttpProtocol(self.config, self.state, {}))
        return self.protocols[-1]

    async def connected(self, port: int, count: int) -> list[socket.socket]:
        """Connect so many, until the worker has them all."""
        there = len(self.protocols) + count
        sockets = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(count)]
        await until(lambda: len(self.state.connections) >= there)
        return sockets

    async def makes_wait(self, *requests: bytes) -> None:
        """Wait until these have come, and wait."""
        await until(lambda: sum(len(protocol._waiting) for protocol in self.protocols) == sum(map(len, requests)))

    async def has_seen(self, count: int) -> None:
        """Wait until so many requests have reached the application."""
        await until(lambda: len(self.paths) >= count)


@pytest.fixture
def worker() -> Worker:
    """The worker."""
    return Worker()


@pytest.fixture
async def port(worker: Worker) -> AsyncIterator[int]:
    """Where it is served."""
    server = await asyncio.get_running_loop().create_server(worker.protocol, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def get(path: object) -> bytes:
    return f"GET /{path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


async def answer(client: socket.socket) -> bytes:
    client.setblocking(False)
    async with asyncio.timeout(10):
        return await asyncio.get_running_loop().sock_recv(client, 65536)


def close(*clients: socket.socket) -> None:
    for client in clients:
        client.close()


async def test_an_ack_goes_before_all_but_a_few_that_came_earlier_and_those_keep_their_order(
    worker: Worker, port: int
) -> None:
    *others, acks = await worker.connected(port, A_TURN * 5 + 1)
    for number, client in enumerate(others):
        client.sendall(get(number))
    acks.sendall(ACK)
    await worker.has_seen(len(others) + 1)
    assert worker.paths.index("/api/sync/ack") <= A_TURN
    worker.paths.remove("/api/sync/ack")
    assert worker.paths == [f"/{number}" for number in range(len(others))]
    assert (await answer(others[-1])).endswith(b"ok")
    close(*others, acks)


async def test_an_ack_does_not_go_before_what_its_own_client_asked_first(worker: Worker, port: int) -> None:
    worker.state.arrivals = Arrivals(0)
    (client,) = await worker.connected(port, 1)
    client.sendall(get("first"))
    await worker.makes_wait(get("first"))
    client.sendall(ACK)
    await worker.makes_wait(get("first"), ACK)
    worker.state.arrivals._most = 1
    await worker.has_seen(2)
    assert worker.paths == ["/first", "/api/sync/ack"]
    close(client)


async def test_who_leaves_while_waiting_takes_no_place(worker: Worker, port: int) -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    worker.state.arrivals = Arrivals(0)
    leaves, stays = await worker.connected(port, 2)
    for client in (leaves, stays):
        client.sendall(get("x"))
    await worker.makes_wait(get("x"), get("x"))
    leaves.close()
    await until(lambda: len(worker.state.connections) == 1)
    worker.state.arrivals._most = 1
    await worker.has_seen(1)
    assert (await answer(stays)).endswith(b"ok")
    assert len(worker.paths) == 1
    assert errors == []
    close(stays)


async def test_a_request_that_waits_is_no_slow_head_and_no_idle_connection(
    worker: Worker, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops.server.http_protocol, "HEADER_TIMEOUT_S", 0.02)
    worker.config.timeout_keep_alive = 0.02  # type: ignore[assignment] # any number will do
    (client,) = await worker.connected(port, 1)
    client.sendall(get("a"))
    await worker.has_seen(1)
    worker.state.arrivals = Arrivals(0)
    assert (await answer(client)).endswith(b"ok")
    client.sendall(get("b"))
    (late,) = await worker.connected(port, 1)
    late.sendall(get("c"))
    await asyncio.sleep(0.1)
    worker.state.arrivals._most = 2
    await worker.has_seen(3)
    assert (await answer(client)).endswith(b"ok")
    assert (await answer(late)).endswith(b"ok")
    close(client, late)


@pytest.mark.parametrize("ends", [b"\r\n", b"\r\n\r\n"])
async def test_who_waits_with_nothing_but_line_ends_is_not_kept_for_ever(
    worker: Worker, port: int, monkeypatch: pytest.MonkeyPatch, ends: bytes
) -> None:
    monkeypatch.setattr(ops.server.http_protocol, "HEADER_TIMEOUT_S", 0.02)
    worker.state.arrivals = Arrivals(0)
    (client,) = await worker.connected(port, 1)
    client.sendall(ends)
    await worker.makes_wait(ends)
    worker.state.arrivals._most = 1
    await until(lambda: not worker.state.connections)
    close(client)


async def test_no_more_requests_are_read_than_a_few_and_those_of_one_piece(worker: Worker, port: int) -> None:
    """They are of a size that phones send, and never end: as many are kept as behind the first answer."""
    (client,) = await worker.connected(port, 1)
    (protocol,) = worker.protocols
    client.setblocking(False)
    one = b"GET /x HTTP/1.1\r\nhost: x\r\nlong: %b\r\n\r\n" % (b"x" * 300)
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(client, one * 2000))
    most = 0
    while len(worker.paths) < 2000:
        most = max(most, len(protocol._pipeline))
        with suppress(BlockingIOError):
            client.recv(65536)
        await asyncio.sleep(0)
    assert READ_AHEAD < most <= READ_AHEAD + 256 * 1024 // len(one) + 1
    await sending
    close(client)


async def test_so_many_requests_in_one_piece_break_the_connection(worker: Worker, port: int) -> None:
    fits, breaks = await worker.connected(port, 2)
    one = b"GET / HTTP/1.1\r\nhost:\r\n\r\n"
    fits.sendall(one * MOST_PIPELINED)
    await worker.has_seen(MOST_PIPELINED)
    breaks.sendall(one * (MOST_PIPELINED + 2))
    await until(lambda: len(worker.state.connections) == 1)
    assert len(worker.paths) == MOST_PIPELINED
    close(fits, breaks)


async def test_what_waits_is_bounded(worker: Worker, port: int) -> None:
    worker.state.arrivals = Arrivals(0)
    (client,) = await worker.connected(port, 1)
    body = b"x" * 16_000_000
    client.setblocking(False)
    sending = asyncio.create_task(
        asyncio.get_running_loop().sock_sendall(
            client, b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
    )
    (protocol,) = worker.protocols
    for _ in range(200):
        await asyncio.sleep(0.001)
    assert not sending.done()
    assert HEADER_LIMIT_BYTES < len(protocol._waiting) <= HEADER_LIMIT_BYTES + 256 * 1024
    worker.state.arrivals._most = 1
    await sending
    assert (await answer(client)).endswith(b"ok")
    close(client)


async def test_what_waits_is_answered_when_the_worker_ends(worker: Worker, port: int) -> None:
    worker.state.arrivals = Arrivals(0)
    waiting, idle = await worker.connected(port, 2)
    waiting.sendall(get("x"))
    await worker.makes_wait(get("x"))
    for protocol in worker.protocols:
        protocol.shutdown()
    assert (await answer(waiting)).endswith(b"ok")
    assert await answer(waiting) == b""
    assert await answer(idle) == b""
    close(waiting, idle)


class Listener(socket.socket):
    """Counts the connections that are taken."""

    taken = 0

    def accept(self) -> Any:
        connection = super().accept()
        self.taken += 1
        return connection


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield listener


@asynccontextmanager
async def accepting(listener: socket.socket, worker: Worker, load: Load, slot: int = 0) -> AsyncIterator[None]:
    worker.state = WorkerState(load, slot, ProxyHint(lambda host: False))
    worker.state.count()
    acceptor = Acceptor(listener, worker.protocol, lambda: len(worker.state.connections), load, slot)
    yield
    acceptor.close()


async def test_a_few_connections_are_taken_in_each_turn(worker: Worker, listener: Listener) -> None:
    most = 0
    async with accepting(listener, worker, Load(1)), asyncio.timeout(10):
        clients = [socket.create_connection(listener.getsockname()) for _ in range(ACCEPTED_A_TURN * 5 + 3)]
        while len(worker.state.connections) < len(clients):
            before = listener.taken
            await asyncio.sleep(0)
            most = max(most, listener.taken - before)
    assert most == ACCEPTED_A_TURN
    close(*clients)


async def test_two_workers_come_to_share_what_there_is(worker: Worker, listener: Listener) -> None:
    """One has ten connections before the other begins, and more arrive at once."""
    load, other = Load(2), Worker()
    clients: list[socket.socket] = []

    async def arrive(count: int) -> None:
        clients.extend(socket.create_connection(listener.getsockname()) for _ in range(count))
        await until(lambda: len(worker.state.connections) + len(other.state.connections) == len(clients))

    with listener.dup() as of_other:
        async with accepting(listener, worker, load):
            await arrive(10)
            async with accepting(of_other, other, load, 1):
                await arrive(54)
    assert len(worker.state.connections) == len(other.state.connections) == 32
    close(*clients)


async def test_who_hangs_is_waited_for_once_and_again_when_it_has_taken_one(
    worker: Worker, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, load = asyncio.get_running_loop(), Load(2)
    clients: list[socket.socket] = []
    time, ahead_s = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: time() + ahead_s)
    monkeypatch.setattr(connection_balance, "PATIENCE_S", 60)
    monkeypatch.setattr(connection_balance, "RETRY_S", 0)
    load.set(1, 0)

    async def most_in_a_turn(arriving: int) -> int:
        """Have so many arrive; returns how many are taken at most in one of the next turns."""
        clients.extend(socket.create_connection(listener.getsockname()) for _ in range(arriving))
        most = 0
        for _ in range(50):
            before = listener.taken
            await asyncio.sleep(0)
            most = max(most, listener.taken - before)
        return most

    async with accepting(listener, worker, load):
        assert (await most_in_a_turn(4), listener.taken) == (1, 1), "the other one ought to have the next"
        ahead_s += 61
        assert (await most_in_a_turn(0), listener.taken) == (1, 4), "one by one, for it may still come"
        load.set(1, 1)
        load.set(1, 0)
        assert (await most_in_a_turn(1), listener.taken) == (0, 4), "it does not hang any more"
    close(*clients)
