"""The addresses of a sign-in: where the provider sends the user back to, and what they bring from there."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from endpoints.accounts.identity.port import Answer, SignInRefused
from ledger.errors import InvalidInput

APP_ADDRESS: Final = "app.immich:///oauth-callback"
MAX_URL_CHARS: Final = 8192
MAX_REDIRECT_URI_CHARS: Final = 1024
_MAX_PARAMETERS: Final = 64
_APP_ADDRESS: Final = re.compile(r"app\.immich:/+oauth-callback")
_ADDRESS: Final = re.compile(r"[!$-;=?-\[\]_a-z~]+")  # ASCII without spaces, control characters and " # < > \ ^ ` { | }
_QUERY: Final = re.compile(rb"[!-~]*")


def check_redirect_uri(field: str, value: str) -> str:
    """Return an address a provider may send a user back to; raises InvalidInput naming `field`.

    It is http, https or the app's own scheme. Whether it is one of ours knows the provider, where it is registered.
    """
    problem = _problem(value)
    if problem:
        raise InvalidInput([((field,), problem)])
    return value


def for_provider(redirect_uri: str, mobile_redirect_uri: str) -> str:
    """Put the https address that stands in for the app's own, if there is one, in its place."""
    if mobile_redirect_uri and _APP_ADDRESS.fullmatch(redirect_uri):
        return mobile_redirect_uri
    return redirect_uri


def read_answer(url: str) -> tuple[str, Answer]:
    """Split the address a user came back to into the redirect URI and what the provider added to it.

    Raises InvalidInput for an address that is none, SignInRefused for one that brings nothing, or something twice.
    """
    address, _, query = url.partition("#")[0].partition("?")
    redirect_uri = check_redirect_uri("url", address)
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS, errors="strict")
    except ValueError:
        raise _invalid() from None
    known = [(name, value) for name, value in pairs if name in Answer._fields]
    answer = Answer(**dict(known))
    if len(known) > len(dict(known)) or not (answer.code or answer.error):
        raise _invalid()
    return redirect_uri, answer


def app_location(query: bytes) -> str:
    """Make the address that hands a provider's answer on to the app; raises InvalidInput for a query that is none."""
    if len(query) > MAX_URL_CHARS or not _QUERY.fullmatch(query):
        raise InvalidInput([((), f"The query must have at most {MAX_URL_CHARS} printable ASCII characters")])
    return f"{APP_ADDRESS}?{query.decode()}"


def _invalid() -> SignInRefused:
    return SignInRefused("answer_invalid", "The URL holds no answer of an identity provider, or more than one")


def _problem(value: str) -> str:
    try:
        parts = urlsplit(value) if _ADDRESS.fullmatch(value) else None
        if parts is None or (parts.scheme in ("http", "https") and not parts.hostname) or parts.port == 0:
            return "must be an address without spaces and fragment"
    except ValueError:
        return "must be an address without spaces and fragment"
    if parts.scheme not in ("http", "https", "app.immich"):
        return "must begin with http://, https:// or app.immich:"
    if "@" in parts.netloc or "?" in value:
        return "must have neither a user nor a query"
    return ""
