"""Devices over HTTP: lists across users, one's own alone, the health of one, its plot, and the whole ledger."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import force_setattr

from ledger import keys
from ledger.errors import StoreUnavailable
from projections.census import rates
from projections.entities.entity import read_line
from projections.sent.marking import note_end
from projections.sent.record import SentStream
from tests.support.phones.http import SECOND_US, Service
from tests.support.sources.samples import SAMPLES

NAMED = '<img src=x onerror="alert(1)">'


@pytest.fixture
async def key(service: Service) -> str:
    return (await service.api_keys.create(["audit.read"], name="", now_us=1))[0]


async def got(service: Service, key: str, path: str, **params: Any) -> dict[str, Any]:
    answer = await service.ask("GET", path, headers={"x-api-key": key}, params=params)
    assert answer.status_code == 200, answer.json
    page: dict[str, Any] = answer.json
    return page


async def test_devices_of_everybody_in_pages(service: Service, key: str) -> None:
    sids = [(await service.sign_in(user=f"user-{number}", device_type=NAMED)).sid for number in range(7)]
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await got(service, key, "/ledger/devices", limit=3, **cursor)
        assert page["unread"] == []
        assert len(page["devices"]) <= 3
        found += page["devices"]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert sorted(one["session"] for one in found) == sorted(sids)
    assert {one["deviceType"] for one in found} == {NAMED}, "what a device calls itself is data"
    answer = await service.ask("GET", "/ledger/devices", headers={"x-api-key": key})
    assert answer.headers["content-type"] == "application/json"
    assert found[0].keys() == {
        "session", "user", "library", "deviceType", "deviceOS", "appVersion", "createdAt", "lastSeenAt", "endedAt",
        "endReason", "stuck", "lastCompletedAt", "behind", "damaged",
    }  # fmt: skip


async def test_devices_are_found_by_user_address_and_the_start_of_an_id(service: Service, key: str) -> None:
    device, over = await service.sign_in(), await service.sign_in()
    await service.sign_in(user="bob")
    service.clock.now_us += SECOND_US
    assert (await service.ask("POST", "/api/auth/logout", over.token)).status_code == 200
    await service.identities.sign_in("https://id.example.test", "s", email="Ann@Example.test", user="ann", now_us=1)

    async def sids(**params: Any) -> list[str]:
        return [one["session"] for one in (await got(service, key, "/ledger/devices", **params))["devices"]]

    assert await sids(user="ann") == [device.sid]
    assert await sids(user="ann", ended="true") == [device.sid, over.sid]
    assert await sids(email="ann@EXAMPLE.test", ended="true") == [device.sid, over.sid]
    assert await sids(email="nobody@example.test") == []
    assert await sids(session=over.sid[:10]) == []
    assert await sids(session=over.sid[:10], ended="true") == [over.sid]
    assert await sids(session=over.sid[:10], ended="true", user="bob") == []
    assert await sids(user="ann", ended="true", limit=1, cursor=f"u.0.{2**53 - 1}.{device.sid}") == [over.sid]
    ended = (await got(service, key, "/ledger/devices", session=over.sid, ended="true"))["devices"][0]
    assert (ended["endReason"], ended["behind"], ended["endedAt"] is not None) == ("logout", None, True)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "s.1." + "0" * 64}, "cursor"),
        ({"user": "ann", "cursor": "h.1." + "0" * 64}, "cursor"),
        ({"session": "xyz1"}, "session"),
        ({"session": "ab"}, "session"),
        ({"limit": 201}, "limit"),
        ({"user": "a b"}, "user"),
        ({"user": "ann", "email": "a@b.test"}, "email"),
        ({"mine": "true"}, "mine"),
        ({"order": "x"}, "order"),
    ],
)
async def test_what_is_asked_wrongly_is_named(service: Service, key: str, params: dict[str, Any], field: str) -> None:
    answer = await service.ask("GET", "/ledger/devices", headers={"x-api-key": key}, params=params)
    assert answer.status_code == 400
    assert answer.json["errors"][0]["path"] == [field]


async def test_nobody_sees_devices_of_another_user(service: Service) -> None:
    mine, theirs = await service.sign_in(), await service.sign_in(user="bob")
    other = (await service.api_keys.create(["entities.write"], name="", now_us=1))[0]
    for token in (mine.token, None):
        assert (await service.ask("GET", "/ledger/devices", token)).status_code in (401, 403)
    assert (await service.ask("GET", "/ledger/devices", headers={"x-api-key": other})).status_code == 403
    assert (await service.ask("GET", "/ledger/counts", mine.token)).status_code == 403
    for path, params in (("/ledger/devices", {"mine": "1"}), ("/ledger/my/devices", {})):
        answer = await service.ask("GET", path, mine.token, params=params)
        assert [one["session"] for one in answer.json["devices"]] == [mine.sid]
    for params in ({"user": "bob"}, {"email": "bob@example.test"}):
        answer = await service.ask("GET", "/ledger/devices", mine.token, params={"mine": "1", **params})
        assert answer.status_code == 403
    answer = await service.ask(
        "GET", "/ledger/devices", mine.token, params={"mine": "1", "session": theirs.sid, "ended": "1"}
    )
    assert answer.json["devices"] == []
    for what in ("health", "plot"):
        assert (await service.ask("GET", f"/ledger/sessions/{theirs.sid}/{what}", mine.token)).status_code == 404
        assert (await service.ask("GET", f"/ledger/sessions/{mine.sid}/{what}", mine.token)).status_code == 200


async def test_how_far_a_device_is_behind_and_why_it_is_stuck(service: Service, key: str) -> None:
    device = await service.sign_in()
    for entity_type in ("UserV1", "AssetV2"):
        line = {"type": entity_type, "data": SAMPLES[entity_type]}
        await service.catalog.put("lib", [read_line(msgspec.json.encode(line))])
    (row,) = (await got(service, key, "/ledger/devices"))["devices"]
    assert row["behind"] is None, "it asked for nothing yet: nobody knows for what it will"
    lines = await service.stream(device.token, "UsersV1", "AssetsV2")
    acks = [line["ack"] for line in lines]
    answer = await service.ask("POST", "/api/sync/ack", device.token, json={"acks": acks[:1]})
    assert answer.status_code == 204
    (row,) = (await got(service, key, "/ledger/devices"))["devices"]
    assert (row["behind"], row["lastCompletedAt"], row["stuck"]) == (len(lines) - 2, None, None)
    stream = SentStream(service.clock(), 1, "refused", 0, 0, "", "", 0, "c", "the source is down")
    assert await note_end(service.ledger, "ann", device.sid, stream)
    (row,) = (await got(service, key, "/ledger/devices"))["devices"]
    assert row["stuck"]["why"] == "streams fail here"
    service.clock.now_us += SECOND_US
    assert (await service.ask("POST", "/api/sync/ack", device.token, json={"acks": acks})).status_code == 204
    (row,) = (await got(service, key, "/ledger/devices"))["devices"]
    assert (row["behind"], row["stuck"]) == (0, None)
    assert row["lastCompletedAt"] is not None
    health = await got(service, key, f"/ledger/sessions/{device.sid}/health")
    by_type = {one["type"]: one for one in health["types"]}
    assert (by_type["AssetV2"]["total"], by_type["AssetV2"]["has"], by_type["AssetV2"]["behind"]) == (1, 1, 0)
    assert health["state"]["sessionId"] == health["sessionId"] == health["explanation"]["sessionId"] == device.sid
    plot = await got(service, key, f"/ledger/sessions/{device.sid}/plot", buckets=10)
    assert sum(bucket.get("offers", 0) for bucket in plot["buckets"]) == 1
    assert sum(bucket.get("acks", 0) for bucket in plot["buckets"]) == 2
    assert sum(bucket.get("streams", {}).get("refused", 0) for bucket in plot["buckets"]) == 1
    assert plot["events"] == 4


async def test_a_device_that_cannot_be_read_says_so_and_the_others_are_told(service: Service, key: str) -> None:
    fine, wrong = await service.sign_in(user="bob"), await service.sign_in()
    partition = service.ledger.partition_of("ann")
    name = keys.stream(partition)
    await service.store.command("DEL", name, key=name)
    await service.store.command("HSET", keys.session(partition, wrong.sid), "seq", "x", key=name)
    page = await got(service, key, "/ledger/devices")
    rows = {one["session"]: one for one in page["devices"]}
    assert rows[fine.sid]["damaged"] is None
    assert rows[wrong.sid]["damaged"]


async def test_counts_over_time_come_of_the_ring(service: Service, key: str) -> None:
    now_us = service.clock()
    counted = [number + 1 for number in range(len(rates.NAMES))]
    for ago_s in (90_000, 300, 30, 0, 0):
        await rates.add(service.store, counted, now_us - ago_s * SECOND_US)
    told = await got(service, key, "/ledger/counts")
    assert told["slotS"] == 10
    assert sum(slot["events"] for slot in told["rates"]) == 4
    assert sum(slot["errors"] for slot in told["rates"]) == 4 * len(rates.NAMES)
    assert len(told["rates"]) <= 60
    assert told["store"]["ok"] is True
    assert (told["ledger"]["notWhole"], told["ledger"]["notIndexed"], told["ledger"]["unread"]) == ([], [], [])
    assert {one["what"] for one in told["latencies"]} >= {"request", "ack", "append"}
    day = await got(service, key, "/ledger/counts", **{"from": "2020-01-01T00:00:00Z", "slots": 400})
    assert len(day["rates"]) <= 400
    assert day["slotS"] % 60 == 0
    assert sum(slot["events"] for slot in day["rates"]) == 4, "what is older than a day is gone"
    answer = await service.ask("GET", "/ledger/counts", headers={"x-api-key": key}, params={"slots": 401})
    assert answer.status_code == 400
    backwards = {"from": "2020-01-02T00:00:00Z", "to": "2020-01-01T00:00:00Z"}
    answer = await service.ask("GET", "/ledger/counts", headers={"x-api-key": key}, params=backwards)
    assert (answer.status_code, answer.json["errors"][0]["path"]) == (400, ["to"])
    past = await got(service, key, "/ledger/counts", to="1970-01-02T00:00:00Z")
    assert past["from"] <= past["to"]


async def test_counts_are_told_while_the_store_takes_no_writes(service: Service, key: str) -> None:
    async def refuses() -> Any:
        raise StoreUnavailable("it is a replica", maybe_done=False)

    force_setattr(service.services, "readiness", refuses)
    told = await got(service, key, "/ledger/counts")
    assert told["store"] == {"ok": False, "text": "it is a replica", "durability": ""}
    assert told["source"] is None
