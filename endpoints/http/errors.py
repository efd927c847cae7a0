"""Errors to HTTP, in the shape Immich 3 answers with: `{"message"}`, for validation with `errors` beside it.

LedgerError            status
├── InvalidInput       400 with `errors: [{code, path, message}]`
├── Refused, others    400
├── NoSuchSession      400, as upstream: which sessions exist is not told
├── SessionEnded       401
├── Unauthenticated    401
├── Forbidden          403
├── Limited            429 with Retry-After
├── Unavailable        503 with Retry-After: an app logs out on 401, so trouble in a store must never look like one
├── CredentialUnreadable, UserKeyUnreadable, LayoutError
│                      503 with Retry-After: the keys or places given are not the ledger's; logged in one line
└── all others         500, logged

Beside these: BodyTooSlow 408, and the connection ends; what Falcon itself refuses, like a body too large, as it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from endpoints.accounts.identity.port import ProviderUnavailable
from endpoints.http.bodies import BodyTooSlow, ClientGone
from endpoints.http.limits import Limited
from endpoints.http.request import Request
from endpoints.sync.turns import StreamsBusy
from ledger.errors import (
    InvalidAck,
    InvalidInput,
    LayoutError,
    LedgerError,
    LedgerGone,
    NoSuchSession,
    NotAllEnded,
    NotAllowed,
    NotReplicated,
    Rebuilding,
    Refused,
    SessionEnded,
    Unavailable,
    UserKeyUnreadable,
)
from projections.accounts.credentials import CredentialUnreadable
from projections.archive.errors import ArchiveNotGiven
from projections.entities.source import SourceUnavailable
from projections.feed.seats import TooManyFollowers

log = logging.getLogger(__name__)

Judged = Callable[[Request, Exception], Awaitable[Exception]]
Shown = Callable[[Request, falcon.asgi.Response, Exception, str], bool]

MAX_MESSAGE_CHARS: Final = 300
MAX_PROBLEMS: Final = 100
"""Of one request; else a body of 1 MB could be answered with 20 MB."""
_WS_CODES: Final = 3000
_MISCONFIGURED: Final = (CredentialUnreadable, UserKeyUnreadable, LayoutError)
"""What only an operator can mend: by a key or a place that the settings must name."""
_NO_ROOM: Final = (StreamsBusy, TooManyFollowers)
"""What is refused because others are served, and is served when it comes again."""
INTERNAL: Final = "Internal server error"
_CODES: Final = (
    (re.compile(r"^Expected `\w+` of length (>=|==)|^Expected `\w+` >"), "too_small"),
    (re.compile(r"^Expected `\w+` of length <|^Expected `\w+` <"), "too_big"),
    (re.compile(r"^Expected `|^Object missing required field"), "invalid_type"),
    (re.compile(r"^Invalid enum value"), "invalid_value"),
    (re.compile(r"matching regex"), "invalid_format"),
)


class Problem(msgspec.Struct, frozen=True):
    """One field that does not fit."""

    code: str
    path: tuple[str | int, ...]
    message: str


class ErrorDto(msgspec.Struct, frozen=True):
    """What every refused or failed request is answered with."""

    message: str


class ValidationErrorDto(msgspec.Struct, frozen=True):
    """The answer to a request with fields that do not fit."""

    message: str
    errors: tuple[Problem, ...]


class Unauthenticated(NotAllowed):
    """No credential, or one that admits nobody."""


class Forbidden(NotAllowed):
    """The credential is good, but not for this."""


class NotReady(Unavailable):
    """The service is of no use now; told to who asks how it is, with why."""


async def unchanged(req: Request, error: Exception) -> Exception:
    """Answer every error as what it is."""
    return error


def as_json(req: Request, resp: falcon.asgi.Response, error: Exception, message: str) -> bool:
    """Have every error answered as JSON."""
    return False


def install(
    app: falcon.asgi.App[Request, falcon.asgi.Response], judged: Judged = unchanged, shown: Shown = as_json
) -> None:
    """Make an app answer every error in our shape, falcon's own ones too.

    `judged` is told of each error before it is answered, and returns the one to answer with. `shown` may put a page for
    people into the response, whose status and headers are set; where it does not, which it tells, the answer is JSON.
    """

    async def answer(
        req: Request,
        resp: falcon.asgi.Response,
        error: Exception,
        params: Mapping[str, Any],
        ws: falcon.asgi.WebSocket | None = None,
    ) -> None:
        if ws is not None:  # nothing here speaks WebSocket; the app tries, and does without
            await ws.close(_WS_CODES + answer_to(error, req.method, req.path)[0])
            return
        _answer(req, resp, await judged(req, error), shown)

    for kind in (falcon.HTTPError, LedgerError, ClientGone, Exception):
        app.add_error_handler(kind, answer)


def _answer(req: Request, resp: falcon.asgi.Response, error: Exception, shown: Shown) -> None:
    status, body = answer_to(error, req.method, req.path)
    if req.told_as:
        body = _with_session(error, body, req.told_as)
    resp.set_headers(_headers(error))
    if status >= 500:
        _log(status, error, req)
    resp.status = falcon.code_to_http_status(status)
    resp.stream = None
    resp.text = None
    if not shown(req, resp, error, body.message):
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(body)


def answer_to(error: Exception, method: str, path: str) -> tuple[int, ErrorDto | ValidationErrorDto]:
    """Tell the status and the body an error becomes."""
    match error:
        case InvalidInput():
            told = error.problems[:MAX_PROBLEMS]
            return 400, ValidationErrorDto(str(error), tuple(_problem(path, text) for path, text in told))
        case Refused() | NoSuchSession():
            return 400, _said(error)
        case SessionEnded() | Unauthenticated():
            return 401, _said(error)
        case NotAllowed():
            return 403, _said(error)
        case Limited():
            return 429, _said(error)
        case ProviderUnavailable():
            return 503, ErrorDto("The identity provider is not available; try again later")
        case SourceUnavailable():
            return 503, ErrorDto("The source of this library's entities is not available; try again later")
        case NotReplicated() | ArchiveNotGiven() | LedgerGone() | NotReady() | StreamsBusy() | TooManyFollowers():
            return 503, _said(error)
        case _ if isinstance(error, _MISCONFIGURED):
            return 503, ErrorDto("This service is not configured as its ledger needs; its log says what to mend")
        case NotAllEnded():
            return 500, _said(error)
        case Unavailable():
            return 503, ErrorDto("The sync ledger's store is not available; try again later")
        case falcon.HTTPRouteNotFound() | falcon.HTTPMethodNotAllowed():
            return error.status_code, ErrorDto(f"Cannot {method} {path}"[:MAX_MESSAGE_CHARS])
        case falcon.HTTPInternalServerError():
            return 500, ErrorDto(INTERNAL)
        case falcon.HTTPError():
            return error.status_code, ErrorDto(error.description or error.title or str(error.status))
        case ClientGone():
            return 400, ErrorDto("The request ended before its body was complete")
        case BodyTooSlow():
            return 408, ErrorDto(str(error))
        case _:
            return 500, ErrorDto(INTERNAL)


def _with_session(error: Exception, body: ErrorDto | ValidationErrorDto, told_as: str) -> ErrorDto | ValidationErrorDto:
    """Name the session, and what is the matter, for an app that tells its user nothing and logs the answer.

    What the app's own server would say too stays to the letter.
    """
    if isinstance(error, Unavailable):
        said = _said(error).message
    elif isinstance(error, Refused) and not isinstance(error, InvalidInput | InvalidAck):
        said = body.message
    elif isinstance(error, LedgerError | falcon.HTTPError):
        return body
    else:
        said = body.message
    return ErrorDto(f"{said} (session {told_as}…)")


def _said(error: LedgerError) -> ErrorDto:
    return ErrorDto(str(error)[:MAX_MESSAGE_CHARS])


def _problem(path: tuple[str | int, ...], message: str) -> Problem:
    code = next((code for pattern, code in _CODES if pattern.search(message)), "custom")
    return Problem(code, path, message[:MAX_MESSAGE_CHARS])


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, Unavailable | Limited):
        return {"retry-after": str(error.retry_after_s)}
    if isinstance(error, _MISCONFIGURED):
        return {"retry-after": "30"}
    if isinstance(error, BodyTooSlow):
        return {"connection": "close"}  # nobody waits for the rest of the body
    if isinstance(error, falcon.HTTPError):
        return dict(error.headers or {})
    return {}


def _log(status: int, error: Exception, req: Request) -> None:
    """Log with the id the client was given; the path without its query, which may hold a token."""
    where = "%s %s %s [%s]"
    said = (status, req.method, req.path[:MAX_MESSAGE_CHARS], req.correlation_id)
    extra = {"correlation_id": req.correlation_id}
    if isinstance(error, Rebuilding | LedgerGone):  # an operator's matter, at every request of the sessions it is about
        log.debug(where + ": %s", *said, error, extra=extra)
    elif isinstance(error, _NO_ROOM):
        log.info(where + ": %s", *said, error, extra=extra)
    elif isinstance(error, (Unavailable, *_MISCONFIGURED)):
        log.error(where + ": %s", *said, error, extra=extra)
    else:
        log.error(where, *said, exc_info=error, extra=extra)
