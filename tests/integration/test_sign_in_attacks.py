"""Providers that answer wrongly, seen from outside: a 400 or 503, no session, a count, and a log without secrets."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlencode

import pytest

from endpoints.accounts.identity.oidc.provider import OidcProvider
from ledger.personal import text_of
from ledger.store.interface import open_store
from tests.support.phones.http import Service, serving
from tests.support.sign_in.oidc_flow import config_of
from tests.support.sign_in.oidc_server import (
    EMAIL,
    SUBJECT,
    OidcServer,
    Page,
    ahead,
    hmac_of,
    rsa_key,
    signer,
    unsigned,
)
from tests.support.sign_in.provider import MemoryProvider
from tests.support.sign_in.sign_ins import APP_URI, SignIn, client, living, refused


@pytest.fixture
def server() -> Iterator[OidcServer]:
    with OidcServer().running() as server:
        yield server


@pytest.fixture
async def service(server: OidcServer, valkey_url: str) -> AsyncIterator[Service]:
    """The whole application with the real provider's code, in front of a server that this test shapes."""
    store = await open_store(valkey_url)
    provider = OidcProvider(config_of(server))
    async with serving(store, provider=provider) as service:
        yield service
    await provider.close()
    await store.close()


async def come_back(service: Service, server: OidcServer) -> tuple[int, str, SignIn]:
    """Sign the server's user in as the app does; returns the status, the message and what the app kept."""
    async with client(service) as http:
        sign_in = SignIn(http, MemoryProvider(), by_app=True)
        code = server.approve(await sign_in.begin())
        answer = await sign_in.come_back(f"{APP_URI}?{urlencode({'code': code, 'state': sign_in.state})}")
        return answer.status_code, answer.json().get("message", ""), sign_in


def shape(server: OidcServer, case: str) -> None:
    match case:
        case "alg none":
            server.sign = unsigned
        case "HS256 with the public key":
            server.sign = hmac_of(rsa_key().as_pem(private=False))
        case "another key":
            server.sign = signer(rsa_key("other"))
        case "another nonce":
            server.claims = {"nonce": "another"}
        case "another issuer":
            server.claims = {"iss": "https://other.example"}
        case "another client":
            server.claims = {"aud": "another"}
        case "expired":
            server.claims = {"exp": ahead(-120), "iat": ahead(-300)}
        case "no address":
            server.claims, server.userinfo = {"email": None}, {"sub": "subject-1"}
        case "userinfo of somebody else":
            server.claims, server.userinfo = {"email": None}, {"sub": "another", "email": EMAIL}
        case "no answer but a page":
            server.pages["/token"] = Page(200, [b"<html>maintenance</html>"], "text/html")
        case "an error of its own":
            server.pages["/token"] = Page(500, [b"{}"])
        case "no keys":
            server.pages["/jwks"] = Page(500, [b"{}"])


CASES = {
    "alg none": (400, "id_token_invalid"),
    "HS256 with the public key": (400, "id_token_invalid"),
    "another key": (400, "id_token_invalid"),
    "another nonce": (400, "nonce_mismatch"),
    "another issuer": (400, "issuer_mismatch"),
    "another client": (400, "id_token_invalid"),
    "expired": (400, "id_token_expired"),
    "no address": (400, "email_missing"),
    "userinfo of somebody else": (400, "id_token_invalid"),
    "no answer but a page": (503, ""),
    "an error of its own": (503, ""),
    "no keys": (503, ""),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_provider_that_answers_wrongly_signs_nobody_in(
    service: Service, server: OidcServer, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    shape(server, case)
    status, reason = CASES[case]
    with caplog.at_level(logging.DEBUG, "endpoints"):
        answered, message, kept = await come_back(service, server)
    assert answered == status
    assert await living(service) == []
    told = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("endpoints"))
    if reason:
        assert await refused(service) == {reason: 1}
        assert f"sign-in refused: {reason}" in told
    else:
        assert "identity provider" in message
        assert [count.value for count in await service.counters.all() if count.name == "provider_unavailable"] == [1]
    for secret in (*server.secrets, kept.state, kept.verifier):
        assert secret not in told
        assert secret not in message


async def test_left_alone_the_same_provider_signs_its_user_in(service: Service, server: OidcServer) -> None:
    status, _, _ = await come_back(service, server)
    assert status == 201
    (sid,) = await living(service)
    user = await service.identities.user_of(server.issuer, SUBJECT)
    assert user is not None
    profile = await service.identities.profile(user)
    assert profile is not None
    assert profile.email == EMAIL
    state = await service.ledger.load(user, sid)
    assert [text_of(text) for text in (state.device_type, state.device_os, state.app_version)] == [
        "Pixel 8",
        "Android",
        "3.2.0",
    ]
    assert state.authenticated_by == "oidc"
