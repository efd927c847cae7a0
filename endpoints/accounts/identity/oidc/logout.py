"""Ending sessions: at the provider (RP-Initiated Logout 1.0), and by it (Back-Channel Logout 1.0)."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from joserfc.errors import JoseError
from joserfc.jwt import JWTClaimsRegistry

from endpoints.accounts.identity.issuers import may_sign, names_none, of_token
from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.oidc.id_token import is_id
from endpoints.accounts.identity.oidc.signatures import Signed
from endpoints.accounts.identity.port import LoggedOut, SignInRefused

EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
MAX_AGE_S: Final = 120
"""How long ago a logout token may have been made, beside the clocks' difference."""
_TYPES: Final = ("", "jwt", "logout+jwt", "application/logout+jwt")


def logout_url(config: OidcConfig, endpoint: str, credential: str | None, return_to: str | None) -> str:
    """Return the address where a user ends their session at the provider. It holds their ID token: never log it."""
    query = {"client_id": config.client_id}
    if credential:
        query["id_token_hint"] = credential
    if return_to:
        query["post_logout_redirect_uri"] = return_to
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"


def check_logout_token(signed: Signed, *, issuer: str, audience: str, clock_skew_s: float, now_s: float) -> LoggedOut:
    """Tell what a signed logout token ends; raises SignInRefused if it is none (section 2.6).

    `issuer` may have a place for the token's tenant.
    """
    claims = signed.claims
    token_issuer = of_token(issuer, claims)
    registry = JWTClaimsRegistry(
        now=int(now_s),
        leeway=int(clock_skew_s),
        iss={"essential": True, "value": token_issuer},
        aud={"essential": True, "value": audience},
        iat={"essential": True},
    )
    try:
        registry.validate(claims)
    except JoseError:
        raise refused() from None
    subject, provider_session = claims.get("sub"), claims.get("sid")
    given = [value for value in (subject, provider_session) if value is not None]
    good = (
        not names_none(token_issuer)
        and may_sign(signed.key_issuer, issuer, token_issuer)
        and signed.typ.lower() in _TYPES
        and now_s - claims["iat"] <= MAX_AGE_S + clock_skew_s
        and _is_logout(claims)
        and given
        and all(map(is_id, given))
    )
    if not good:
        raise refused()
    before_us = int((claims["iat"] + 1 + clock_skew_s) * 1_000_000)
    return LoggedOut(token_issuer, subject, provider_session, before_us)


def refused() -> SignInRefused:
    """Return the refusal of a logout token."""
    return SignInRefused("logout_token_invalid", "The logout token is not good")


def _is_logout(claims: dict[str, Any]) -> bool:
    """Tell whether the claims are a logout's; an ID token, which has a nonce, must not be taken for one."""
    events = claims.get("events")
    return "nonce" not in claims and isinstance(events, dict) and isinstance(events.get(EVENT), dict)
