"""A session's tokens: a new one in place of the one in use, and the keys that verify them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import falcon.asgi
import msgspec

from endpoints.accounts import cookies
from endpoints.accounts.auth import Kind, presented
from endpoints.http.operations import NOBODY, Operation, Route
from endpoints.http.replies import iso_ms, send
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.commands import RotateToken
from projections.accounts.tokens import digest

KEYS_MAX_AGE_S: Final = 300


class RefreshedTokenDto(msgspec.Struct, frozen=True, rename="camel"):
    """A new token of the same session. The one it replaces stays good until a little after this one is first used."""

    access_token: str
    session_id: str
    expires_at: str | None


class JwkSetDto(msgspec.Struct, frozen=True):
    """The public keys of tokens, as RFC 7517 has it; the first one signs."""

    keys: list[dict[str, Any]]


class Tokens:
    """The tokens of the session that asks."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_post_refresh(self, req: Request, resp: falcon.asgi.Response) -> None:
        services = self._services
        caller = await services.auth.session(req, "auth.refresh")
        services.settings.check_tokens_here()
        state = await services.ledger.admit(caller)
        await services.limits.refresh(state.sid)
        issued = services.tokens.renew(state, services.ledger.clock(), services.settings.token_ttl_us)
        command = RotateToken(caller.digest, digest(issued.token), state.token_number + 1, issued.expires_at_us)
        await services.ledger.act(caller, command)
        if presented(req).kind is Kind.COOKIE:
            auth_type = "oauth" if cookies.read(req, cookies.AUTH_TYPE) == "oauth" else "password"
            cookies.set_access(
                resp, req, issued.token, auth_type, services.settings.secure_cookies, services.ledger.clock()
            )
        resp.set_header("cache-control", "no-store")
        expires = None if issued.expires_at_us is None else iso_ms(issued.expires_at_us)
        send(resp, RefreshedTokenDto(issued.token, state.sid, expires))

    async def on_get_keys(self, req: Request, resp: falcon.asgi.Response) -> None:
        resp.set_header("cache-control", f"max-age={KEYS_MAX_AGE_S}")
        send(resp, JwkSetDto(**self._services.tokens.public_keys()))


def routes(services: Services) -> Iterator[Route]:
    """List the routes."""
    tokens = Tokens(services)
    refresh = Operation(
        "POST", "refreshToken", "Get a new token for the session", {200: RefreshedTokenDto}, refusals=(429,)
    )
    yield Route("/ledger/token/refresh", tokens, (refresh,), suffix="refresh")
    keys = Operation("GET", "getTokenKeys", "Tell the public keys of tokens", {200: JwkSetDto}, NOBODY)
    yield Route("/.well-known/jwks.json", tokens, (keys,), suffix="keys")
