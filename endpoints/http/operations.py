"""What a route is: its path, its resource, and what its operations take and answer (the source of /openapi.json)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

SESSION: Final = ("bearer", "cookie", "userToken", "sessionToken", "sessionKey")
KEY: Final = ("apiKey", "apiKeyParam", "apiKeyBearer")
EITHER: Final = SESSION + KEY
NOBODY: Final = ()
NDJSON: Final = "application/x-ndjson"
EVENT_STREAM: Final = "text/event-stream"


class Text(msgspec.Struct, frozen=True):
    """A body that is no single JSON value, like lines of JSON or a page; `example` is the whole of a short one."""

    media_type: str
    description: str
    example: str = ""


class Operation(msgspec.Struct, frozen=True):
    """One method of a route.

    `answers` maps each status of success to a struct, a Text, several of them by Accept, or None for an empty body;
    `refusals` names statuses beyond those that every operation can have. `example` is a body to begin with.
    """

    method: str
    id: str
    summary: str
    answers: dict[int, Any]
    security: tuple[str, ...] = SESSION
    body: Any = None
    body_required: bool = True
    query: type[msgspec.Struct] | None = None
    refusals: tuple[int, ...] = ()
    example: Any = None


class Route(msgspec.Struct, frozen=True):
    """A path template and the resource that answers there; `suffix` as in Falcon's `add_route`.

    `for_people`: a page, which is no part of the API that is described.
    """

    path: str
    resource: object
    operations: tuple[Operation, ...]
    suffix: str | None = None
    for_people: bool = False
