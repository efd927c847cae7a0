"""Sign-ins that admit nobody: the right status, no session, no cookie, a count, and a log line without secrets."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import pytest

from endpoints.accounts.identity.port import Identity
from endpoints.accounts.redirects import MAX_URL_CHARS
from endpoints.services import HttpSettings
from ledger.commands import EndSession
from ledger.errors import StoreUnavailable
from ledger.store.interface import Store, open_store
from projections.counters import COUNTERS
from tests.support.phones.http import Service, serving
from tests.support.sign_in.provider import ANN, ISSUER, MemoryProvider
from tests.support.sign_in.sign_ins import APP_URI, SignIn, browser, client, living, refused

CLEARED = [
    "immich_oauth_state=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
    "immich_oauth_code_verifier=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
]


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


@asynccontextmanager
async def unlogged(caplog: pytest.LogCaptureFixture, *known: str) -> AsyncIterator[list[str]]:
    """Watch the log of a block for secrets; those that come up inside are added to the list."""
    hidden = [*known, ANN.email or "", "ann@example.test", ANN.subject, "credential-of-ann", "op-session"]
    with caplog.at_level(logging.DEBUG):
        yield hidden
    said = [record for record in caplog.records if record.name.partition(".")[0] != "httpx"]
    for record in said:
        assert not [secret for secret in hidden if secret and secret in record.getMessage()]


async def nobody(service: Service, answer: httpx.Response, message: str, reason: str) -> None:
    """Check that a sign-in was refused, whole."""
    assert (answer.status_code, answer.json()) == (400, {"message": message})
    assert answer.headers.get_list("set-cookie") == CLEARED
    assert await living(service) == []
    assert await refused(service) == {reason: 1}


# What a client changes of a good answer -> the refusal.
Change = Callable[[SignIn, str], dict[str, Any]]
BY_APP: dict[str, tuple[Change, str, str]] = {
    "no state": (lambda it, back: {"state": None}, "OAuth state is missing", "state_missing"),
    "an empty state": (lambda it, back: {"state": ""}, "OAuth state is missing", "state_missing"),
    "another state": (lambda it, back: {"state": "x" * 32}, "OAuth authentication failed", "state_mismatch"),
    "a state beyond ASCII": (lambda it, back: {"state": "é"}, "OAuth authentication failed", "state_mismatch"),
    "a longer state": (lambda it, back: {"state": it.state + "x"}, "OAuth authentication failed", "state_mismatch"),
    "an answer without state": (
        lambda it, back: {"url": back.replace("state=", "other=")}, "OAuth authentication failed", "state_mismatch",
    ),
    "no verifier": (lambda it, back: {"codeVerifier": None}, "OAuth code verifier is missing", "verifier_missing"),
    "an empty verifier": (lambda it, back: {"codeVerifier": ""}, "OAuth code verifier is missing", "verifier_missing"),
    "another verifier": (lambda it, back: {"codeVerifier": "x" * 43}, "OAuth authentication failed", "code_refused"),
    "another redirect URI": (
        lambda it, back: {"url": back.replace(APP_URI, "https://photos.example/x")},
        "OAuth authentication failed", "code_refused",
    ),
    "a code nobody gave out": (
        lambda it, back: {"url": f"{APP_URI}?code=x&state={it.state}"}, "OAuth authentication failed", "code_refused",
    ),
    "a provider that says no": (
        lambda it, back: {"url": f"{APP_URI}?error=access_denied&state={it.state}"},
        "OAuth authentication failed", "provider_refused",
    ),
}  # fmt: skip
HOLDS_NONE = "The URL holds no answer of an identity provider, or more than one"
UNREADABLE: dict[str, Callable[[str], str]] = {
    "no query": lambda back: APP_URI,
    "no code": lambda back: back.replace("code=", "cold="),
    "an empty code": lambda back: f"{APP_URI}?code=&state=x",
    "two codes": lambda back: f"{back}&code=x",
    "two states": lambda back: f"{back}&state=x",
    "no UTF-8": lambda back: f"{back}&iss=%FF%FE",
    "too many parameters": lambda back: f"{back}{'&a=1' * 64}",
    "an answer in the fragment": lambda back: back.replace("?", "#"),
}
INVALID = {
    "an empty URL": "",
    "a URL that is too long": APP_URI + "?code=" + "x" * MAX_URL_CHARS,
    "no URL": "code=x",
    "another scheme": "javascript:alert(1)?code=x",
    "a file": "file:///etc/passwd?code=x",
    "no host": "https://?code=x",
    "a user": "https://ann@photos.example/?code=x",
    "control characters": "https://photos.example/\r\nx?code=x",
    "a port beyond all": "https://photos.example:99999/?code=x",
    "an open bracket": "https://[::1/?code=x",
}


@pytest.mark.parametrize("case", BY_APP)
async def test_an_answer_that_does_not_fit_what_the_app_kept(
    service: Service, provider: MemoryProvider, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    change, message, reason = BY_APP[case]
    async with client(service) as http:
        sign_in = SignIn(http, provider, by_app=True)
        back = provider.send_back(await sign_in.begin())
        http.cookies.clear()
        async with unlogged(caplog, sign_in.state, sign_in.verifier, back.partition("code=")[2].partition("&")[0]):
            answer = await sign_in.come_back(**{"url": back, **change(sign_in, back)})
    await nobody(service, answer, message, reason)
    line = f"sign-in refused: {reason}: {message} [{answer.headers['x-correlation-id']}]"
    assert [record.getMessage() for record in caplog.records if "refused" in record.getMessage()] == [line]


@pytest.mark.parametrize(
    ("without", "message", "reason"),
    [
        ("immich_oauth_state", "OAuth state is missing", "state_missing"),
        ("immich_oauth_code_verifier", "OAuth code verifier is missing", "verifier_missing"),
    ],
)
async def test_a_browser_that_lost_a_cookie(
    service: Service, provider: MemoryProvider, without: str, message: str, reason: str
) -> None:
    async with browser(service) as http:
        sign_in = SignIn(http, provider, by_app=False)
        back = provider.send_back(await sign_in.begin())
        del http.cookies[without]
        await nobody(service, await sign_in.come_back(back), message, reason)
        assert not http.cookies


async def test_an_answer_to_another_browser(service: Service, provider: MemoryProvider) -> None:
    async with browser(service) as http, browser(service) as others:
        theirs = provider.send_back(await SignIn(others, provider, by_app=False).begin())
        sign_in = SignIn(http, provider, by_app=False)
        await sign_in.begin()
        await nobody(service, await sign_in.come_back(theirs), "OAuth authentication failed", "state_mismatch")


@pytest.mark.parametrize("case", UNREADABLE)
async def test_an_address_without_one_answer(service: Service, provider: MemoryProvider, case: str) -> None:
    async with client(service) as http:
        sign_in = SignIn(http, provider, by_app=True)
        back = provider.send_back(await sign_in.begin())
        await nobody(service, await sign_in.come_back(UNREADABLE[case](back)), HOLDS_NONE, "answer_invalid")


@pytest.mark.parametrize("case", INVALID)
async def test_an_address_that_is_none(service: Service, provider: MemoryProvider, case: str) -> None:
    async with client(service) as http:
        answer = await SignIn(http, provider, by_app=True).come_back(INVALID[case])
    assert (answer.status_code, answer.json()["message"]) == (400, "Validation failed")
    assert [problem["path"] for problem in answer.json()["errors"]] == [["url"]]
    assert await living(service) == []
    assert await refused(service) == {"answer_invalid": 1}


@pytest.mark.parametrize("verifier", ["x" * 42, "x" * 129, "x" * 42 + "=", "x" * 43 + "\n", "é" * 43])
@pytest.mark.parametrize("by_app", [True, False])
async def test_a_verifier_that_is_none(service: Service, provider: MemoryProvider, verifier: str, by_app: bool) -> None:
    async with client(service) as http:
        sign_in = SignIn(http, provider, by_app=by_app)
        back = provider.send_back(await sign_in.begin())
        if by_app:
            answer = await sign_in.come_back(back, codeVerifier=verifier)
        else:
            kept = {"immich_oauth_state": http.cookies["immich_oauth_state"]}
            kept |= {"immich_oauth_code_verifier": httpx.QueryParams({"v": verifier}).__str__()[2:]}
            http.cookies.clear()
            header = "; ".join(f"{name}={value}" for name, value in kept.items())
            answer = await http.post("/api/oauth/callback", json={"url": back}, headers={"cookie": header})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, ["codeVerifier"])
    assert await living(service) == []
    assert await refused(service) == {"answer_invalid": 1}


@pytest.mark.parametrize("body", [{}, {"url": None}, {"url": 5}, [], {"url": "https://x/?code=x", "state": 5}, b"{"])
async def test_a_body_that_does_not_fit(service: Service, body: Any) -> None:
    async with client(service) as http:
        sent: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = await http.post("/api/oauth/callback", **sent)
    assert (answer.status_code, answer.json()["message"]) == (400, "Validation failed")
    assert await refused(service) == {"answer_invalid": 1}


async def test_a_body_that_is_too_large(service: Service) -> None:
    async with client(service) as http:
        for path in ("authorize", "callback", "backchannel-logout"):
            answer = await http.post(f"/api/oauth/{path}", content=b" " * 40_000)
            assert answer.status_code == 413


async def test_a_code_is_good_once(service: Service, provider: MemoryProvider) -> None:
    async with client(service) as http:
        sign_in = SignIn(http, provider, by_app=True)
        back = provider.send_back(await sign_in.begin())
        assert (await sign_in.come_back(back)).status_code == 201
        [sid] = await living(service)
        again = await sign_in.come_back(back)
    assert (again.status_code, again.json()) == (400, {"message": "OAuth authentication failed"})
    assert not [line for line in again.headers.get_list("set-cookie") if line not in CLEARED]
    assert await living(service) == [sid]
    assert await refused(service) == {"code_refused": 1}


@pytest.mark.parametrize("email", [None, "", "  "])
async def test_a_profile_without_an_email_address(
    service: Service, provider: MemoryProvider, email: str | None
) -> None:
    async with client(service) as http:
        answer = await SignIn(http, provider, by_app=True).complete(msgspec.structs.replace(ANN, email=email))
    await nobody(service, answer, "OAuth profile does not have an email address", "email_missing")


@pytest.mark.parametrize(
    ("claims", "field"),
    [
        ({"email": "x" * 300}, "email"),
        ({"user": "a|b"}, "user"),
        ({"library": "x" * 200}, "library"),
        ({"subject": ""}, "subject"),
    ],
)
async def test_claims_that_nobody_can_have(
    service: Service, provider: MemoryProvider, caplog: pytest.LogCaptureFixture, claims: dict[str, str], field: str
) -> None:
    async with client(service) as http, unlogged(caplog, *claims.values()):
        answer = await SignIn(http, provider, by_app=True).complete(msgspec.structs.replace(ANN, **claims))
    assert f"does not fit: {field} must" in answer.json()["message"]
    await nobody(service, answer, answer.json()["message"], "id_token_invalid")


async def test_a_credential_too_large_to_keep(service: Service, provider: MemoryProvider) -> None:
    async with client(service) as http:
        who = msgspec.structs.replace(ANN, credential="x" * 20_000)
        answer = await SignIn(http, provider, by_app=True).complete(who)
    await nobody(service, answer, answer.json()["message"], "id_token_invalid")


async def test_nobody_registers_where_that_is_off_but_who_is_known_still_signs_in(
    store: Store, service: Service, provider: MemoryProvider
) -> None:
    async with client(service) as http:
        await SignIn(http, provider, by_app=True).complete()
    known = await living(service)
    async with serving(store, HttpSettings(auto_register=False), provider=provider) as closed, client(closed) as http:
        bob = Identity(issuer=ISSUER, subject="sub-bob", email="bob@example.test")
        answer = await SignIn(http, provider, by_app=True).complete(bob)
        assert (answer.status_code, answer.json()) == (400, {"message": "OAuth authentication failed"})
        assert await living(closed) == known
        assert await refused(closed) == {"not_registered": 1}
        assert (await SignIn(http, provider, by_app=True).complete()).status_code == 201


async def test_an_email_address_of_somebody_else_opens_nothing(service: Service, provider: MemoryProvider) -> None:
    async with client(service) as http:
        await SignIn(http, provider, by_app=True).complete()
        known = await living(service)
        thief = Identity(issuer=ISSUER, subject="sub-thief", email="ANN@example.test ")
        answer = await SignIn(http, provider, by_app=True).complete(thief)
    assert (answer.status_code, answer.json()) == (400, {"message": "OAuth authentication failed"})
    assert await living(service) == known
    assert await refused(service) == {"email_taken": 1}


@pytest.mark.parametrize("reason", COUNTERS["sign_in_refused"].values)
async def test_each_reason_is_counted_by_its_word(service: Service, provider: MemoryProvider, reason: str) -> None:
    provider.refuses = reason
    async with client(service) as http:
        answer = await SignIn(http, provider, by_app=True).complete()
    await nobody(service, answer, "OAuth authentication failed", reason)


@pytest.mark.parametrize("prefix", ["/api", ""])
async def test_without_a_provider_nobody_signs_in(store: Store, prefix: str) -> None:
    async with serving(store) as service, client(service) as http:
        token = (await service.sign_in()).token
        known, bearer = await living(service), {"authorization": f"Bearer {token}"}
        url = {"url": f"{APP_URI}?code=x&state=y", "state": "y", "codeVerifier": "x" * 43}
        for path, body in (
            ("authorize", {"redirectUri": APP_URI}),
            ("callback", url),
            ("callback", {"url": f"{APP_URI}?code=x"}),
            ("link", url),
            ("unlink", {}),
        ):
            answer = await http.post(f"{prefix}/oauth/{path}", json=body, headers=bearer)
            assert (answer.status_code, answer.json()) == (400, {"message": "OAuth is not enabled"})
        answer = await http.post(f"{prefix}/oauth/backchannel-logout", data={"logout_token": "x"})
        assert (answer.status_code, answer.json()) == (400, {"message": "OAuth is not enabled"})
        assert await refused(service) == {"not_enabled": 6}
        assert await living(service) == known


async def test_a_provider_that_is_away_is_503_and_the_browser_may_try_again(
    service: Service, provider: MemoryProvider
) -> None:
    async with browser(service) as http:
        sign_in = SignIn(http, provider, by_app=False)
        back = provider.send_back(await sign_in.begin())
        provider.down = True
        for path, body in (("authorize", {"redirectUri": APP_URI}), ("callback", {"url": back})):
            answer = await http.post(f"/api/oauth/{path}", json=body)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert "set-cookie" not in answer.headers
        assert await living(service) == []
        assert await refused(service) == {}
        provider.down = False
        assert (await sign_in.come_back(back)).status_code == 201


async def test_a_credential_that_could_not_be_kept_leaves_no_session(
    service: Service, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> bool:
        raise StoreUnavailable("the store is away", maybe_done=False)

    monkeypatch.setattr(service.credentials, "hold", away)
    async with client(service) as http:
        answer = await SignIn(http, provider, by_app=True).complete()
    assert answer.status_code == 503
    assert "set-cookie" not in answer.headers
    assert await living(service) == []


async def test_a_session_that_ended_before_it_was_told_of_admits_nobody(
    service: Service, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = service.credentials.hold

    async def too_late(user: str, sid: str, credential: str) -> bool:
        await service.ledger.execute(user, sid, EndSession("provider_logout"))
        return await hold(user, sid, credential)

    monkeypatch.setattr(service.credentials, "hold", too_late)
    async with client(service) as http:
        answer = await SignIn(http, provider, by_app=True).complete()
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert await living(service) == []


@pytest.mark.parametrize("path", ["authorize", "callback", "link", "unlink"])
@pytest.mark.parametrize("foreign", [{"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}])
async def test_another_origins_page_signs_nobody_in(
    service: Service, provider: MemoryProvider, path: str, foreign: dict[str, str]
) -> None:
    async with client(service) as http:
        sign_in = SignIn(http, provider, by_app=False)
        back = provider.send_back(await sign_in.begin())
        http.cookies["immich_access_token"] = (await service.sign_in()).token
        known = await living(service)
        body = {"redirectUri": "https://photos.example/x", "url": back}
        answer = await http.post(f"/api/oauth/{path}", json=body, headers=foreign)
        assert (answer.status_code, answer.json()) == (403, {"message": "Cross-origin request refused"})
        assert "set-cookie" not in answer.headers
        assert await living(service) == known
        assert (await sign_in.come_back(back)).status_code == 201, "the code was not used up"


async def test_a_provider_with_its_own_state_is_still_held_to_the_browsers(store: Store) -> None:
    provider = MemoryProvider("gumnut", checks_state=True)
    async with serving(store, provider=provider) as service, browser(service) as http, browser(service) as others:
        theirs = provider.send_back(await SignIn(others, provider, by_app=False).begin())
        sign_in = SignIn(http, provider, by_app=False)
        await sign_in.begin()
        await nobody(service, await sign_in.come_back(theirs), "OAuth authentication failed", "state_mismatch")


async def test_a_provider_with_its_own_state_needs_one(store: Store) -> None:
    provider = MemoryProvider("gumnut", checks_state=True)
    async with serving(store, provider=provider) as service, client(service) as http:
        sign_in = SignIn(http, provider, by_app=True)
        answer = await sign_in.come_back(f"{APP_URI}?{urlencode({'code': secrets.token_urlsafe(8)})}")
        await nobody(service, answer, "OAuth state is missing", "state_missing")
