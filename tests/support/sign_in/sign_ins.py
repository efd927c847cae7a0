"""Clients that sign in over HTTP: the app, which keeps state and verifier itself, and a browser, which has cookies."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, cast

import httpx
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from endpoints.accounts.identity.port import Identity
from tests.support.phones.http import Service
from tests.support.sign_in.provider import ANN, MemoryProvider

APP_URI: Final = "app.immich:///oauth-callback"
WEB_URI: Final = "https://photos.example/auth/login"
APP_HEADERS: Final = {"user-agent": "immich-android/3.2.0", "deviceModel": "Pixel 8", "deviceType": "Android"}
BROWSER_AGENT: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"


@asynccontextmanager
async def client(
    service: Service, url: str = "http://photos.example", **headers: str
) -> AsyncIterator[httpx.AsyncClient]:
    """Open an HTTP client with a cookie jar of its own; `_` in a header's name stands for `-`."""
    transport = httpx.ASGITransport(cast(Any, service.app))
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=transport, base_url=url, headers=given) as opened:
        yield opened


def browser(service: Service, url: str = "http://photos.example") -> AbstractAsyncContextManager[httpx.AsyncClient]:
    """Open a browser on the service's own page."""
    return client(service, url, user_agent=BROWSER_AGENT, origin=url, sec_fetch_site="same-origin")


class SignIn:
    """One sign-in of a client: `by_app` says whether it keeps state and verifier itself."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        provider: MemoryProvider,
        *,
        by_app: bool,
        redirect_uri: str = "",
        prefix: str = "/api",
    ) -> None:
        self.http = http
        self.provider = provider
        self.redirect_uri = redirect_uri or (APP_URI if by_app else WEB_URI)
        self.state, self.verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
        self._prefix = prefix
        self._kept: dict[str, Any] = {"state": self.state, "codeVerifier": self.verifier} if by_app else {}
        if by_app:
            http.headers.update(APP_HEADERS)

    async def begin(self) -> str:
        """Ask for the provider's page; returns its address."""
        body = {"redirectUri": self.redirect_uri}
        if self._kept:
            body |= {"state": self.state, "codeChallenge": str(create_s256_code_challenge(self.verifier))}
        answer = await self.http.post(f"{self._prefix}/oauth/authorize", json=body)
        assert answer.status_code == 201, answer.text
        url: str = answer.json()["url"]
        return url

    async def come_back(self, url: str, to: str = "callback", **changes: Any) -> httpx.Response:
        """Tell the service where the user came back to; `changes` replaces or, with None, leaves out what is sent."""
        body = {"url": url, **self._kept, **changes}
        sent = {name: value for name, value in body.items() if value is not None}
        return await self.http.post(f"{self._prefix}/oauth/{to}", json=sent)

    async def complete(self, who: Identity = ANN) -> httpx.Response:
        """Sign in from beginning to end, as somebody."""
        return await self.come_back(self.provider.send_back(await self.begin(), who))


async def living(service: Service) -> list[str]:
    """List the ids of all living sessions there are."""
    keys = [key for keys in await service.store.each_primary("KEYS", "{p*}:session:*") for key in keys]
    return sorted(key.decode().rpartition(":")[2] for key in keys)


async def refused(service: Service) -> dict[str, int]:
    """Tell how many sign-ins were refused, by reason; reasons that never were are left out."""
    counts = await service.counters.all()
    return {count.label_value: count.value for count in counts if count.name == "sign_in_refused" and count.value}
