"""An OpenID Connect provider behind the port."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Final

from endpoints.accounts.identity.issuers import may_be
from endpoints.accounts.identity.jwks import KeySet
from endpoints.accounts.identity.oidc import claims as about
from endpoints.accounts.identity.oidc.cached import Cached
from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.oidc.discovery import Metadata, discover
from endpoints.accounts.identity.oidc.exchange import exchange
from endpoints.accounts.identity.oidc.http import Http
from endpoints.accounts.identity.oidc.id_token import check_id_token
from endpoints.accounts.identity.oidc.logout import check_logout_token, logout_url, refused
from endpoints.accounts.identity.oidc.oauth import authorization_url, challenge_of, nonce_of, token_request
from endpoints.accounts.identity.oidc.signatures import Signatures, fetch_keys
from endpoints.accounts.identity.oidc.userinfo import fetch_userinfo
from endpoints.accounts.identity.port import (
    Answer,
    Authorization,
    Health,
    Identity,
    LoggedOut,
    ProviderUnavailable,
    SignInRefused,
)
from ledger.errors import InvalidInput

log = logging.getLogger(__name__)

MAX_CODE_CHARS: Final = 4096
LOOKED_AT_EVERY_S: Final = 60.0
ERRORS: Final = frozenset(
    ("invalid_request", "unauthorized_client", "access_denied", "unsupported_response_type", "invalid_scope",
     "server_error", "temporarily_unavailable", "interaction_required", "login_required",
     "account_selection_required", "consent_required")
)  # fmt: skip
"""What providers answer when nobody signed in (RFC 6749, 4.1.2.1; OpenID Connect Core 1.0, 3.1.2.6)."""
OTHER_PROVIDER: Final = "The answer is from another identity provider"
_CHALLENGE: Final = re.compile(r"[\w-]{43}", re.ASCII)
_VERIFIER: Final = re.compile(r"[\w.~-]{1,128}", re.ASCII)
_CODE: Final = re.compile(rf"[\x20-\x7e]{{1,{MAX_CODE_CHARS}}}")


class OidcProvider:
    """Signs users in at one provider. What it says of itself and its keys are kept; nothing of a sign-in is."""

    name = "oidc"
    checks_state = False

    def __init__(self, config: OidcConfig, now_s: Callable[[], float] = time.time) -> None:
        self._config = config
        self._now_s = now_s
        self._http = Http(config.timeout_s)
        self._metadata: Cached[Metadata] = Cached(lambda: discover(self._http, config))
        self._signatures = Signatures(self._fetch_keys, config.algorithms, secret=config.client_secret)
        self._health: Health | None = None
        self._looked_at = float("-inf")
        self._look: asyncio.Task[None] | None = None

    async def authorize(self, redirect_uri: str, state: str, challenge: str) -> Authorization:
        """Make the address of the sign-in page; raises InvalidInput for a challenge that is none."""
        if not _CHALLENGE.fullmatch(challenge):
            raise InvalidInput([(("codeChallenge",), "must be the SHA-256 of the code verifier in base64url")])
        metadata = await self._metadata.get()
        return Authorization(authorization_url(self._config, metadata, redirect_uri, state, challenge), state)

    async def sign_in(self, answer: Answer, redirect_uri: str, verifier: str) -> Identity:
        """Exchange the code of an answer whose state was compared, and verify who signed in."""
        metadata = await self._metadata.get()
        _check_answer(answer, metadata.issuer)
        if not _VERIFIER.fullmatch(verifier):
            raise SignInRefused("code_refused", "The OAuth code verifier is not one")
        if not answer.iss and metadata.authorization_response_iss_parameter_supported:
            raise SignInRefused("issuer_mismatch", "The answer does not say which provider it is from")
        request = token_request(self._config, metadata, answer.code, redirect_uri, verifier)
        tokens = await exchange(self._http, metadata.token_endpoint, request)
        signed = await self._signatures.verify(tokens.id_token)
        nonce = nonce_of(answer.state, challenge_of(verifier))
        issuer = check_id_token(
            self._config,
            metadata.issuer,
            signed,
            nonce=nonce,
            access_token=tokens.access_token,
            now_s=self._now_s(),
        )
        if answer.iss not in ("", issuer):
            raise SignInRefused("issuer_mismatch", OTHER_PROVIDER)
        claims = signed.claims
        userinfo = metadata.userinfo_endpoint
        if userinfo and tokens.access_token and about.is_incomplete(self._config, claims):
            told = await fetch_userinfo(
                self._http,
                self._signatures,
                self._config,
                userinfo,
                tokens.access_token,
                issuer=issuer,
                subject=claims["sub"],
                now_s=self._now_s(),
            )
            claims = about.completed(self._config, claims, told)
        return about.identity_of(self._config, issuer, claims, tokens.id_token)

    async def logout_url(self, credential: str | None, return_to: str | None) -> str | None:
        """Tell where the user ends their session at the provider; None if it has no such page."""
        endpoint = self._config.end_session_endpoint or (await self._metadata.get()).end_session_endpoint
        return logout_url(self._config, endpoint, credential, return_to) if endpoint else None

    async def logged_out(self, logout_token: str) -> LoggedOut:
        """Verify a back-channel logout token."""
        try:
            signed = await self._signatures.verify(logout_token)
        except SignInRefused:
            raise refused() from None
        return check_logout_token(
            signed,
            issuer=(await self._metadata.get()).issuer,
            audience=self._config.client_id,
            clock_skew_s=self._config.clock_skew_s,
            now_s=self._now_s(),
        )

    def health(self) -> Health | None:
        """Tell how signing in was when that was last looked at, which is done in the background, once a minute."""
        if self._look is None and time.monotonic() >= self._looked_at + LOOKED_AT_EVERY_S:
            self._looked_at = time.monotonic()
            self._look = asyncio.create_task(self._look_at())
        return self._health

    async def close(self) -> None:
        """Close connections."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])
        await self._signatures.close()
        await self._metadata.close()
        await self._http.close()

    async def _fetch_keys(self) -> KeySet:
        return await fetch_keys(self._http, (await self._metadata.get()).jwks_uri)

    async def _look_at(self) -> None:
        """Look at the provider, and log what was not so before: what it lacks, or that nobody can sign in."""
        try:
            lacks = (await self._metadata.looked()).lacks
        except ProviderUnavailable as error:
            health = Health(ok=False, text=f"nobody can sign in: {error}")
        else:
            told = "; ".join(lacks)
            health = Health(ok=True, text=f"the provider's discovery document: {told}" if told else "")
        finally:
            self._look = None
        if health.text and health != self._health:
            log.warning("sign-in: %s", health.text)
        self._health = health


def _check_answer(answer: Answer, issuer: str) -> None:
    """Refuse an answer without a code, and one of another provider (RFC 9207)."""
    if answer.iss and not may_be(issuer, answer.iss):
        raise SignInRefused("issuer_mismatch", OTHER_PROVIDER)
    if answer.error:
        known = f": {answer.error}" if answer.error in ERRORS else ""
        raise SignInRefused("provider_refused", f"The identity provider did not sign in{known}")
    if not _CODE.fullmatch(answer.code):
        raise SignInRefused("answer_invalid", "The answer of the identity provider holds no code")
