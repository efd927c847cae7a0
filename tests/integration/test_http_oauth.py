"""Signing in at an identity provider: as the app does it, and as a browser does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest

from endpoints.accounts.identity.port import Identity, provider_session_digest
from endpoints.http.limits import LimitRules
from endpoints.services import HttpSettings
from ledger.personal import text_of
from ledger.store.interface import Store, open_store
from projections.accounts.tokens import session_id
from projections.entities.entity import read_line
from tests.support.phones.http import SECOND_US, Service, serving
from tests.support.sign_in.provider import ANN, ISSUER, MemoryProvider
from tests.support.sign_in.sign_ins import APP_URI, WEB_URI, SignIn, browser, client, living, refused

MOBILE_URI = "https://photos.example/api/oauth/mobile-redirect"
HOUR_US = 3600 * SECOND_US
LOGIN = {
    "accessToken", "userId", "userEmail", "name", "profileImagePath", "isAdmin", "shouldChangePassword", "isOnboarded",
}  # fmt: skip


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    opened = await open_store(valkey_url)
    yield opened
    await opened.close()


@pytest.fixture
def provider() -> MemoryProvider:
    return MemoryProvider()


def running(store: Store, provider: MemoryProvider, **settings: Any) -> AbstractAsyncContextManager[Service]:
    return serving(store, HttpSettings(**settings), provider=provider)


@pytest.fixture
async def service(store: Store, provider: MemoryProvider) -> AsyncIterator[Service]:
    async with running(store, provider) as service:
        yield service


async def admits(service: Service, token: str) -> bool:
    return (await service.ask("POST", "/api/auth/validateToken", token)).status_code == 200


@pytest.mark.parametrize("prefix", ["/api", ""])
async def test_the_app_signs_in_with_what_it_keeps_itself(
    service: Service, provider: MemoryProvider, prefix: str
) -> None:
    async with client(service) as http:
        sign_in = SignIn(http, provider, by_app=True, prefix=prefix)
        url = await sign_in.begin()
        asked = parse_qs(urlsplit(url).query)
        assert (asked["state"], asked["redirect_uri"]) == ([sign_in.state], [APP_URI])
        http.cookies.clear()  # the app has no use for them
        answer = await sign_in.come_back(provider.send_back(url))
    assert answer.status_code == 201
    login = answer.json()
    assert set(login) == LOGIN
    token = login.pop("accessToken")
    assert login == {
        "userId": login["userId"], "userEmail": "ann@example.test", "name": "Ann", "profileImagePath": "",
        "isAdmin": False, "shouldChangePassword": False, "isOnboarded": True,
    }  # fmt: skip
    assert answer.headers["cache-control"] == "no-store"
    assert await living(service) == [session_id(token)]
    assert await admits(service, token)
    state = await service.ledger.load(login["userId"], session_id(token))
    assert (state.library, state.authenticated_by) == (login["userId"], "oidc")
    assert [text_of(text) for text in (state.device_type, state.device_os, state.app_version)] == [
        "Pixel 8",
        "Android",
        "3.2.0",
    ]
    assert state.provider_session == provider_session_digest(ISSUER, "op-session-1")
    assert await service.credentials.read(state.user, state.sid) == "credential-of-ann"


async def test_a_browser_signs_in_with_what_its_cookies_keep(service: Service, provider: MemoryProvider) -> None:
    async with browser(service) as http:
        sign_in = SignIn(http, provider, by_app=False)
        url = await sign_in.begin()
        assert parse_qs(urlsplit(url).query)["redirect_uri"] == [WEB_URI]
        assert {"immich_oauth_state", "immich_oauth_code_verifier"} == set(http.cookies)
        answer = await sign_in.come_back(provider.send_back(url))
        assert answer.status_code == 201
        assert set(http.cookies) == {"immich_access_token", "immich_auth_type", "immich_is_authenticated"}
        assert http.cookies["immich_access_token"] == answer.json()["accessToken"]
        assert http.cookies["immich_auth_type"] == "oauth"
        assert (await http.get("/api/users/me")).json()["email"] == "ann@example.test"
        assert (await http.post("/api/sync/stream", json={"types": []})).status_code == 200
        [session] = (await http.get("/api/sessions")).json()
    assert (session["deviceType"], session["deviceOS"], session["appVersion"]) == ("Firefox", "Linux", None)


async def test_state_and_verifier_of_two_sign_ins_never_are_the_same(
    service: Service, provider: MemoryProvider
) -> None:
    kept = set()
    for _ in range(3):
        async with browser(service) as http:
            await SignIn(http, provider, by_app=False).begin()
            kept |= {http.cookies["immich_oauth_state"], http.cookies["immich_oauth_code_verifier"]}
    assert len(kept) == 6
    assert all(43 <= len(value) <= 128 for value in kept)


async def test_what_the_body_says_goes_before_the_cookies(service: Service, provider: MemoryProvider) -> None:
    async with client(service) as http:
        first = SignIn(http, provider, by_app=True)
        back = provider.send_back(await first.begin())
        await SignIn(http, provider, by_app=False).begin()  # its cookies replace those of the first
        assert (await first.come_back(back)).status_code == 201


async def test_a_client_with_its_own_challenge_keeps_no_verifier_of_an_earlier_attempt(
    service: Service, provider: MemoryProvider
) -> None:
    async with client(service) as http:
        await SignIn(http, provider, by_app=False).begin()
        await SignIn(http, provider, by_app=True).begin()
        assert set(http.cookies) == {"immich_oauth_state"}


async def test_one_identity_is_one_user_on_every_device(service: Service, provider: MemoryProvider) -> None:
    users = set()
    for by_app in (True, False, True):
        async with client(service) as http:
            users.add((await SignIn(http, provider, by_app=by_app).complete()).json()["userId"])
    bob = Identity(issuer=ISSUER, subject="sub-bob", email="bob@example.test")
    async with client(service) as http:
        answer = (await SignIn(http, provider, by_app=True).complete(bob)).json()
    assert len(users) == 1
    assert answer["userId"] not in users
    assert answer["name"] == answer["userId"], "nobody told a name"
    assert len(await living(service)) == 4


async def test_claims_choose_user_library_and_role(service: Service, provider: MemoryProvider) -> None:
    who = msgspec.structs.replace(ANN, user="ann", library="family", admin=True)
    async with client(service) as http:
        login = (await SignIn(http, provider, by_app=True).complete(who)).json()
    assert (login["userId"], login["isAdmin"]) == ("ann", True)
    state = await service.ledger.load("ann", session_id(login["accessToken"]))
    assert state.library == "family"
    me = (await service.ask("GET", "/api/users/me", login["accessToken"])).json
    assert (me["id"], me["email"], me["name"], me["isAdmin"]) == ("ann", "ann@example.test", "Ann", True)


async def test_the_librarys_row_of_a_user_goes_before_what_the_provider_told(
    service: Service, provider: MemoryProvider
) -> None:
    row = {
        "id": "ann", "name": "Annie", "email": "annie@example.test", "avatarColor": "green", "isAdmin": True,
        "oauthId": "", "quotaSizeInBytes": None, "quotaUsageInBytes": 2, "storageLabel": None, "deletedAt": None,
        "profileChangedAt": "2024-01-01T00:00:00.000Z", "hasProfileImage": False, "pinCode": None,
    }  # fmt: skip
    line = json.dumps({"type": "AuthUserV1", "id": "ann", "data": row}).encode()
    assert (await service.catalog.put("family", [read_line(line)])).taken == 1
    async with client(service) as http:
        who = msgspec.structs.replace(ANN, user="ann", library="family")
        login = (await SignIn(http, provider, by_app=True).complete(who)).json()
    assert (login["name"], login["userEmail"], login["isAdmin"]) == ("Annie", "annie@example.test", True)


@pytest.mark.parametrize("by_app", [True, False])
async def test_only_the_app_gets_a_token_that_lasts(store: Store, provider: MemoryProvider, by_app: bool) -> None:
    async with running(store, provider, token_ttl_us=HOUR_US) as service, client(service) as http:
        token = (await SignIn(http, provider, by_app=by_app).complete()).json()["accessToken"]
        assert await admits(service, token)
        service.clock.now_us += HOUR_US
        assert await admits(service, token) is by_app


async def test_an_identity_without_a_credential_or_a_session_at_the_provider(
    service: Service, provider: MemoryProvider
) -> None:
    who = msgspec.structs.replace(ANN, credential=None, provider_session=None)
    async with client(service) as http:
        login = (await SignIn(http, provider, by_app=True).complete(who)).json()
    state = await service.ledger.load(login["userId"], session_id(login["accessToken"]))
    assert state.provider_session == b""
    assert await service.credentials.read(state.user, state.sid) is None


@pytest.mark.parametrize("written", [APP_URI, "app.immich:/oauth-callback", "app.immich://oauth-callback"])
async def test_an_https_address_stands_in_for_the_apps_on_the_way_there_and_back(
    store: Store, provider: MemoryProvider, written: str
) -> None:
    async with running(store, provider, mobile_redirect_uri=MOBILE_URI) as service, client(service) as http:
        sign_in = SignIn(http, provider, by_app=True, redirect_uri=written)
        url = await sign_in.begin()
        assert parse_qs(urlsplit(url).query)["redirect_uri"] == [MOBILE_URI]
        back = provider.send_back(url)
        assert back.startswith(MOBILE_URI + "?")
        handed_on = await http.get(back.removeprefix("https://photos.example"))
        assert handed_on.status_code == 307
        assert handed_on.headers["location"] == f"{APP_URI}?{back.partition('?')[2]}"
        at_app = handed_on.headers["location"].replace(APP_URI, written)
        assert (await sign_in.come_back(at_app)).status_code == 201


async def test_other_addresses_are_left_as_they_are(store: Store, provider: MemoryProvider) -> None:
    async with running(store, provider, mobile_redirect_uri=MOBILE_URI) as service, browser(service) as http:
        assert (await SignIn(http, provider, by_app=False).complete()).status_code == 201
    async with running(store, provider) as service, client(service) as http:
        sign_in = SignIn(http, provider, by_app=True)
        url = await sign_in.begin()
        assert parse_qs(urlsplit(url).query)["redirect_uri"] == [APP_URI]
        assert (await sign_in.come_back(provider.send_back(url))).status_code == 201


@pytest.mark.parametrize("by_app", [True, False])
async def test_a_provider_with_its_own_state(store: Store, by_app: bool) -> None:
    provider = MemoryProvider("gumnut", checks_state=True)
    async with running(store, provider) as service, client(service) as http:
        sign_in = SignIn(http, provider, by_app=by_app)
        url = await sign_in.begin()
        assert http.cookies["immich_oauth_state"] == parse_qs(urlsplit(url).query)["state"][0] != sign_in.state
        if by_app:
            http.cookies.clear()
        answer = await sign_in.come_back(provider.send_back(url))
        assert answer.status_code == 201
        state = await service.ledger.load(answer.json()["userId"], session_id(answer.json()["accessToken"]))
        assert state.authenticated_by == "gumnut"
        assert await refused(service) == {}


async def test_features_and_config_tell_how_to_sign_in(store: Store, provider: MemoryProvider) -> None:
    settings = {"oauth_auto_launch": True, "oauth_button_text": "Sign in with ours"}
    async with running(store, provider, **settings) as service:
        features = (await service.ask("GET", "/api/server/features")).json
        assert (features["oauth"], features["oauthAutoLaunch"], features["passwordLogin"]) == (True, True, False)
        assert (await service.ask("GET", "/api/server/config")).json["oauthButtonText"] == "Sign in with ours"
    async with serving(store) as service:
        assert (await service.ask("GET", "/api/server/features")).json["oauth"] is False


async def test_an_address_that_signs_in_too_often_has_to_wait(store: Store, provider: MemoryProvider) -> None:
    async with serving(store, provider=provider, rules=LimitRules(sign_in="5/minute")) as service:
        async with client(service) as http:
            sign_in = SignIn(http, provider, by_app=True)
            back = "https://photos.example/?code=x&state=y"
            answers = [(await sign_in.come_back(back)).status_code for _ in range(6)]
            assert answers == [400] * 5 + [429]
            answer = await http.post("/api/oauth/authorize", json={"redirectUri": APP_URI})
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert await living(service) == []


async def test_an_account_that_signs_in_too_often_has_to_wait(store: Store, provider: MemoryProvider) -> None:
    rules = LimitRules(account="2/minute")
    async with serving(store, provider=provider, rules=rules) as service:
        answers: list[httpx.Response] = []
        for _ in range(3):
            async with client(service) as http:
                answers.append(await SignIn(http, provider, by_app=True).complete())
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        assert len(await living(service)) == 2
        async with client(service) as http:
            bob = Identity(issuer=ISSUER, subject="sub-bob", email="bob@example.test")
            assert (await SignIn(http, provider, by_app=True).complete(bob)).status_code == 201
