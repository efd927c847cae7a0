"""What the claims about a user make of them: an Identity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.port import Identity, SignInRefused
from ledger.errors import InvalidInput
from ledger.keys import check_name

MAX_EMAIL_CHARS: Final = 254
MAX_NAME_CHARS: Final = 200
MAX_HINT_CHARS: Final = 4096
"""A longer ID token would make a logout address that servers refuse; the client's id tells them enough."""
NO_EMAIL: Final = "OAuth profile does not have an email address"
_EMAIL: Final = re.compile(r"[^@\s]{1,64}@[^@\s]+")


def is_incomplete(config: OidcConfig, claims: Mapping[str, Any]) -> bool:
    """Tell whether the userinfo must be asked: for the e-mail address, or for a claim that the settings name.

    The role is not reason enough: most users have none.
    """
    return email_of(claims) is None or any(
        name and not claims.get(name) for name in (config.user_claim, config.library_claim)
    )


def completed(config: OidcConfig, claims: Mapping[str, Any], userinfo: Mapping[str, Any]) -> dict[str, Any]:
    """Add what the userinfo tells of a user to the claims of their ID token; what the token says stays."""
    wanted = ("email", "name", "preferred_username", config.user_claim, config.library_claim, config.role_claim)
    added = {name: userinfo[name] for name in wanted if name and name in userinfo and not claims.get(name)}
    return {**claims, **added}


def identity_of(config: OidcConfig, claims: Mapping[str, Any], id_token: str) -> Identity:
    """Make an Identity of checked claims; raises SignInRefused if they do not make one."""
    email = email_of(claims)
    if email is None:
        raise SignInRefused("email_missing", NO_EMAIL)
    return Identity(
        issuer=config.issuer,
        subject=claims["sub"],
        email=email,
        name=_name_of(claims),
        user=_id_of(claims, config.user_claim),
        library=_id_of(claims, config.library_claim),
        admin=_is_admin(claims, config.role_claim),
        provider_session=claims.get("sid"),
        credential=id_token if len(id_token) <= MAX_HINT_CHARS else None,
    )


def email_of(claims: Mapping[str, Any]) -> str | None:
    """Return the e-mail address in lower case; None if there is none that could be one."""
    value = claims.get("email")
    email = value.strip().lower() if isinstance(value, str) else ""
    good = len(email) <= MAX_EMAIL_CHARS and email.isprintable() and _EMAIL.fullmatch(email)
    return email if good else None


def _name_of(claims: Mapping[str, Any]) -> str | None:
    for claim in ("name", "preferred_username"):
        value = claims.get(claim)
        if isinstance(value, str):
            name = "".join(char for char in value if char.isprintable()).strip()[:MAX_NAME_CHARS]
            if name:
                return name
    return None


def _id_of(claims: Mapping[str, Any], claim: str | None) -> str | None:
    """Read the id of a user or a library. One that does not fit is refused: another user's must not be made up."""
    value = claims.get(claim) if claim else None
    if value is None or value == "":
        return None
    try:
        return check_name("", value if isinstance(value, str) else "")
    except InvalidInput as error:
        problem = error.problems[0][1] if isinstance(value, str) else "must be a text"
        raise SignInRefused("id_token_invalid", f"The claim {claim} cannot be used: it {problem}") from None


def _is_admin(claims: Mapping[str, Any], claim: str | None) -> bool | None:
    """Tell whether the role, or one of the roles, is `admin`; None without a role."""
    value = claims.get(claim) if claim else None
    if value is None:
        return None
    return "admin" in value if isinstance(value, list) else value == "admin"
