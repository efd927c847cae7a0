"""Ending a session at the provider, and by it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from endpoints.accounts.identity.port import Identity, LoggedOut, ProviderUnavailable, SignInRefused
from tests.support.sign_in.oidc_flow import assert_tells_nothing, config_of, provider_of, query_of, sign_in, try_in
from tests.support.sign_in.oidc_server import (
    CLIENT_ID,
    SUBJECT,
    OidcServer,
    Page,
    ahead,
    hmac_of,
    rsa_key,
    signer,
    unsigned,
)
from tests.unit.oidc_fixtures import server

__all__ = ["server"]

EVENT = "http://schemas.openid.net/event/backchannel-logout"


async def logged_out(server: OidcServer, token: str, **changes: Any) -> LoggedOut:
    async with provider_of(config_of(server, **changes)) as provider:
        return await provider.logged_out(token)


async def refused(server: OidcServer, token: str) -> SignInRefused:
    server.secrets.append(token)
    with pytest.raises(SignInRefused) as caught:
        await logged_out(server, token)
    assert_tells_nothing([token], caught.value)
    return caught.value


async def test_a_user_ends_their_session_where_the_provider_says(server: OidcServer) -> None:
    async with provider_of(config_of(server)) as provider:
        url = await provider.logout_url("the.id.token", "https://photos.example/?a=b&c=d")
        assert url is not None
        assert url.startswith(f"{server.issuer}/logout?")
        assert query_of(url) == {
            "client_id": CLIENT_ID,
            "id_token_hint": "the.id.token",
            "post_logout_redirect_uri": "https://photos.example/?a=b&c=d",
        }
        bare = await provider.logout_url(None, None)
    assert bare == f"{server.issuer}/logout?client_id={CLIENT_ID}"


async def test_the_settings_may_say_where_and_then_the_provider_is_not_asked(server: OidcServer) -> None:
    endpoint = "https://login.example/bye?tenant=1"
    async with provider_of(config_of(server, end_session_endpoint=endpoint)) as provider:
        assert await provider.logout_url(None, None) == f"{endpoint}&client_id={CLIENT_ID}"
    assert not server.asked


async def test_a_provider_without_such_a_page_has_none(server: OidcServer) -> None:
    server.metadata = {"end_session_endpoint": None}
    async with provider_of(config_of(server)) as provider:
        assert await provider.logout_url("x", None) is None


async def test_an_id_token_too_long_for_an_address_is_not_kept(server: OidcServer) -> None:
    assert (await try_in(server)).credential is not None
    server.claims = {"more": "x" * 4000}
    assert (await try_in(server)).credential is None


@pytest.mark.parametrize(
    ("claims", "subject", "provider_session"),
    [
        ({}, SUBJECT, None),
        ({"sid": "s-1"}, SUBJECT, "s-1"),
        ({"sid": "s-1", "sub": None}, None, "s-1"),
        ({"exp": None}, SUBJECT, None),
        ({"aud": [CLIENT_ID, "another"]}, SUBJECT, None),
        ({"iat": ahead(-140)}, SUBJECT, None),
        ({"iat": ahead(20), "exp": ahead(-20)}, SUBJECT, None),
        ({"jti": None}, SUBJECT, None),
        ({"events": {EVENT: {}, "another": 1}}, SUBJECT, None),
    ],
)
async def test_a_logout_token_tells_what_it_ends(
    server: OidcServer, claims: dict[str, Any], subject: str | None, provider_session: str | None
) -> None:
    ended = await logged_out(server, server.logout_token(**claims))
    assert ended == LoggedOut(server.issuer, subject, provider_session, ended.before_us)
    made_ago_s = time.time() - ended.before_us / 1_000_000
    told_s = claims["iat"]() - time.time() if "iat" in claims else 0
    assert -told_s - 35 < made_ago_s < -told_s, "made a moment ago as told, but for the clocks' difference"


@pytest.mark.parametrize("typ", ["logout+jwt", "LOGOUT+JWT", "application/logout+jwt", "JWT", None])
async def test_a_logout_token_is_called_so_or_not_at_all(server: OidcServer, typ: str | None) -> None:
    ended = await logged_out(server, server.logout_token(signer(rsa_key(), typ=typ)))
    assert ended.subject == SUBJECT


UNFIT: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://other.example"},
    "no issuer": {"iss": None},
    "another audience": {"aud": "another-client"},
    "no audience": {"aud": None},
    "no time": {"iat": None},
    "made long ago": {"iat": ahead(-200), "exp": None},
    "made in the future": {"iat": ahead(100)},
    "a text as time": {"iat": "now"},
    "expired": {"exp": ahead(-60)},
    "a nonce": {"nonce": "x"},
    "an empty nonce": {"nonce": ""},
    "no events": {"events": None},
    "a list of events": {"events": [EVENT]},
    "another event": {"events": {"http://schemas.openid.net/event/other": {}}},
    "an event that is no object": {"events": {EVENT: 1}},
    "nobody": {"sub": None},
    "an empty subject": {"sub": ""},
    "an empty session": {"sid": ""},
    "a number as session": {"sid": 5},
    "a long session": {"sid": "s" * 256},
    "a broken subject": {"sub": "\ud800"},
    "a number as its id": {"jti": 5},
}


@pytest.mark.parametrize("unfit", UNFIT)
async def test_a_token_that_is_no_good_logout_token_ends_nothing(server: OidcServer, unfit: str) -> None:
    error = await refused(server, server.logout_token(**UNFIT[unfit]))
    assert (error.reason, str(error)) == ("logout_token_invalid", "The logout token is not good")


@pytest.mark.parametrize("typ", ["at+jwt", "id_token+jwt"])
async def test_another_kind_of_token_is_none(server: OidcServer, typ: str) -> None:
    error = await refused(server, server.logout_token(signer(rsa_key(), typ=typ)))
    assert error.reason == "logout_token_invalid"


@pytest.mark.parametrize("forged", ["alg none", "HS256", "a stranger", "garbage", "long garbage"])
async def test_a_forged_logout_token_ends_nothing(server: OidcServer, forged: str) -> None:
    token = {
        "alg none": server.logout_token(unsigned),
        "HS256": server.logout_token(hmac_of(rsa_key().as_pem(private=False))),
        "a stranger": server.logout_token(signer(rsa_key("other"), kid="k1")),
        "garbage": "not.a.token",
        "long garbage": "eyJhbGciOiJSUzI1NiJ9." + "A" * 200_000 + ".AAAA",
    }[forged]
    error = await refused(server, token)
    assert (error.reason, str(error)) == ("logout_token_invalid", "The logout token is not good")


async def test_an_id_token_is_no_logout_token_and_the_other_way_round(server: OidcServer) -> None:
    async with provider_of(config_of(server)) as provider:
        identity: Identity = await sign_in(server, provider)
        assert identity.credential is not None
        assert (await refused(server, identity.credential)).reason == "logout_token_invalid"
        server.claims = {"events": {EVENT: {}}, "nonce": None}
        with pytest.raises(SignInRefused) as caught:
            await sign_in(server, provider)
    assert caught.value.reason == "nonce_mismatch"


async def test_without_the_providers_keys_a_logout_can_be_told_again_later(server: OidcServer) -> None:
    server.pages = {"/jwks": Page(500)}
    with pytest.raises(ProviderUnavailable):
        await logged_out(server, server.logout_token())


async def test_a_logout_token_after_a_rotation_is_taken(server: OidcServer) -> None:
    async with provider_of(config_of(server)) as provider:
        await sign_in(server, provider)
        server.keys = [rsa_key("k2")]
        assert (await provider.logged_out(server.logout_token())).subject == SUBJECT


async def test_a_flood_of_forged_logout_tokens_is_no_flood_at_the_provider(server: OidcServer) -> None:
    token = server.logout_token(signer(rsa_key("other")))
    async with provider_of(config_of(server)) as provider:
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(SignInRefused):
                await provider.logged_out(token)
        assert server.times("/jwks") <= 2 + (time.monotonic() - began)
