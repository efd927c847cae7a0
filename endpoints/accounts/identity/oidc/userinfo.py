"""The userinfo endpoint: claims about a user that are not in the ID token."""

from __future__ import annotations

from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwt import JWTClaimsRegistry

from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.oidc.http import Http
from endpoints.accounts.identity.oidc.signatures import Signatures
from endpoints.accounts.identity.port import SignInRefused

WHAT: Final = "userinfo endpoint"
SIGNED: Final = "application/jwt"


async def fetch_userinfo(
    http: Http,
    signatures: Signatures,
    config: OidcConfig,
    address: str,
    access_token: str,
    *,
    issuer: str,
    subject: str,
    now_s: float,
) -> dict[str, Any]:
    """Fetch the claims about `subject`, of an ID token by `issuer`.

    Raises ProviderUnavailable, and SignInRefused if they are about another.

    A signed answer is verified like an ID token; one that is not signed comes from the provider by TLS.
    """
    reply = (await http.get(WHAT, address, {"authorization": f"Bearer {access_token}"})).ok()
    if reply.media_type == SIGNED:
        claims = (await signatures.verify(reply.body.decode("ascii", "replace").strip())).claims
        _check_signed(config, issuer, claims, now_s)
    else:
        claims = reply.json(dict[str, Any])
    if claims.get("sub") != subject:  # Core 1.0, section 5.3.2: then nothing of it may be used
        raise SignInRefused("id_token_invalid", "The userinfo is about somebody else")
    return claims


def _check_signed(config: OidcConfig, issuer: str, claims: dict[str, Any], now_s: float) -> None:
    registry = JWTClaimsRegistry(
        now=int(now_s), leeway=int(config.clock_skew_s), iss={"value": issuer}, aud={"value": config.client_id}
    )
    try:
        registry.validate(claims)
    except JoseError:
        raise SignInRefused("id_token_invalid", "The signed userinfo is not for this service, or not now") from None
