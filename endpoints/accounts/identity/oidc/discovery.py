"""What the provider says of itself (OpenID Connect Discovery 1.0).

Without its issuer, its page and its token endpoint nobody can sign in. All else is done without where it cannot be
used, and that is told: a document is written by people, and one empty line of it must not keep everybody out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeGuard

import msgspec

from endpoints.accounts.identity.issuers import discovery_address, is_meant
from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.oidc.http import Http
from endpoints.accounts.identity.port import ProviderUnavailable
from projections.accounts.addresses import problem_of

WHAT: Final = "discovery document"
_METHODS: Final = "token_endpoint_auth_methods_supported"
_NAMES_ITSELF: Final = "authorization_response_iss_parameter_supported"
_SIGNED_WITH: Final = "id_token_signing_alg_values_supported"


class Metadata(msgspec.Struct, frozen=True):
    """The part of a discovery document that is used here, each address checked.

    `jwks_uri` is empty where no key of the provider's is needed. `lacks` says in sentences what sign-in cannot do
    because of what the document holds.
    """

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    authorization_response_iss_parameter_supported: bool = False
    lacks: tuple[str, ...] = ()


async def discover(http: Http, config: OidcConfig) -> Metadata:
    """Fetch the provider's metadata; raises ProviderUnavailable, also if it is another's or leads where it must not."""
    told = (await http.get(WHAT, discovery_address(config.issuer))).ok().json(dict[str, Any])
    issuer = told.get("issuer")
    if not isinstance(issuer, str) or not is_meant(config.issuer, issuer):
        shown = repr(issuer[:200]) if isinstance(issuer, str) else "no issuer"
        raise ProviderUnavailable(f"The provider's {WHAT} is of {shown}; LEDGER_OIDC_ISSUER must be exactly that")
    lacks = [lack for lack in (_lack_of(told, config, rule) for rule in _RULES) if lack]
    supported, names_itself = told.get(_METHODS), told.get(_NAMES_ITSELF)
    return Metadata(
        issuer=issuer,
        authorization_endpoint=_needed(told, "authorization_endpoint", config),
        token_endpoint=_needed(told, "token_endpoint", config),
        jwks_uri=_needed(told, "jwks_uri", config) if config.needs_keys else "",
        userinfo_endpoint=_usable(told, "userinfo_endpoint", config),
        end_session_endpoint=config.end_session_endpoint or _usable(told, "end_session_endpoint", config),
        token_endpoint_auth_methods_supported=tuple(supported) if _is_words(supported) else None,
        authorization_response_iss_parameter_supported=names_itself is True,
        lacks=tuple(lacks),
    )


class _Rule(NamedTuple):
    """When a member of the document cannot be used: `problem` says why, '' if it can; `then` what is done without."""

    member: str
    problem: Callable[[Any, OidcConfig], str]
    then: str


def _lack_of(told: dict[str, Any], config: OidcConfig, rule: _Rule) -> str:
    value = told.get(rule.member)
    problem = "" if value is None else rule.problem(value, config)
    return f"its {rule.member} {problem}, so {rule.then}" if problem else ""


def _address_problem(value: Any, config: OidcConfig) -> str:
    if value == "":
        return "is empty"
    return problem_of(value, plain=config.plain) if isinstance(value, str) else "is no text"


def _end_session_problem(value: Any, config: OidcConfig) -> str:
    return "" if config.end_session_endpoint else _address_problem(value, config)


def _methods_problem(value: Any, config: OidcConfig) -> str:
    unneeded = config.token_auth is not None or not config.client_secret
    return "" if unneeded or _is_words(value) else "is no list of words"


def _algorithms_problem(value: Any, config: OidcConfig) -> str:
    if not _is_words(value) or not value or set(value) & set(config.algorithms):
        return ""
    known = [word for word in value if len(word) <= 24 and word.isascii() and word.isprintable()]
    names = ", ".join(known[:8]) or "of unknown names"
    return f"is {names}, and LEDGER_OIDC_ALGORITHMS is {', '.join(config.algorithms)}"


_RULES: Final = (
    _Rule("userinfo_endpoint", _address_problem, "claims are found in ID tokens only"),
    _Rule(
        "end_session_endpoint",
        _end_session_problem,
        "logout does not end the provider's own session, unless LEDGER_OIDC_END_SESSION names a page for it",
    ),
    _Rule(
        _METHODS,
        _methods_problem,
        "the client shows its secret as client_secret_basic, unless LEDGER_OIDC_TOKEN_AUTH says otherwise",
    ),
    _Rule(
        _NAMES_ITSELF,
        lambda value, _: "" if isinstance(value, bool) else "is neither true nor false",
        "an answer that does not name its provider is taken",
    ),
    _Rule(_SIGNED_WITH, _algorithms_problem, "nobody can sign in until they agree"),
)


def _needed(told: dict[str, Any], member: str, config: OidcConfig) -> str:
    value = told.get(member)
    if value is None:
        raise ProviderUnavailable(f"The provider's {WHAT} has no {member}")
    if problem := _address_problem(value, config):
        raise ProviderUnavailable(f"The provider's {WHAT} has a bad {member}: it {problem}")
    return str(value)


def _usable(told: dict[str, Any], member: str, config: OidcConfig) -> str | None:
    value = told.get(member)
    return value if isinstance(value, str) and not _address_problem(value, config) else None


def _is_words(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
