"""Sign-ins at Gumnut as the service makes them."""

from __future__ import annotations

import base64
import hashlib
import secrets
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from endpoints.accounts.identity.gumnut.provider import GumnutProvider
from endpoints.accounts.identity.port import Answer, Identity
from projections.entities.gumnut.config import GumnutConfig
from tests.support.gumnut.server import EMAIL, REDIRECT_URI, GumnutServer


@asynccontextmanager
async def provider_of(server: GumnutServer, **settings: Any) -> AsyncIterator[GumnutProvider]:
    """Use a provider, and close it."""
    provider = GumnutProvider(GumnutConfig(server.url, **settings))
    try:
        yield provider
    finally:
        await provider.close()


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of a verifier."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


async def sent_back(server: GumnutServer, provider: GumnutProvider) -> tuple[Answer, str]:
    """Begin a sign-in and sign `someone` in; returns what the browser comes back with, and the verifier."""
    verifier = secrets.token_urlsafe(48)
    server.secrets.append(verifier)
    authorization = await provider.authorize(REDIRECT_URI, "unused", challenge_of(verifier))
    back = dict(parse_qsl(urlsplit(server.sign_in(authorization.url)).query))
    assert back["state"] == authorization.state
    return Answer(**back), verifier


async def sign_in(server: GumnutServer, provider: GumnutProvider, **instead: str) -> Identity:
    """Sign `someone` in; `instead` replaces parts of the answer, or the `verifier`."""
    answer, verifier = await sent_back(server, provider)
    verifier = instead.pop("verifier", verifier)
    return await provider.sign_in(answer._replace(**instead), REDIRECT_URI, verifier)


async def try_in(server: GumnutServer, **settings: Any) -> Identity:
    """Sign `someone` in at a provider of its own."""
    async with provider_of(server, **settings) as provider:
        return await sign_in(server, provider)


def assert_tells_nothing(server: GumnutServer, error: BaseException) -> None:
    """Assert that no secret of the server is in an error, however it is shown."""
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    assert not [text for text in (*server.secrets, EMAIL) if text in shown]
