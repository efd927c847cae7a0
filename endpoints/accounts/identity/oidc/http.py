"""Requests to the provider, bounded in size and time.

Redirects are not followed, proxies of the environment not asked, and cookies not kept: one user's must not go along
with the next one's request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, TypeVar

import httpx
import msgspec

from endpoints.accounts.identity.port import ProviderUnavailable

MAX_BODY_BYTES: Final = 1_000_000
MAX_CONNECTIONS: Final = 32

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Reply:
    """What the provider answered, which may be secret; `what` names the thing asked, for errors."""

    what: str
    status: int
    media_type: str
    body: bytes

    def json(self, kind: type[T]) -> T:
        """Read the body as JSON of a type; raises ProviderUnavailable, which shows nothing of the body."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise ProviderUnavailable(f"The provider's {self.what} is not the JSON it should be") from None

    def ok(self) -> Reply:
        """Return the reply itself; raises ProviderUnavailable if it has another status than 200."""
        if self.status != 200:
            raise ProviderUnavailable(f"The provider's {self.what} answered with status {self.status}")
        return self


class Http:
    """A pool of connections to the provider. Each request as a whole takes at most `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            verify=_trusted(),
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
            follow_redirects=False,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "syncledger"},
        )

    async def get(self, what: str, url: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask for `url`; raises ProviderUnavailable."""
        return await self._ask(what, "GET", url, headers, None)

    async def post(self, what: str, url: str, headers: Mapping[str, str], form: str) -> Reply:
        """Send an encoded form to `url`; raises ProviderUnavailable."""
        headers = {**headers, "content-type": "application/x-www-form-urlencoded"}
        return await self._ask(what, "POST", url, headers, form.encode("ascii"))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(
        self, what: str, method: str, url: str, headers: Mapping[str, str] | None, content: bytes | None
    ) -> Reply:
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._client.stream(method, url, headers=headers, content=content) as response:
                    body = await _read(what, response)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError) as error:
            # Its text may quote what was received: only its kind is told.
            raise ProviderUnavailable(f"The provider's {what} did not answer: {type(error).__name__}") from None
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        return Reply(what, response.status_code, media_type, body)


@cache
def _trusted() -> ssl.SSLContext:
    """Trust the public authorities, and those this machine trusts: a provider at home often has one of its own."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


async def _read(what: str, response: httpx.Response) -> bytes:
    """Read a body as it comes, so that a small one that unpacks into a large one is just no JSON."""
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise ProviderUnavailable(f"The provider's {what} answered with more than {MAX_BODY_BYTES} bytes")
    return bytes(body)
