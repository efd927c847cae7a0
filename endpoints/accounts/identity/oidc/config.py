"""What is configured about the provider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, get_args

import msgspec

from ledger.errors import InvalidInput
from projections.accounts.addresses import is_plain, problem_of

TokenAuth = Literal["client_secret_post", "client_secret_basic", "none"]

ALGORITHMS: Final = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
)
"""What a provider may sign with: never `none`, and never HS*, for which its public key would be a key to sign with."""


class OidcConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One provider and this service's place at it; raises InvalidInput naming the settings that do not fit.

    The names of claims may be empty: then nothing is read from them. `end_session_endpoint` stands in for the one the
    provider tells; `token_auth` for the best it says it takes.
    """

    issuer: str
    client_id: str
    client_secret: str | None = None
    scope: str = "openid email profile"
    prompt: str = ""
    algorithms: tuple[str, ...] = ("RS256",)
    token_auth: TokenAuth | None = None
    clock_skew_s: float = 30.0
    user_claim: str | None = None
    library_claim: str | None = None
    role_claim: str | None = "immich_role"
    end_session_endpoint: str | None = None
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Check what the types cannot say."""
        if problems := list(_problems(self)):
            raise InvalidInput([((f"LEDGER_OIDC_{name}",), problem) for name, problem in problems])

    def __repr__(self) -> str:
        """Show who the provider is, and nothing secret."""
        return f"OidcConfig(issuer={self.issuer!r}, client_id={self.client_id!r})"

    def __rich_repr__(self) -> Any:
        """Show the same as `repr`."""
        yield repr(self)

    @property
    def plain(self) -> bool:
        """Whether the provider is on this machine and may be spoken to without TLS."""
        return is_plain(self.issuer)


def _problems(config: OidcConfig) -> Iterator[tuple[str, str]]:
    if problem := problem_of(config.issuer, plain=True):
        yield "ISSUER", problem
    elif "?" in config.issuer:
        yield "ISSUER", "must not have a query"
    if not config.client_id:
        yield "CLIENT_ID", "must not be empty"
    if not config.client_secret and config.token_auth not in (None, "none"):
        yield "CLIENT_SECRET", f"is needed for {config.token_auth}"
    if "openid" not in config.scope.split():
        yield "SCOPE", "must hold the word openid"
    if not config.algorithms or not ALGORITHMS.issuperset(config.algorithms):
        yield "ALGORITHMS", f"must be some of {', '.join(sorted(ALGORITHMS))}"
    if config.token_auth is not None and config.token_auth not in get_args(TokenAuth):
        yield "TOKEN_AUTH", f"must be one of {', '.join(get_args(TokenAuth))}"
    if not 0 <= config.clock_skew_s <= 600:
        yield "CLOCK_SKEW", "must be from 0 to 600 seconds"
    if config.end_session_endpoint and (problem := problem_of(config.end_session_endpoint, plain=True)):
        yield "END_SESSION", problem
