"""What the HTTP protocol adds to uvicorn's: the transport for the application, and bounds for a request's head."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from uvicorn.config import Config

import ops.server.http_protocol
from ops.server.connection_balance import Load
from ops.server.http_protocol import LedgerHttpProtocol
from ops.server.proxies import ProxyHint
from ops.server.worker_state import WorkerState


class Seen:
    """An application that keeps the scopes it was called with."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.first: list[dict[str, Any]] = []
        self.reads = True

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer `ok` after the body, or, as who does not want it, after what comes first."""
        self.scopes.append(scope)
        self.first.append(event := await receive())
        while self.reads and event.get("more_body"):
            event = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def app() -> Seen:
    """The application."""
    return Seen()


@pytest.fixture
def load() -> Load:
    """Shared counts of two workers."""
    return Load(2)


@pytest.fixture
async def port(app: Seen, load: Load) -> AsyncIterator[int]:
    """A port on which the protocol is served."""
    config = Config(app, log_config=None, lifespan="off", ws="none", interface="asgi3", timeout_keep_alive=1)
    state = WorkerState(load, 0, ProxyHint(lambda host: False))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: LedgerHttpProtocol(config, state, {}), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def exchange(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send the parts and return all that comes until the connection ends or is silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause_s)
        received = b""
        while chunk := await asyncio.wait_for(reader.read(65536), 2):
            received += chunk
            if received.endswith(b"ok") and received.count(b"ok") == sum(part.count(b"HTTP/1.1") for part in parts):
                break
        return received
    finally:
        writer.close()


async def test_each_request_sees_its_transport(port: int, app: Seen) -> None:
    request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    assert (await exchange(port, request + request, request)).count(b"200 OK") == 3
    transports = {id(scope["extensions"]["ledger.transport"]) for scope in app.scopes}
    assert len(transports) == 1
    assert isinstance(app.scopes[0]["extensions"]["ledger.transport"], asyncio.Transport)


async def test_a_long_body_is_no_long_head(port: int) -> None:
    body = b"x" * 300_000
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n"
    answer = await exchange(port, request, body[:100_000], body[100_000:], request + body, pause_s=0.02)
    assert answer.count(b"200 OK") == 2


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
        b"GET / HTTP/1.1\r\na: " + b"x" * 120_000,
        b"GET /" + b"x" * 120_000,
    ],
    ids=["many headers", "a long header", "a long path"],
)
async def test_a_head_that_does_not_end_is_refused(port: int, app: Seen, head: bytes) -> None:
    answer = await exchange(port, head[:40_000], head[40_000:], pause_s=0.05)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert app.scopes == []


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("field", [b"a: b\r\n" * 20_000, b"a: " + b"x" * 70_000 + b"\r\n"], ids=["many", "long"])
async def test_a_head_that_is_whole_and_too_long_is_refused(
    port: int, app: Seen, field: bytes, in_pieces: bool
) -> None:
    head = b"GET / HTTP/1.1\r\n" + field + b"\r\n"
    parts = (head[:60_000], head[60_000:]) if in_pieces else (head,)
    assert (await exchange(port, *parts, pause_s=0.05)).startswith(b"HTTP/1.1 431 ")
    assert app.scopes == []
    assert b"200 OK" in await exchange(port, b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 60_000 + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        (b"/a%20b?x=%2F#", None, b"", b""),
        (b"/a%20b?x=%2F?y", "/a b", b"/a%20b", b"x=%2F?y"),
        (b"//a/b?", "//a/b", b"//a/b", b""),
        (b"/?", "/", b"/", b""),
        (b"/a:80/b@c", "/a:80/b@c", b"/a:80/b@c", b""),
        (b"http://other.example:80/a?b", "/a", b"/a", b"b"),
        (b"https://other.example:80?b", "/", b"/", b"b"),
    ],
)
async def test_a_target_is_taken_as_it_is(
    port: int, app: Seen, target: bytes, path: str | None, raw_path: bytes, query: bytes
) -> None:
    answer = await exchange(port, b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % target)
    if path is None:
        assert answer.startswith(b"HTTP/1.1 400 ")
        return
    (scope,) = app.scopes
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)
    host = b"other.example:80" if target.startswith(b"http") else b"x"
    assert scope["headers"] == [(b"host", host)], "what the target names goes before the field"


async def test_trailers_are_no_headers(port: int, app: Seen) -> None:
    request = (
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nx-forwarded-for: 203.0.113.7\r\ncookie: a=b\r\n\r\n"
    )
    assert (await exchange(port, request, request, pause_s=0.02)).count(b"200 OK") == 2
    for scope in app.scopes:
        assert [name for name, _ in scope["headers"]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"0\r\n", b"a: b\r\n" * 200), (b"0\r\na: ", b"x" * 1000), (b"3;", b"x" * 1000)],
    ids=["many trailers", "a long trailer", "a long chunk extension"],
)
async def test_what_is_neither_head_nor_body_has_an_end(port: int, app: Seen, begin: bytes, more: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0

    async def send(data: bytes) -> None:
        nonlocal sent
        writer.write(data)
        await writer.drain()
        sent += len(data)
        await asyncio.sleep(0)

    async def send_for_ever() -> None:
        await send(head + begin)
        while True:
            await send(more)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_for_ever(), 20)
    assert sent < 1_000_000, "the limit, and what the kernel holds"
    writer.close()


async def test_a_body_in_tiny_chunks_is_a_body(port: int) -> None:
    request = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"1;name=value\r\na\r\n" * 20_000 + b"0\r\n\r\n"
    pieces = [chunks[at : at + 50_000] for at in range(0, len(chunks), 50_000)]
    assert b"200 OK" in await exchange(port, request, *pieces, pause_s=0.01)


async def test_a_head_that_takes_too_long_ends_the_connection(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.server.http_protocol, "HEADER_TIMEOUT_S", 0.3)
    for parts in ((), (b"GET / HTTP/1.1\r\n",), (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / ")):
        began = asyncio.get_running_loop().time()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.05)
        await asyncio.wait_for(reader.read(), 2)
        assert asyncio.get_running_loop().time() - began > 0.25
        writer.close()


async def test_a_slow_body_may_take_its_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.server.http_protocol, "HEADER_TIMEOUT_S", 0.2)
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n"
    assert b"200 OK" in await exchange(port, head, b"a", b"b", b"c", pause_s=0.3)


async def ended_after(port: int, *parts: bytes, again: bytes = b"", every_s: float = 0.05) -> tuple[bytes, float]:
    """Send the parts, then the same `again` and again; give what came and after how long the connection ended."""
    began = asyncio.get_running_loop().time()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.05)
        while again:
            writer.write(again)
            await asyncio.sleep(every_s)

    sending = asyncio.create_task(send())
    received = b""
    try:
        async with asyncio.timeout(8):
            while chunk := await reader.read(65536):
                received += chunk
    except ConnectionResetError:
        pass
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()
    return received, asyncio.get_running_loop().time() - began


BODY_TO_COME = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"


async def test_the_application_is_asked_also_if_nothing_of_a_body_comes(
    port: int, app: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops.server.http_protocol, "BODY_START_S", 0.3)
    app.reads = False
    assert b"200 OK" in await exchange(port, BODY_TO_COME)
    assert app.first == [{"type": "http.request", "body": b"", "more_body": True}]


async def test_the_application_gets_a_body_from_its_beginning(port: int, app: Seen) -> None:
    """An early answer with the connection's end would be lost on who is still sending."""
    app.reads = False
    await exchange(port, BODY_TO_COME, b"abc", pause_s=0.2)
    assert [event["body"] for event in app.first] == [b"abc"]


@pytest.mark.parametrize("again", [b"", b"x"], ids=["nothing more", "a byte now and then"])
async def test_a_body_that_nobody_wants_has_an_end(
    port: int, app: Seen, monkeypatch: pytest.MonkeyPatch, again: bytes
) -> None:
    monkeypatch.setattr(ops.server.http_protocol, "DISCARD_S", 0.4)
    app.reads = False
    received, took_s = await ended_after(port, BODY_TO_COME + b"x", again=again, every_s=0.02)
    assert b"200 OK" in received
    assert took_s >= 0.35


async def test_a_connection_goes_on_behind_a_body_that_nobody_wanted(
    port: int, app: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops.server.http_protocol, "DISCARD_S", 0.3)
    app.reads = False
    rest = b"x" * 999
    answers = await exchange(port, BODY_TO_COME + b"x", rest, BODY_TO_COME + b"x", rest, pause_s=0.2)
    assert answers.count(b"200 OK") == 2


@pytest.mark.parametrize(
    ("framing", "parts"),
    [
        (b"content-length: 9", [b"x", b"xxxx", b"xxxx"]),
        (b"transfer-encoding: chunked", [b"1\r\nx\r\n", b"1\r\nx", b"\r\n0\r\n\r\n"]),
        (b"transfer-encoding: chunked", [b"1\r\nx\r\n", b"1\r\nx\r\n", b"no chunk"]),
    ],
    ids=["of a length", "in chunks", "in chunks that end in none"],
)
async def test_who_still_sends_a_body_is_not_cut_off_from_the_last_answer(
    port: int, app: Seen, load: Load, framing: bytes, parts: list[bytes]
) -> None:
    """A connection that is closed beneath what comes is reset, and an answer that was not read yet is lost with it."""
    app.reads = False
    load.set(1, 100)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n%b\r\n\r\n%b" % (framing, parts[0]))
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"ok")
    assert load.least().connections == 1
    for part in parts[1:]:
        assert writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert load.least().connections == 1
        writer.write(part)
        await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        while load.least().connections:  # noqa: ASYNC110 - counted by the worker
            await asyncio.sleep(0.01)
    assert len(app.scopes) == 1
    writer.close()


@pytest.mark.parametrize(
    ("parts", "again"),
    [
        ((b"\r\n",), b""),
        ((), b"\r\n"),
        ((b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n"), b""),
        ((b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",), b"\r\n"),
        ((BODY_TO_COME + b"x", b"x" * 999), b""),
    ],
    ids=["an empty line", "empty lines", "one behind a request", "many behind one", "an unwanted body's end"],
)
async def test_a_connection_without_a_request_has_an_end(
    port: int, app: Seen, monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...], again: bytes
) -> None:
    monkeypatch.setattr(ops.server.http_protocol, "HEADER_TIMEOUT_S", 1.0)
    app.reads = False
    _, took_s = await ended_after(port, *parts, again=again)
    assert took_s > 0.9


async def test_connections_are_counted_for_the_other_workers(port: int, load: Load) -> None:
    load.set(1, 100)
    writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(3)]
    await asyncio.sleep(0.1)
    assert load.least().connections == 3
    for writer in writers:
        writer.close()
    await asyncio.sleep(0.1)
    assert load.least().connections == 0
