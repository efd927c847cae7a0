"""What an ID token must say to be taken (OpenID Connect Core 1.0, section 3.1.3.7)."""

from __future__ import annotations

from hmac import compare_digest
from typing import Any, Final

from authlib.oidc.core import CodeIDToken
from joserfc.errors import ClaimError, ExpiredTokenError

from endpoints.accounts.identity.issuers import may_sign, names_none, of_token
from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.oidc.signatures import Signed
from endpoints.accounts.identity.port import MAX_SUBJECT_CHARS, SignInRefused

_CHECKED: Final = ("iss", "sub", "aud", "azp", "exp", "nbf", "iat", "at_hash")
"""What is checked; claims that nothing here uses may look as they like."""


def check_id_token(
    config: OidcConfig, issuer: str, signed: Signed, *, nonce: str, access_token: str, now_s: float
) -> str:
    """Return the issuer of an ID token; raises SignInRefused if it is not the provider's for this very sign-in.

    `issuer` is what the provider's metadata tell, perhaps with a place for the token's tenant.
    """
    claims = signed.claims
    if "at_hash" in claims and not is_id(claims["at_hash"]):
        raise _unfit("at_hash")
    token_issuer = of_token(issuer, claims)
    if names_none(token_issuer):
        raise SignInRefused("issuer_mismatch", "The ID token's tid is missing or is no tenant's")
    if not may_sign(signed.key_issuer, issuer, token_issuer):
        raise SignInRefused("issuer_mismatch", "The ID token is signed with a key of another tenant")
    expected = CodeIDToken(
        {name: claims[name] for name in _CHECKED if name in claims},
        {"alg": "EdDSA" if signed.alg == "Ed25519" else signed.alg},  # for at_hash: the same by an older name
        options={"iss": {"value": token_issuer}, "aud": {"value": config.client_id}},
        params={"client_id": config.client_id, "access_token": access_token},
    )
    try:
        expected.validate(now=int(now_s), leeway=config.clock_skew_s)
    except ExpiredTokenError:
        raise SignInRefused("id_token_expired", "The ID token is expired; is this server's clock right?") from None
    except ClaimError as error:
        raise _unfit(error.claim) from None
    if not is_id(claims["sub"]):
        raise _unfit("sub")
    if "sid" in claims and not is_id(claims["sid"]):
        raise _unfit("sid")
    given = claims.get("nonce")
    if not isinstance(given, str) or not compare_digest(given.encode(errors="replace"), nonce.encode()):
        raise SignInRefused("nonce_mismatch", "The ID token was made for another sign-in")
    return token_issuer


def is_id(value: Any) -> bool:
    """Tell whether a claim is a text of a length and of characters that can be worked with and stored."""
    return isinstance(value, str) and 0 < len(value) <= MAX_SUBJECT_CHARS and value.isprintable()


def _unfit(claim: str) -> SignInRefused:
    reason = "issuer_mismatch" if claim == "iss" else "id_token_invalid"
    return SignInRefused(reason, f"The ID token's {claim} is missing or does not fit")
