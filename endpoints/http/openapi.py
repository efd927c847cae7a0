"""/openapi.json, made of the route table and the structs, and /docs, a page to read it by."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib import metadata, resources
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from endpoints.http.errors import ErrorDto, ValidationErrorDto
from endpoints.http.operations import NOBODY, Operation, Route, Text
from endpoints.http.request import CORRELATION_HEADER, Request

REF: Final = "#/components/schemas/{name}"
_PARAMETERS: Final = {
    "session_id": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "SHA-256 of the first token, in hex"},
    "library": {"type": "string", "minLength": 1, "maxLength": 128, "description": "The library's id"},
    "tile": {
        "type": "string",
        "pattern": "^([0-9]{1,2}|entries)/(x[0-9]{3}/)*[0-9]{3}([.]p/[0-9]{1,3})?$",
        "description": "Level or `entries`, index in groups of three digits, and of a partial one its width",
    },
}
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "immich_access_token"},
    "userToken": {"type": "apiKey", "in": "header", "name": "x-immich-user-token"},
    "sessionToken": {"type": "apiKey", "in": "header", "name": "x-immich-session-token"},
    "sessionKey": {"type": "apiKey", "in": "query", "name": "sessionKey"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "apiKeyParam": {"type": "apiKey", "in": "query", "name": "apiKey"},
}
_REFUSALS: Final = {
    403: "Another origin's page may not ask for this",
    404: "There is no such thing",
    409: "That is not kept here",
    429: "Too many requests; see Retry-After",
    431: "The Cookie header is too large",
    503: "The store or the identity provider is not available; see Retry-After",
}
_CSP: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
_DESCRIPTION: Final = (
    "An event-sourced ledger of devices and what they acknowledged. Under /api it speaks the Immich mobile protocol; "
    "at the root the same resources have simpler shapes; under /ledger is what only this service has."
)


class Page:
    """A resource that answers with bytes made once, when they are first asked for."""

    def __init__(self, make: Callable[[], bytes], media_type: str, headers: dict[str, str] | None = None) -> None:
        self._made, self._media_type, self._headers = cache(make), media_type, headers or {}

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = self._media_type
        resp.set_headers(self._headers)
        resp.data = self._made()


def routes(documented: Sequence[Route]) -> Iterator[Route]:
    """List the routes that describe `documented` and themselves."""
    described = Operation("GET", "getOpenApi", "Describe this API", {200: dict[str, Any]}, NOBODY)
    read = Operation("GET", "getDocs", "Read this description", {200: Text("text/html", "A page")}, NOBODY)
    html = resources.files("endpoints.http").joinpath("docs.html")
    page = Route("/docs", Page(html.read_bytes, falcon.MEDIA_HTML, {"content-security-policy": _CSP}), (read,))
    itself = Route("/openapi.json", None, (described,))
    all_of_them = [*documented, itself, page]
    body = Page(lambda: msgspec.json.encode(document(all_of_them)), falcon.MEDIA_JSON)
    yield msgspec.structs.replace(itself, resource=body)
    yield page


def document(documented: Iterable[Route]) -> dict[str, Any]:
    """Describe routes as OpenAPI 3.1."""
    listed = list(documented)
    types = [kind for route in listed for operation in route.operations for kind in _types(operation)]
    schemas, components = msgspec.json.schema_components([*types, ErrorDto, ValidationErrorDto], ref_template=REF)
    schema_of = {str(kind): schema for kind, schema in zip(types, schemas, strict=False)}
    paths: dict[str, Any] = {}
    for route in listed:
        path = paths.setdefault(re.sub(r"(?<=\w):\w+(?=\})", "", route.path), {})
        for operation in route.operations:
            path[operation.method.lower()] = _operation(route, operation, schema_of, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sync ledger",
            "version": metadata.version("syncledger"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": _SCHEMES,
            "headers": {
                "CorrelationId": {
                    "description": "Ties the answer to the service's log; a request's own is given back",
                    "schema": {"type": "string"},
                }
            },
        },
    }


def _operation(
    route: Route, operation: Operation, schema_of: dict[str, Any], components: dict[str, Any]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [_tag(route.path)],
        "parameters": [*_path_parameters(route.path), *_query_parameters(operation, components)],
        "security": [{scheme: []} for scheme in operation.security],
        "responses": {
            **{str(status): _answer(answer, schema_of) for status, answer in operation.answers.items()},
            **_refusals(operation),
        },
    }
    if operation.body is not None:
        described["requestBody"] = {
            "description": _words(operation.body) or "JSON",
            "required": operation.body_required,
            "content": _content(operation.body, schema_of),
        }
    return described


def _types(operation: Operation) -> Iterator[Any]:
    for answer in (operation.body, operation.query, *operation.answers.values()):
        for kind in answer if isinstance(answer, tuple) else (answer,):
            if kind is not None and not isinstance(kind, Text):
                yield kind


def _tag(path: str) -> str:
    first, *rest = path.strip("/").split("/")
    return f"{first}/{rest[0]}" if first in {"api", "ledger"} and rest else first


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)(?::\w+)?\}", path):
        yield {"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]}


def _query_parameters(operation: Operation, components: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if operation.query is None:
        return
    for name, schema in components[operation.query.__name__]["properties"].items():
        yield {"name": name, "in": "query", "required": False, "schema": _not_null(schema)}


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is not given is absent, never null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def _answer(answer: Any, schema_of: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": _words(answer) or "Done", "headers": _headers()}
    if answer is not None:
        described["content"] = _content(answer, schema_of)
    return described


def _content(bodies: Any, schema_of: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for body in bodies if isinstance(bodies, tuple) else (bodies,):
        if isinstance(body, Text):
            content[body.media_type] = {"schema": {}}  # JSON Schema has no words for lines or pages
        else:
            content[falcon.MEDIA_JSON] = {"schema": schema_of[str(body)]}
    return content


def _words(bodies: Any) -> str:
    listed = bodies if isinstance(bodies, tuple) else (bodies,)
    return "; ".join(f"{body.media_type}: {body.description}" for body in listed if isinstance(body, Text))


def _refusals(operation: Operation) -> dict[str, Any]:
    error, validation = (REF.format(name=kind.__name__) for kind in (ErrorDto, ValidationErrorDto))
    either = {"anyOf": [{"$ref": validation}, {"$ref": error}]}
    refusals = {"400": ("The request does not fit", either), "500": ("A fault of the service", {"$ref": error})}
    if operation.security:
        refusals["401"] = ("No credential, or one that admits nobody", {"$ref": error})
        refusals["403"] = ("The credential is not good for this", {"$ref": error})
        refusals["429"] = ("Too many bad credentials; see Retry-After", {"$ref": error})
        refusals["431"] = ("The Cookie header is too large", {"$ref": error})
    if operation.security or operation.id == "getReadiness":
        refusals["503"] = ("The store is not available; see Retry-After", {"$ref": error})
    if operation.body is not None:
        refusals["408"] = ("The body stopped coming, or came too slowly", {"$ref": error})
        refusals["413"] = ("The body is too large", {"$ref": error})
    for status, text in _REFUSALS.items():
        if status in operation.refusals:
            refusals.setdefault(str(status), (text, {"$ref": error}))
    return {
        status: {"description": text, "headers": _headers(), "content": {falcon.MEDIA_JSON: {"schema": schema}}}
        for status, (text, schema) in sorted(refusals.items())
    }


def _headers() -> dict[str, Any]:
    return {CORRELATION_HEADER.title(): {"$ref": "#/components/headers/CorrelationId"}}
