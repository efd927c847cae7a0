"""Signing in with Gumnut, through its SDK, against a server that speaks its shapes."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from endpoints.accounts.identity.gumnut.provider import GumnutProvider
from endpoints.accounts.identity.port import Answer, Identity, ProviderUnavailable, SignInRefused
from ledger.errors import InvalidInput
from projections.entities.gumnut.client import MAX_BODY_BYTES
from projections.entities.gumnut.config import GumnutConfig
from tests.support.gumnut.flow import assert_tells_nothing, challenge_of, provider_of, sent_back, sign_in, try_in
from tests.support.gumnut.server import ANN, EMAIL, REDIRECT_URI, Answered, GumnutServer, library, user

AUTH_URL, EXCHANGE, LOGOUT = (f"/api/oauth/{name}" for name in ("auth-url", "exchange", "logout-endpoint"))
ME, LIBRARIES = "/api/users/me", "/api/libraries"
DECLINED = [
    (EXCHANGE, 400, "code_refused", "OAuth authentication failed"),
    (EXCHANGE, 401, "provider_refused", "Gumnut does not admit this account"),
    (EXCHANGE, 403, "code_refused", "OAuth authentication failed"),
    (EXCHANGE, 409, "provider_refused", "Gumnut has another account of yours already"),
    (EXCHANGE, 422, "code_refused", "OAuth authentication failed"),
    (AUTH_URL, 400, "provider_refused", "is this redirect address registered there"),
    (ME, 401, "provider_refused", "Gumnut does not admit this account"),
    (LIBRARIES, 403, "provider_refused", "Gumnut does not admit this account"),
]
TROUBLE = {
    "too many requests": Answered(429, {"detail": "slow down"}, {"retry-after": "60"}),
    "request timeout": Answered(408),
    "failure": Answered(500, b"<html>"),
    "no connection behind it": Answered(502),
    "identity not verified now": Answered(503, {"detail": EMAIL}),
    "elsewhere": Answered(302, None, {"location": "http://127.0.0.1:9/api"}),
    "no JSON": Answered(200, b"{"),
    "no text": Answered(200, b"\xff\xfe\xfd"),
    "a page": Answered(200, b"<html>", {"content-type": "text/html"}),
    "nothing": Answered(200, b""),
    "null": Answered(200, None),
    "another shape": Answered(200, {"url": 5, "access_token": 5, "user": 5}),
    "parts of another shape": Answered(200, {"access_token": "a.b.c", "user": {"id": 5, "is_active": True}}),
    "a list of something": Answered(200, [5, {"id": 5}]),
    "too deep": Answered(200, b"[" * 100_000),
    "too late": Answered(200, delay_s=1.0),
}


@pytest.fixture
def server() -> Iterator[GumnutServer]:
    with GumnutServer().running() as server:
        yield server


async def refused(attempt: Any, server: GumnutServer) -> SignInRefused:
    with pytest.raises(SignInRefused) as caught:
        await attempt
    assert_tells_nothing(server, caught.value)
    return caught.value


async def test_a_user_signs_in(server: GumnutServer) -> None:
    identity = await try_in(server)
    assert identity == Identity(
        issuer=server.url,
        subject=ANN,
        email=EMAIL,
        name="Ann Example",
        library="lib_old",
        credential=identity.credential,
    )
    assert identity.credential == server.secrets[-1]
    assert server.paths() == [AUTH_URL, EXCHANGE, ME, LIBRARIES]
    assert [seen.token for seen in server.seen] == [None, None, identity.credential, identity.credential]
    assert server.seen[0].fields["redirect_uri"] == REDIRECT_URI


@pytest.mark.parametrize(
    ("names", "name"),
    [((" Ann ", None), "Ann"), ((None, "Example"), "Example"), ((None, None), None), ((" ", ""), None)],
)
async def test_names_are_what_there_is_of_them(
    server: GumnutServer, names: tuple[str | None, str | None], name: str | None
) -> None:
    server.someone = user(first_name=names[0], last_name=names[1])
    assert (await try_in(server)).name == name


async def test_a_token_of_somebody_else_signs_nobody_in(server: GumnutServer) -> None:
    server.instead[ME] = [Answered(200, user("intuser_bob").model_dump(mode="json"))]
    with pytest.raises(ProviderUnavailable):
        await try_in(server)


async def test_the_library_is_the_chosen_one_if_it_may_be_written(server: GumnutServer) -> None:
    server.libraries = [library("lib_shared", 2019, "collaborator"), library("lib_seen", 2018, "viewer")]
    server.libraries += [library("lib_mine", 2021), library("lib_first", 2020)]
    for chosen, synced in (
        ("lib_mine", "lib_mine"),
        ("lib_shared", "lib_shared"),
        ("lib_seen", "lib_first"),
        ("lib_gone", "lib_first"),
        (None, "lib_first"),
    ):
        server.someone = user(immich_library_id=chosen)
        assert (await try_in(server)).library == synced


async def test_the_library_of_the_settings_is_everybodys_and_nothing_is_asked(server: GumnutServer) -> None:
    identity = await try_in(server, library="family")
    assert identity.library == "family"
    assert server.paths() == [AUTH_URL, EXCHANGE]


@pytest.mark.parametrize("libraries", [[], [library("lib_seen", 2018, "viewer")]])
async def test_a_user_without_a_library_is_told_so(server: GumnutServer, libraries: Any) -> None:
    server.libraries = libraries
    error = await refused(try_in(server), server)
    assert (error.reason, str(error)) == (
        "provider_refused",
        "Your Gumnut account has no library yet; make one there, then sign in again",
    )


async def test_a_token_that_comes_during_sign_in_is_the_one_that_is_kept(server: GumnutServer) -> None:
    server.refresh = 2
    identity = await try_in(server)
    assert identity.credential == server.secrets[-1]
    first, second, third = server.secrets[-3:]
    assert [seen.token for seen in server.seen] == [None, None, first, second]
    assert identity.credential == third


async def test_without_an_address_nobody_signs_in(server: GumnutServer) -> None:
    for email in (None, " "):
        server.someone = user(email=email)
        error = await refused(try_in(server), server)
        assert (error.reason, str(error)) == ("email_missing", "OAuth profile does not have an email address")


async def test_an_inactive_user_does_not_sign_in(server: GumnutServer) -> None:
    server.someone = user(is_active=False)
    error = await refused(try_in(server), server)
    assert (error.reason, server.paths()) == ("provider_refused", [AUTH_URL, EXCHANGE])


async def test_an_answer_that_is_none_is_not_exchanged(server: GumnutServer) -> None:
    async with provider_of(server) as provider:
        for answer, reason in (
            (Answer(error="access_denied", state="s"), "provider_refused"),
            (Answer(code="c"), "answer_invalid"),
            (Answer(state="s"), "answer_invalid"),
            (Answer(code="c" * 4097, state="s"), "answer_invalid"),
        ):
            assert (await refused(provider.sign_in(answer, REDIRECT_URI, "v"), server)).reason == reason
    assert server.seen == []


@pytest.mark.parametrize("wrong", ["code", "state", "verifier"])
async def test_a_wrong_code_state_or_verifier_is_refused_by_gumnut(server: GumnutServer, wrong: str) -> None:
    async with provider_of(server) as provider:
        error = await refused(sign_in(server, provider, **{wrong: "wrong"}), server)
    assert (error.reason, str(error)) == ("code_refused", "OAuth authentication failed")


async def test_a_code_is_good_once(server: GumnutServer) -> None:
    async with provider_of(server) as provider:
        answer, verifier = await sent_back(server, provider)
        await provider.sign_in(answer, REDIRECT_URI, verifier)
        assert (await refused(provider.sign_in(answer, REDIRECT_URI, verifier), server)).reason == "code_refused"


@pytest.mark.parametrize(("path", "status", "reason", "text"), DECLINED)
async def test_what_gumnut_declines_is_a_refusal(
    server: GumnutServer, path: str, status: int, reason: str, text: str
) -> None:
    server.instead[path] = [Answered(status, {"detail": EMAIL})] * 3
    error = await refused(try_in(server), server)
    assert error.reason == reason
    assert text in str(error)


@pytest.mark.parametrize("path", [AUTH_URL, EXCHANGE, ME, LIBRARIES])
@pytest.mark.parametrize("trouble", TROUBLE)
async def test_what_keeps_gumnut_from_answering_says_nothing_of_the_user(
    server: GumnutServer, trouble: str, path: str
) -> None:
    server.instead[path] = [TROUBLE[trouble]] * 3
    with pytest.raises(ProviderUnavailable, match=r"^Gumnut's ") as caught:
        await try_in(server, timeout_s=0.7)
    assert_tells_nothing(server, caught.value)
    assert server.paths().count(path) == 1 if path == EXCHANGE else server.paths().count(path) <= 2


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_is_read_up_to_a_bound_and_only_unpacked(server: GumnutServer, packed: bool) -> None:
    page = b'{"url": "https://id.example.test/?state=s"}'
    good = Answered(200, b" " * (MAX_BODY_BYTES - len(page)) + page)
    bad = (
        Answered(200, gzip.compress(page), {"content-encoding": "gzip"})
        if packed
        else good._replace(body=b" " + good.body)
    )
    async with provider_of(server) as provider:
        server.instead[AUTH_URL] = [good, bad, bad]
        assert (await provider.authorize(REDIRECT_URI, "state", challenge_of("v"))).state == "s"
        with pytest.raises(ProviderUnavailable):
            await provider.authorize(REDIRECT_URI, "state", challenge_of("v"))


async def test_passing_trouble_is_gone_through_where_asking_twice_does_no_harm(server: GumnutServer) -> None:
    for path in (AUTH_URL, ME, LIBRARIES):
        server.instead[path] = [Answered(503, None, {"retry-after": "0.01"})]
    assert (await try_in(server)).library == "lib_old"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with GumnutServer().running() as gone:
        pass
    with pytest.raises(ProviderUnavailable):
        await try_in(gone)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)//?state=s",
        "http://id.example.test/?state=s",
        "https://id.example.test/",
        "https://id.example.test/?state=a&state=b",
        "https://id.example.test/?state=" + "s" * 1000 + "&more=" + "x" * 2000,
        "//id.example.test/?state=s",
        "https://user:password@id.example.test/?state=s",
    ],
)
async def test_users_are_only_sent_to_good_addresses(server: GumnutServer, url: str) -> None:
    server.instead[AUTH_URL] = [Answered(200, {"url": url})]
    server.instead[LOGOUT] = [Answered(200, {"logout_endpoint": url.replace("https://id", "http://id")})]
    async with provider_of(server) as provider:
        with pytest.raises(ProviderUnavailable):
            await provider.authorize(REDIRECT_URI, "state", challenge_of("v"))
        with pytest.raises(ProviderUnavailable):
            await provider.logout_url(None, None)


async def test_the_logout_page_is_asked_for(server: GumnutServer) -> None:
    token = server.token()
    async with provider_of(server) as provider:
        assert await provider.logout_url(token, "https://photos.example.test/") == f"{server.url}/sign-out"
        assert await provider.logout_url(None, None) == f"{server.url}/sign-out"
        server.instead[LOGOUT] = [Answered(404)]
        assert await provider.logout_url(token, None) is None
    assert [seen.token for seen in server.seen] == [token, None, token]


async def test_there_is_no_logout_by_gumnut(server: GumnutServer) -> None:
    async with provider_of(server) as provider:
        assert (await refused(provider.logged_out("a.b.c"), server)).reason == "logout_token_invalid"


async def test_the_environment_has_no_say(server: GumnutServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUMNUT_API_KEY", "of-the-environment")
    monkeypatch.setenv("GUMNUT_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GUMNUT_CUSTOM_HEADERS", "X-Of-The-Environment: 1\nAuthorization: Bearer of-the-environment")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    await try_in(server)
    sent = {name for seen in server.seen for name in seen.headers}
    assert sent <= {
        *("host", "accept", "accept-encoding", "connection", "content-type", "content-length", "user-agent"),
        *("authorization", "x-stainless-retry-count", "x-stainless-read-timeout"),
    }
    assert "of-the-environment" not in str(server.seen)
    assert {seen.headers["user-agent"] for seen in server.seen} == {"syncledger"}


async def test_cookies_of_one_sign_in_are_not_sent_in_the_next(server: GumnutServer) -> None:
    cookie = {"set-cookie": "session=ann; Path=/"}
    server.instead[AUTH_URL] = [Answered(200, {"url": "https://id.example.test/?state=s"}, cookie)]
    async with provider_of(server) as provider:
        await provider.authorize(REDIRECT_URI, "state", challenge_of("v"))
        await sign_in(server, provider)
    assert not [seen for seen in server.seen if "cookie" in seen.headers]


async def test_no_log_line_tells_a_secret_at_any_level(
    server: GumnutServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("gumnut"), "level", logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    server.refresh = 2
    async with provider_of(server) as provider:
        identity = await sign_in(server, provider)
        await refused(sign_in(server, provider, code="wrong"), server)
        await provider.logout_url(identity.credential, None)
    assert "/api/oauth/exchange" in caplog.text
    assert not [text for text in (*server.secrets, EMAIL) if text in caplog.text]
    assert not [text for text in (*server.secrets, EMAIL) if text in repr(identity)]


def test_addresses_and_libraries_that_are_none_are_refused_by_name() -> None:
    for url in ("http://gumnut.example.test", "ftp://127.0.0.1", "gumnut", "https://user:password@gumnut.example.test"):
        with pytest.raises(InvalidInput) as refused:
            GumnutConfig(url)
        assert refused.value.problems[0][0] == ("LEDGER_GUMNUT_URL",)
    with pytest.raises(InvalidInput) as refused:
        GumnutConfig(library="{p1}")
    assert refused.value.problems[0][0] == ("LEDGER_GUMNUT_LIBRARY",)
    assert GumnutConfig("https://api.gumnut.ai/").issuer == GumnutConfig().issuer


async def test_it_is_named_and_checks_state_itself() -> None:
    provider = GumnutProvider(GumnutConfig())
    assert (provider.name, provider.checks_state) == ("gumnut", True)
    await provider.close()
