"""Sessions, logout and the questions around them over a real store."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ledger import keys
from tests.support.phones.http import SECOND_US, Service

HOUR_US = 3600 * SECOND_US
ISO_MS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
KEYS = {"id", "createdAt", "updatedAt", "current", "deviceOS", "deviceType", "appVersion", "isPendingSyncReset"}
NOT_ADMITTED = (401, {"message": "Invalid user token"})


async def listed(service: Service, token: str) -> list[dict[str, Any]]:
    answer = await service.ask("GET", "/api/sessions", token)
    assert answer.status_code == 200
    sessions: list[dict[str, Any]] = answer.json
    return sessions


async def admits(service: Service, token: str) -> bool:
    answer = await service.ask("POST", "/api/auth/validateToken", token)
    if answer.status_code == 200:
        assert answer.json == {"authStatus": True}
        return True
    assert (answer.status_code, answer.json) == NOT_ADMITTED
    return False


async def test_the_list_is_the_users_own_devices_latest_first(service: Service) -> None:
    old = await service.sign_in(device_type="Pixel 8", device_os="Android", app_version="3.2.0")
    service.clock.now_us += SECOND_US
    new = await service.sign_in()
    await service.sign_in(user="bob")
    sessions = await listed(service, old.token)
    assert [session["id"] for session in sessions] == [new.sid, old.sid]
    assert [session["current"] for session in sessions] == [False, True]
    assert all(set(session) == KEYS for session in sessions)
    assert all(ISO_MS.fullmatch(session[name]) for session in sessions for name in ("createdAt", "updatedAt"))
    assert (sessions[1]["deviceType"], sessions[1]["deviceOS"], sessions[1]["appVersion"]) == (
        "Pixel 8",
        "Android",
        "3.2.0",
    )
    assert (sessions[0]["deviceType"], sessions[0]["deviceOS"], sessions[0]["appVersion"]) == ("", "", None)
    service.clock.now_us += 2 * HOUR_US
    assert [session["id"] for session in await listed(service, old.token)] == [old.sid, new.sid], "seen last goes first"


async def test_the_seeds_shape_at_the_root(service: Service) -> None:
    device = await service.sign_in()
    answer = await service.ask("GET", "/sessions", device.token)
    assert answer.json == {"sessions": await listed(service, device.token)}


async def test_the_seeds_shape_has_pages(service: Service) -> None:
    devices = []
    for _ in range(5):
        devices.append(await service.sign_in())
        service.clock.now_us += SECOND_US
    found, after = list[str](), None
    while True:
        query = {"limit": 2, **({"after": after} if after else {})}
        answer = (await service.ask("GET", "/sessions", devices[0].token, params=query)).json
        found += [session["id"] for session in answer["sessions"]]
        after = answer.get("next")
        if after is None:
            break
    assert found == [device.sid for device in reversed(devices)]
    for query in ({"limit": 0}, {"limit": 1001}, {"after": "x"}):
        refused = await service.ask("GET", "/sessions", devices[0].token, params=query)
        assert refused.status_code == 400
        assert str(next(iter(query))) in refused.text


async def test_a_child_says_that_it_ends_with_its_parent(service: Service) -> None:
    parent = await service.sign_in(expires_at_us=service.clock.now_us + 5 * SECOND_US)
    for body in ({}, {"duration": 60}):
        child = (await service.ask("POST", "/api/sessions", parent.token, json=body)).json
        assert child["expiresAt"] == (await listed(service, parent.token))[-1]["expiresAt"]
        assert await admits(service, child["token"])
    service.clock.now_us += 5 * SECOND_US
    assert not await admits(service, child["token"])


async def test_another_users_and_an_expired_device_cannot_be_locked(service: Service) -> None:
    own, other = await service.sign_in(), await service.sign_in(user="bob")
    expired = await service.sign_in(expires_at_us=service.clock.now_us + SECOND_US)
    assert (await service.ask("POST", f"/api/sessions/{expired.sid}/lock", own.token)).status_code == 204
    service.clock.now_us += SECOND_US
    for sid in (other.sid, expired.sid, "0" * 64):
        assert (await service.ask("POST", f"/api/sessions/{sid}/lock", own.token)).status_code == 400


async def test_a_child_is_made_with_a_token_and_ends_with_its_parent(service: Service) -> None:
    parent = await service.sign_in()
    body = {"duration": 60, "deviceType": "Cast", "deviceOS": "TV"}
    answer = await service.ask("POST", "/api/sessions", parent.token, json=body)
    assert answer.status_code == 201
    child = answer.json
    assert set(child) == KEYS | {"token", "expiresAt"}
    assert (child["deviceType"], child["deviceOS"], child["current"]) == ("Cast", "TV", False)
    assert await admits(service, child["token"])
    assert (await service.ask("DELETE", f"/api/sessions/{parent.sid}", parent.token)).status_code == 204
    assert not await admits(service, child["token"])
    assert not await admits(service, parent.token)


async def test_a_session_without_duration_does_not_expire_and_one_with_does(service: Service) -> None:
    parent = await service.sign_in()
    forever = (await service.ask("POST", "/api/sessions", parent.token, json={})).json
    bodiless = (await service.ask("POST", "/api/sessions", parent.token)).json
    brief = (await service.ask("POST", "/api/sessions", parent.token, json={"duration": 1})).json
    assert "expiresAt" not in forever
    assert "expiresAt" not in bodiless
    service.clock.now_us += SECOND_US
    assert await admits(service, forever["token"])
    assert not await admits(service, brief["token"])
    assert brief["id"] not in {session["id"] for session in await listed(service, parent.token)}


@pytest.mark.parametrize(
    "body", [{"duration": 0}, {"duration": 1.5}, {"duration": "9"}, {"deviceOS": None}, {"deviceType": "x" * 65}]
)
async def test_a_session_that_does_not_fit_is_not_made(service: Service, body: object) -> None:
    parent = await service.sign_in()
    answer = await service.ask("POST", "/api/sessions", parent.token, json=body)
    assert (answer.status_code, answer.json["message"]) == (400, "Validation failed")
    assert len(await listed(service, parent.token)) == 1


async def test_a_reset_is_asked_for_and_taken_back(service: Service) -> None:
    one, other = await service.sign_in(), await service.sign_in()
    for on in (True, True, False):
        body = {"isPendingSyncReset": on}
        answer = await service.ask("PUT", f"/api/sessions/{other.sid}", one.token, json=body)
        assert (answer.status_code, answer.json["isPendingSyncReset"]) == (200, on)
        assert answer.json["id"] == other.sid
    answer = await service.ask("PUT", f"/api/sessions/{one.sid}", one.token, json={"isPendingSyncReset": True})
    assert answer.json["current"] is False
    answer = await service.ask("PUT", f"/api/sessions/{one.sid}", one.token, json={})
    assert (answer.status_code, answer.json) == (400, {"message": "No fields to update"})


async def test_another_users_session_is_as_one_that_does_not_exist(service: Service) -> None:
    ann = await service.sign_in()
    strangers = [(await service.sign_in(user=f"user{n}")) for n in range(20)]  # some share the partition
    for target in [*(stranger.sid for stranger in strangers), "0" * 64]:
        for method, path, access in (
            ("DELETE", "", "authDevice.delete"),
            ("PUT", "", "session.update"),
            ("POST", "/lock", "session.lock"),
        ):
            body = {"isPendingSyncReset": True} if method == "PUT" else None
            answer = await service.ask(method, f"/api/sessions/{target}{path}", ann.token, json=body)
            assert (answer.status_code, answer.json) == (400, {"message": f"Not found or no {access} access"})
    for stranger in strangers:
        assert await admits(service, stranger.token)


@pytest.mark.parametrize(
    "bad", ["x", "A" * 64, "0" * 63, "3fa85f64-5717-4562-b3fc-2c963f66afa6", "%7B%7D", "0" * 64 + "%0A"]
)
async def test_a_malformed_id_is_a_validation_error(service: Service, bad: str) -> None:
    device = await service.sign_in()
    for method, path in (("DELETE", ""), ("PUT", ""), ("POST", "/lock")):
        answer = await service.ask(method, f"/api/sessions/{bad}{path}", device.token, json={})
        assert (answer.status_code, answer.json["message"]) == (400, "Validation failed")
        assert answer.json["errors"][0]["path"] == ["id"]


async def test_lock_answers_for_ones_own_devices(service: Service) -> None:
    one, other = await service.sign_in(), await service.sign_in()
    for sid in (one.sid, other.sid):
        answer = await service.ask("POST", f"/api/sessions/{sid}/lock", one.token)
        assert (answer.status_code, answer.text) == (204, "")


@pytest.mark.parametrize("prefix", ["/api", ""])
async def test_a_revoked_device_is_out_at_once(service: Service, prefix: str) -> None:
    one, other = await service.sign_in(), await service.sign_in()
    assert (await service.ask("DELETE", f"{prefix}/sessions/{other.sid}", one.token)).status_code == 204
    assert not await admits(service, other.token)
    assert (await service.ask("DELETE", f"{prefix}/sessions/{other.sid}", one.token)).status_code == 400
    assert (await service.ask("DELETE", f"{prefix}/sessions/{one.sid}", one.token)).status_code == 204
    assert not await admits(service, one.token)


async def test_all_others_are_ended(service: Service) -> None:
    one, two, three = [await service.sign_in() for _ in range(3)]
    bob = await service.sign_in(user="bob")
    assert (await service.ask("DELETE", "/api/sessions", one.token)).status_code == 204
    assert [await admits(service, device.token) for device in (one, two, three, bob)] == [True, False, False, True]
    assert (await service.ask("DELETE", "/api/sessions", two.token)).status_code == 401


@pytest.mark.parametrize("path", ["/api/auth/logout", "/auth/logout"])
async def test_logout_ends_the_session_and_clears_the_cookies(service: Service, path: str) -> None:
    device = await service.sign_in()
    cookie = f"immich_access_token={device.token}; immich_is_authenticated=true; immich_auth_type=password"
    answer = await service.ask("POST", path, headers={"cookie": cookie})
    assert answer.status_code == 200
    assert answer.json == {"successful": True, "redirectUri": "/auth/login?autoLaunch=0"}
    for name in ("immich_access_token", "immich_auth_type", "immich_is_authenticated"):
        cleared = answer.cookies[name]
        assert (cleared.value, cleared.path) == ("", "/")
        assert cleared.expires is not None
        assert cleared.expires.year == 1970
    assert not await admits(service, device.token)
    again = await service.ask("POST", path, device.token)
    assert (again.status_code, again.json) == NOT_ADMITTED


async def test_status_of_a_session(service: Service) -> None:
    device = await service.sign_in()
    answer = await service.ask("GET", "/api/auth/status", device.token)
    assert answer.json == {"isElevated": False, "password": False, "pinCode": False}
    brief = (await service.ask("POST", "/api/sessions", device.token, json={"duration": 9})).json
    answer = await service.ask("GET", "/api/auth/status", brief["token"])
    assert answer.json["expiresAt"] == brief["expiresAt"]


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("GET", "/api/sessions", "session.read"),
        ("POST", "/api/sessions", "session.create"),
        ("DELETE", "/api/sessions", "session.delete"),
        ("POST", "/api/auth/logout", "auth.logout"),
        ("GET", "/api/users/me", "user.read"),
    ],
)
async def test_an_api_key_has_no_session(service: Service, method: str, path: str, permission: str) -> None:
    key, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    answer = await service.ask(method, path, headers={"x-api-key": key})
    assert (answer.status_code, answer.json) == (403, {"message": f"Missing required permission: {permission}"})


async def test_every_way_to_present_a_token_admits(service: Service) -> None:
    token = (await service.sign_in()).token
    for headers, params in (
        ({"x-immich-user-token": token}, {}),
        ({"x-immich-session-token": token}, {}),
        ({}, {"sessionKey": token}),
        ({"authorization": f"bearer {token}"}, {}),
        ({"cookie": f"immich_access_token={token}"}, {}),
    ):
        answer = await service.ask("GET", "/api/sessions", headers=headers, params=params)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("user", "told"),
    [("ann", "ann"), ("ann@example.test", "ann@example.test"), ("Jörg%1", "J%C3%B6rg%251"), ("安", "%E5%AE%89")],
)
async def test_a_proxy_is_told_whose_token_it_is(service: Service, user: str, told: str) -> None:
    issued = await service.sign_in(user=user, library="lib-1")
    answer = await service.ask("GET", "/ledger/whoami", issued.token)
    assert (answer.status_code, answer.content) == (204, b"")
    found = [answer.headers[f"x-ledger-{name}"] for name in ("user", "library", "session")]
    assert found == [told, "lib-1", issued.sid]
    assert answer.headers["cache-control"] == "no-store"


async def test_a_proxy_learns_nothing_from_a_token_that_is_not_good(service: Service) -> None:
    issued = await service.sign_in()
    await service.ask("POST", "/api/auth/logout", issued.token)
    for token in (issued.token, "rubbish", None):
        answer = await service.ask("GET", "/ledger/whoami", token)
        assert answer.status_code == 401
        assert not [name for name in answer.headers if name.startswith("x-ledger-")]


# One that is damaged


async def damaged(service: Service, *, mendable: bool) -> tuple[str, str, str]:
    """Sign three devices in and damage what is stored of the last; returns the first's token, and the others' ids."""
    mine, other, bad = [await service.sign_in() for _ in range(3)]
    partition = service.ledger.partition_of("ann")
    name = keys.session(partition, bad.sid)
    if not mendable:
        await service.store.command("DEL", keys.stream(partition), key=keys.stream(partition))
    await service.store.command("HSET", name, "created_at_us", "x", key=name)
    return mine.token, other.sid, bad.sid


async def test_a_damaged_device_is_listed_and_can_be_signed_out(service: Service) -> None:
    token, other, bad = await damaged(service, mendable=True)
    assert {session["id"] for session in await listed(service, token)} >= {other, bad}
    answer = await service.ask("DELETE", f"/api/sessions/{bad}", token)
    assert (answer.status_code, answer.text) == (204, "")
    assert {session["id"] for session in await listed(service, token)} >= {other}
    assert bad not in {session["id"] for session in await listed(service, token)}


async def test_signing_all_others_out_signs_the_damaged_one_out_too(service: Service) -> None:
    token, _, _ = await damaged(service, mendable=True)
    assert (await service.ask("DELETE", "/api/sessions", token)).status_code == 204
    (left,) = await listed(service, token)
    assert left["current"]


async def test_one_that_cannot_be_mended_is_listed_by_its_id_and_named_when_all_others_end(service: Service) -> None:
    token, other, bad = await damaged(service, mendable=False)
    sessions = {session["id"]: session for session in await listed(service, token)}
    assert sessions.keys() >= {other, bad}
    assert set(sessions[bad]) == KEYS
    assert (sessions[bad]["deviceType"], sessions[bad]["current"]) == ("", False)
    assert ISO_MS.fullmatch(sessions[bad]["createdAt"])
    answer = await service.ask("DELETE", "/api/sessions", token)
    assert answer.status_code == 500
    assert bad in answer.json["message"]
    assert "syncledger rebuild --session" in answer.json["message"]
    assert {session["id"] for session in await listed(service, token)} & {other, bad} == {bad}
