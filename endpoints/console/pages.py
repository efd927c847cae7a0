"""How pages are made of templates, and what every answer of the console says to the browser.

Templates escape all that they are given. Nothing is cached, so that nobody who goes back after signing out reads on;
scripts and styles come from files of ours alone, and nobody may frame a page.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any, Final

import falcon
import falcon.asgi
import jinja2

from endpoints.console import words as told_as
from endpoints.console.visitors import NotSignedIn, Visitor
from endpoints.http.request import Request
from ledger.errors import InvalidInput
from ledger.positions import iso_from_us, us_from_iso
from projections.history.words import TAGS
from projections.sent.words import ENDS, row_text

PLACE: Final = "/console"
SIGN_IN: Final = f"{PLACE}/sign-in"
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": CSP,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
FILES: Final = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
AGAIN_S: Final = 5
"""After how many seconds a page that was not available is asked for again, by itself."""
_TITLES: Final = {400: "That does not fit", 403: "Not allowed", 404: "Not found", 429: "Too often"}


def show(
    resp: falcon.asgi.Response,
    template: str,
    visitor: Visitor | None,
    *,
    status: str | None = None,
    **words: Any,
) -> None:
    """Answer with a page."""
    if status is not None:
        resp.status = status
    resp.content_type = falcon.MEDIA_HTML
    resp.set_headers(HEADERS)
    resp.data = None
    resp.text = _templates().get_template(template).render(visitor=visitor, **words)


def go_on(resp: falcon.asgi.Response, place: str) -> None:
    """Send a browser on with GET; `place` is a path of ours."""
    resp.status = falcon.HTTP_303
    resp.set_header("location", place)
    resp.set_headers(HEADERS)


def shown(req: Request, resp: falcon.asgi.Response, error: Exception, message: str) -> bool:
    """Answer an error of the console as a page, one for want of a sign-in with the way there; others are left."""
    if req.path != PLACE and not req.path.startswith(PLACE + "/"):
        return False
    if isinstance(error, NotSignedIn):
        if req.method == "GET" and req.get_header("sec-fetch-dest") in (None, "document"):
            go_on(resp, f"{SIGN_IN}?next={falcon.uri.encode_value(_asked_for(req))}")
            return True
        resp.status = falcon.HTTP_401
    code = int(resp.status.split()[0]) if isinstance(resp.status, str) else int(resp.status)
    title = _TITLES.get(code, "Not available now" if code >= 500 else "Refused")
    again_s = AGAIN_S if code == 503 and req.method == "GET" else 0
    if isinstance(error, InvalidInput):
        message = error.told
    elif isinstance(error, falcon.HTTPRouteNotFound):
        message = "The console has no such page"
    show(resp, "error.html", None, title=title, message=message, correlation=req.correlation_id, again_s=again_s)
    return True


def _asked_for(req: Request) -> str:
    return req.path + (f"?{req.query_string}" if req.query_string else "")


def safe_next(place: str) -> str:
    """Return a place to go on to after signing in, if it is a page of the console; else its first page.

    What a link from elsewhere names is followed nowhere else: only characters that no browser takes for a host.
    """
    path, _, query = place.partition("?")
    inside = path == PLACE or path.startswith(PLACE + "/")
    sane = all(char.isascii() and (char.isalnum() or char in "-._~/") for char in path) and "//" not in path
    sane = sane and ".." not in path and all(char.isascii() and char.isprintable() for char in query)
    return place if inside and sane and len(place) <= 2000 and not path.startswith(SIGN_IN) else PLACE


class File:
    """A script, style or picture, under an address that changes with it."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = FILES[self._name]
        resp.set_headers(HEADERS)
        resp.set_header("cache-control", "max-age=31536000, immutable" if req.query_string else "no-cache")
        resp.data = _content(self._name)


@cache
def _content(name: str) -> bytes:
    return resources.files("endpoints.console").joinpath(name).read_bytes()


@cache
def address_of(name: str) -> str:
    """Return the address of a file, which changes with what is in it."""
    return f"{PLACE}/{name}?v={sha256(_content(name)).hexdigest()[:12]}"


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("endpoints.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    of_words = (
        *(told_as.ago, told_as.clean, told_as.colour, told_as.minute, told_as.number, told_as.prose),
        *(told_as.seconds, told_as.short, told_as.span, told_as.time_class),
    )
    environment.filters |= {each.__name__: each for each in of_words}
    environment.filters |= {"iso": iso_from_us, "row": row_text, "us": us_from_iso}
    environment.globals |= {
        "address_of": address_of,
        "ends": ENDS,
        "named": told_as.device,
        "tags": TAGS,
        "told": told_as.told,
    }
    return environment
