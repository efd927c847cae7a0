"""What is configured about the provider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, get_args

import msgspec

from endpoints.accounts.identity.claim_paths import parts_of
from ledger.errors import InvalidInput
from projections.accounts.addresses import is_plain, problem_of

TokenAuth = Literal["client_secret_post", "client_secret_basic", "none"]

ALGORITHMS: Final = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
)
"""What a provider may sign with by a key that it publishes. Never `none`."""
SYMMETRIC: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""What it may sign with by the client's secret, and how many bytes that must have (RFC 7518, section 3.2).

No public key is ever tried for these: whoever reads it could sign.
"""
ALL_ALGORITHMS: Final = ALGORITHMS | SYMMETRIC.keys()


class OidcConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One provider and this service's place at it; raises InvalidInput naming the settings that do not fit.

    `issuer` may also be the address of the discovery document. Claims are named by their paths (`claim_paths`); one may
    be empty: then nothing is read from it. `end_session_endpoint` stands in for the one the provider tells;
    `token_auth` for the best it says it takes.
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

    @property
    def needs_keys(self) -> bool:
        """Whether the provider must publish keys."""
        return not all(map(is_symmetric, self.algorithms))

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


def is_symmetric(alg: str) -> bool:
    """Tell whether an algorithm signs with what it verifies with: a secret."""
    return alg in SYMMETRIC


def _secret_problem(config: OidcConfig) -> str:
    """Tell what the client's secret lacks to verify what is signed with it."""
    length = len((config.client_secret or "").encode())
    longest = max((alg for alg in config.algorithms if alg in SYMMETRIC and length < SYMMETRIC[alg]), default="")
    if not longest:
        return ""
    lacks = f"has {length} bytes" if length else "is not set"
    return f"{lacks}, and LEDGER_OIDC_ALGORITHMS={longest} needs one of at least {SYMMETRIC[longest]}"


def _path_problem(path: str) -> str:
    try:
        parts_of(path)
    except ValueError as error:
        return str(error)
    return ""


def _problems(config: OidcConfig) -> Iterator[tuple[str, str]]:
    if problem := problem_of(config.issuer, plain=True):
        yield "ISSUER", problem
    elif "?" in config.issuer:
        yield "ISSUER", "must not have a query"
    for name, path in (("USER", config.user_claim), ("LIBRARY", config.library_claim), ("ROLE", config.role_claim)):
        if path and (problem := _path_problem(path)):
            yield f"{name}_CLAIM", problem
    if not config.client_id:
        yield "CLIENT_ID", "must not be empty"
    if not config.client_secret and config.token_auth not in (None, "none"):
        yield "CLIENT_SECRET", f"is needed for {config.token_auth}"
    if "openid" not in config.scope.split():
        yield "SCOPE", "must hold the word openid"
    if not config.algorithms or not ALL_ALGORITHMS.issuperset(config.algorithms):
        yield "ALGORITHMS", f"must be some of {', '.join(sorted(ALL_ALGORITHMS))}"
    if problem := _secret_problem(config):
        yield "CLIENT_SECRET", problem
    if config.token_auth is not None and config.token_auth not in get_args(TokenAuth):
        yield "TOKEN_AUTH", f"must be one of {', '.join(get_args(TokenAuth))}"
    if not 0 <= config.clock_skew_s <= 600:
        yield "CLOCK_SKEW", "must be from 0 to 600 seconds"
    if config.end_session_endpoint and (problem := problem_of(config.end_session_endpoint, plain=True)):
        yield "END_SESSION", problem
