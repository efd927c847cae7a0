"""Logout at the provider, and by it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest

from endpoints.accounts.identity.port import Identity, LoggedOut
from endpoints.services import HttpSettings
from ledger import keys
from ledger.store.interface import Store, open_store
from projections.accounts.tokens import session_id
from tests.support.phones.http import SECOND_US, START_US, Service, serving
from tests.support.sign_in.provider import ANN, ISSUER, MemoryProvider
from tests.support.sign_in.sign_ins import SignIn, browser, client, living, refused

LATER_US = START_US + 1
LOGIN_PAGE = "/auth/login?autoLaunch=0"
BOB = Identity(issuer=ISSUER, subject="sub-bob", email="bob@example.test", provider_session="op-session-9")


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    opened = await open_store(valkey_url)
    yield opened
    await opened.close()


@pytest.fixture
def provider() -> MemoryProvider:
    return MemoryProvider()


@pytest.fixture
async def service(store: Store, provider: MemoryProvider) -> AsyncIterator[Service]:
    async with serving(store, provider=provider) as service:
        yield service


async def signed_in(service: Service, provider: MemoryProvider, who: Identity = ANN) -> str:
    """Sign a device in; returns its token."""
    async with client(service) as http:
        token: str = (await SignIn(http, provider, by_app=True).complete(who)).json()["accessToken"]
    return token


async def logged_out(service: Service, token: str, **cookies: str) -> tuple[str, dict[str, list[str]]]:
    """Log a session out; returns where to go, and the query of that."""
    async with client(service) as http:
        header = "; ".join(f"immich_{name}={value}" for name, value in {**cookies, "access_token": token}.items())
        answer = await http.post("/api/auth/logout", headers={"cookie": header})
    assert answer.status_code == 200
    assert answer.json()["successful"] is True
    uri: str = answer.json()["redirectUri"]
    assert session_id(token) not in await living(service)
    return uri, parse_qs(urlsplit(uri).query)


async def told(service: Service, logout_token: str = "t", **options: Any) -> httpx.Response:
    """Send a back-channel logout."""
    async with client(service) as http:
        return await http.post("/api/oauth/backchannel-logout", **({"data": {"logout_token": logout_token}} | options))


async def test_who_signed_in_at_the_provider_is_told_to_sign_out_there(
    service: Service, provider: MemoryProvider
) -> None:
    uri, query = await logged_out(service, await signed_in(service, provider), auth_type="oauth")
    assert uri.startswith(f"{ISSUER}/end?")
    assert query == {"id_token_hint": ["credential-of-ann"]}


async def test_the_provider_may_send_the_user_back_to_the_external_domain(
    store: Store, provider: MemoryProvider
) -> None:
    for domain in ("https://photos.example", "https://photos.example/"):
        async with serving(store, HttpSettings(external_domain=domain), provider=provider) as service:
            _, query = await logged_out(service, await signed_in(service, provider), auth_type="oauth")
    assert query["post_logout_redirect_uri"] == ["https://photos.example" + LOGIN_PAGE]


async def test_a_browser_that_says_it_signed_in_there_is_sent_there_without_a_credential(service: Service) -> None:
    uri, query = await logged_out(service, (await service.sign_in()).token, auth_type="oauth")
    assert uri.startswith(f"{ISSUER}/end?")
    assert query == {}


@pytest.mark.parametrize("path", ["/api/auth/logout", "/auth/logout"])
@pytest.mark.parametrize(
    "cookies", ["; immich_auth_type=password", "; immich_auth_type=", "; immich_auth_type=OAuth", "", None]
)
async def test_an_app_that_signed_in_at_the_provider_gets_no_token_of_it(
    service: Service, provider: MemoryProvider, cookies: str | None, path: str
) -> None:
    token = await signed_in(service, provider)
    signed = {"cookie": f"immich_access_token={token}; immich_is_authenticated=true{cookies}"}
    async with client(service) as http:
        answer = await http.post(path, headers=signed if cookies is not None else {"authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    assert answer.json() == {"successful": True, "redirectUri": LOGIN_PAGE}
    assert "credential-of-ann" not in f"{answer.headers}{answer.text}"
    assert answer.headers.get_list("set-cookie") == [
        f"immich_{name}=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        for name in ("access_token", "auth_type", "is_authenticated")
    ]
    assert session_id(token) not in await living(service)


async def test_a_provider_is_not_shown_the_token_of_the_one_before_it(
    service: Service, provider: MemoryProvider
) -> None:
    token = await signed_in(service, provider)
    provider.name = "gumnut"
    uri, query = await logged_out(service, token, auth_type="oauth")
    assert uri.startswith(f"{ISSUER}/end?")
    assert query == {}


async def test_all_others_are_sent_to_the_login_page(service: Service, store: Store) -> None:
    for cookies in ({}, {"auth_type": "password"}, {"auth_type": "https://evil.example"}):
        uri, _ = await logged_out(service, (await service.sign_in()).token, **cookies)
        assert uri == LOGIN_PAGE
    for provider in (None, MemoryProvider(has_logout_page=False)):
        async with serving(store, provider=provider) as other:
            uri, _ = await logged_out(other, (await other.sign_in()).token, auth_type="oauth")
        assert uri == LOGIN_PAGE


async def test_a_provider_that_is_away_keeps_nobody_signed_in(
    service: Service, provider: MemoryProvider, caplog: pytest.LogCaptureFixture
) -> None:
    token = await signed_in(service, provider)
    provider.down = True
    with caplog.at_level(logging.WARNING):
        assert (await logged_out(service, token, auth_type="oauth"))[0] == LOGIN_PAGE
    assert "logout without the identity provider" in caplog.text
    assert "credential-of-ann" not in caplog.text


async def test_a_credential_that_cannot_be_read_keeps_nobody_signed_in(
    service: Service, provider: MemoryProvider, caplog: pytest.LogCaptureFixture
) -> None:
    token = await signed_in(service, provider)
    user = (await service.ask("GET", "/api/users/me", token)).json["id"]
    name = keys.credentials(service.ledger.partition_of(user))
    assert await service.store.command("HSET", name, session_id(token), b"changed", key=name) == 0
    uri, query = await logged_out(service, token, auth_type="oauth")
    assert uri.startswith(f"{ISSUER}/end")
    assert query == {}
    assert "logout without the provider's credential" in caplog.text


async def test_logout_leaves_no_credential(service: Service, provider: MemoryProvider) -> None:
    token = await signed_in(service, provider)
    user = (await service.ask("GET", "/api/users/me", token)).json["id"]
    assert await service.credentials.read(user, session_id(token)) is not None
    await logged_out(service, token)
    assert await service.credentials.read(user, session_id(token)) is None


async def test_the_provider_ends_the_sessions_of_one_of_its_own(service: Service, provider: MemoryProvider) -> None:
    first, second = await signed_in(service, provider), await signed_in(service, provider)
    elsewhere = await signed_in(service, provider, msgspec.structs.replace(ANN, provider_session="op-session-2"))
    bob = await signed_in(service, provider, BOB)
    provider.logout_tokens["t"] = LoggedOut(ISSUER, "sub-ann", "op-session-1", LATER_US)
    for _ in range(2):  # the same again finds nothing to end
        answer = await told(service)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["cache-control"] == "no-store"
        assert await living(service) == sorted(map(session_id, (elsewhere, bob)))
    for token in (first, second):
        assert (await service.ask("POST", "/api/auth/validateToken", token)).status_code == 401
    key, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    page = await service.ask("GET", f"/ledger/sessions/{session_id(first)}/events", headers={"x-api-key": key})
    assert page.json["events"][0]["event"] == "session_ended"
    assert page.json["events"][0]["data"] == {"reason": "provider_logout", "by": "oidc"}


async def test_another_providers_session_of_the_same_name_lives_on(service: Service, provider: MemoryProvider) -> None:
    token = await signed_in(service, provider)
    provider.logout_tokens["t"] = LoggedOut("https://other.example", None, "op-session-1", LATER_US)
    assert (await told(service)).status_code == 200
    assert await living(service) == [session_id(token)]


async def test_the_provider_ends_all_sessions_of_a_subject_that_began_there(
    service: Service, provider: MemoryProvider
) -> None:
    ann = await signed_in(service, provider)
    await signed_in(service, provider, msgspec.structs.replace(ANN, provider_session=None))
    child = (await service.ask("POST", "/api/sessions", ann, json={})).json["id"]
    bob = await signed_in(service, provider, BOB)
    user = (await service.ask("GET", "/api/users/me", ann)).json["id"]
    by_command = await service.sign_in(user, user, authenticated_by="command")
    assert child in await living(service)
    provider.logout_tokens["t"] = LoggedOut(ISSUER, "sub-ann", None, LATER_US)
    for _ in range(2):
        assert (await told(service)).status_code == 200
        assert await living(service) == sorted([session_id(bob), by_command.sid])


async def test_a_logout_token_shown_again_ends_nothing_that_began_since(
    service: Service, provider: MemoryProvider
) -> None:
    provider.logout_tokens["t"] = LoggedOut(ISSUER, "sub-ann", None, LATER_US)
    await signed_in(service, provider)
    assert (await told(service)).status_code == 200
    service.clock.now_us += SECOND_US
    again = await signed_in(service, provider)
    assert (await told(service)).status_code == 200
    assert await living(service) == [session_id(again)]


async def test_a_subject_nobody_knows(service: Service, provider: MemoryProvider) -> None:
    token = await signed_in(service, provider)
    provider.logout_tokens["t"] = LoggedOut(ISSUER, "sub-nobody", None, LATER_US)
    assert (await told(service)).status_code == 200
    assert await living(service) == [session_id(token)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"data": {}},
        {"data": {"other": "t"}},
        {"data": {"logout_token": ["good", "good"]}},
        {"data": {"logout_token": ""}},
        {"json": {"logout_token": "good"}, "data": None},
        {"content": b"\xff", "data": None},
        {"content": b"&".join([b"logout_token=good"] + [b"a=1"] * 40), "data": None},
    ],
)
async def test_what_is_no_good_logout_token(
    service: Service, provider: MemoryProvider, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    token = await signed_in(service, provider)
    provider.logout_tokens["good"] = LoggedOut(ISSUER, "sub-ann", "op-session-1", LATER_US)
    answer = await told(service, "a-bad-token", **options)
    assert answer.status_code == 400
    assert answer.headers["cache-control"] == "no-store"
    assert await living(service) == [session_id(token)]
    assert await refused(service) == {"logout_token_invalid": 1}
    assert "a-bad-token" not in caplog.text


async def test_too_many_bad_logout_tokens(service: Service) -> None:
    async with client(service) as http:
        form = {"logout_token": "bad"}
        answers = [(await http.post("/oauth/backchannel-logout", data=form)).status_code for _ in range(121)]
        assert answers == [400] * 120 + [429]


async def test_a_browser_that_was_logged_out_by_the_provider_signs_in_anew(
    service: Service, provider: MemoryProvider
) -> None:
    provider.logout_tokens["t"] = LoggedOut(ISSUER, None, "op-session-1", LATER_US)
    async with browser(service) as http:
        sign_in = SignIn(http, provider, by_app=False)
        assert (await sign_in.complete()).status_code == 201
        assert (await told(service)).status_code == 200
        assert (await http.get("/api/users/me")).status_code == 401
        again = msgspec.structs.replace(ANN, provider_session="op-session-2")
        assert (await sign_in.complete(again)).status_code == 201
        assert (await told(service)).status_code == 200
        assert (await http.get("/api/users/me")).status_code == 200
