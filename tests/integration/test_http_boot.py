"""What an app asks before and right after signing in, in its own order."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import falcon
import pytest

from endpoints.services import HttpSettings
from ledger.store.interface import open_store
from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import read_line
from tests.support.phones.http import Service, serving
from tests.support.sign_in.provider import ISSUER, MemoryProvider

APP = {"user-agent": "immich-android/3.2.0", "deviceModel": "Pixel 8", "deviceType": "Android"}

ROW = {
    "id": "ann", "name": "Ann", "email": "ann@example.test", "avatarColor": "green", "isAdmin": True,
    "oauthId": "sub-1", "quotaSizeInBytes": 5, "quotaUsageInBytes": 2, "storageLabel": "a", "deletedAt": None,
    "profileChangedAt": "2024-01-01T00:00:00.000Z", "hasProfileImage": False, "pinCode": "1234",
}  # fmt: skip


@pytest.fixture
async def service(valkey_url: str) -> AsyncIterator[Service]:
    store = await open_store(valkey_url)
    settings = HttpSettings(external_domain="https://photos.example")
    async with serving(store, settings, provider=MemoryProvider()) as service:
        yield service
    await store.close()


async def test_before_sign_in(service: Service) -> None:
    assert (await service.ask("GET", "/.well-known/immich")).json == {"api": {"endpoint": "/api"}}
    assert (await service.ask("GET", "/api/server/ping")).json == {"res": "pong"}
    version = (await service.ask("GET", "/api/server/version")).json
    assert (version["major"], version["minor"]) == (3, 2)
    assert version["prerelease"] is None
    features = (await service.ask("GET", "/api/server/features")).json
    assert len(features) == 16
    assert all(isinstance(value, bool) for value in features.values())
    assert {name for name, there in features.items() if there} == {"oauth"}, "nothing else has an endpoint here"
    config = (await service.ask("GET", "/api/server/config")).json
    assert set(config) == {
        "externalDomain", "isInitialized", "isOnboarded", "loginPageMessage", "maintenanceMode", "mapDarkStyleUrl",
        "mapLightStyleUrl", "minFaces", "oauthButtonText", "publicUsers", "trashDays", "userDeleteDelay",
    }  # fmt: skip
    assert config["externalDomain"] == "https://photos.example"


async def test_who_am_i_without_a_row_of_mine_in_the_library(service: Service) -> None:
    device = await service.sign_in()
    me = (await service.ask("GET", "/api/users/me", device.token)).json
    assert (me["id"], me["name"], me["status"]) == ("ann", "ann", "active")
    assert set(me) == {
        "avatarColor", "clusterGroupId", "createdAt", "deletedAt", "email", "id", "isAdmin", "license", "name",
        "oauthId", "profileChangedAt", "profileImagePath", "quotaSizeInBytes", "quotaUsageInBytes",
        "shouldChangePassword", "status", "storageLabel", "updatedAt",
    }  # fmt: skip


async def test_who_am_i_by_the_librarys_row(service: Service) -> None:
    device = await service.sign_in()
    line = json.dumps({"type": "AuthUserV1", "id": "ann", "data": ROW}).encode()
    assert (await service.catalog.put("lib", [read_line(line)])).taken == 1
    me = (await service.ask("GET", "/api/users/me", device.token)).json
    assert (me["name"], me["email"], me["avatarColor"], me["isAdmin"]) == ("Ann", "ann@example.test", "green", True)
    assert (me["quotaSizeInBytes"], me["quotaUsageInBytes"], me["storageLabel"]) == (5, 2, "a")
    assert "pinCode" not in me


async def test_who_am_i_is_as_it_is_now_whoever_wrote_it(service: Service) -> None:
    device = await service.sign_in()

    async def me() -> tuple[str, str]:
        told = (await service.ask("GET", "/api/users/me", device.token)).json
        return told["name"], told["email"]

    async def is_called(name: str) -> None:
        row = {**ROW, "name": name, "email": f"{name}@example.test"}
        line = json.dumps({"type": "AuthUserV1", "id": "ann", "data": row}).encode()
        assert (await Catalog(service.store).put("lib", [read_line(line)])).taken == 1  # by another worker

    assert await me() == ("ann", "ann@localhost")
    for name in ("Ann", "Anna"):
        await is_called(name)
        assert await me() == await me() == (name, f"{name}@example.test")


async def test_who_am_i_by_the_identity_record_is_as_it_is_now(service: Service) -> None:
    device = await service.sign_in()
    await service.stream(device.token, "AuthUsersV1")  # which gives the library a row without names
    for name in ("Ann", "Anna"):
        await service.identities.sign_in(ISSUER, "s", email=f"{name}@x.test", name=name, user="ann", now_us=1)
        told = (await service.ask("GET", "/api/users/me", device.token)).json
        assert (told["name"], told["email"]) == (name, f"{name.lower()}@x.test")


async def test_who_am_i_is_refused_at_once_where_another_worker_ended_the_session(service: Service) -> None:
    device = await service.sign_in()
    assert (await service.ask("GET", "/api/users/me", device.token)).status_code == 200
    async with serving(service.store, beside=service) as other:
        assert (await other.ask("POST", "/api/auth/logout", device.token)).status_code == 200
    answer = await service.ask("GET", "/api/users/me", device.token)
    assert (answer.status_code, "ann@" in answer.text) == (401, False)


async def test_preferences_are_complete(service: Service) -> None:
    device = await service.sign_in()
    preferences = (await service.ask("GET", "/api/users/me/preferences", device.token)).json
    assert set(preferences) == {
        "albums", "cast", "download", "emailNotifications", "folders", "memories", "people", "purchase", "ratings",
        "recentlyAdded", "sharedLinks", "tags",
    }  # fmt: skip
    assert preferences["cast"] == {"gCastEnabled": False}


async def test_a_new_version_of_the_app_is_noted_and_nothing_blank_is(service: Service) -> None:
    device = await service.sign_in()
    await service.ask("GET", "/api/users/me", device.token, headers=APP)
    await service.ask("GET", "/api/users/me", device.token, headers={"user-agent": "immich-android/3.2.1"})
    await service.ask("GET", "/api/users/me", device.token, headers={"user-agent": "curl/8"})
    [session] = (await service.ask("GET", "/api/sessions", device.token)).json
    assert (session["deviceType"], session["deviceOS"], session["appVersion"]) == ("Pixel 8", "Android", "3.2.1")
    state = await service.ledger.load("ann", device.sid)
    assert state.seq == 3, "one event for each change"


async def test_about_is_for_those_who_are_signed_in(service: Service) -> None:
    assert (await service.ask("GET", "/api/server/about")).status_code == 401
    about = (await service.ask("GET", "/api/server/about", (await service.sign_in()).token)).json
    assert about["version"] == "v3.2.2"
    assert about["licensed"] is False


async def test_health_says_whether_the_store_answers(service: Service) -> None:
    assert (await service.ask("GET", "/healthz")).status_code == 200
    ready = await service.ask("GET", "/readyz")
    told = ready.json
    assert (ready.status_code, told.pop("source")) == (
        200,
        {"kind": "catalog", "ok": True, "text": "in the ledger's own store"},
    )
    assert told.pop("protocol") == {"version": "3.2.2", "text": "by default", "unknownTypes": []}
    assert (told.pop("archive"), told.pop("clock"), told.pop("eviction")) == ("", "", "")
    assert told == {"store": "test", "durability": "none", "embedded": False}
    await service.store.close()
    assert (await service.ask("GET", "/healthz")).status_code == 200
    assert (await service.ask("GET", "/readyz")).status_code == 503


@pytest.mark.parametrize("path", ["/api/server/ping", "/openapi.json", "/healthz"])
async def test_head_and_options(service: Service, path: str) -> None:
    got, head = await service.ask("GET", path), await service.ask("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))
    assert "GET" in (await service.ask("OPTIONS", path)).headers["allow"]


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/albums", "/api/sync/ack/", "/api/sync/stream/x"])
async def test_an_unknown_path(service: Service, path: str) -> None:
    answer = await service.ask("GET", path)
    assert (answer.status_code, answer.json) == (404, {"message": f"Cannot GET {path}"})


async def test_a_websocket_is_closed_and_nothing_breaks(service: Service) -> None:
    with pytest.raises(falcon.WebSocketDisconnected) as closed:
        async with service.client.simulate_ws("/api/socket.io"):
            pass
    assert closed.value.code == 3404
    assert (await service.ask("GET", "/api/socket.io")).status_code == 404
