"""Cookies to the letter, and what other origins' pages can do with them: nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.utils import formatdate

import pytest

from endpoints.accounts.cookies import MAX_HEADER_BYTES
from endpoints.services import HttpSettings
from ledger.log.finding import locate
from ledger.store.interface import Store, open_store
from tests.support.phones.http import START_US, Service, serving
from tests.support.sign_in.provider import MemoryProvider
from tests.support.sign_in.sign_ins import SignIn, browser, client, living

EXPIRES = formatdate(START_US // 1_000_000 + 400 * 86_400, usegmt=True)
KEPT = f"Max-Age=34560000; Path=/; Expires={EXPIRES}"
FORGOTTEN = "Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
ACCESS = ("immich_access_token", "immich_auth_type", "immich_is_authenticated")


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


@pytest.mark.parametrize(
    ("url", "enforced", "secure"),
    [
        ("http://photos.example", False, ""),
        ("http://photos.example", True, "; Secure"),
        ("https://photos.example", False, "; Secure"),
    ],
)
async def test_a_browsers_cookies_to_the_letter(
    store: Store, provider: MemoryProvider, url: str, enforced: bool, secure: str
) -> None:
    settings = HttpSettings(secure_cookies=enforced)
    async with serving(store, settings, provider=provider) as service, client(service, url) as http:
        begun = await http.post("/api/oauth/authorize", json={"redirectUri": "https://photos.example/auth/login"})
        state, verifier = (line.partition(";")[0].partition("=")[2] for line in begun.headers.get_list("set-cookie"))
        assert len(state) == len(verifier) == 43
        assert begun.headers.get_list("set-cookie") == [
            f"immich_oauth_state={state}; {KEPT}; HttpOnly{secure}; SameSite=Lax",
            f"immich_oauth_code_verifier={verifier}; {KEPT}; HttpOnly{secure}; SameSite=Lax",
        ]
        back = provider.send_back(begun.json()["url"])
        sent = {"cookie": f"immich_oauth_state={state}; immich_oauth_code_verifier={verifier}"}
        answer = await http.post("/api/oauth/callback", json={"url": back}, headers=sent)
        token = answer.json()["accessToken"]
        assert answer.headers.get_list("set-cookie") == [
            f"immich_oauth_state=; {FORGOTTEN}",
            f"immich_oauth_code_verifier=; {FORGOTTEN}",
            f"immich_access_token={token}; {KEPT}; HttpOnly{secure}; SameSite=Lax",
            f"immich_auth_type=oauth; {KEPT}; HttpOnly{secure}; SameSite=Lax",
            f"immich_is_authenticated=true; {KEPT}{secure}; SameSite=Lax",
        ]
        out = await http.post("/api/auth/logout", headers={"authorization": f"Bearer {token}"})
        assert out.headers.get_list("set-cookie") == [f"{name}=; {FORGOTTEN}" for name in ACCESS]


async def test_a_header_of_a_proxy_nobody_trusts_makes_nothing_secure(service: Service) -> None:
    async with client(service, x_forwarded_proto="https", forwarded="proto=https") as http:
        answer = await http.post("/api/oauth/authorize", json={"redirectUri": "https://photos.example/"})
    assert "Secure" not in answer.headers["set-cookie"]


async def test_a_state_with_signs_of_its_own_comes_back_as_it_was(service: Service, provider: MemoryProvider) -> None:
    async with client(service) as http:
        body = {"redirectUri": "https://photos.example/", "state": "a+b/c=~.d"}
        begun = await http.post("/api/oauth/authorize", json=body)
        assert "immich_oauth_state=a%2Bb%2Fc%3D~.d;" in begun.headers["set-cookie"]
        answer = await http.post("/api/oauth/callback", json={"url": provider.send_back(begun.json()["url"])})
        assert answer.status_code == 201


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/auth/logout"),
        ("POST", "/auth/logout"),
        ("POST", "/api/sessions"),
        ("DELETE", "/api/sessions"),
        ("DELETE", "/api/sessions/{sid}"),
        ("PUT", "/api/sessions/{sid}"),
        ("POST", "/api/sync/ack"),
        ("DELETE", "/api/sync/ack"),
        ("POST", "/api/sync/stream"),
        ("POST", "/api/oauth/unlink"),
        ("POST", "/ledger/token/refresh"),
        ("POST", "/api/auth/validateToken"),
    ],
)
async def test_another_origins_page_changes_nothing_with_a_cookie(
    service: Service, provider: MemoryProvider, method: str, path: str
) -> None:
    async with browser(service) as http:
        await SignIn(http, provider, by_app=False).complete()
        [sid] = await living(service)
        before = await service.ledger.load(*await _owner(service, sid))
        for foreign in (
            {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
            {"origin": "https://evil.photos.example", "sec-fetch-site": "same-site"},
            {"origin": "null", "sec-fetch-site": "none"},
        ):
            answer = await http.request(method, path.format(sid=sid), json={}, headers=foreign)
            assert (answer.status_code, answer.json()) == (403, {"message": "Cross-origin request refused"})
            assert "set-cookie" not in answer.headers
        assert await living(service) == [sid]
        assert await service.ledger.load(before.user, sid) == before


async def test_the_app_and_our_own_pages_use_the_cookie(service: Service) -> None:
    token = (await service.sign_in()).token
    cookie = f"immich_access_token={token}; immich_is_authenticated=true; immich_auth_type=password"
    for url, headers in (
        ("http://photos.example", {"user-agent": "immich-ios/3.2.0"}),
        ("https://photos.example", {"origin": "https://photos.example", "sec-fetch-site": "same-origin"}),
        ("http://photos.example:2283", {"origin": "http://photos.example:2283"}),
    ):
        async with client(service, url) as http:
            answer = await http.post("/api/sync/ack", json={"acks": []}, headers={"cookie": cookie, **headers})
            assert answer.status_code == 204


async def test_another_origins_page_with_a_token_of_its_own_is_no_ones_victim(service: Service) -> None:
    token = (await service.sign_in()).token
    async with client(service, origin="https://tool.example", sec_fetch_site="cross-site") as http:
        for headers in ({"authorization": f"Bearer {token}"}, {"x-immich-user-token": token}):
            assert (await http.post("/api/sync/ack", json={"acks": []}, headers=headers)).status_code == 204


async def test_a_cookie_header_that_is_too_long(service: Service) -> None:
    token = (await service.sign_in()).token
    long = f"immich_access_token={token}; a=" + "x" * MAX_HEADER_BYTES
    async with client(service) as http:
        for path in ("/api/users/me", "/api/users/me?x=1"):
            answer = await http.get(path, headers={"cookie": long})
            assert answer.status_code == 431
            assert answer.json() == {"message": f"The Cookie header is larger than {MAX_HEADER_BYTES} bytes"}
        assert (
            await http.get("/api/users/me", headers={"cookie": long, "x-immich-user-token": token})
        ).status_code == 200


@pytest.mark.parametrize(
    "given", [{"authorization": "Bearer {}"}, {"x-immich-user-token": "{}"}, {"cookie": "immich_access_token={}"}]
)
async def test_a_token_that_is_too_long_is_a_bad_one(service: Service, given: dict[str, str]) -> None:
    token = (await service.sign_in()).token
    async with client(service) as http:
        for text in (token + "x" * 4096, "x" * 5000, f"{token}.{token}"):
            headers = {name: value.format(text) for name, value in given.items()}
            answer = await http.get("/api/users/me", headers=headers)
            assert (answer.status_code, answer.json()) == (401, {"message": "Invalid user token"})


async def _owner(service: Service, sid: str) -> tuple[str, str]:
    """Tell the user of a session, as the ledger is asked for it."""
    partition = await locate(service.ledger.stored, sid)
    name = f"{{p{partition}}}:session:{sid}".encode()
    return (await service.store.command("HGET", name, "user", key=name)).decode(), sid
