"""Requests that offer another protocol, or whose body is easily lost: what was sent is what is done."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
from uvicorn.config import Config

from endpoints.accounts.oauth import FORM
from endpoints.http.limits import LimitRules
from endpoints.http.operations import NDJSON, Operation, Text
from endpoints.routes import routes
from ledger.commands import OfferStream
from ledger.entity_types import ENTITY_TYPES, mask_of
from ledger.store.interface import open_store
from ops.server.connection_balance import Load
from ops.server.http_protocol import LedgerHttpProtocol
from ops.server.proxies import ProxyHint
from ops.server.worker_state import WorkerState
from projections.accounts.tokens import Issued
from tests.support.phones.http import START_US, Service, serving
from tests.support.sign_in.provider import MemoryProvider

ASSET = "AssetV2|2023-11-14T22:13:19.000001Z|a1"
ALBUM = "AlbumV2|2023-11-14T22:13:19.000001Z|b1"
ONE_TYPE = b'{"types": ["AssetV2"]}'
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    "a web socket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "several": b"UPGRADE: h2c, websocket/13, TLS/1.0\r\nconnection: keep-alive, upgrade\r\n",
    "twice": b"Upgrade: h2c\r\nUpgrade: x\r\nConnection: keep-alive\r\nConnection: upgrade\r\n",
    "with Expect": b"Connection: Upgrade\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n",
}
PING = b"GET /api/server/ping HTTP/1.1\r\nhost: x\r\n\r\n"
PONG = (200, b'{"res":"pong"}')


class Asked(NamedTuple):
    """What one operation is asked, and how its answer shows that the body was read."""

    name: str
    head: bytes
    body: bytes
    shown: re.Pattern[bytes]


@pytest.fixture
async def service(valkey_url: str) -> AsyncIterator[Service]:
    store = await open_store(valkey_url)
    plenty = LimitRules(*["10000/minute"] * 4)
    async with serving(store, provider=MemoryProvider(), rules=plenty) as service:
        yield service
    await store.close()


@pytest.fixture
async def port(service: Service) -> AsyncIterator[int]:
    """A port on which the service is served as workers do."""
    config = Config(service.app, log_config=None, lifespan="off", ws="none", interface="asgi3")
    state = WorkerState(Load(1), 0, ProxyHint(lambda host: False))
    server = await asyncio.get_running_loop().create_server(
        lambda: LedgerHttpProtocol(config, state, {}), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def device(service: Service) -> Issued:
    """A device that has acknowledged assets and albums."""
    issued = await service.sign_in()
    await service.ledger.execute("ann", issued.sid, OfferStream(START_US, mask_of(ENTITY_TYPES)))
    answer = await service.ask("POST", "/api/sync/ack", issued.token, json={"acks": [ASSET, ALBUM]})
    assert answer.status_code == 204
    return issued


async def acknowledged(service: Service, device: Issued) -> set[str]:
    answer = await service.ask("GET", "/api/sync/ack", device.token)
    return {entry["ack"] for entry in answer.json}


def request(head: bytes, body: bytes, offer: bytes = b"", *, chunked: bool = False) -> bytes:
    """Put a request together; `head` is its first line and fields without the last line end."""
    if chunked:
        half = len(body) // 2
        parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
        return head + offer + b"transfer-encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
    return head + offer + b"content-length: %d\r\n\r\n" % len(body) + body


async def answered(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one answer, with what says that it goes on left out."""
    status = 100
    while status == 100:
        top = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        status = int(top.split()[1])
    fields = dict(line.lower().split(b": ", 1) for line in top.split(b"\r\n")[1:-2])
    return status, await reader.readexactly(int(fields.get(b"content-length", 0)))


async def exchange(port: int, *parts: bytes, answers: int) -> list[tuple[int, bytes]]:
    """Send parts over one connection, each in a packet of its own, and read so many answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.002 if len(parts) > 1 else 0)
        return [await answered(reader) for _ in range(answers)]
    finally:
        writer.close()


def asked(path: str, operation: Operation, credentials: dict[str, str]) -> Asked:
    """Make a request that fits nothing, so that it is told what of its body does not fit."""
    head = [f"{operation.method} {re.sub('{.*?}', credentials['sid'], path)} HTTP/1.1", "host: x"]
    described = operation.body.media_type if isinstance(operation.body, Text) else "application/json"
    body, shown = {
        "application/json": (b"[]", rb"Expected `object`, got `array`"),
        NDJSON: (b"[]\n", rb'"lines":1,.*"refused":1'),
        FORM: (b"logout_token=x", rb'"message":"(?!A form with one logout_token)'),
    }[described]
    scheme = "bearer" if "bearer" in operation.security or not operation.security else "apiKey"
    fields = [*head, f"content-type: {described}", credentials[scheme], ""]
    name = f"{operation.method} {path}"
    return Asked(name, "\r\n".join(fields).encode(), body, re.compile(shown))


@pytest.mark.parametrize("offer", OFFERS)
async def test_every_body_is_read_whatever_protocol_is_offered(service: Service, port: int, offer: str) -> None:
    issued = await service.sign_in()
    key, _ = await service.api_keys.create(["entities.write", "audit.read"], name="", now_us=1)
    credentials = {"sid": issued.sid, "bearer": f"authorization: Bearer {issued.token}", "apiKey": f"x-api-key: {key}"}
    with_body = [
        asked(route.path, operation, credentials)
        for route in routes(service.services)
        for operation in route.operations
        if operation.body is not None and not route.path.startswith("/console")  # those answer with pages
    ]
    assert {"DELETE /sync/ack", "POST /api/sessions", "POST /ledger/libraries/{library}/entities"} <= {
        one.name for one in with_body
    }
    for one in with_body:
        [plain] = await exchange(port, request(one.head, one.body), answers=1)
        assert one.shown.search(plain[1]), f"{one.name}: {plain}"
        for chunked in (False, True):
            offered = request(one.head, one.body, OFFERS[offer], chunked=chunked)
            answers = await exchange(port, offered + offered + PING, answers=3)
            assert answers == [plain, plain, PONG], f"{one.name}, pipelined, chunked: {chunked}"
            answers = await exchange(port, offered, offered, PING, answers=3)
            assert answers == [plain, plain, PONG], f"{one.name}, one after the other, chunked: {chunked}"


async def test_a_body_that_nobody_wants_is_no_request(service: Service, port: int) -> None:
    for route in routes(service.services):
        for operation in route.operations:
            path = re.sub("{.*?}", "0" * 64, route.path)
            head = f"{operation.method} {path} HTTP/1.1\r\nhost: x\r\n".encode()
            offered = request(head, b"GET /healthz HTTP/1.1\r\n\r\n", OFFERS["h2c"])
            answers = await exchange(port, offered + request(PING[:-2], b"", OFFERS["several"]), answers=2)
            assert answers[1] == PONG, f"{operation.method} {path}"


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
async def test_an_offer_is_ignored_wherever_packets_end(
    service: Service, port: int, device: Issued, chunked: bool
) -> None:
    head = f"POST /api/sync/ack HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {device.token}\r\n".encode()
    offered = request(head, b'{"acks": [7]}', OFFERS["h2c"], chunked=chunked)
    [answer] = await exchange(port, request(head, b'{"acks": [7]}'), answers=1)
    assert b"Expected `str`, got `int`" in answer[1]
    begin = offered.index(b"Connection")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for at in range(begin, len(offered)):
        writer.write(offered[:at])
        await asyncio.sleep(0.001)
        writer.write(offered[at:])
        assert await answered(reader) == answer, f"cut at {at}"
    for at in range(len(offered)):
        writer.write(offered[at : at + 1])
        await asyncio.sleep(0.0005)
    assert await answered(reader) == answer
    writer.close()


async def test_only_what_is_named_is_forgotten(service: Service, port: int, device: Issued) -> None:
    head = f"DELETE /sync/ack HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {device.token}\r\n".encode()
    assert await exchange(port, request(head, ONE_TYPE, OFFERS["h2c"]), answers=1) == [(204, b"")]
    assert await acknowledged(service, device) == {ALBUM}


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
@pytest.mark.parametrize(
    ("version", "offer"),
    [(b"1.0", b""), (b"1.0", OFFERS["h2c"]), (b"1.1", b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n")],
    ids=["of old", "of old, with an offer", "closing"],
)
async def test_the_last_body_of_a_connection_is_read(
    service: Service, port: int, device: Issued, version: bytes, offer: bytes, chunked: bool
) -> None:
    authorization = f"authorization: Bearer {device.token}\r\n".encode()
    head = b"DELETE /sync/ack HTTP/" + version + b"\r\nhost: x\r\n" + authorization
    assert await exchange(port, request(head, ONE_TYPE, offer, chunked=chunked), answers=1) == [(204, b"")]
    assert await acknowledged(service, device) == {ALBUM}


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (b"content-type: application/json\r\n", b""),
        (b"content-type: application/json\r\ncontent-length: 0\r\n", b""),
        (b"content-type: application/json\r\n", ONE_TYPE),
        (b"", ONE_TYPE),
        (b"transfer-encoding: gzip\r\n", ONE_TYPE),
        (b"transfer-encoding: chunked\r\n", ONE_TYPE),
        (b"content-length: 22, 22\r\n", ONE_TYPE),
    ],
    ids=["taken out", "emptied", "no length", "no length and no type", "zipped", "no chunks", "two lengths"],
)
async def test_a_body_that_was_lost_is_not_taken_for_none(
    service: Service, port: int, device: Issued, fields: bytes, body: bytes
) -> None:
    authorization = f"authorization: Bearer {device.token}\r\n".encode()
    for method, path in ((b"DELETE", b"/api/sync/ack"), (b"POST", b"/api/sessions")):
        asked = method + b" " + path + b" HTTP/1.1\r\nhost: x\r\n" + authorization + fields + b"\r\n" + body
        [(status, text)] = await exchange(port, asked, answers=1)
        assert status == 400
        if not body:
            assert b"Content-Type tells of a body, but none came" in text
    assert await acknowledged(service, device) == {ASSET, ALBUM}
    assert len(await service.ledger.devices("ann")) == 1


async def test_entities_without_a_length_are_no_empty_import(service: Service, port: int) -> None:
    key, _ = await service.api_keys.create(["entities.write", "audit.read"], name="", now_us=1)
    head = f"POST /ledger/libraries/lib/entities HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n".encode()
    lost, empty = (
        b"content-type: application/x-ndjson\r\n\r\n",
        b"content-type: text/plain\r\ncontent-length: 0\r\n\r\n",
    )
    answers = await exchange(port, head + lost + head + empty, answers=2)
    assert [status for status, _ in answers] == [400, 200]
    assert b"send it with its Content-Length" in answers[0][1]
    assert b'"lines":0' in answers[1][1]


async def test_a_tunnel_is_refused_and_ends_the_connection(port: int) -> None:
    for target in (b"example.org:443", b"/api/server/ping"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"CONNECT " + target + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 44\r\n\r\n" + PING)
        received = await asyncio.wait_for(reader.read(), 10)
        assert received.startswith(b"HTTP/1.1 400 ")
        assert received.count(b"HTTP/1.1") == 1
        writer.close()


async def test_what_is_no_http_cuts_into_no_answer(service: Service, port: int, device: Issued) -> None:
    asked = f"GET /api/sync/ack HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {device.token}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(asked + asked + b"no HTTP at all\r\n\r\n")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await answered(reader)
    writer.close()
