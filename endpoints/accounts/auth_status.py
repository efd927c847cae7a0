"""Is this token good, whose is it, and the end of it: validateToken, status, whoami, logout."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import falcon
import falcon.asgi
import msgspec

from endpoints.accounts import cookies
from endpoints.accounts.identity.port import IdentityProvider, ProviderUnavailable
from endpoints.http.operations import Operation, Route
from endpoints.http.replies import iso_ms, send
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.commands import EndSession
from ledger.errors import CorruptLedger
from ledger.personal import plain
from ledger.state import State
from projections.accounts.credentials import CredentialUnreadable

log = logging.getLogger(__name__)

LOGIN_PAGE: Final = "/auth/login?autoLaunch=0"
_PLAIN_IN_HEADERS: Final = "!#$&'()*+,/:;=?@[]"


class ValidateAccessTokenResponseDto(msgspec.Struct, frozen=True, rename="camel"):
    """The token is good; a bad one is answered 401."""

    auth_status: bool = True


class AuthStatusResponseDto(msgspec.Struct, frozen=True, rename="camel"):
    """What the session may; nobody has a password or a PIN code here."""

    is_elevated: bool
    password: bool
    pin_code: bool
    expires_at: str | msgspec.UnsetType = msgspec.UNSET


class LogoutResponseDto(msgspec.Struct, frozen=True, rename="camel"):
    """Where to go after logout."""

    redirect_uri: str = LOGIN_PAGE
    successful: bool = True


class AuthStatus:
    """Questions about a token, and its end."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_post_validate(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._services.ledger.admit(await self._services.auth.session(req, "auth.validate"))
        send(resp, ValidateAccessTokenResponseDto())

    async def on_get_status(self, req: Request, resp: falcon.asgi.Response) -> None:
        state = await self._services.ledger.admit(await self._services.auth.session(req, "auth.status"))
        expires = msgspec.UNSET if state.over_at_us is None else iso_ms(state.over_at_us)
        send(resp, AuthStatusResponseDto(is_elevated=False, password=False, pin_code=False, expires_at=expires))

    async def on_get_whoami(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Tell a proxy in headers whose request it is, so that a backend behind it needs no tokens of its own."""
        state = await self._services.ledger.admit(await self._services.auth.session(req, "auth.status"))
        resp.status = falcon.HTTP_204
        resp.set_header("cache-control", "no-store")
        for name, value in (("user", state.user), ("library", state.library), ("session", state.sid)):
            resp.set_header(f"x-ledger-{name}", quote(value, safe=_PLAIN_IN_HEADERS))

    async def on_post_logout(self, req: Request, resp: falcon.asgi.Response) -> None:
        """End the session; a browser that signed in at the provider is told where to end that session, too.

        As upstream has it, the cookie tells. An app has `password` there, or no cookie: it opens no page, and is shown
        no ID token.
        """
        services = self._services
        caller = await services.auth.session(req, "auth.logout")
        services.settings.check_sessions_here()
        state = await services.ledger.admit(caller)
        provider, credential = services.provider if cookies.signed_in_by_oauth(req) else None, None
        if provider is not None and state.authenticated_by == provider.name:  # and not by one that was there before
            credential = await self._credential(req, state)  # it goes with the session
        await services.ledger.execute(state.user, state.sid, EndSession("logout", by=plain(caller.user)))
        cookies.clear(resp, *cookies.ACCESS)
        uri = None if provider is None else await self._logout_url(req, provider, credential)
        send(resp, LogoutResponseDto(uri or LOGIN_PAGE))

    async def _credential(self, req: Request, state: State) -> str | None:
        """Read what the provider gave for a session; one that cannot be read keeps nobody signed in."""
        try:
            return await self._services.credentials.read(state.user, state.sid)
        except (CredentialUnreadable, CorruptLedger) as error:
            log.error("logout without the provider's credential: %s [%s]", error, req.correlation_id)
            return None

    async def _logout_url(self, req: Request, provider: IdentityProvider, credential: str | None) -> str | None:
        """Ask where the provider's session is ended; the user is logged out here, whether it answers or not."""
        domain = self._services.settings.external_domain.rstrip("/")
        return_to = domain + LOGIN_PAGE if domain.startswith(("https://", "http://")) else None
        try:
            return await provider.logout_url(credential, return_to)
        except ProviderUnavailable as error:
            log.warning("logout without the identity provider: %s [%s]", error, req.correlation_id)
            return None


def routes(services: Services) -> Iterator[Route]:
    """List the routes under /api/auth, and the seed's logout at the root."""
    status = AuthStatus(services)
    validate = Operation(
        "POST", "validateAccessToken", "Tell that a token is good", {200: ValidateAccessTokenResponseDto}
    )
    yield Route("/api/auth/validateToken", status, (validate,), suffix="validate")
    read = Operation("GET", "getAuthStatus", "Tell what the session may", {200: AuthStatusResponseDto})
    yield Route("/api/auth/status", status, (read,), suffix="status")
    whoami = Operation(
        "GET",
        "whoAmI",
        "Tell a proxy whose token it is: X-Ledger-User, X-Ledger-Library, X-Ledger-Session",
        {204: None},
    )
    yield Route("/ledger/whoami", status, (whoami,), suffix="whoami")
    for path, name in (("/api/auth/logout", "logout"), ("/auth/logout", "logoutAtRoot")):
        logout = Operation("POST", name, "End the session", {200: LogoutResponseDto})
        yield Route(path, status, (logout,), suffix="logout")
