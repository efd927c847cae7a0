"""What the claims about a user make of them: an Identity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from endpoints.accounts.identity.claim_paths import claim_at
from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.port import Identity, SignInRefused
from ledger.errors import InvalidInput
from ledger.keys import check_name

MAX_EMAIL_CHARS: Final = 254
MAX_NAME_CHARS: Final = 200
MAX_HINT_CHARS: Final = 4096
"""A longer ID token would make a logout address that servers refuse; the client's id tells them enough."""
NO_EMAIL: Final = "OAuth profile does not have an email address"
_DESCRIBE: Final = ("email", "name", "preferred_username")
_EMAIL: Final = re.compile(r"[^@\s]{1,64}@[^@\s]+")


def is_incomplete(config: OidcConfig, claims: Mapping[str, Any]) -> bool:
    """Tell whether the userinfo must be asked: for the e-mail address, or for a claim that the settings name.

    The role is not reason enough: most users have none.
    """
    return email_of(claims) is None or any(
        path and claim_at(claims, path) is None for path in (config.user_claim, config.library_claim)
    )


def completed(config: OidcConfig, claims: Mapping[str, Any], userinfo: Mapping[str, Any]) -> dict[str, Any]:
    """Add what the userinfo tells of a user to the claims of their ID token; what the token says stays.

    What lies at a path is added under the whole path, where `claim_at` looks first.
    """
    added = {name: userinfo[name] for name in _DESCRIBE if name in userinfo and not claims.get(name)}
    for path in filter(None, (config.user_claim, config.library_claim, config.role_claim)):
        if claim_at(claims, path) is None and (value := claim_at(userinfo, path)) is not None:
            added[path] = value
    return {**claims, **added}


def identity_of(config: OidcConfig, issuer: str, claims: Mapping[str, Any], id_token: str) -> Identity:
    """Make an Identity of the checked claims of a token by `issuer`; raises SignInRefused if they do not make one.

    A claim that the settings name must be there: without it somebody would become another user, for good.
    """
    email = email_of(claims)
    if email is None:
        raise SignInRefused("email_missing", NO_EMAIL)
    return Identity(
        issuer=issuer,
        subject=claims["sub"],
        email=email,
        name=_name_of(claims),
        user=_id_of(claims, config.user_claim, "LEDGER_OIDC_USER_CLAIM"),
        library=_id_of(claims, config.library_claim, "LEDGER_OIDC_LIBRARY_CLAIM"),
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


def _id_of(claims: Mapping[str, Any], claim: str | None, setting: str) -> str | None:
    """Read the id of a user or a library; None where no claim is named.

    One that is missing or does not fit is refused: another user's must not be made up.
    """
    if not claim:
        return None
    value = claim_at(claims, claim)
    if value is None:
        raise SignInRefused(
            "claim_missing",
            f"The claim {claim}, which {setting} names, is neither in the ID token nor in the userinfo: have the "
            "identity provider send it, then sign in again",
        )
    try:
        return check_name("", value if isinstance(value, str) else "")
    except InvalidInput as error:
        problem = error.problems[0][1] if isinstance(value, str) else "must be a text"
        raise SignInRefused("id_token_invalid", f"The claim {claim} cannot be used: it {problem}") from None


def _is_admin(claims: Mapping[str, Any], claim: str | None) -> bool | None:
    """Tell whether the role, or one of the roles, is `admin`; None without a role."""
    value = claim_at(claims, claim) if claim else None
    if value is None:
        return None
    return "admin" in value if isinstance(value, list) else value == "admin"
