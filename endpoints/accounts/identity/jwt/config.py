"""What is configured about the backend that signs tokens."""

from __future__ import annotations

from typing import Final

import msgspec

SUBJECT: Final = "sub"


class JwtConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which tokens admit: of this issuer, for this audience, signed with one of the keys at `jwks_url`.

    `session_claim` tells sessions of a user apart, `user_claim` holds the user's id; without a `library_claim` a user's
    id is also the id of their library.
    """

    issuer: str
    audience: str
    jwks_url: str
    session_claim: str = "sid"
    user_claim: str = SUBJECT
    library_claim: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    clock_skew_s: float = 30.0
    timeout_s: float = 10.0
