"""Admission by tokens that a backend signs: each signature is checked once a worker, and remembered until its `exp`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from endpoints.accounts.identity.claim_paths import claim_at
from endpoints.accounts.identity.jwks import KeySet
from endpoints.accounts.identity.jwt.claims import Admitted, admitted, session_id
from endpoints.accounts.identity.jwt.config import JwtConfig
from endpoints.accounts.identity.oidc.http import Http
from endpoints.accounts.identity.oidc.logout import check_logout_token, refused
from endpoints.accounts.identity.oidc.signatures import Signatures, Signed, fetch_keys
from endpoints.accounts.identity.port import LoggedOut, ProviderUnavailable, SignInRefused, provider_session_digest
from endpoints.http.errors import Unauthenticated
from ledger.admission import Caller
from ledger.commands import CreateSession
from ledger.errors import SessionEnded
from ledger.log.append import read_ended
from ledger.log.service import Ledger
from ledger.session_ids import short_id

log = logging.getLogger(__name__)

KNOWN: Final = 16_384
"""How many tokens a worker remembers, about 1 KB each; one more puts aside the one not heard of for longest."""
MAX_TOKEN_CHARS: Final = 16_384
ANSWER_S: Final = 2.0
NAME: Final = "jwt"
"""How sessions are said to be authenticated."""


class JwtBackend:
    """Admits tokens of one issuer, for one worker. Nothing is asked of the issuer but its keys.

    `caller` raises ProviderUnavailable where they are needed and not to be had: then nothing can be said of a token.
    """

    name = NAME

    def __init__(
        self, config: JwtConfig, ledger: Ledger, now_s: Callable[[], float] = time.time, *, known: int = KNOWN
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._now_s = now_s
        self._most_known = known
        self._http = Http(config.timeout_s)
        self._signatures = Signatures(self._fetch_keys, config.algorithms, named="LEDGER_JWT_ALGORITHMS", failed_s=1.0)
        self._known: OrderedDict[bytes, Admitted] = OrderedDict()
        self._sessions: OrderedDict[str, Admitted] = OrderedDict()
        self._asked: asyncio.Task[tuple[bool, str]] | None = None

    async def caller(self, token: str) -> Caller:
        """Tell whose token this is; raises Unauthenticated for one that admits nobody, and says why."""
        digest = sha256(token.encode()).digest()
        found = self._known.get(digest)
        if found is None:
            found = await self._verified(token)
        self._remember(digest, found)
        if self._now_s() >= found.until_s:
            raise Unauthenticated("The token is expired: get a new one where this one came from")
        return _caller(found)

    def known_by(self, token: str) -> Callable[[], Caller | None]:
        """Find what tells whose token this is for as long as it is remembered and good; else None comes of it."""
        digest = sha256(token.encode()).digest()

        def known() -> Caller | None:
            found = self._known.get(digest)
            if found is None or self._now_s() >= found.until_s:
                return None
            self._remember(digest, found)
            return _caller(found)

        return known

    async def visitor(self, token: str) -> None:
        """Tell nothing: tokens of such a backend open no console, for what it makes cookies of is its own matter."""

    def last_caller(self, token: str) -> Caller | None:
        """Tell whose token this was, though it may be expired; None for one that is not remembered."""
        found = self._known.get(sha256(token.encode()).digest())
        return None if found is None else _caller(found)

    def session_named(self, token: str) -> str:
        """Tell the id of a token's session, as far as it is remembered; else that of the token itself."""
        digest = sha256(token.encode()).digest()
        found = self._known.get(digest)
        return digest.hex() if found is None else found.sid

    async def lives(self, caller: Caller) -> bool:
        """Tell that who was admitted stays so: a token admits at its request, and the ledger tells who is out."""
        return True

    async def starts_over(self, caller: Caller) -> None:
        """Note nothing: a device of this kind never goes back to another sync."""

    async def permitted(self, api_key: str, permission: str) -> bool | None:
        """Tell that there are no API keys but ours."""
        return None

    async def begin(self, caller: Caller) -> bool:
        """Begin the session of a token, once: one that has ended stays so, however long its tokens are good."""
        found = self._sessions.get(caller.sid)
        if found is None or found.user != caller.user:
            return False
        if await read_ended(self._ledger.store, self._ledger.partition_of(found.user), found.sid):
            return False
        command = CreateSession(
            user=found.user,
            library=found.library,
            authenticated_by=NAME,
            provider_session=provider_session_digest(self._config.issuer, found.session),
        )
        try:
            await self._ledger.execute(found.user, found.sid, command)
        except SessionEnded:  # another worker was first, or it has just ended: the next load tells
            log.debug("session %s… was begun by somebody else", short_id(found.sid))
        else:
            log.info("session %s… begins with a token of the backend's", short_id(found.sid))
        return True

    async def logged_out(self, logout_token: str) -> LoggedOut:
        """Verify a back-channel logout token; raises SignInRefused for one that is not good."""
        config = self._config
        try:
            signed = await self._signatures.verify(logout_token)
        except SignInRefused:
            raise refused() from None
        claims = dict(signed.claims)
        session_claim = claim_at(claims, config.session_claim)
        if session_claim is not None:
            claims["sid"] = session_claim
        over = check_logout_token(
            Signed(signed.alg, signed.typ, claims),
            issuer=config.issuer,
            audience=config.audience,
            clock_skew_s=config.clock_skew_s,
            now_s=self._now_s(),
        )
        user = claim_at(claims, config.user_claim)
        if over.provider_session is None and not isinstance(user, str):
            raise SignInRefused(
                "logout_token_invalid", f"The logout token needs a claim sid or {config.user_claim}: whose it is"
            )
        session = None
        if over.subject is not None and over.provider_session is not None:
            session = session_id(config.issuer, over.subject, over.provider_session)
        return over._replace(user=user if isinstance(user, str) else None, session=session)

    async def health(self) -> tuple[bool, str]:
        """Tell whether tokens can be checked, in words; raises nothing, and waits at most ANSWER_S."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._health())
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.shield(self._asked)
        except TimeoutError:
            return False, f"the keys of {self._config.issuer} do not come within {ANSWER_S:g} s: {_WITHOUT_KEYS}"

    async def _health(self) -> tuple[bool, str]:
        issuer = self._config.issuer
        try:
            keys = await self._signatures.keys()
        except ProviderUnavailable as error:
            return False, f"{error}: {_WITHOUT_KEYS}"
        if not keys:
            return False, f"among the keys of {issuer} is none that can be used: every new token is answered 401"
        return True, f"tokens of {issuer} are checked with {len(keys)} key{'s' * (len(keys) != 1)}"

    async def close(self) -> None:
        """End what goes on in the background, and close connections."""
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.wait([self._asked])
        await self._signatures.close()
        await self._http.close()

    async def _verified(self, token: str) -> Admitted:
        if len(token) > MAX_TOKEN_CHARS:
            raise Unauthenticated(f"The token is longer than {MAX_TOKEN_CHARS} characters")
        try:
            signed = await self._signatures.verify(token)
        except SignInRefused as error:
            raise Unauthenticated(str(error)) from None
        return admitted(self._config, signed, self._now_s())

    def _remember(self, digest: bytes, found: Admitted) -> None:
        self._known[digest] = self._sessions[found.sid] = found
        self._known.move_to_end(digest)
        self._sessions.move_to_end(found.sid)
        for kept in (self._known, self._sessions):
            if len(kept) > self._most_known:
                kept.popitem(last=False)

    async def _fetch_keys(self) -> KeySet:
        return await fetch_keys(self._http, self._config.jwks_url)


_WITHOUT_KEYS: Final = "tokens that are known here go on, new ones are answered 503"


def _caller(found: Admitted) -> Caller:
    return Caller(found.user, found.sid, bytes.fromhex(found.sid))
