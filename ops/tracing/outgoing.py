"""Spans of requests to other services, which are told what trace they are in."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from opentelemetry import trace
from opentelemetry.trace import Tracer

from ops.tracing.spans import W3C, child, failed


def trace_outgoing(tracer: Tracer) -> Callable[[], None]:
    """Have each request of this process that httpx sends be traced, and return what undoes that.

    NOTE: in place of the library's own method, as OpenTelemetry's instrumentation does it: some clients are made by
    other libraries, and nothing is to stand in the way of any where traces are off.
    """
    send = httpx.AsyncHTTPTransport.handle_async_request

    async def traced(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        if not trace.get_current_span().get_span_context().is_valid:
            return await send(self, request)
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        attributes: dict[str, str | int] = {
            "http.request.method": request.method,
            "server.address": url.host,
            "server.port": port,
            "url.full": f"{url.scheme}://{url.host}:{port}{url.path}",  # a query may hold what nobody may read
        }
        with child(tracer, request.method, attributes) as span:
            W3C.inject(request.headers)
            response = await send(self, request)
            span.set_attribute("http.response.status_code", response.status_code)
            if response.status_code >= 400:
                failed(span, str(response.status_code))
            return response

    httpx.AsyncHTTPTransport.handle_async_request = traced  # type: ignore[method-assign]

    def undo() -> None:
        httpx.AsyncHTTPTransport.handle_async_request = send  # type: ignore[method-assign]

    return undo
