"""What a signed token must say to admit somebody, and whom it admits (RFC 7519, RFC 9068)."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from joserfc.errors import JoseError
from joserfc.jwt import JWTClaimsRegistry

from endpoints.accounts.identity.claim_paths import claim_at
from endpoints.accounts.identity.jwt.config import SUBJECT, JwtConfig
from endpoints.accounts.identity.oidc.id_token import is_id
from endpoints.accounts.identity.oidc.signatures import Signed
from endpoints.http.errors import Unauthenticated
from ledger.errors import InvalidInput
from ledger.keys import check_name

_TYPES: Final = ("", "jwt", "at+jwt", "application/at+jwt")
_LONGEST_S: Final = 2**40
"""A time beyond is no time."""


class Admitted(NamedTuple):
    """Whom a token admits, and until when, in seconds since 1970."""

    sid: str
    user: str
    library: str
    session: str
    until_s: float


def admitted(config: JwtConfig, signed: Signed, now_s: float) -> Admitted:
    """Tell whom a signed token admits; one whose time is over is told of with that time in `until_s`.

    Raises Unauthenticated, which names the claim that does not fit.
    """
    claims = signed.claims
    if signed.typ.lower() not in _TYPES or "events" in claims:  # a logout token, or another security event (RFC 8417)
        raise Unauthenticated("The token is not made to admit anybody: its type is another one")
    _check(config, claims, now_s)
    subject, session = _text(claims, SUBJECT), _text(claims, config.session_claim)
    user = _name(claims, config.user_claim)
    return Admitted(
        sid=session_id(config.issuer, subject, session),
        user=user,
        library=_name(claims, config.library_claim) if config.library_claim else user,
        session=session,
        until_s=float(claims["exp"]) + config.clock_skew_s,
    )


def session_id(issuer: str, subject: str, session: str) -> str:
    """Name a session: SHA-256 of issuer, subject and session claim, so that a token made anew is of the same one."""
    return sha256("\0".join((issuer, subject, session)).encode()).hexdigest()


def _check(config: JwtConfig, claims: Mapping[str, Any], now_s: float) -> None:
    """Check issuer, audience and times; that a token's time is over is no fault of it."""
    exp = claims.get("exp")
    if isinstance(exp, bool) or not isinstance(exp, int | float) or not 0 <= exp < _LONGEST_S:
        raise _unfit("exp")
    registry = JWTClaimsRegistry(
        now=int(now_s),
        leeway=int(config.clock_skew_s),
        iss={"essential": True, "value": config.issuer},
        aud={"essential": True, "value": config.audience},
    )
    try:
        registry.validate({name: claims[name] for name in ("iss", "aud", "nbf", "iat") if name in claims})
    except JoseError as error:
        raise _unfit(getattr(error, "claim", "") or "iss, aud, nbf or iat") from None


def _text(claims: Mapping[str, Any], claim: str) -> str:
    value = claim_at(claims, claim)
    if not is_id(value):
        raise _unfit(claim)
    assert isinstance(value, str)
    return value


def _name(claims: Mapping[str, Any], claim: str) -> str:
    """Read the id of a user or a library."""
    value = _text(claims, claim)
    try:
        return check_name("", value)
    except InvalidInput as error:
        raise Unauthenticated(f"The token's claim {claim} cannot be used: it {error.problems[0][1]}") from None


def _unfit(claim: str) -> Unauthenticated:
    return Unauthenticated(f"The token's claim {claim} is missing or does not fit")
