"""Bodies that come slowly or not at all, over real sockets: answered 408 and ended, whoever sends them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from uvicorn.config import Config

import ops.server.http_protocol
from endpoints.http import bodies
from ops.server.connection_balance import Load
from ops.server.http_protocol import LedgerHttpProtocol
from ops.server.proxies import ProxyHint
from ops.server.worker_state import WorkerState
from projections.entities.catalog.ingest import BATCH_LINES
from tests.integration.test_http_entities import lines, user
from tests.support.phones.http import Service

ENTITIES = "/ledger/libraries/lib/entities"
SILENCE_S = 0.5


@pytest.fixture
async def port(service: Service, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A port on which the service is served as workers do, but less patiently."""
    monkeypatch.setattr(ops.server.http_protocol, "BODY_START_S", 0.2)
    monkeypatch.setattr(bodies, "SILENCE_S", SILENCE_S)
    config = Config(service.app, log_config=None, lifespan="off", ws="none", interface="asgi3")
    state = WorkerState(Load(1), 0, ProxyHint(lambda host: False))
    server = await asyncio.get_running_loop().create_server(
        lambda: LedgerHttpProtocol(config, state, {}), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


def head(method: str, path: str, *fields: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *fields, "", ""]).encode()


async def talk(port: int, *parts: bytes, pause_s: float = 0.0) -> tuple[int, dict[str, str], Any]:
    """Send parts, and read until the connection ends; gives the answer's status, headers and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        with suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)

    sending = asyncio.create_task(send())
    try:
        received = await asyncio.wait_for(reader.read(), 20)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()
    top, _, body = received.partition(b"\r\n\r\n")
    status, *fields = top.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    return int(status.split()[1]), headers, json.loads(body)


async def slow_bodies(service: Service) -> int:
    return next(count.value for count in await service.counters.all() if count.name == "slow_bodies")


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("POST", "/api/sync/ack", b""),
        ("POST", "/api/sync/ack", b'{"acks": ['),
        ("DELETE", "/api/sync/ack", b""),
        ("POST", "/api/sync/stream", b'{"types"'),
        ("POST", "/api/oauth/callback", b"{"),
        ("POST", "/api/oauth/backchannel-logout", b"logout_token="),
    ],
)
async def test_a_body_that_stops_is_408_and_the_connection_ends(
    service: Service, port: int, method: str, path: str, sent: bytes
) -> None:
    token = (await service.sign_in()).token
    asked = head(method, path, f"authorization: Bearer {token}", "content-length: 100")
    status, headers, answer = await talk(port, asked + sent)
    assert status == 408
    assert answer == {
        "message": "The body stopped coming: send the request again, with no pause of 0.5 seconds in its body"
    }
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"
    assert headers["x-correlation-id"]
    assert await slow_bodies(service) == 1


async def test_a_body_that_trickles_is_408(service: Service, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "START_S", 1.0)
    token = (await service.sign_in()).token
    asked = head("POST", "/api/sync/ack", f"authorization: Bearer {token}", "transfer-encoding: chunked")
    status, _, answer = await talk(port, asked, *[b"1\r\n \r\n"] * 1000, pause_s=0.05)
    assert status == 408
    assert answer["message"].startswith("The body came at less than 1,024 bytes a second: send the request again")
    assert await slow_bodies(service) == 1


async def test_an_honest_slow_phone_is_served(service: Service, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pause of a second is far from silence, and the whole, at some hundred bytes a second, from too long."""
    monkeypatch.setattr(bodies, "SILENCE_S", 5.0)
    token = (await service.sign_in()).token
    body = b'{"acks": []' + b" " * 200 + b"}"
    fields = (f"authorization: Bearer {token}", f"content-length: {len(body)}", "connection: close")
    pieces = [body[at : at + 10] for at in range(0, len(body), 10)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in (head("POST", "/api/sync/ack", *fields), *pieces):
        writer.write(piece)
        await asyncio.sleep(0.05 if piece is not pieces[5] else 1.0)
    assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 204 ")
    writer.close()
    assert await slow_bodies(service) == 0


async def test_who_asks_for_what_needs_no_body_is_answered_without_it(service: Service, port: int) -> None:
    token = (await service.sign_in()).token
    asked = head("GET", "/api/users/me", f"authorization: Bearer {token}", "content-length: 100", "connection: close")
    assert (await talk(port, asked))[0] == 200


async def test_an_import_that_stops_keeps_what_it_took_and_may_be_sent_again(service: Service, port: int) -> None:
    key, _ = await service.api_keys.create(["entities.write"], name="", now_us=1)
    whole = lines(*(user(number) for number in range(5 * BATCH_LINES)))
    cut = len(lines(*(user(number) for number in range(4 * BATCH_LINES)))) + 20
    asked = head("POST", ENTITIES, f"x-api-key: {key}", f"content-length: {len(whole)}")
    pieces = [whole[at : at + 20_000] for at in range(0, cut, 20_000)]
    status, _, answer = await talk(port, asked, *pieces[:-1], whole[20_000 * (len(pieces) - 1) : cut])
    assert status == 408
    assert "send the request again" in answer["message"]
    taken = (await service.catalog.count("lib"))["UserV1"]
    assert BATCH_LINES <= taken <= 4 * BATCH_LINES, "batches that were sent off, and no half line"
    status, _, report = await talk(port, asked.replace(b"host", b"connection: close\r\nhost"), whole)
    assert (status, report["unchanged"], report["taken"], report["refused"]) == (
        200, taken, 5 * BATCH_LINES - taken, 0,
    )  # fmt: skip


async def test_an_import_into_a_slow_store_takes_its_time(
    service: Service, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends as fast as the service reads is not the one that is slow."""
    monkeypatch.setattr(bodies, "START_S", 0.2)
    key, _ = await service.api_keys.create(["entities.write"], name="", now_us=1)
    put = service.catalog.put

    async def slow(library: str, entities: Any) -> Any:
        await asyncio.sleep(0.4)
        return await put(library, entities)

    monkeypatch.setattr(service.catalog, "put", slow)
    whole = lines(*(user(number) for number in range(6 * BATCH_LINES)))
    asked = head("POST", ENTITIES, f"x-api-key: {key}", f"content-length: {len(whole)}", "connection: close")
    status, _, report = await talk(port, asked + whole)
    assert (status, report["taken"]) == (200, 6 * BATCH_LINES)
