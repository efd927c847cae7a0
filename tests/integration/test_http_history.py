"""GET /ledger/sessions/{id}/events over a real store."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from typing import Any

import pytest

from endpoints.sync.stream_guard import StreamBroken
from ledger import keys
from ledger.commands import OfferStream
from ledger.entity_types import mask_of
from ledger.positions import iso_from_us
from projections.accounts.tokens import Issued
from tests.support.phones.http import SECOND_US, START_US, Service

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
    assert events[-2]["data"] == {
        "snapshot": iso_from_us(START_US),
        "types": ["AssetV2", "AlbumV2"],
        "revision": 0,
        "origin": 0,
    }
    assert events[1]["data"]["moved"] == [f"AssetV2|{iso_from_us(START_US - 100 + ACKS)}|a{ACKS}"]
    previous = ""
    for event in reversed(events):  # as ops/docs/auditing.md says
        place = f"{event['seq']} {event['atUs']} {event['schema']} "
        stored = bytes.fromhex(event["session"]) + place.encode() + base64.b64decode(event["raw"])
        assert event["previousHash"] == previous
        assert event["hash"] == (previous := sha256(bytes.fromhex(previous) + stored).hexdigest())


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


async def test_oldest_first(service: Service, device: Issued) -> None:
    token = (await service.sign_in()).token
    newest_first = (await page(service, device.sid, token, limit=1000))["events"]
    assert (await page(service, device.sid, token, limit=1000, order="asc"))["events"] == newest_first[::-1]
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 7, "order": "asc"}
    while True:
        one = await page(service, device.sid, token, **params)
        found += one["events"]
        if one["next"] is None:
            break
        params["after"] = one["next"]
    assert found == newest_first[::-1]
    since = iso_from_us(START_US + 24 * SECOND_US)
    found = (await page(service, device.sid, token, order="asc", event="acks_recorded", **{"from": since}))["events"]
    assert [event["seq"] for event in found] == [26, 27]


@pytest.mark.parametrize(("order", "name"), [("asc", "before"), ("desc", "after"), ("up", "order")])
async def test_a_page_goes_on_in_its_own_order(service: Service, device: Issued, order: str, name: str) -> None:
    token, path = (await service.sign_in()).token, f"/ledger/sessions/{device.sid}/events"
    answer = await service.ask("GET", path, token, params={"order": order, "before": 5, "after": 5})
    assert (answer.status_code, answer.json["errors"][0]["path"]) == (400, [name])


async def user_page(service: Service, token: str, **params: Any) -> dict[str, Any]:
    answer = await service.ask("GET", "/ledger/events", token, params=params)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json
    return found


async def test_a_users_devices_as_one_story(service: Service, device: Issued) -> None:
    service.clock.now_us += SECOND_US
    other = await service.sign_in(device_os="iOS")
    stranger = await service.sign_in(user="bob")
    whole = await user_page(service, other.token, limit=1000)
    assert (whole["user"], whole["next"], whole["belowFloor"]) == ("ann", None, False)
    told = [(event["session"], event["seq"]) for event in whole["events"]]
    assert told == [(other.sid, 1), *((device.sid, seq) for seq in range(ACKS + 3, 0, -1))]
    assert (await user_page(service, other.token, limit=1000, user="ann")) == whole
    for order in ("desc", "asc"):
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {"limit": 10, "order": order}
        while True:
            one = await user_page(service, other.token, **params)
            found += one["events"]
            if one["next"] is None:
                break
            params["beyond"] = one["next"]
        assert found == (whole["events"] if order == "desc" else whole["events"][::-1])
    created = await user_page(service, other.token, event="session_created", limit=1000)
    assert [event["data"]["deviceOS"] for event in created["events"]] == ["iOS", "Android"]
    assert len((await user_page(service, stranger.token))["events"]) == 1
    headers = {"authorization": f"Bearer {other.token}", "accept": "application/x-ndjson"}
    lines = await service.read("/ledger/events", headers, {"limit": 4})
    assert [json.loads(line) for line in lines.text.splitlines()] == whole["events"]


async def test_of_a_users_story_a_damaged_device_is_named(service: Service, device: Issued) -> None:
    other = await service.sign_in()
    name = keys.stream(service.ledger.partition_of("ann"))
    (first,) = await service.ledger.store.command("XRANGE", name, "-", "+", "COUNT", 1, key=name)
    await service.ledger.store.command("XDEL", name, first[0], key=name)
    found = await user_page(service, other.token, limit=1000)
    assert list(found["broken"]) == [device.sid]
    assert "is missing" in found["broken"][device.sid]
    assert [event["session"] for event in found["events"]] == [other.sid, *[device.sid] * (ACKS + 2)]
    headers = {"authorization": f"Bearer {other.token}", "accept": "application/x-ndjson"}
    with pytest.raises(StreamBroken):  # a clean end would say that this is all
        await service.read("/ledger/events", headers)


async def test_who_may_read_a_users_story(service: Service, device: Issued) -> None:
    bob = await service.sign_in(user="bob")
    audit, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    other, _ = await service.api_keys.create(["entities.read"], name="", now_us=1)

    async def status(token: str | None = None, key: str = "", **params: str) -> int:
        headers = {"x-api-key": key} if key else {}
        answer = await service.ask("GET", "/ledger/events", token, headers=headers, params=params)
        return int(answer.status_code)

    assert await status(bob.token, user="ann") == 403
    assert await status(bob.token, user="bob") == 200
    assert await status() == 401
    assert await status(device.token) == 401
    assert await status(key=other, user="ann") == 403
    assert await status(key=audit, user="ann") == 200
    assert await status(key=audit, user="nobody") == 200
    assert await status(key=audit) == 400
    assert await status(key=audit, user="a b") == 400
    assert await status(key=audit, user="ann", beyond="x") == 400
