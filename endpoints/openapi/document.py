"""/openapi.json: the route table and the structs, as OpenAPI 3.1."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any, Final

import falcon
import msgspec

from endpoints.http.errors import ErrorDto, ValidationErrorDto
from endpoints.http.operations import Operation, Route, Text
from endpoints.http.request import CORRELATION_HEADER
from endpoints.openapi.entity_schemas import entity_schemas
from projections.finding.prefixes import PREFIX

REF: Final = "#/components/schemas/{name}"
_PARAMETERS: Final = {
    "session_id": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "SHA-256 of the first token, in hex"},
    "library": {"type": "string", "minLength": 1, "maxLength": 128, "description": "The library's id"},
    "name": {"type": "string", "minLength": 1, "maxLength": 128, "description": "A reader's name, chosen by it"},
    "tile": {
        "type": "string",
        "pattern": "^([0-9]{1,2}|entries)/(x[0-9]{3}/)*[0-9]{3}([.]p/[0-9]{1,3})?$",
        "description": "Level or `entries`, index in groups of three digits, and of a partial one its width",
    },
}
_SESSION_START: Final = {
    "type": "string",
    "pattern": f"^{PREFIX.pattern}$",
    "description": "A session's id, or the start of one that no other begins with",
}
"""What stands for a session under this path, in place of `session_id`."""
_BY_START: Final = "/ledger/sessions/"
_SCHEMES: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A device's token, as signing in gives it",
    },
    "cookie": {"type": "apiKey", "in": "cookie", "name": "immich_access_token"},
    "userToken": {"type": "apiKey", "in": "header", "name": "x-immich-user-token"},
    "sessionToken": {"type": "apiKey", "in": "header", "name": "x-immich-session-token"},
    "sessionKey": {"type": "apiKey", "in": "query", "name": "sessionKey"},
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "As `syncledger key create` prints",
    },
    "apiKeyParam": {"type": "apiKey", "in": "query", "name": "apiKey"},
    "apiKeyBearer": {"type": "http", "scheme": "bearer", "bearerFormat": "slk_…", "description": "An API key"},
}
_REFUSALS: Final = {
    403: "Another origin's page may not ask for this",
    404: "There is no such thing",
    409: "That is not kept here",
    429: "Too many requests; see Retry-After",
    431: "The Cookie header is too large",
    503: "The store or the identity provider is not available; see Retry-After",
}
_GROUPS: Final = (
    "api/sync",
    "api/sessions",
    "api/",
    "ledger/",
    "sync",
    "sessions",
    "auth",
    "oauth",
    "healthz",
    "readyz",
)
_DESCRIPTION: Final = (
    "An event-sourced ledger of devices and what they acknowledged. Under /api it speaks the Immich mobile protocol; "
    "at the root the same resources have simpler shapes; under /ledger is what only this service has."
)


def document(documented: Iterable[Route]) -> dict[str, Any]:
    """Describe routes as OpenAPI 3.1; those of pages for people are left out."""
    listed = [route for route in documented if not route.for_people]
    types = [kind for route in listed for operation in route.operations for kind in _types(operation)]
    schemas, components = msgspec.json.schema_components([*types, ErrorDto, ValidationErrorDto], ref_template=REF)
    components |= entity_schemas(REF)
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
        "tags": [{"name": tag} for tag in sorted({_tag(route.path) for route in listed}, key=_order)],
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
            "content": _with_example(_content(operation.body, schema_of), operation.example),
        }
    return described


def _types(operation: Operation) -> Iterator[Any]:
    for answer in (operation.body, operation.query, *operation.answers.values()):
        for kind in answer if isinstance(answer, tuple) else (answer,):
            if kind is not None and not isinstance(kind, Text):
                yield kind


def _tag(path: str) -> str:
    first, *rest = path.strip("/").split("/")
    if first in {"", "docs", "openapi.json"}:
        return "this page"
    return f"{first}/{rest[0]}" if first in {"api", "ledger"} and rest else first


def _order(tag: str) -> tuple[int, str]:
    """What a client does first stands first: sync, devices and users, then what only this service has."""
    first = next((place for place, start in enumerate(_GROUPS) if tag.startswith(start)), len(_GROUPS))
    return first, tag


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)(?::\w+)?\}", path):
        by_start = name == "session_id" and path.startswith(_BY_START)
        schema = _SESSION_START if by_start else _PARAMETERS[name]
        yield {"name": name, "in": "path", "required": True, "schema": schema}


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
            # JSON Schema has no words for lines or pages.
            content[body.media_type] = {"schema": {}} | ({"example": body.example} if body.example else {})
        else:
            content[falcon.MEDIA_JSON] = {"schema": schema_of[str(body)]}
    return content


def _with_example(content: dict[str, Any], example: Any) -> dict[str, Any]:
    if example is None:
        return content
    return {
        media: about | {"example": example} if media == falcon.MEDIA_JSON else about for media, about in content.items()
    }


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
