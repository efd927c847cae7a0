"""Who is asking: every way a client presents a credential, in upstream's order of precedence.

The first credential that is present decides; there is no fall-through from a bad token to a good API key. Nothing is
looked up for a token here: it names a session, and whether that session lives is found out where it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from endpoints.accounts import cookies
from endpoints.accounts.origins import Origins
from endpoints.http.errors import Forbidden, Unauthenticated
from endpoints.http.request import Request
from ledger.admission import Caller
from ledger.errors import LedgerError, SessionEnded
from ledger.session_ids import short_id
from projections.accounts.api_keys import PREFIX, ApiKey, ApiKeys

CACHED_TOKENS: Final = 8192
NO_SYNC_WITH_KEYS: Final = "Sync endpoints cannot be used with API keys"


class Kind(Enum):
    """What a client presented."""

    NOTHING = "nothing"
    SHARE = "share link"
    TOKEN = "token"  # noqa: S105 (a kind, no secret)
    COOKIE = "token in a cookie"
    KEY = "API key"


class Presented(NamedTuple):
    """The one credential of a request that decides."""

    kind: Kind
    value: str


_NOTHING: Final = Presented(Kind.NOTHING, "")


def presented(req: Request) -> Presented:
    """Find the credential that decides; an empty value counts as absent."""
    given = req.raw_headers
    return _with_query(req, given) if req.query_string else presented_in(given)


def presented_in(given: Mapping[bytes, bytes]) -> Presented:
    """Find the credential that decides among the fields of a request without a query."""
    if given.get(b"x-immich-share-key") or given.get(b"x-immich-share-slug"):
        return Presented(Kind.SHARE, "")
    token = _first_token(given) or _bearer(given)
    if token:
        return _token_or_key(token)
    return _cookie(given) or _key(given.get(b"x-api-key", b"").decode("latin-1"))


def _with_query(req: Request, given: Mapping[bytes, bytes]) -> Presented:
    shared = given.get(b"x-immich-share-key") or given.get(b"x-immich-share-slug")
    if shared or _param(req, "key") or _param(req, "slug"):
        return Presented(Kind.SHARE, "")
    token = _first_token(given) or _param(req, "sessionKey") or _bearer(given)
    if token:
        return _token_or_key(token)
    return _cookie(given) or _key(given.get(b"x-api-key", b"").decode("latin-1") or _param(req, "apiKey"))


def _token_or_key(value: str) -> Presented:
    """Tell a token from an API key of ours where either may be: scrapers send nothing but `Authorization: Bearer`."""
    return Presented(Kind.KEY if value.startswith(PREFIX) else Kind.TOKEN, value)


def _first_token(given: Mapping[bytes, bytes]) -> str:
    token = given.get(b"x-immich-user-token") or given.get(b"x-immich-session-token")
    return token.decode("latin-1") if token else ""


def _bearer(given: Mapping[bytes, bytes]) -> str:
    authorization = given.get(b"authorization")
    return _token_of(authorization) if authorization else ""


@lru_cache(CACHED_TOKENS)
def _token_of(authorization: bytes) -> str:
    scheme, _, token = authorization.partition(b" ")
    return token.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


def _cookie(given: Mapping[bytes, bytes]) -> Presented | None:
    header = given.get(b"cookie")
    token = cookies.find(header, cookies.ACCESS_TOKEN) if header else ""
    return Presented(Kind.COOKIE, token) if token else None


def _param(req: Request, name: str) -> str:
    value = req.params.get(name, "")
    return value if isinstance(value, str) else value[0]


def _key(value: str) -> Presented:
    return Presented(Kind.KEY, value) if value else _NOTHING


Known = Callable[[], Caller | None]
"""Tells whom a token admits at this moment, and asks nobody; None where somebody must be asked."""


class Backend(Protocol):
    """A service that gives out the tokens which are presented here, and says who lives.

    All that is asked raises Unavailable where it does not tell.
    """

    async def caller(self, token: str) -> Caller:
        """Tell whose token this is; raises SessionEnded if it admits nobody."""
        ...

    def known_by(self, token: str) -> Known:
        """Find what tells what `caller` does of a token, where it asks nobody."""
        ...

    async def visitor(self, token: str) -> tuple[Caller, bool] | None:
        """Tell whose browser a cookie's token is of, and whether they administer the backend.

        None where its tokens open no console; raises SessionEnded.
        """
        ...

    async def starts_over(self, caller: Caller) -> None:
        """Note that a device is about to start over; raises nothing where that cannot be noted."""
        ...

    def last_caller(self, token: str) -> Caller | None:
        """Tell whose token this was when that was last known; None if it never was."""
        ...

    def session_named(self, token: str) -> str:
        """Tell by which id a session is named to whoever presented this token."""
        ...

    async def lives(self, caller: Caller) -> bool:
        """Tell whether a token still admits."""
        ...

    async def permitted(self, api_key: str, permission: str) -> bool | None:
        """Tell whether one of its API keys has a permission; None if it is none of its."""
        ...


class Auth:
    """Turns what a client presents into who it is."""

    def __init__(
        self,
        read_token: Callable[[str], Caller | None],
        api_keys: ApiKeys,
        external_domain: str = "",
        backend: Backend | None = None,
    ) -> None:
        """Take `read_token`, a pure function of the token: which session it claims, None if it is none of ours.

        `external_domain` is an address whose pages are our own, beside that of the request itself. With a `backend` no
        token of ours admits, only those that it gave out.
        """
        self.origins = Origins(external_domain)
        self._read_token = read_token
        self._api_keys = api_keys
        self._backend = backend
        self._claimed = lru_cache(CACHED_TOKENS)(self._claim)

    def claimed_by(self, token: str) -> Caller | None:
        """Tell whose a token is that admits nobody, as far as that can be told without asking; None for a guess."""
        return self._read_token(token) if self._backend is None else self._backend.last_caller(token)

    def gave_out(self, token: str) -> bool:
        """Tell whether another service said of a token, when it was last asked, that it gave it out."""
        return self._backend is not None and self._backend.last_caller(token) is not None

    async def starts_over(self, caller: Caller) -> None:
        """Let who gave a token out know that its device is about to start over."""
        if self._backend is not None:
            await self._backend.starts_over(caller)

    async def still_admits(self, caller: Caller) -> bool:
        """Tell whether who gave a token out still says that it is good; what the ledger says is not looked at."""
        return self._backend is None or await self._backend.lives(caller)

    async def visitor(self, req: Request) -> tuple[str, Caller, bool] | None:
        """Tell who opens the console with a cookie of the backend: its value, whose it is, and whether they administer.

        None without one. Raises SessionEnded for one that admits nobody, Forbidden for what another origin's page sent.
        """
        header = req.raw_headers.get(b"cookie")
        token = cookies.find(header, cookies.ACCESS_TOKEN) if header and self._backend is not None else ""
        if not token or self._backend is None:
            return None
        self.origins.check(req)
        found = await self._backend.visitor(token)
        return None if found is None else (token, *found)

    async def session(self, req: Request, permission: str) -> Caller:
        """Admit a session's token only; an API key lacks `permission`."""
        kind, value = presented(req)
        if kind is Kind.TOKEN:
            return await self._from_token(value)
        if kind is Kind.COOKIE:
            return await self._from_cookie(req, value)
        await self._known_key(kind, value, permission)
        raise Forbidden(f"Missing required permission: {permission}")

    async def device(self, req: Request, permission: str) -> Caller:
        """Admit a session's token to the sync endpoints, which know nothing else; what has `permission` is told so."""
        kind, value = presented(req)
        if kind is Kind.TOKEN and self._backend is None:  # PERF: the way of every ack
            return self._claimed(value)
        if kind is Kind.TOKEN or kind is Kind.COOKIE:
            try:
                caller = await (self._from_token(value) if kind is Kind.TOKEN else self._from_cookie(req, value))
            except LedgerError:
                if self._backend is not None:
                    req.told_as = short_id(self._backend.session_named(value))
                raise
            if self._backend is not None:
                req.told_as = short_id(caller.sid)
            return caller
        if kind is not Kind.SHARE or self._backend is not None:
            await self._known_key(kind, value, permission)
        raise Forbidden(NO_SYNC_WITH_KEYS)

    def known_by(self, given: Mapping[bytes, bytes]) -> Known | None:
        """Find what tells whom `device` admits by these fields; None where only `device` does."""
        kind, value = presented_in(given)
        if kind is not Kind.TOKEN:
            return None
        if self._backend is not None:
            return self._backend.known_by(value)
        try:
            caller = self._claimed(value)
        except SessionEnded:
            return None
        return lambda: caller

    async def scoped(self, req: Request, scope: str, library: str | None = None) -> Caller | ApiKey:
        """Admit a session's token, or an API key that has `scope`, in `library` where it is about one."""
        kind, value = presented(req)
        if kind is Kind.TOKEN:
            return await self._from_token(value)
        if kind is Kind.COOKIE:
            return await self._from_cookie(req, value)
        key = await self._known_key(kind, value, scope)
        if key is not None and key.may(scope, library):
            return key
        if key is not None and scope in key.library_scopes:
            raise Forbidden("This API key is for another library")
        raise Forbidden(f"Missing required permission: {scope}")

    async def key(self, req: Request, scope: str, library: str | None = None) -> ApiKey:
        """Admit only an API key that has `scope`, in `library` where it is about one."""
        who = await self.scoped(req, scope, library)
        if isinstance(who, Caller):
            raise Forbidden(f"Missing required permission: {scope}")
        return who

    async def _from_cookie(self, req: Request, value: str) -> Caller:
        """Admit a token that a browser sends by itself, whoever made it send the request: so look who did."""
        self.origins.check(req)
        return await self._from_token(value)

    async def _from_token(self, value: str) -> Caller:
        return self._claimed(value) if self._backend is None else await self._backend.caller(value)

    async def _known_key(self, kind: Kind, value: str, permission: str) -> ApiKey | None:
        """Find an API key; None for one of the backend's that has the permission. Raises Unauthenticated, Forbidden."""
        if kind is Kind.NOTHING:
            raise Unauthenticated("Authentication required")
        if kind is Kind.SHARE:
            raise Forbidden("Forbidden")
        key = await self._api_keys.find(value)
        if key is None:
            permitted = None if self._backend is None else await self._backend.permitted(value, permission)
            if permitted is None:
                raise Unauthenticated("Invalid API key")
            if not permitted:
                raise Forbidden(f"Missing required permission: {permission}")
        return key

    def _claim(self, token: str) -> Caller:
        caller = self._read_token(token)
        if caller is None:
            raise SessionEnded
        return caller


class NotingAuth(Auth):
    """Notes with each request whose token it brought, for a line or a trace that names the session."""

    async def session(self, req: Request, permission: str) -> Caller:
        req.caller = await super().session(req, permission)
        return req.caller

    async def device(self, req: Request, permission: str) -> Caller:
        req.caller = await super().device(req, permission)
        return req.caller

    async def scoped(self, req: Request, scope: str, library: str | None = None) -> Caller | ApiKey:
        who = await super().scoped(req, scope, library)
        if isinstance(who, Caller):
            req.caller = who
        return who
