"""Is this token good, and the end of it: validateToken, status, logout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import falcon.asgi
import msgspec

from endpoints.auth import ACCESS_COOKIE
from endpoints.operations import Operation, Route
from endpoints.replies import iso_ms, send
from endpoints.request import Request
from endpoints.services import Services
from ledger.commands import EndSession

LOGIN_PAGE: Final = "/auth/login?autoLaunch=0"
COOKIES: Final = (ACCESS_COOKIE, "immich_auth_type", "immich_is_authenticated")


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
        await self._services.ledger.load(*await self._services.auth.session(req, "auth.validate"))
        send(resp, ValidateAccessTokenResponseDto())

    async def on_get_status(self, req: Request, resp: falcon.asgi.Response) -> None:
        state = await self._services.ledger.load(*await self._services.auth.session(req, "auth.status"))
        expires = msgspec.UNSET if state.expires_at_us is None else iso_ms(state.expires_at_us)
        send(resp, AuthStatusResponseDto(is_elevated=False, password=False, pin_code=False, expires_at=expires))

    async def on_post_logout(self, req: Request, resp: falcon.asgi.Response) -> None:
        caller = await self._services.auth.session(req, "auth.logout")
        await self._services.ledger.execute(*caller, EndSession("logout", by=caller.user))
        for name in COOKIES:
            resp.append_header("set-cookie", f"{name}=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT")
        send(resp, LogoutResponseDto())


def routes(services: Services) -> Iterator[Route]:
    """List the routes under /api/auth, and the seed's logout at the root."""
    status = AuthStatus(services)
    validate = Operation(
        "POST", "validateAccessToken", "Tell that a token is good", {200: ValidateAccessTokenResponseDto}
    )
    yield Route("/api/auth/validateToken", status, (validate,), suffix="validate")
    read = Operation("GET", "getAuthStatus", "Tell what the session may", {200: AuthStatusResponseDto})
    yield Route("/api/auth/status", status, (read,), suffix="status")
    for path, name in (("/api/auth/logout", "logout"), ("/auth/logout", "logoutAtRoot")):
        logout = Operation("POST", name, "End the session", {200: LogoutResponseDto})
        yield Route(path, status, (logout,), suffix="logout")
