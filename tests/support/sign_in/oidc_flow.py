"""Sign-ins at a provider as the service makes them, and what must be seen of them nowhere."""

from __future__ import annotations

import secrets
import traceback
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.oidc.oauth import challenge_of
from endpoints.accounts.identity.oidc.provider import OidcProvider
from endpoints.accounts.identity.port import Answer, Identity, IdentityProvider, ProviderUnavailable, SignInRefused
from tests.support.sign_in.oidc_server import CLIENT_ID, CLIENT_SECRET, REDIRECT_URI, OidcServer


def config_of(server: OidcServer, **changes: Any) -> OidcConfig:
    """Return the settings that fit a server."""
    fitting: dict[str, Any] = {"issuer": server.issuer, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    return OidcConfig(**{**fitting, **changes})


@asynccontextmanager
async def provider_of(
    config: OidcConfig, now_s: Callable[[], float] | None = None
) -> AsyncIterator[OidcProvider]:  # fmt: skip
    """Use a provider, and close it."""
    provider = OidcProvider(config) if now_s is None else OidcProvider(config, now_s)
    behind_the_port: IdentityProvider = provider
    assert (behind_the_port.name, behind_the_port.checks_state) == ("oidc", False)
    try:
        yield provider
    finally:
        await provider.close()


async def sign_in(server: OidcServer, provider: OidcProvider, **instead: str) -> Identity:
    """Sign the server's user in. `instead` replaces a part of the answer, `verifier` or `redirect_uri`."""
    state, verifier = secrets.token_urlsafe(), secrets.token_urlsafe(48)
    server.secrets += (state, verifier)
    url = (await provider.authorize(REDIRECT_URI, state, challenge_of(verifier))).url
    parts = {"code": server.approve(url), "state": state, "verifier": verifier, "redirect_uri": REDIRECT_URI, **instead}
    verifier, redirect_uri = parts.pop("verifier"), parts.pop("redirect_uri")
    return await provider.sign_in(Answer(**parts), redirect_uri, verifier)


async def try_in(server: OidcServer, now_s: Callable[[], float] | None = None, **changes: Any) -> Identity:
    """Sign the server's user in at a provider of its own; `changes` are the settings'."""
    async with provider_of(config_of(server, **changes), now_s) as provider:
        return await sign_in(server, provider)


async def refused(server: OidcServer, attempt: Any) -> SignInRefused:
    """Expect an attempt to be refused; the error must show no secret."""
    with pytest.raises(SignInRefused) as caught:
        await attempt
    assert_tells_nothing(server.secrets, caught.value)
    return caught.value


async def unavailable(server: OidcServer, attempt: Any) -> ProviderUnavailable:
    """Expect an attempt to fail for the provider's sake; the error must show no secret."""
    with pytest.raises(ProviderUnavailable) as caught:
        await attempt
    assert_tells_nothing(server.secrets, caught.value)
    return caught.value


def assert_tells_nothing(hidden: Iterable[str], error: BaseException) -> None:
    """Assert that none of these texts is in an error, however it is shown."""
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    assert not [text for text in hidden if text in shown], "a secret is in an error"


def query_of(url: str) -> dict[str, str]:
    """Return the query of an address, each name once."""
    values = parse_qs(urlsplit(url).query, strict_parsing=True)
    assert all(len(value) == 1 for value in values.values())
    return {name: value[0] for name, value in values.items()}
