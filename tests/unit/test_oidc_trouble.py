"""A provider that is down, slow, broken or not the one it should be: signing in fails, and works again after."""

from __future__ import annotations

import asyncio
import gzip
import time
from typing import Any

import pytest

from endpoints.accounts.identity.oidc.http import MAX_BODY_BYTES
from endpoints.accounts.identity.oidc.oauth import challenge_of
from endpoints.accounts.identity.oidc.provider import OidcProvider
from endpoints.accounts.identity.port import Health, ProviderUnavailable, SignInRefused
from tests.support.sign_in.oidc_flow import config_of, provider_of, sign_in, try_in, unavailable
from tests.support.sign_in.oidc_server import REDIRECT_URI, SUBJECT, OidcServer, Page, rsa_key, signer
from tests.support.stores.servers import free_port
from tests.unit.oidc_fixtures import server

__all__ = ["server"]

DISCOVERY = "/.well-known/openid-configuration"
PATHS = (DISCOVERY, "/jwks", "/token", "/userinfo")

BROKEN: dict[str, Page] = {
    "an error": Page(500, [b'{"error": "server_error"}']),
    "a gateway's error": Page(502, [b"<html>Bad Gateway</html>"], "text/html"),
    "too many requests": Page(429, [b'{"error": "slow_down"}']),
    "a web page": Page(200, [b"<html>Sign in to the hotel's network</html>"], "text/html"),
    "a web page as an error": Page(403, [b"<html>Forbidden</html>"], "text/html"),
    "an empty answer": Page(200),
    "half of its JSON": Page(200, [b'{"issuer": "http'], length=16),
    "less than it promised": Page(200, [b'{"issuer"'], length=5000),
    "a list": Page(200, [b"[]"]),
    "a text": Page(200, [b'"x"']),
    "brackets": Page(200, [b"[" * 100_000]),
    "bytes that are no text": Page(200, [b"\xff\xfe{}"]),
    "more than anybody needs": Page(200, [b" " * 64_000] * 20),
    "an end that never comes": Page(200, [b" "] * 100, pause_s=0.1),
    "a compressed answer": Page(200, [gzip.compress(b" " * 100_000_000)], headers=(("Content-Encoding", "gzip"),)),
    "a redirect": Page(302, headers=(("Location", "/elsewhere"),)),
    "a redirect that repeats the request": Page(307, headers=(("Location", "/elsewhere"),)),
    "no content": Page(204),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("broken", BROKEN)
async def test_a_broken_answer_is_trouble_of_the_provider_and_passes_with_it(
    server: OidcServer, path: str, broken: str
) -> None:
    server.claims = {"email": None}
    server.pages = {path: BROKEN[broken]}
    async with provider_of(config_of(server, timeout_s=2)) as provider:
        began = time.monotonic()
        await unavailable(server, sign_in(server, provider))
        assert time.monotonic() - began < 8  # the one without an end would take ten seconds
        assert server.times("/elsewhere") == 0
        server.pages.clear()
        assert (await sign_in(server, provider)).subject == SUBJECT


@pytest.mark.parametrize("status", [400, 401])
async def test_a_refusal_without_a_reason_is_trouble_of_the_provider(server: OidcServer, status: int) -> None:
    server.pages = {"/token": Page(status, [b"{}"])}
    await unavailable(server, try_in(server))


@pytest.mark.parametrize("error", [5, ["x"], "no code for ann.private@example.test", ""])
async def test_a_reason_that_is_no_known_word_is_not_repeated(server: OidcServer, error: object) -> None:
    server.tokens = {"error": error}
    with pytest.raises(SignInRefused) as caught:
        await try_in(server)
    assert (caught.value.reason, str(caught.value)) == ("code_refused", "The identity provider refused the code")


async def test_a_provider_that_is_down_is_unavailable(server: OidcServer) -> None:
    error = await unavailable(server, try_in(server, issuer=f"http://127.0.0.1:{free_port()}"))
    assert str(error) == "The provider's discovery document did not answer: ConnectError"


BAD_METADATA: dict[str, dict[str, Any]] = {
    "another issuer": {"issuer": "https://other.example"},
    "no issuer": {"issuer": None},
    "no token endpoint": {"token_endpoint": None},
    "a token endpoint without TLS": {"token_endpoint": "http://provider.example/token"},
    "keys without TLS": {"jwks_uri": "http://127.0.0.1.evil.example/jwks"},
    "a script as its page": {"authorization_endpoint": "javascript:alert(1)"},
    "a page with a user": {"authorization_endpoint": "https://127.0.0.1@evil.example/"},
    "a page with a fragment": {"authorization_endpoint": "https://provider.example/#x"},
    "no keys": {"jwks_uri": None},
    "an empty page": {"authorization_endpoint": ""},
    "an issuer that is no text": {"issuer": ["x"]},
    "a number as an endpoint": {"jwks_uri": 5},
}


@pytest.mark.parametrize("bad", BAD_METADATA)
async def test_metadata_that_lead_elsewhere_are_not_followed(server: OidcServer, bad: str) -> None:
    server.metadata = BAD_METADATA[bad]
    await unavailable(server, try_in(server))
    assert {asked.path for asked in server.asked} == {DISCOVERY}


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "userinfo in a file": ({"userinfo_endpoint": "file:///etc/passwd"}, "userinfo_endpoint"),
    "userinfo without TLS": ({"userinfo_endpoint": "http://provider.example/userinfo"}, "userinfo_endpoint"),
    "an empty userinfo": ({"userinfo_endpoint": ""}, "userinfo_endpoint"),
    "a number as userinfo": ({"userinfo_endpoint": 5}, "userinfo_endpoint"),
    "an end of the session that is no URL": ({"end_session_endpoint": "https://[x"}, "end_session_endpoint"),
    "an empty end of the session": ({"end_session_endpoint": ""}, "end_session_endpoint"),
    "an object as end of the session": ({"end_session_endpoint": {}}, "end_session_endpoint"),
    "a text as issuer parameter": (
        {"authorization_response_iss_parameter_supported": "true"},
        "authorization_response_iss_parameter_supported",
    ),
}


@pytest.mark.parametrize("unusable", UNUSABLE)
async def test_what_is_optional_and_cannot_be_used_is_done_without_and_told(server: OidcServer, unusable: str) -> None:
    server.metadata, member = UNUSABLE[unusable]
    async with provider_of(config_of(server)) as provider:
        identity = await sign_in(server, provider)
        assert identity.subject == SUBJECT
        health = await looked_at(provider)
        assert health.ok
        assert f"its {member} " in health.text
        url = await provider.logout_url(identity.credential, None)
        assert (url is None) is (member == "end_session_endpoint")
    assert {asked.path for asked in server.asked} <= {DISCOVERY, "/jwks", "/token"}


async def test_a_list_of_methods_that_is_none_is_done_without(server: OidcServer) -> None:
    server.metadata = {"token_endpoint_auth_methods_supported": "client_secret_post"}
    server.token_auth = "client_secret_basic"
    async with provider_of(config_of(server)) as provider:
        assert (await sign_in(server, provider)).subject == SUBJECT
        assert "LEDGER_OIDC_TOKEN_AUTH" in (await looked_at(provider)).text


async def test_settings_stand_in_for_what_cannot_be_used(server: OidcServer) -> None:
    server.metadata = {"end_session_endpoint": "http://[", "token_endpoint_auth_methods_supported": [5]}
    page = "https://id.example/bye"
    config = config_of(server, end_session_endpoint=page, token_auth="client_secret_post")
    async with provider_of(config) as provider:
        identity = await sign_in(server, provider)
        url = await provider.logout_url(identity.credential, None)
        assert (url or "").startswith(page)
        assert await looked_at(provider) == Health(ok=True, text="")


async def test_it_is_told_where_nobody_can_sign_in(server: OidcServer, caplog: pytest.LogCaptureFixture) -> None:
    async with provider_of(config_of(server, issuer=f"http://127.0.0.1:{free_port()}")) as provider:
        health = await looked_at(provider)
        assert (health.ok, "nobody can sign in" in health.text) == (False, True)
    assert [record for record in caplog.records if "nobody can sign in" in record.getMessage()]
    server.metadata = {"id_token_signing_alg_values_supported": ["ES256", "HS256"]}
    async with provider_of(config_of(server)) as provider:
        health = await looked_at(provider)
        assert "is ES256, HS256, and LEDGER_OIDC_ALGORITHMS is RS256" in health.text


async def looked_at(provider: OidcProvider) -> Health:
    """Wait until a provider was looked at."""
    async with asyncio.timeout(20):
        while (health := provider.health()) is None:  # noqa: ASYNC110 - it is looked at, and tells nobody when
            await asyncio.sleep(0.01)
    return health


@pytest.mark.parametrize("slash", ["", "/"])
async def test_an_issuer_given_as_its_discovery_address_is_understood(server: OidcServer, slash: str) -> None:
    server.metadata = {"issuer": server.issuer + slash}
    server.claims = {"iss": server.issuer + slash}
    assert (await try_in(server, issuer=server.issuer + DISCOVERY)).issuer == server.issuer + slash
    server.metadata["issuer"] = f"{server.issuer}/other{slash}"
    await unavailable(server, try_in(server, issuer=server.issuer + DISCOVERY))


@pytest.mark.parametrize("written", ["{}/", "{}/tenant", "http://localhost:{port}"])
async def test_the_issuer_must_be_written_exactly_as_the_provider_does(server: OidcServer, written: str) -> None:
    server.pages["/tenant" + DISCOVERY] = Page(200, [b'{"issuer": 1}'])
    issuer = written.format(server.issuer, port=server.issuer.rpartition(":")[2])
    await unavailable(server, try_in(server, issuer=issuer))


async def test_an_issuer_with_a_slash_at_its_end_is_found(server: OidcServer) -> None:
    server.metadata = {"issuer": f"{server.issuer}/"}
    server.claims = {"iss": f"{server.issuer}/"}
    assert (await try_in(server, issuer=f"{server.issuer}/")).issuer == f"{server.issuer}/"


async def test_many_at_once_ask_for_the_metadata_and_the_keys_once(server: OidcServer) -> None:
    server.before = {DISCOVERY: lambda: time.sleep(0.2), "/jwks": lambda: time.sleep(0.2)}
    async with provider_of(config_of(server)) as provider:
        await asyncio.gather(*(sign_in(server, provider) for _ in range(10)))
    assert (server.times(DISCOVERY), server.times("/jwks")) == (1, 1)


async def test_many_unknown_keys_at_once_are_looked_up_once_a_second_at_most(server: OidcServer) -> None:
    server.sign = signer(rsa_key("unknown"))
    async with provider_of(config_of(server)) as provider:
        began = time.monotonic()
        for _ in range(2):
            results = await asyncio.gather(*(sign_in(server, provider) for _ in range(10)), return_exceptions=True)
            assert {type(result) for result in results} == {SignInRefused}
        took_s = time.monotonic() - began
    assert server.times("/jwks") <= 2 + took_s


async def test_one_who_leaves_does_not_take_the_others_metadata_along(server: OidcServer) -> None:
    server.before = {DISCOVERY: lambda: time.sleep(0.3)}
    async with provider_of(config_of(server)) as provider:
        first, second = (asyncio.create_task(sign_in(server, provider)) for _ in range(2))
        await asyncio.sleep(0.1)
        first.cancel()
        assert (await second).subject == SUBJECT
        assert first.cancelled()
    assert server.times(DISCOVERY) == 1


async def test_all_who_wait_hear_of_the_trouble_and_none_after_them(server: OidcServer) -> None:
    server.before = {DISCOVERY: lambda: time.sleep(0.2)}
    server.pages = {DISCOVERY: Page(500)}
    async with provider_of(config_of(server)) as provider:
        results = await asyncio.gather(*(sign_in(server, provider) for _ in range(5)), return_exceptions=True)
        assert {type(result) for result in results} == {ProviderUnavailable}
        assert server.times(DISCOVERY) == 1
        server.pages.clear()
        assert (await sign_in(server, provider)).subject == SUBJECT


async def test_a_provider_closed_while_it_fetches_leaves_nothing_behind(server: OidcServer) -> None:
    server.before = {DISCOVERY: lambda: time.sleep(0.3)}
    async with provider_of(config_of(server)) as provider:
        waiting = asyncio.create_task(provider.authorize(REDIRECT_URI, "s", challenge_of("v" * 43)))
        await asyncio.sleep(0.1)
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_proxy_of_the_environment_is_not_asked(
    server: OidcServer, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert (await try_in(server)).subject == SUBJECT


async def test_cookies_of_the_provider_are_not_kept(server: OidcServer) -> None:
    async with provider_of(config_of(server)) as provider:
        server.pages = {DISCOVERY: Page(503, headers=(("Set-Cookie", "visitor=ann; Path=/"),))}
        await unavailable(server, sign_in(server, provider))
        server.pages.clear()
        await sign_in(server, provider)
    assert not [asked for asked in server.asked if "cookie" in asked.headers]


async def test_the_longest_answer_is_still_read(server: OidcServer) -> None:
    server.metadata = {"more": "x" * (MAX_BODY_BYTES - 2000)}
    assert (await try_in(server)).subject == SUBJECT
    server.metadata = {"more": "x" * MAX_BODY_BYTES}
    await unavailable(server, try_in(server))
