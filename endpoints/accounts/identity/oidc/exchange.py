"""The exchange of a code for tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from endpoints.accounts.identity.oidc.http import Http, Reply
from endpoints.accounts.identity.oidc.oauth import TokenRequest
from endpoints.accounts.identity.port import ProviderUnavailable, SignInRefused

WHAT: Final = "token endpoint"
ERRORS: Final = frozenset(
    ("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
     "invalid_scope")
)  # fmt: skip
"""The error codes of RFC 6749, section 5.2; any other text of a provider is not repeated."""


@dataclass(frozen=True, repr=False)
class Tokens:
    """What a code was exchanged for. All of it is secret and none is shown."""

    id_token: str
    access_token: str


class _Answer(msgspec.Struct, frozen=True):
    id_token: str | None = None
    access_token: str | None = None
    token_type: str | None = None
    error: Any = None


async def exchange(http: Http, address: str, request: TokenRequest) -> Tokens:
    """Exchange a code. Raises SignInRefused if the provider refuses it, ProviderUnavailable if it fails."""
    reply = await http.post(WHAT, address, request.headers, request.form)
    answer = (reply if _is_refusal(reply) else reply.ok()).json(_Answer)
    if answer.error is not None:
        known = f": {answer.error}" if isinstance(answer.error, str) and answer.error in ERRORS else ""
        raise SignInRefused("code_refused", f"The identity provider refused the code{known}")
    reply.ok()
    if not answer.id_token:
        raise SignInRefused("id_token_invalid", "The identity provider sent no ID token")
    access_token = answer.access_token or ""
    bearer = (answer.token_type or "bearer").lower() == "bearer"
    if not bearer or not access_token.isascii() or not access_token.isprintable():
        raise ProviderUnavailable(f"The provider's {WHAT} gave an access token that is no bearer token")
    return Tokens(answer.id_token, access_token)


def _is_refusal(reply: Reply) -> bool:
    """Tell whether the request is at fault (RFC 6749, section 5.2), not the endpoint or its load."""
    return 400 <= reply.status < 500 and reply.status != 429
