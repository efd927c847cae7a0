"""Sixty requests as no client of ours writes them, over one socket each: what RFC 9112 and 9110 ask for is answered.

None is a 500, and none leaves a traceback, an error or, where anybody may send it all day, a line in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
from uvicorn.config import Config

from ledger.store.interface import open_store
from ops.server.connection_balance import Load
from ops.server.http_protocol import LedgerHttpProtocol
from ops.server.proxies import ProxyHint
from ops.server.worker_state import WorkerState
from tests.support.phones.http import Service, serving

HOST = b"host: photos.example\r\n"
END = HOST + b"\r\n"
SOCKET = b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n"
JSON = b"content-type: application/json\r\n"
TYPES = b'{"types": ["AssetsV2"]}'


class Case(NamedTuple):
    """What is sent, and the status of each answer, in order; `says` is in the first body."""

    sent: bytes
    statuses: tuple[int, ...]
    says: bytes = b""


def get(target: bytes, fields: bytes = HOST, version: bytes = b"1.1") -> bytes:
    return b"GET %s HTTP/%s\r\n%s\r\n" % (target, version, fields)


def post(path: bytes, fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST %s HTTP/%s\r\n%s%s\r\n%s" % (path, version, HOST, fields, body)


PING = b"/api/server/ping"
CASES: dict[str, Case] = {
    # RFC 9112, 2.3: versions
    "HTTP/0.9": Case(b"GET /healthz\r\n\r\n", (400,)),
    "HTTP/0.9 with a version": Case(get(b"/healthz", version=b"0.9"), (400,)),
    "HTTP/1.0": Case(get(PING, version=b"1.0"), (200,), b"pong"),
    "HTTP/1.0 without a host": Case(get(PING, b"", b"1.0"), (200,), b"pong"),
    "HTTP/1.0 that would stay": Case(get(PING, b"connection: keep-alive\r\n", b"1.0") + get(PING), (200,)),
    "HTTP/1.0 that expects": Case(
        post(b"/api/nothing", b"expect: 100-continue\r\ncontent-length: 2\r\n", b"{}", b"1.0"), (404,)
    ),
    "HTTP/2.0 in a line": Case(get(PING, version=b"2.0"), (400,)),
    "the preface of HTTP/2": Case(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
    "HTTP/9.9": Case(get(PING, version=b"9.9"), (400,)),
    "a version in small letters": Case(b"GET /healthz http/1.1\r\n" + END, (400,)),
    "a version of letters": Case(get(PING, version=b"x.y"), (400,)),
    # 3.2: one Host
    "no host": Case(get(PING, b""), (400,)),
    "two hosts": Case(get(PING, HOST + b"host: evil.example\r\n"), (400,), b"A request has one Host field"),
    "the same host twice": Case(get(PING, HOST + HOST), (400,)),
    "two hosts of old": Case(get(PING, HOST + HOST, b"1.0"), (400,)),
    "an empty host": Case(get(PING, b"host:\r\n"), (200,), b"pong"),
    "an empty host of a browser": Case(
        b"DELETE /api/sessions HTTP/1.1\r\nhost:\r\norigin: https://x.example\r\ncookie: immich_access_token=x\r\n\r\n",
        (403,),
    ),
    "two hosts in one": Case(get(PING, b"host: a.example b.example\r\n"), (400,)),
    "a host with a user": Case(get(PING, b"host: ann@photos.example\r\n"), (400,)),
    "a host with a path": Case(get(PING, b"host: photos.example/x\r\n"), (400,)),
    "a host with an open bracket": Case(get(PING, b"host: [::1\r\n"), (400,)),
    "an address as host": Case(get(PING, b"host: [::1]:2283\r\n"), (200,), b"pong"),
    "a port of letters": Case(get(PING, b"host: photos.example:http\r\n"), (400,)),
    "a port beyond all": Case(get(PING, b"host: photos.example:99999\r\n"), (400,)),
    "a port and no host": Case(get(PING, b"host: :80\r\n"), (200,), b"pong"),
    # 3.2.1 to 3.2.4: targets
    "a URL": Case(get(b"http://photos.example" + PING), (200,), b"pong"),
    "a URL of another host": Case(get(b"HTTP://other.example:80" + PING), (200,), b"pong"),
    "a URL without a path": Case(get(b"http://photos.example"), (302,)),  # the home page leads on
    "a URL with a query alone": Case(get(b"http://photos.example?x=1"), (302,)),
    "a URL with a user": Case(get(b"http://ann@photos.example" + PING), (400,)),
    "a URL of a file": Case(get(b"file:///etc/passwd"), (400,)),
    "an asterisk": Case(b"OPTIONS * HTTP/1.1\r\n" + END, (400,)),
    "a name": Case(get(b"api/server/ping"), (400,)),
    "a tunnel": Case(b"CONNECT photos.example:443 HTTP/1.1\r\n" + END, (400,)),
    "a fragment": Case(get(PING + b"#x"), (400,)),
    "a space in the path": Case(get(b"/api/server ping"), (400,)),
    "bytes beyond ASCII": Case(get(b"/api/server/\xc3\xa9"), (400,)),
    "an escape that is none": Case(get(b"/api/server/%zz"), (404,)),
    "an escape that is no UTF-8": Case(get(b"/api/%ff"), (404,)),
    "an escaped zero": Case(get(b"/api/%00"), (404,)),
    "an escaped line end": Case(get(b"/api/%0d%0aserver"), (404,)),
    "no path": Case(b"GET  HTTP/1.1\r\n" + END, (400,)),
    # a path is what it is (RFC 3986, 6.2.2.2: an encoded slash is no slash)
    "two slashes": Case(get(b"//api/server/ping"), (404,), b"Cannot GET //api/server/ping"),
    "two slashes and a host": Case(get(b"//photos.example/healthz"), (404,)),
    "three slashes": Case(get(b"///healthz"), (404,)),
    "slashes alone": Case(get(b"//"), (404,)),
    "two slashes within": Case(get(b"/api//server/ping"), (404,)),
    "two slashes in a URL": Case(get(b"http://photos.example//healthz"), (404,)),
    "an encoded slash": Case(get(b"/api%2Fserver%2Fping"), (404,)),
    "an encoded slash in a name": Case(get(b"/ledger/libraries/a%2fb/entities"), (404,)),
    "an encoded slash at first": Case(get(b"/%2Fapi/server/ping"), (404,)),
    "dots": Case(get(b"/api/../api/server/ping"), (404,)),
    "a slash at the end": Case(get(PING + b"/"), (404,)),
    "an encoded letter": Case(get(b"/api/server/%70ing"), (200,), b"pong"),
    # RFC 9110, 7.8: an upgrade may be ignored
    "a web socket": Case(get(b"/api/socket.io/?EIO=4&transport=websocket", HOST + SOCKET), (404,)),
    "a web socket where something is": Case(get(PING, HOST + SOCKET) + get(PING), (200, 200), b"pong"),
    # RFC 9112, 5 and 6: fields and framing
    "a field without a colon": Case(get(PING, HOST + b"nonsense\r\n"), (400,)),
    "a space before the colon": Case(get(PING, HOST + b"x : y\r\n"), (400,)),
    "a folded field": Case(get(PING, HOST + b"x: a\r\n b\r\n"), (400,)),
    "a zero in a field": Case(get(PING, HOST + b"x: a\0b\r\n"), (400,)),
    "a length that is none": Case(post(b"/api/sync/ack", b"content-length: x\r\n"), (400,)),
    "a length below zero": Case(post(b"/api/sync/ack", b"content-length: -1\r\n"), (400,)),
    "two lengths": Case(post(b"/api/sync/ack", b"content-length: 1\r\ncontent-length: 2\r\n", b"{}"), (400,)),
    "a length and chunks": Case(
        post(b"/api/sync/ack", b"content-length: 4\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n"), (400,)
    ),
    "chunks that are none": Case(post(b"/api/sync/ack", b"transfer-encoding: chunked\r\n", b"zz\r\n"), (400,)),
    "an encoding of the transfer that is none": Case(post(b"/api/sync/ack", b"transfer-encoding: x\r\n"), (400,)),
    # RFC 9110, 9.1: methods
    "a method that nobody knows": Case(b"BREW /healthz HTTP/1.1\r\n" + END, (400,)),
    "a method for others": Case(b"PROPFIND /healthz HTTP/1.1\r\n" + END, (405,)),
    "a method in small letters": Case(b"get /healthz HTTP/1.1\r\n" + END, (400,)),
    "what is no HTTP": Case(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n", (400,)),
    "SSH": Case(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", (400,)),
    "two requests": Case(get(PING) + get(b"/healthz"), (200, 200), b"pong"),
}


@pytest.fixture
async def service(valkey_url: str) -> AsyncIterator[Service]:
    store = await open_store(valkey_url)
    async with serving(store) as service:
        yield service
    await store.close()


@pytest.fixture
async def port(service: Service) -> AsyncIterator[int]:
    """A port on which the service is served as workers do."""
    config = Config(service.app, log_config=None, lifespan="off", ws="none", interface="asgi3")
    state = WorkerState(Load(1), 0, ProxyHint(lambda host: False))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: LedgerHttpProtocol(config, state, {}), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Answer(NamedTuple):
    """One answer; a body in chunks is as it came."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes


async def exchange(port: int, sent: bytes, count: int = 1) -> list[Answer]:
    """Send something and read so many answers, and what else comes until the end where the last one says it is that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found: list[Answer] = []
    try:
        writer.write(sent)
        async with asyncio.timeout(20):
            while len(found) < count:
                line, *fields = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
                assert line.startswith(b"HTTP/1.1 "), line
                named = dict(field.lower().split(b": ", 1) for field in fields)
                length = int(named.get(b"content-length", -1))
                found.append(Answer(int(line.split()[1]), named, await reader.read(-1) if length < 0 else b""))
                if length > 0:
                    found[-1] = found[-1]._replace(body=await reader.readexactly(length))
            if found[-1].fields.get(b"connection") == b"close":
                assert await reader.read() == b"", "something came behind the last answer"
    finally:
        writer.close()
    return found


async def test_what_no_client_of_ours_sends_is_answered_as_http_asks(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(CASES) >= 60
    caplog.set_level(logging.INFO)
    wrong = {}
    for name, case in CASES.items():
        caplog.clear()
        found = await exchange(port, case.sent, len(case.statuses))
        told = [record.getMessage() for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
        if "socket" in name:
            told += [record.getMessage() for record in caplog.records if record.name != "uvicorn.access"]
        statuses = tuple(answer.status for answer in found)
        if statuses != case.statuses or told or case.says not in found[0].body:
            wrong[name] = (statuses, told, found[0].body)
    assert wrong == {}


async def test_an_answer_of_old_ends_with_its_connection_and_has_no_chunks(service: Service, port: int) -> None:
    issued = await service.sign_in()
    fields = JSON + f"authorization: Bearer {issued.token}\r\ncontent-length: {len(TYPES)}\r\n".encode()
    ((status, named, body),) = await exchange(port, post(b"/api/sync/stream", fields, TYPES, b"1.0"))
    assert status == 200
    assert b"transfer-encoding" not in named
    assert named[b"connection"] == b"close"
    lines = body.splitlines()
    assert lines[-1].startswith(b'{"type":"SyncCompleteV1"')
    assert all(line.startswith(b"{") and line.endswith(b"}") for line in lines)
    key, _ = await service.api_keys.create(["entities.read"], name="", now_us=1)
    export = get(b"/ledger/libraries/empty/entities", HOST + f"x-api-key: {key}\r\n".encode(), b"1.0")
    ((status, named, body),) = await exchange(port, export)
    assert (status, body, b"transfer-encoding" in named) == (200, b"", False)
    export = get(b"/ledger/libraries/empty/entities", HOST + f"x-api-key: {key}\r\nconnection: close\r\n".encode())
    (chunked,) = await exchange(port, export)
    assert chunked.fields[b"transfer-encoding"] == b"chunked"
