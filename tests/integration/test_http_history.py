"""GET /ledger/sessions/{id}/events over a real store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ledger.commands import OfferStream
from ledger.entity_types import mask_of
from ledger.positions import iso_from_us
from ledger.tokens import Issued
from tests.http import SECOND_US, START_US, Service

ACKS = 25


@pytest.fixture
async def device(service: Service) -> Issued:
    """A device that acknowledged ACKS times, a second apart, and is signed out."""
    issued = await service.sign_in(device_os="Android")
    await service.ledger.execute("ann", issued.sid, OfferStream(START_US, mask_of(["AssetV2", "AlbumV2"])))
    for number in range(1, ACKS + 1):
        service.clock.now_us += SECOND_US
        ack = f"AssetV2|{iso_from_us(START_US - 100 + number)}|a{number}"
        assert (await service.ask("POST", "/api/sync/ack", issued.token, json={"acks": [ack]})).status_code == 204
    service.clock.now_us += SECOND_US
    await service.ask("POST", "/api/auth/logout", issued.token)
    return issued


async def page(service: Service, sid: str, token: str, **params: Any) -> dict[str, Any]:
    answer = await service.ask("GET", f"/ledger/sessions/{sid}/events", token, params=params)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json
    return found


async def test_the_whole_history_newest_first(service: Service, device: Issued) -> None:
    found = await page(service, device.sid, (await service.sign_in()).token)
    assert found["sessionId"] == device.sid
    assert (found["next"], found["belowFloor"]) == (None, False)
    events = found["events"]
    assert [event["seq"] for event in events] == list(range(ACKS + 3, 0, -1))
    assert events[0]["event"] == "session_ended"
    assert events[0]["data"] == {"reason": "logout", "by": "ann"}
    assert events[-1]["data"]["deviceOS"] == "Android"
    assert events[-2]["data"] == {"snapshot": iso_from_us(START_US), "types": ["AssetV2", "AlbumV2"]}
    assert events[1]["data"]["moved"] == [f"AssetV2|{iso_from_us(START_US - 100 + ACKS)}|a{ACKS}"]
    assert all(len(event["hash"]) == 64 for event in events)


@pytest.mark.parametrize("limit", [1, 7, ACKS + 3, 1000])
async def test_pages_join_to_the_whole(service: Service, device: Issued, limit: int) -> None:
    token = (await service.sign_in()).token
    seqs: list[int] = []
    params: dict[str, Any] = {"limit": limit}
    for _ in range(ACKS + 4):
        found = await page(service, device.sid, token, **params)
        assert len(found["events"]) <= limit
        seqs += [event["seq"] for event in found["events"]]
        if found["next"] is None:
            break
        params["before"] = found["next"]
    assert seqs == list(range(ACKS + 3, 0, -1))


async def test_lines_when_asked_for(service: Service, device: Issued) -> None:
    token = (await service.sign_in()).token
    path = f"/ledger/sessions/{device.sid}/events"
    headers = {"authorization": f"Bearer {token}", "accept": "application/x-ndjson"}
    answer = await service.read(path, headers, {"limit": 7})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines == (await page(service, device.sid, token, limit=1000))["events"]


async def test_filters(service: Service, device: Issued) -> None:
    token = (await service.sign_in()).token

    async def seqs(**params: Any) -> list[int]:
        return [event["seq"] for event in (await page(service, device.sid, token, **params))["events"]]

    assert await seqs(event="session_created") == [1]
    assert await seqs(event="acks_recorded", limit=1000) == list(range(ACKS + 2, 2, -1))
    assert await seqs(entity="AlbumV2") == [2]
    assert await seqs(**{"from": iso_from_us(START_US + 24 * SECOND_US)}) == [28, 27, 26]
    assert await seqs(to=iso_from_us(START_US + 2 * SECOND_US)) == [4, 3, 2, 1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "x"),
        ("before", "0"),
        ("from", "now"),
        ("event", "x"),
        ("entity", "x"),
    ],
)
async def test_a_query_that_does_not_fit(service: Service, device: Issued, name: str, value: str) -> None:
    token = (await service.sign_in()).token
    answer = await service.ask("GET", f"/ledger/sessions/{device.sid}/events", token, params={name: value})
    assert answer.status_code == 400
    assert answer.json["errors"][0]["path"] == [name]


async def test_who_may_read_it(service: Service, device: Issued) -> None:
    path = f"/ledger/sessions/{device.sid}/events"
    audit, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    other, _ = await service.api_keys.create(["entities.read"], name="", now_us=1)
    strangers = [await service.sign_in(user=f"user{n}") for n in range(20)]
    assert (await service.ask("GET", path, headers={"x-api-key": audit})).status_code == 200
    assert (await service.ask("GET", path, headers={"x-api-key": other})).status_code == 403
    assert (await service.ask("GET", path)).status_code == 401
    assert (await service.ask("GET", path, device.token)).status_code == 401
    for stranger in strangers:
        assert (await service.ask("GET", path, stranger.token)).status_code == 404
    assert (
        await service.ask("GET", f"/ledger/sessions/{'0' * 64}/events", headers={"x-api-key": audit})
    ).status_code == 404
    assert (await service.ask("GET", "/ledger/sessions/x/events", headers={"x-api-key": audit})).status_code == 400
