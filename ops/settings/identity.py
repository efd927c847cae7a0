"""Settings of signing in: who tells who a user is, and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from endpoints.accounts.identity.oidc.config import TokenAuth

Identity = Literal["none", "oidc", "gumnut", "immich", "jwt"]
RECHECK = "LEDGER_IMMICH_RECHECK"
_JWT = "LEDGER_JWT_"
_JWT_NEEDS = {
    "LEDGER_JWT_ISSUER": "the issuer of the tokens, exactly as their claim iss has it",
    "LEDGER_JWT_AUDIENCE": "what their claim aud has for this service, as tokens made for others admit nobody",
    "LEDGER_JWT_JWKS": "the URL of the issuer's public keys, a JSON Web Key Set",
}


class OidcSettings(msgspec.Struct, frozen=True, kw_only=True):
    """An OpenID Connect provider; empty where not set. The last five also hold for other providers."""

    issuer: str = ""
    client_id: str = ""
    client_secret: str | None = None
    scope: str = "openid email profile"
    prompt: str = ""
    algorithms: tuple[str, ...] = ("RS256",)
    token_auth: TokenAuth | None = None
    """How the client shows its secret; None: as the provider says it may."""
    clock_skew_s: float = 30.0
    end_session: str = ""
    """Where a user ends their session at the provider; empty: where the provider says."""
    user_claim: str = ""
    library_claim: str = ""
    role_claim: str = "immich_role"
    mobile_redirect_uri: str = ""
    """An https address that stands in for the app's own scheme at providers that take no other."""
    auto_register: bool = True
    auto_launch: bool = False
    button_text: str = "Login with OAuth"

    def __repr__(self) -> str:
        """Show everything but the secret."""
        return shown(self, client_secret="hidden" if self.client_secret else None)


class GumnutSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Gumnut, as identity provider and as source."""

    url: str = "https://api.gumnut.ai"
    library: str = ""
    """The library every user syncs; empty: what Gumnut says."""
    api_key: str | None = None
    """What the source asks with for sessions that were not signed in by Gumnut."""

    def __repr__(self) -> str:
        """Show everything but the key."""
        return shown(self, api_key="hidden" if self.api_key else None)


class ImmichSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Immich beside this service, whose tokens admit here."""

    recheck_s: float = 10.0
    """For how long what Immich's database says of a token is good."""


class JwtSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A backend whose signed tokens admit here; empty where not set."""

    issuer: str = ""
    audience: str = ""
    jwks: str = ""
    """Where its public keys are."""
    session_claim: str = "sid"
    user_claim: str = "sub"
    library_claim: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    clock_skew_s: float = 30.0


def shown(struct: msgspec.Struct, **instead: object) -> str:
    """Write a struct as `repr` would, with some of its values replaced."""
    values = {name: instead.get(name, getattr(struct, name)) for name in struct.__struct_fields__}
    return f"{type(struct).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"


def default_identity(oidc: OidcSettings) -> Identity:
    """Choose the provider where LEDGER_IDENTITY does not."""
    return "oidc" if oidc.issuer or oidc.client_id else "none"


def missing(identity: Identity, oidc: OidcSettings, set_variables: Mapping[str, Any]) -> list[tuple[tuple[str], str]]:
    """Name the variables that a half-configured provider still needs, each with what it is for.

    `set_variables` are those that were given, also if they did not fit.
    """
    if RECHECK in set_variables and identity != "immich":
        return [
            ((RECHECK,), f"goes with LEDGER_IDENTITY=immich, and that is {identity}: set it, or leave {RECHECK} out")
        ]
    if identity != "jwt" and (stray := sorted(name for name in set_variables if name.startswith(_JWT))):
        says = f"goes with LEDGER_IDENTITY=jwt, and that is {identity}: set it, or leave this out"
        return [((name,), says) for name in stray]
    if identity == "jwt":
        return [
            ((name,), f"is not set: LEDGER_IDENTITY=jwt needs {purpose}")
            for name, purpose in _JWT_NEEDS.items()
            if name not in set_variables
        ]
    if identity != "oidc":
        return []
    problems = []
    for name, purpose in (
        ("LEDGER_OIDC_ISSUER", "signing in by OpenID Connect needs the provider's issuer URL"),
        ("LEDGER_OIDC_CLIENT_ID", "signing in by OpenID Connect needs the id this service has at the provider"),
    ):
        if name not in set_variables:
            problems.append(((name,), f"is not set: {purpose}"))
    asks_secret = oidc.token_auth in ("client_secret_post", "client_secret_basic")
    if asks_secret and "LEDGER_OIDC_CLIENT_SECRET" not in set_variables:
        problems.append((("LEDGER_OIDC_CLIENT_SECRET",), f"is not set: LEDGER_OIDC_TOKEN_AUTH={oidc.token_auth}"))
    return problems
