"""The cookies of a signed-in browser and of a sign-in on its way, to the letter of upstream's.

`secure` asks for `Secure` also where the request does not show that it came over TLS.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import Final
from urllib.parse import quote, unquote

import falcon
import falcon.asgi

from endpoints.http.request import Request

ACCESS_TOKEN: Final = "immich_access_token"  # noqa: S105 (a name, no secret)
AUTH_TYPE: Final = "immich_auth_type"
IS_AUTHENTICATED: Final = "immich_is_authenticated"
OAUTH_STATE: Final = "immich_oauth_state"
OAUTH_VERIFIER: Final = "immich_oauth_code_verifier"
ACCESS: Final = (ACCESS_TOKEN, AUTH_TYPE, IS_AUTHENTICATED)
OAUTH: Final = (OAUTH_STATE, OAUTH_VERIFIER)
OAUTH_SIGN_IN: Final = "oauth"
"""The auth type of who signed in at an identity provider."""

MAX_AGE_S: Final = 400 * 86_400
"""RFC 6265bis, section 5.5: browsers keep no cookie for longer than 400 days."""
MAX_HEADER_BYTES: Final = 8192
_LONG_AGO: Final = "Thu, 01 Jan 1970 00:00:00 GMT"


def read(req: Request, wanted: str) -> str:
    """Return the value of a cookie, empty without it; raises falcon's 431 for a header that is too long."""
    return unquote(find(req.raw_headers.get(b"cookie", b""), wanted))


def find(header: bytes, wanted: str) -> str:
    """Return the value of a cookie as it stands in a Cookie header, the first one of that name; empty without it."""
    if len(header) > MAX_HEADER_BYTES:
        raise falcon.HTTPRequestHeaderFieldsTooLarge(
            description=f"The Cookie header is larger than {MAX_HEADER_BYTES} bytes"
        )
    for pair in header.decode("latin-1").split(";"):
        name, _, value = pair.partition("=")
        if name.strip() == wanted:
            return value.strip().strip('"')
    return ""


def set_access(resp: falcon.asgi.Response, req: Request, token: str, auth_type: str, secure: bool, now_us: int) -> None:
    """Sign a browser in: its token, how it signed in (`password` or `oauth`), and a mark that scripts may read."""
    for name, value in zip(ACCESS, (token, auth_type, "true"), strict=True):
        _set(resp, req, name, value, secure, now_us)


def signed_in_by_oauth(req: Request) -> bool:
    """Tell whether a browser says that it signed in at an identity provider."""
    return read(req, AUTH_TYPE) == OAUTH_SIGN_IN


def set_oauth(
    resp: falcon.asgi.Response, req: Request, state: str, verifier: str | None, secure: bool, now_us: int
) -> None:
    """Let a browser keep what it must show when it comes back; without a verifier the client keeps its own."""
    _set(resp, req, OAUTH_STATE, state, secure, now_us)
    if verifier is None:
        clear(resp, OAUTH_VERIFIER)  # one of an earlier attempt would not fit
    else:
        _set(resp, req, OAUTH_VERIFIER, verifier, secure, now_us)


def clear(resp: falcon.asgi.Response, *names: str) -> None:
    """Have cookies forgotten."""
    for name in names:
        resp.append_header("set-cookie", f"{name}=; Path=/; Expires={_LONG_AGO}")


def _set(resp: falcon.asgi.Response, req: Request, name: str, value: str, secure: bool, now_us: int) -> None:
    expires = formatdate(now_us // 1_000_000 + MAX_AGE_S, usegmt=True)
    attributes = [f"{name}={quote(value, safe='')}", f"Max-Age={MAX_AGE_S}", "Path=/", f"Expires={expires}"]
    if name != IS_AUTHENTICATED:
        attributes.append("HttpOnly")
    if secure or req.scheme == "https":
        attributes.append("Secure")
    resp.append_header("set-cookie", "; ".join([*attributes, "SameSite=Lax"]))
