"""Gumnut's JWT on requests to it, and the new one that an answer may bring."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator
from typing import Final

import httpx

from ledger.errors import LedgerError
from projections.accounts.credentials import Credentials

MAX_JWT_CHARS: Final = 8192
REFRESHED: Final = "x-new-access-token"
_JWT: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)

log = logging.getLogger(__name__)


def is_jwt(text: object) -> bool:
    """Tell whether something received has the form of a JWT and a bearable size."""
    return isinstance(text, str) and len(text) <= MAX_JWT_CHARS and _JWT.fullmatch(text) is not None


class Token(httpx.Auth):
    """Sends a JWT, and from an answer that brings a new one on, that."""

    def __init__(self, jwt: str) -> None:
        self.jwt = jwt

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Sign a request; once more if it is refused and there is a newer JWT by then."""
        sent = self.jwt
        response = yield _signed(request, sent)
        if response.status_code == 401 and isinstance(request.stream, httpx.ByteStream):
            newer = await self._newer(sent)
            if newer is not None:
                sent = newer
                response = yield _signed(request, sent)
        if response.status_code != 401:
            await self._look(sent, response)

    async def _look(self, sent: str, response: httpx.Response) -> None:
        new = response.headers.get(REFRESHED)
        if new is None:
            return
        if is_jwt(new):
            await self._take(sent, new)
        else:
            log.warning("Gumnut sent something that is no new token")

    async def _take(self, sent: str, new: str) -> None:
        """Use `new`, which came for `sent`."""
        self.jwt = new

    async def _newer(self, refused: str) -> str | None:
        """Tell which JWT to use instead of one that was refused, if there is one."""
        return self.jwt if self.jwt != refused else None


class SessionToken(Token):
    """The JWT held for a session. A new one is kept in place of the one it came for, and of no other.

    So what came late never replaces what is newer. A new one that the store does not take is used all the same, and
    offered again with the next answer that brings one.
    """

    def __init__(self, credentials: Credentials, user: str, sid: str, jwt: str) -> None:
        super().__init__(jwt)
        self._credentials = credentials
        self._session = (user, sid)
        self._kept = jwt

    async def _take(self, sent: str, new: str) -> None:
        before = self._kept if sent == self.jwt else sent
        try:
            if await self._credentials.replace(*self._session, before, new):
                self.jwt = self._kept = new
            else:  # somebody else's came first, or the session is over
                await self._newer(new)
        except LedgerError as error:
            self.jwt = new
            log.warning("A new token of Gumnut could not be kept: %s", type(error).__name__)

    async def _newer(self, refused: str) -> str | None:
        kept = await self._credentials.read(*self._session)
        if kept is None or kept == refused:
            return None
        self.jwt = self._kept = kept
        return kept


class ApiKey(httpx.Auth):
    """Signs requests with an API key of Gumnut's."""

    def __init__(self, key: str) -> None:
        self._key = key

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Sign a request."""
        yield _signed(request, self._key)


def _signed(request: httpx.Request, jwt: str) -> httpx.Request:
    request.headers["Authorization"] = f"Bearer {jwt}"
    return request
