"""From a user to the phone over HTTP: found by user, address or the start of an id, in pages, by audit keys alone."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.commands import CreateSession
from projections.accounts.tokens import Issued
from tests.support.phones.http import SECOND_US, Service

ISSUER = "https://id.example.test"


@pytest.fixture
async def key(service: Service) -> str:
    return (await service.api_keys.create(["audit.read"], name="", now_us=1))[0]


async def found(service: Service, key: str, path: str, **params: Any) -> dict[str, Any]:
    answer = await service.ask("GET", path, headers={"x-api-key": key}, params=params)
    assert answer.status_code == 200, answer.json
    page: dict[str, Any] = answer.json
    return page


async def sign_out(service: Service, device: Issued) -> None:
    service.clock.now_us += SECOND_US
    assert (await service.ask("POST", "/api/auth/logout", device.token)).status_code == 200


async def test_living_and_ended_sessions_of_a_user(service: Service, key: str) -> None:
    living, over = await service.sign_in(device_os="iOS"), await service.sign_in(device_os="Android", app_version="3.2")
    await service.sign_in(user="bob")
    await sign_out(service, over)
    page = await found(service, key, "/ledger/sessions", user="ann")
    by_id = {one["id"]: one for one in page["sessions"]}
    assert by_id.keys() == {living.sid, over.sid}
    assert (by_id[living.sid]["lives"], by_id[living.sid]["deviceOS"]) == (True, "iOS")
    told = by_id[over.sid]
    assert (told["lives"], told["endReason"], told["library"]) == (False, "logout", "lib")
    assert (told["deviceOS"], told["appVersion"], told["user"]) == ("Android", "3.2", "ann")
    assert told["endedAt"] > told["createdAt"]
    page = await found(service, key, "/ledger/sessions", user="ann", ended="false")
    assert [one["id"] for one in page["sessions"]] == [living.sid]


async def test_by_address_and_by_the_start_of_an_id(service: Service, key: str) -> None:
    device = await service.sign_in()
    await service.identities.sign_in(ISSUER, "s", email="Ann@Example.test", user="ann", now_us=1)
    page = await found(service, key, "/ledger/sessions", email="ann@example.TEST")
    assert [one["id"] for one in page["sessions"]] == [device.sid]
    assert (await found(service, key, "/ledger/sessions", email="bob@example.test"))["sessions"] == []
    page = await found(service, key, "/ledger/sessions", id=device.sid[:8])
    assert [one["id"] for one in page["sessions"]] == [device.sid]
    await sign_out(service, device)
    page = await found(service, key, "/ledger/sessions", id=device.sid[:8])
    assert [(one["id"], one["lives"]) for one in page["sessions"]] == [(device.sid, False)]


async def test_pages_join_to_the_whole(service: Service, key: str) -> None:
    sids = sorted([(await service.sign_in()).sid for _ in range(7)])
    got: list[str] = []
    beyond: dict[str, str] = {}
    for _ in range(10):
        page = await found(service, key, "/ledger/sessions", user="ann", limit=3, **beyond)
        assert len(page["sessions"]) <= 3
        got += [one["id"] for one in page["sessions"]]
        if page["next"] is None:
            break
        beyond = {"beyond": page["next"]}
    assert got == sids


async def test_all_users_in_pages(service: Service, key: str) -> None:
    users = sorted(f"user-{number}" for number in range(9))
    for user in users:
        await service.sign_in(user=user)
    await sign_out(service, await service.sign_in(user="user-3"))
    got: list[dict[str, Any]] = []
    beyond: dict[str, str] = {}
    for _ in range(20):
        page = await found(service, key, "/ledger/users", limit=2, **beyond)
        got += page["users"]
        if page["next"] is None:
            break
        beyond = {"beyond": page["next"]}
    assert sorted(one["user"] for one in got) == users
    assert {"user": "user-3", "living": 1, "ended": 1} in got


async def test_a_start_of_an_id_is_taken_where_an_id_is(service: Service, key: str) -> None:
    device, other = await service.sign_in(), await service.sign_in(user="bob")
    for what in ("events", "state", "explain", "streams"):
        page = await found(service, key, f"/ledger/sessions/{device.sid[:10]}/{what}")
        assert page["sessionId"] == device.sid
    path = f"/ledger/sessions/{device.sid[:10]}/explain"
    assert (await service.ask("GET", path, device.token)).status_code == 200, "its own user's"
    assert (await service.ask("GET", path, other.token)).status_code == 404


async def test_an_ambiguous_start_names_who_is_meant(service: Service, key: str) -> None:
    device = await service.sign_in()
    twin = device.sid[:12] + ("0" * 52 if device.sid[12:] != "0" * 52 else "1" * 52)

    await service.ledger.execute("bob", twin, CreateSession("bob", "lib"))
    answer = await service.ask("GET", f"/ledger/sessions/{device.sid[:12]}/explain", headers={"x-api-key": key})
    assert answer.status_code == 400
    assert device.sid in answer.text
    assert twin in answer.text


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "user"),
        ({"user": "ann", "id": "abcd"}, "user"),
        ({"id": "abc"}, "id"),
        ({"id": "XYZW"}, "id"),
        ({"user": "a b"}, "user"),
        ({"email": "no spaces please"}, "email"),
        ({"user": "ann", "beyond": "*"}, "beyond"),
        ({"user": "ann", "limit": "1000"}, "limit"),
    ],
)
async def test_what_cannot_be_searched_names_the_field(
    service: Service, key: str, params: dict[str, str], field: str
) -> None:
    answer = await service.ask("GET", "/ledger/sessions", headers={"x-api-key": key}, params=params)
    assert answer.status_code == 400
    assert [error["path"] for error in answer.json["errors"]] == [[field]]


@pytest.mark.parametrize("path", ["/ledger/sessions?user=ann", "/ledger/users"])
async def test_only_audit_keys_may_search(service: Service, key: str, path: str) -> None:
    other, _ = await service.api_keys.create(["entities.read"], name="", now_us=1)
    device = await service.sign_in()
    assert (await service.ask("GET", path, headers={"x-api-key": key})).status_code == 200
    assert (await service.ask("GET", path, headers={"x-api-key": other})).status_code == 403
    assert (await service.ask("GET", path, device.token)).status_code == 403
    assert (await service.ask("GET", path)).status_code == 401
    broken = await service.ask("GET", "/ledger/users", headers={"x-api-key": key}, params={"beyond": "x"})
    assert broken.status_code == 400
