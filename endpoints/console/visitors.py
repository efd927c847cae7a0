"""Who visits the console, and what they may see and do there.

A browser is known by a secret in a cookie of its own (`projections/accounts/console_access.py`); what its holder may is
looked up with each request. So a revoked key, an ended session and a right that was taken away count at once.

Every form carries a token that follows from that secret, and what another origin's page sent is refused: a cookie that
a browser adds by itself proves no wish.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from typing import Final, NamedTuple
from urllib.parse import parse_qs, quote

import falcon.asgi

from endpoints.accounts import cookies
from endpoints.http import bodies
from endpoints.http.errors import Forbidden
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.errors import InvalidInput, NotAllowed, SessionEnded
from projections.accounts.api_keys import ApiKeys
from projections.accounts.console_access import SESSION_US, ConsoleAccess, Holder

log = logging.getLogger(__name__)

SEE: Final = "audit.read"
MANAGE: Final = "sessions.manage"
FORM_TOKEN: Final = "form"  # noqa: S105 - the name of a field
MAX_FORM_BYTES: Final = 16 << 10
_MAX_FIELDS: Final = 200
_SECOND_US: Final = 1_000_000
_SESSION: Final = "ledger-console"
_BEFORE: Final = "ledger-console-form"
STATE: Final = "ledger-console-state"
_STATE_S: Final = 600


class NotSignedIn(NotAllowed):
    """Nobody is signed in at the console in this browser, or not any more."""

    def __init__(self) -> None:
        super().__init__("Sign in first")


class Visitor(NamedTuple):
    """Who is signed in.

    `name` is shown, and put on record with what they do. `user`: whose own devices they may see and sign out, None for
    who is no user. `sees_all` and `manages` are rights over everybody's. `form_token` goes into each form. `signs_out`:
    that is done here; else at the backend, whose cookie it is.
    """

    name: str
    user: str | None
    sees_all: bool
    manages: bool
    form_token: str
    signs_out: bool = True

    def may_act_on(self, owner: str) -> bool:
        """Tell whether they may act on a device of this user."""
        return self.manages or self.user == owner

    def may_see(self, owner: str) -> bool:
        """Tell whether they may see a device of this user."""
        return self.sees_all or self.user == owner


class Visitors:
    """Tells who visits, signs them in and out."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ledger = services.ledger
        self._keys = ApiKeys(services.ledger.store)
        self.access = ConsoleAccess(services.ledger.store)

    async def of(self, req: Request) -> Visitor:
        """Tell who sent a request; raises NotSignedIn."""
        secret = self._secret(req)
        holder = await self.access.find(secret, self._ledger.clock()) if secret else None
        visitor = None if holder is None else await self._visitor(holder, form_token(secret))
        visitor = visitor or await self._of_backend(req)
        if visitor is None:
            raise NotSignedIn
        return visitor

    async def who_sees_all(self, req: Request) -> Visitor:
        """Tell who sent a request that is about everybody's devices; raises NotSignedIn, Forbidden."""
        visitor = await self.of(req)
        if not visitor.sees_all:
            raise Forbidden(f"You see your own devices only. All are seen with an API key of scope {SEE}")
        return visitor

    async def sign_in(self, req: Request, resp: falcon.asgi.Response, holder: Holder) -> bool:
        """Sign a browser in, always under a new secret; False where the holder may see nothing."""
        if await self._visitor(holder, "") is None:
            return False
        await self._end(self._secret(req))
        secret = await self.access.open(holder, self._ledger.clock())
        log.info("console: a %s signed in: %s [%s]", holder.kind, holder.owner_told, req.correlation_id)
        self.set(req, resp, _SESSION, secret, SESSION_US // _SECOND_US, "Strict")
        return True

    async def sign_out(self, req: Request, resp: falcon.asgi.Response) -> Holder | None:
        """End the session of a browser, in the store as well, and return whose it was."""
        secret = self._secret(req)
        holder = await self.access.find(secret, self._ledger.clock()) if secret else None
        await self._end(secret)
        self.forget(req, resp, _SESSION)
        return holder

    async def form(self, req: Request) -> tuple[Visitor, dict[str, list[str]]]:
        """Read a form of a signed-in browser; raises NotSignedIn, Forbidden for one that is not ours, InvalidInput."""
        self._services.auth.origins.check_any(req)
        visitor = await self.of(req)
        return visitor, await _fields(req, visitor.form_token)

    # Before anybody is signed in --------------------------------------------------------------------------------------

    def first_token(self, req: Request, resp: falcon.asgi.Response) -> str:
        """Return the token of a form to sign in with: it follows from a cookie that is set where there is none."""
        secret = self._read(req, _BEFORE)
        if not secret:
            secret = secrets.token_urlsafe(32)
            self.set(req, resp, _BEFORE, secret, SESSION_US // _SECOND_US, "Strict")
        return form_token(secret)

    async def first_form(self, req: Request) -> dict[str, list[str]]:
        """Read a form to sign in with; raises Forbidden for one that is not ours, Limited, InvalidInput."""
        self._services.auth.origins.check_any(req)
        await self._services.limits.sign_in(req)
        secret = self._read(req, _BEFORE)
        return await _fields(req, form_token(secret) if secret else "")

    # Cookies ----------------------------------------------------------------------------------------------------------

    def set(self, req: Request, resp: falcon.asgi.Response, name: str, value: str, age_s: int, same_site: str) -> None:
        """Have a browser keep a value that no script sees, for our origin alone."""
        secure = self._is_secure(req)
        attributes = f"Max-Age={age_s}; Path=/; HttpOnly; SameSite={same_site}" + ("; Secure" if secure else "")
        resp.append_header("set-cookie", f"{_full(name, secure)}={quote(value, safe='')}; {attributes}")

    def forget(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        """Have a browser forget a value."""
        self.set(req, resp, name, "", 0, "Strict")

    def keep_state(self, req: Request, resp: falcon.asgi.Response, state: str) -> None:
        """Have a browser keep what it must show when an identity provider sends it back: from there it comes Lax."""
        self.set(req, resp, STATE, state, _STATE_S, "Lax")

    def state(self, req: Request) -> str:
        """Tell what was kept for the way back from an identity provider, '' without."""
        return self._read(req, STATE)

    def _secret(self, req: Request) -> str:
        return self._read(req, _SESSION)

    def _read(self, req: Request, name: str) -> str:
        """Read a cookie. Over TLS only one with the prefix counts, which no other host and no plain page can set."""
        return cookies.read(req, _full(name, self._is_secure(req)))

    def _is_secure(self, req: Request) -> bool:
        return self._services.settings.secure_cookies or req.scheme == "https"

    # Rights -----------------------------------------------------------------------------------------------------------

    async def _visitor(self, holder: Holder, token: str) -> Visitor | None:
        """Tell what a holder may now; None if that is nothing."""
        if holder.kind == "user":
            return await self._user(holder, token)
        if holder.kind == "link":
            return Visitor(holder.name, None, SEE in holder.scopes, MANAGE in holder.scopes, token)
        key = await self._keys.by_hash(holder.key_hash)
        if key is None or not key.may(SEE):
            return None
        return Visitor(f"key {key.name or key.id}", None, True, key.may(MANAGE), token)

    async def _of_backend(self, req: Request) -> Visitor | None:
        """Tell who is signed in at a backend whose cookie comes with the request; beside Immich that is enough."""
        try:
            found = await self._services.auth.visitor(req)
        except SessionEnded:
            return None
        if found is None:
            return None
        token, caller, rules = found
        return Visitor(caller.user, caller.user, rules, rules, form_token(token), signs_out=False)

    async def _user(self, holder: Holder, token: str) -> Visitor | None:
        ledger = self._ledger
        state = await ledger.look(ledger.partition_of(holder.user), holder.sid)
        if state is None or state.user != holder.user or not state.lives_at(ledger.clock()):
            return None
        profile = await self._services.identities.profile(holder.user)
        rules = profile is not None and profile.admin
        return Visitor(holder.user, holder.user, rules, rules, token)

    async def _end(self, secret: str) -> None:
        if secret:
            await self.access.close(secret)


def knows_console(req: Request) -> bool:
    """Tell whether a browser was at the console before; no proof of anything."""
    return any(cookies.read(req, _full(_SESSION, secure)) for secure in (True, False))


def form_token(secret: str) -> str:
    """Make the token of the forms of a session; who has it cannot tell the secret."""
    return hashlib.sha256(b"form of the console\0" + secret.encode("utf-8", "replace")).hexdigest()


def one(fields: dict[str, list[str]], name: str) -> str:
    """Return the one value of a field, '' without it; raises InvalidInput where there are several."""
    values = fields.get(name, [])
    if len(values) > 1:
        raise InvalidInput([((name,), "is given more than once")])
    return values[0] if values else ""


async def _fields(req: Request, token: str) -> dict[str, list[str]]:
    body = await bodies.read(req, limit=MAX_FORM_BYTES)
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidInput([((), "A form is expected")]) from error
    shown = fields.pop(FORM_TOKEN, [""])
    if not token or not hmac.compare_digest(shown[0].encode(), token.encode()):
        raise Forbidden("This form is not of this session any more: open the page again")
    return fields


def _full(name: str, secure: bool) -> str:
    return f"__Host-{name}" if secure else name
