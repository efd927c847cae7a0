"""What is compressed on the wire: streams, histories and exports, and nothing that holds a secret."""

from __future__ import annotations

import json
import zlib
from typing import Any, cast

import httpx
import pytest
import zstandard

from ledger.commands import OfferStream
from ledger.entity_types import mask_of
from tests.support.phones.http import START_US, Service
from tests.support.sources.samples import USER_ID, sample

ASSETS = 400


def decompressed(answer: httpx.Response, body: bytes) -> bytes:
    coding = answer.headers.get("content-encoding")
    if coding == "gzip":
        return zlib.decompress(body, 16 + zlib.MAX_WBITS)
    if coding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    assert coding is None
    return body


async def sent(
    service: Service, method: str, path: str, token: str, accepted: str, **options: Any
) -> tuple[httpx.Response, bytes]:
    """Send a request; returns the answer and its body's bytes as they were on the wire."""
    headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": accepted, **options.pop("headers", {})}
    transport = httpx.ASGITransport(cast(Any, service.app))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        async with client.stream(method, path, headers=headers, **options) as answer:
            assert answer.status_code == 200
            return answer, b"".join([piece async for piece in answer.aiter_raw()])


async def filled(service: Service) -> str:
    lines = [{"type": "UserV1", "id": USER_ID, "data": sample("UserV1")}]
    lines += [
        {"type": "AssetV2", "id": f"a{number}", "data": sample("AssetV2", id=f"a{number}", checksum=f"{number:027}=")}
        for number in range(ASSETS)
    ]
    key, _ = await service.api_keys.create(["entities.write"], name="import", now_us=service.clock())
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    answer = await service.ask("POST", "/ledger/libraries/lib/entities", body=body, headers={"x-api-key": key})
    assert (answer.status_code, answer.json["refused"]) == (200, 0)
    return (await service.sign_in()).token


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_stream_is_the_same_compressed_and_a_fraction_of_it(service: Service, coding: str) -> None:
    token = await filled(service)
    wanted = {"json": {"types": ["AssetsV2", "UsersV1"]}}
    plain, lines = await sent(service, "POST", "/api/sync/stream", token, "identity", **wanted)
    answer, body = await sent(service, "POST", "/api/sync/stream", token, coding, **wanted)
    assert "content-encoding" not in plain.headers
    assert answer.headers["content-encoding"] == coding
    assert answer.headers["vary"] == "Accept-Encoding"
    assert decompressed(answer, body) == lines
    assert lines.count(b"\n") > ASSETS
    assert len(body) < len(lines) / 3


async def test_a_poll_that_finds_nothing_is_one_plain_line(service: Service) -> None:
    token = await filled(service)
    await service.stream(token, "AssetsV2", reset=True)
    body = {"types": ["StacksV1"]}
    answer, line = await sent(service, "POST", "/api/sync/stream", token, "gzip, zstd", json=body)
    assert "content-encoding" not in answer.headers
    assert json.loads(line)["type"] == "SyncCompleteV1"


@pytest.mark.parametrize("media", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_histories_are_compressed_in_both_forms(service: Service, coding: str, media: str) -> None:
    issued = await service.sign_in()
    for number in range(20):
        offer = OfferStream(START_US + number, mask_of(["AssetV2", "AlbumV2"]))
        await service.ledger.execute("ann", issued.sid, offer)
    for path in (f"/ledger/sessions/{issued.sid}/events", "/ledger/events"):
        headers = {"Accept": media}
        _, whole = await sent(service, "GET", path, issued.token, "identity", headers=headers)
        answer, body = await sent(service, "GET", path, issued.token, coding, headers=headers)
        assert answer.headers["content-encoding"] == coding
        assert decompressed(answer, body) == whole
        assert len(body) < len(whole) / 2


async def test_an_export_is_compressed(service: Service) -> None:
    token = await filled(service)
    _, whole = await sent(service, "GET", "/ledger/libraries/lib/entities", token, "")
    answer, body = await sent(service, "GET", "/ledger/libraries/lib/entities", token, "gzip")
    assert decompressed(answer, body) == whole


async def test_what_tells_a_token_is_never_compressed(service: Service) -> None:
    token = await filled(service)
    for method, path in (("GET", "/api/users/me"), ("GET", "/api/sessions"), ("POST", "/ledger/token/refresh")):
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "gzip, zstd"}
        answer = await service.ask(method, path, headers=headers)
        assert answer.status_code in (200, 201)
        assert "content-encoding" not in answer.headers
