"""The SDK's client, within bounds: of time, size and connections, with nothing from the environment.

The SDK takes headers and keys from GUMNUT_* variables, waits as long as a server asks it to, reads bodies of any size,
and writes codes and tokens into its debug log. None of that happens here.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable
from typing import Final, TypeVar

import gumnut
import httpx
from gumnut import Omit, omit

from ledger.errors import LedgerError
from projections.entities.gumnut.config import GumnutConfig
from projections.entities.source import SourceHealth, SourceUnavailable

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
MAX_CONNECTIONS: Final = 32
RETRIES: Final = 1
MAX_WAIT_S: Final = 2
"""The SDK waits as long as a server asks it to; here only so long."""
LONGEST_RETRY_AFTER_S: Final = 300
_TALKATIVE: Final = ("gumnut", "httpcore.http11")  # at debug level they log bodies and headers
_PASSING: Final = frozenset((408, 425, 429))
ANONYMOUS: Final = {"Authorization": omit}
"""The headers of a request that nobody signs."""

_FAILURES: Final = (gumnut.GumnutError, TimeoutError, json.JSONDecodeError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


class GumnutUnavailable(SourceUnavailable):
    """Gumnut did not answer, or not sensibly; what a sign-in makes of it is the provider's own error."""

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


def expected(what: str, value: object, kind: type[T]) -> T:
    """Return a value of the `kind` it should be; raises GumnutUnavailable: the SDK passes on whatever it is sent."""
    if not isinstance(value, kind):
        raise GumnutUnavailable(f"Gumnut's {what} is not what it should be")
    return value


async def health_of(pool: Pool, url: str) -> SourceHealth:
    """Tell whether Gumnut answers; raises nothing."""
    try:
        await pool.ask("ping", pool.client(retries=0).ping.get(extra_headers=ANONYMOUS), str)
    except LedgerError as error:
        return SourceHealth("gumnut", ok=False, text=str(error))
    return SourceHealth("gumnut", ok=True, text=f"{url} answers")


class Declined(Exception):
    """Gumnut answered with a 4xx that says no, not later."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Pool:
    """Connections to Gumnut, shared by clients that each speak for somebody."""

    def __init__(self, config: GumnutConfig) -> None:
        for name in _TALKATIVE:
            if logging.getLogger(name).getEffectiveLevel() < logging.WARNING:
                logging.getLogger(name).setLevel(logging.WARNING)
        self._config = config
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS)
        self._transport = _Bounded(httpx.AsyncHTTPTransport(limits=limits, trust_env=False), MAX_BODY_BYTES)

    def client(self, auth: httpx.Auth | None = None, *, retries: int = RETRIES) -> gumnut.AsyncGumnut:
        """Make a client for one user, whose requests `auth` signs; cheap, and never to be closed by itself."""
        http = httpx.AsyncClient(
            auth=auth,
            transport=self._transport,
            timeout=self._config.timeout_s,
            follow_redirects=False,
            trust_env=False,
            headers={"accept-encoding": "identity"},
        )
        return _Client(api_key="", base_url=self._config.base_url, http_client=http, max_retries=retries)

    async def ask(self, what: str, call: Awaitable[T], kind: type[T]) -> T:
        """Await a call and its answer of a `kind`; raises GumnutUnavailable, Declined, and what `auth` raised.

        NOTE: the texts of the SDK's errors quote what was received: only their kind is told.
        """
        try:
            async with asyncio.timeout(self._config.timeout_s):
                answer = await call
        except gumnut.APIStatusError as error:
            if 400 <= error.status_code < 500 and error.status_code not in _PASSING:
                raise Declined(error.status_code) from None
            text = f"Gumnut's {what} answered with status {error.status_code}"
            raise GumnutUnavailable(text, _asked_to_wait(error.response)) from None
        except _FAILURES as error:
            if isinstance(error.__cause__, LedgerError):
                raise error.__cause__ from None
            raise GumnutUnavailable(f"Gumnut's {what} did not answer: {type(error).__name__}") from None
        return expected(what, answer, kind)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


class _Client(gumnut.AsyncGumnut):
    """The SDK's client with headers of our own: its own take some from the environment and tell of this machine."""

    @property
    def default_headers(self) -> dict[str, str | Omit]:
        """What every request carries; `auth` of the HTTP client puts in who asks."""
        return {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "syncledger",
            **self.auth_headers,
        }


class _Bounded(httpx.AsyncBaseTransport):
    """Passes answers on as they come, up to so many bytes and only unpacked."""

    def __init__(self, transport: httpx.AsyncBaseTransport, max_bytes: int) -> None:
        self._transport = transport
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        response = await self._transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx.DecodingError("an answer that was not to be packed", request=request)
        if (_asked_to_wait(response) or 0) > MAX_WAIT_S:  # whoever asked is told to come again rather than kept waiting
            response.headers["x-should-retry"] = "false"
        response.stream = _BoundedStream(response.stream, self._max_bytes)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


def _asked_to_wait(response: httpx.Response) -> int | None:
    """Tell for how many seconds a server that has too much to do wants to be left alone; None if it does not say."""
    text = response.headers.get("retry-after", "")
    if response.status_code not in (429, 503) or not (text.isascii() and text.isdigit()):
        return None
    return min(max(int(text[:9]), 1), LONGEST_RETRY_AFTER_S)


class _BoundedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._left -= len(piece)
            if self._left < 0:
                raise httpx.ReadError("an answer beyond all bounds")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
