"""What the provider says of itself (OpenID Connect Discovery 1.0)."""

from __future__ import annotations

from typing import Final

import msgspec

from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.oidc.http import Http
from endpoints.accounts.identity.port import ProviderUnavailable
from projections.accounts.addresses import problem_of

WHAT: Final = "discovery document"


class Metadata(msgspec.Struct, frozen=True):
    """The part of a discovery document that is used here, each address checked."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    authorization_response_iss_parameter_supported: bool | None = None


async def discover(http: Http, config: OidcConfig) -> Metadata:
    """Fetch the provider's metadata; raises ProviderUnavailable, also if it is another's or leads where it must not."""
    address = config.issuer.rstrip("/") + "/.well-known/openid-configuration"
    metadata = (await http.get(WHAT, address)).ok().json(Metadata)
    if metadata.issuer != config.issuer:
        raise ProviderUnavailable(
            f"The provider's {WHAT} is of {metadata.issuer[:200]!r}; LEDGER_OIDC_ISSUER must be exactly that"
        )
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint"):
        address = getattr(metadata, name)
        if address is not None and (problem := problem_of(address, plain=config.plain)):
            raise ProviderUnavailable(f"The provider's {WHAT} has a bad {name}: it {problem}")
    return metadata
