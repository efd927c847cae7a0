"""/openapi.json, and /docs: the pages of Swagger UI, which come with a package, around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib import resources, util
from pathlib import Path
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from endpoints.console.visitors import knows_console
from endpoints.http.operations import NOBODY, Operation, Route, Text
from endpoints.http.request import Request
from endpoints.openapi.document import document

# Swagger UI draws its icons as data: images and sets styles from its scripts; nothing else is let in.
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_OURS: Final = {"docs.js": "text/javascript; charset=utf-8", "docs.css": "text/css; charset=utf-8"}
_OF_SWAGGER_UI: Final = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}


class Page:
    """A resource that answers with bytes made once, when they are first asked for."""

    def __init__(self, make: Callable[[], bytes], media_type: str, headers: dict[str, str] | None = None) -> None:
        self._made, self._media_type, self._headers = cache(make), media_type, headers or {}

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = self._media_type
        resp.set_headers(self._headers)
        resp.data = self._made()


class Home:
    """Leads who opens the address in a browser to what there is to read: who was at the console, back there."""

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        raise falcon.HTTPFound("/console" if knows_console(req) else "/docs")


def routes(documented: Sequence[Route]) -> Iterator[Route]:
    """List the routes that describe `documented` and themselves."""
    described = Operation("GET", "getOpenApi", "Describe this API", {200: dict[str, Any]}, NOBODY)
    itself = Route("/openapi.json", None, (described,))
    pages = list(_pages())
    all_of_them = [*documented, itself, *pages]
    body = Page(lambda: msgspec.json.encode(document(all_of_them)), falcon.MEDIA_JSON)
    yield msgspec.structs.replace(itself, resource=body)
    yield from pages


def _pages() -> Iterator[Route]:
    home = Operation(
        "GET", "getHome", "Go to this description, or to the console where that was open", {302: None}, NOBODY
    )
    yield Route("/", Home(), (home,))
    ours = resources.files("endpoints.openapi")
    read = Operation("GET", "getDocs", "Read and try this API", {200: Text("text/html", "A page")}, NOBODY)
    headers = {"content-security-policy": CSP, "x-frame-options": "DENY"}
    yield Route("/docs", Page(ours.joinpath("docs.html").read_bytes, falcon.MEDIA_HTML, headers), (read,))
    theirs = _swagger_ui()
    for name, media_type in _OURS.items():
        yield _part(name, media_type, ours.joinpath(name).read_bytes)
    for name, media_type in _OF_SWAGGER_UI.items():
        yield _part(name, media_type, partial((theirs / name).read_bytes))


def _part(name: str, media_type: str, read: Callable[[], bytes]) -> Route:
    words = Text(media_type.partition(";")[0], "A part of the page")
    operation = Operation("GET", f"getDocsPart_{name}", "Load a part of the page at /docs", {200: words}, NOBODY)
    return Route(f"/docs/{name}", Page(read, media_type, {"cache-control": "max-age=3600"}), (operation,))


def _swagger_ui() -> Path:
    """Find Swagger UI's files; the package itself is not imported, for it is made for another framework."""
    spec = util.find_spec("flask_swagger_ui")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("flask_swagger_ui is not installed: pip install flask-swagger-ui")
    return Path(spec.submodule_search_locations[0]) / "dist"
