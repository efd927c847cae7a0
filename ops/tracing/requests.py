"""Spans of the requests that are answered here, and of the streams that some of them are."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import falcon.asgi
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Tracer

from endpoints.http.request import Request
from endpoints.sync.stream_over import StreamOver, log_it
from ledger.session_ids import short_id
from ops.server.logs import masked
from ops.tracing.spans import W3C, failed

App = Callable[[Any, Any, Any], Awaitable[None]]
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
_OTHER: Final = "_OTHER"
_STATE_CHARS: Final = 512
"""What W3C asks everybody to pass on of a `tracestate`; a longer one could make a provider refuse our request."""
_WRONG: Final = ("broken", "refused")


class TracedApp:
    """An ASGI application whose HTTP requests have a span each, to the last byte of their answer."""

    def __init__(self, app: App, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else _OTHER
        attributes = {
            "http.request.method": method,
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
        }
        scope["headers"] = headers = [
            (name, value) for name, value in scope["headers"]
        ]  # as ASGI has it they may be iterated once
        above = given(headers)
        span = self._tracer.start_span(
            "HTTP" if method == _OTHER else method, above, SpanKind.SERVER, attributes=attributes
        )
        token = context.attach(trace.set_span_in_context(span, above))
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            failed(span, type(error).__name__)
            raise
        finally:
            span.end()
            context.detach(token)


def given(headers: list[tuple[bytes, bytes]]) -> Context:
    """Read the trace that a client is in; one that is given twice, or is not as it should be, is none."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if len(parents) != 1:
        return Context()
    carrier = {"traceparent": parents[0].decode("latin-1")}
    state = ",".join(value.decode("latin-1") for name, value in headers if name == b"tracestate")
    if 0 < len(state) <= _STATE_CHARS and masked(state) == state:
        carrier["tracestate"] = state
    return W3C.extract(carrier, Context())


class Named:
    """Falcon middleware that tells the span of a request what only Falcon knows of it."""

    async def process_response(self, req: Request, resp: falcon.asgi.Response, resource: object, ok: bool) -> None:
        """Name it by the route's template; what is above it in another service finds it by the correlation id, too."""
        span = trace.get_current_span()
        if not span.is_recording():
            return
        status = int(str(resp.status)[:3])
        if (route := req.uri_template) and req.method in _METHODS:
            span.update_name(f"{req.method} {route}")
            span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("syncledger.correlation_id", masked(req.correlation_id))  # a client chose it
        caller = getattr(req, "caller", None)
        if caller is not None and status < 400:
            span.set_attribute("syncledger.session", short_id(caller.sid))
        if status >= 500:
            failed(span, str(status))


def stream_teller(tracer: Tracer) -> Callable[[StreamOver], None]:
    """Tell of each sync stream that is over in the log, and by a span as long as it took, below its request's."""

    def tell(over: StreamOver) -> None:
        log_it(over)
        request = trace.get_current_span()
        if not request.is_recording():
            return
        now_ns = time.time_ns()
        attributes: dict[str, str | int] = {
            "syncledger.session": over.session,
            "syncledger.stream.how": over.how,
            "syncledger.stream.rows": over.rows,
            "syncledger.stream.bytes": over.size,
        }
        span = tracer.start_span("sync stream", attributes=attributes, start_time=now_ns - int(over.took_s * 1e9))
        if over.how in _WRONG:
            failed(span, over.how)
            failed(request, over.how)
        span.end(now_ns)

    return tell
