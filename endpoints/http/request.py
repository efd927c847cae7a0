"""The request as this service sees it: Falcon's, with its raw body events within reach and an id for the logs."""

from __future__ import annotations

import os
import re
import secrets
from itertools import count
from time import perf_counter
from typing import Any, Final

import falcon
import falcon.asgi

from endpoints.figures.of_http import HttpFigures
from endpoints.http.quick import BEGUN
from ledger.admission import Caller

CORRELATION_HEADER: Final = "x-correlation-id"
OWN_HEADER: Final = "x-ledger"
OWN: Final = "syncledger"
"""What tells this service's answers from those of a backend behind the same address, which speaks the same protocol."""
_CORRELATION_NAME: Final = CORRELATION_HEADER.encode()
_NO_EXTENSIONS: Final[dict[str, Any]] = {}
_SANE: Final = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")


class CorrelationIds:
    """Makes ids: unique across processes by a prefix, within one by a counter.

    That is 40 times cheaper than a UUID per request. Workers are forked from a process that has imported this, so each
    begins anew.
    """

    def __init__(self) -> None:
        self.begin()
        os.register_at_fork(after_in_child=self.begin)

    def begin(self) -> None:
        """Make no id from now on that another process makes."""
        self._prefix, self._numbers = secrets.token_hex(6), count(1)

    def make(self) -> str:
        """Make the next id."""
        return f"{self._prefix}-{next(self._numbers):x}"


_ids: Final = CorrelationIds()


class Request(falcon.asgi.Request):
    """A Falcon request that keeps `receive` and the first body event.

    Falcon's own body stream ends in the same way when a client leaves and when its body is complete, so bodies are
    read from these events, in `endpoints.http.bodies`.
    """

    __slots__ = ("_correlation_id", "began_s", "caller", "first_event", "receive", "told_as")

    caller: Caller
    """Whose token it brought; there only where somebody asks for that (`NotingAuth`), and the token was looked for."""

    def __init__(self, scope: Any, receive: Any, first_event: Any = None, options: Any = None) -> None:
        super().__init__(scope, receive, first_event=first_event, options=options)
        self.began_s = perf_counter()
        """When its head was read."""
        self.receive = receive
        self.first_event: dict[str, Any] = first_event
        self._correlation_id = ""
        self.told_as = ""
        """By which short id of a session an error is told, where its client only logs the answer; empty: by none."""

    @property
    def raw_headers(self) -> dict[bytes, bytes]:
        """All headers by their name in lower case; repeated ones joined by commas."""
        return self._asgi_headers

    @property
    def correlation_id(self) -> str:
        """The id that ties this request to its log lines: the client's own if it is sane, else one made here."""
        if not self._correlation_id:
            self._correlation_id = correlation_of(self._asgi_headers.get(_CORRELATION_NAME))
        return self._correlation_id

    @property
    def begun(self) -> Any:
        """What a quick way began of this request; None of almost all."""
        return self.scope.get("extensions", _NO_EXTENSIONS).get(BEGUN)


class Correlation:
    """Falcon middleware that puts on every response, errors included, its correlation id and who made it; counts it."""

    def __init__(self, figures: HttpFigures) -> None:
        self._figures = figures

    async def process_response(self, req: Request, resp: falcon.asgi.Response, resource: object, ok: bool) -> None:
        resp.set_header(CORRELATION_HEADER, req.correlation_id)
        resp.set_header(OWN_HEADER, OWN)
        self._figures.answered(req.method, req.uri_template, resp.status, req.began_s)


def correlation_of(given: bytes | None) -> str:
    """Choose the id of a request by what its client sent as such."""
    return (given and _sane(given)) or _ids.make()


def _sane(value: bytes) -> str:
    return value.decode() if _SANE.fullmatch(value) else ""
