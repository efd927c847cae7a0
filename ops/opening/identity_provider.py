"""The identity provider that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.port import IdentityProvider
from ops.opening.ledger import credential_cipher, keyring_source
from ops.settings.settings import Settings

if TYPE_CHECKING:
    from projections.entities.gumnut.config import GumnutConfig


def make_provider(settings: Settings) -> IdentityProvider | None:
    """Make what signs users in, or None where nobody does; nothing is connected to yet. Raises InvalidInput."""
    # PERF: these take up to half a second to import, which only who uses them need wait for.
    if settings.identity == "oidc":
        from endpoints.accounts.identity.oidc.provider import OidcProvider

        return OidcProvider(oidc_config(settings))
    if settings.identity == "gumnut":
        from endpoints.accounts.identity.gumnut.provider import GumnutProvider

        return GumnutProvider(gumnut_config(settings))
    return None


def check_identity(settings: Settings) -> None:
    """Find out before anything starts whether users can sign in as configured; raises InvalidInput, OSError."""
    keyring_source(settings)
    credential_cipher(settings)
    if settings.identity == "oidc":
        oidc_config(settings)


def gumnut_config(settings: Settings) -> GumnutConfig:
    """Put the settings of Gumnut as it takes them, as identity provider and as source; raises InvalidInput."""
    from projections.entities.gumnut.config import GumnutConfig

    return GumnutConfig(settings.gumnut.url, library=settings.gumnut.library or None)


def oidc_config(settings: Settings) -> OidcConfig:
    """Put the settings of an OpenID Connect provider as it takes them; raises InvalidInput for what does not fit."""
    oidc = settings.oidc
    return OidcConfig(
        issuer=oidc.issuer,
        client_id=oidc.client_id,
        client_secret=oidc.client_secret,
        scope=oidc.scope,
        prompt=oidc.prompt,
        algorithms=oidc.algorithms,
        token_auth=oidc.token_auth,
        clock_skew_s=oidc.clock_skew_s,
        user_claim=oidc.user_claim,
        library_claim=oidc.library_claim,
        role_claim=oidc.role_claim,
        end_session_endpoint=oidc.end_session or None,
    )
