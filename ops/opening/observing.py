"""What watches requests, as the settings say: a line for each, and traces. Where both are off, nothing does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from endpoints.accounts.auth import Auth, NotingAuth
from endpoints.http.request_log import RequestLog
from endpoints.routes import Middleware
from endpoints.sync.stream_over import StreamOver, log_it
from ops.settings.settings import Settings

App = Callable[[Any, Any, Any], Awaitable[None]]


class Observing:
    """What a worker's application is put together with.

    `middleware` sees each answer before it begins. `auth` is what finds out who asks. `stream_over` is told of each
    sync stream that is over.
    """

    def __init__(self, settings: Settings) -> None:
        self._traces: Final = settings.traces
        self.middleware: list[Middleware] = [RequestLog()] if settings.log_requests else []
        self.auth: type[Auth] = NotingAuth if settings.log_requests or settings.traces else Auth
        self.stream_over: Callable[[StreamOver], None] = log_it
        if settings.traces:  # PERF: only who traces waits for this
            from ops.tracing.requests import Named, stream_teller
            from ops.tracing.spans import tracer

            self.middleware.append(Named())
            self.stream_over = stream_teller(tracer())

    def around(self, app: App) -> App:
        """Return what is to be served in place of an application: itself, or what traces its requests."""
        if not self._traces:
            return app
        from ops.tracing.requests import TracedApp
        from ops.tracing.spans import tracer

        return TracedApp(app, tracer())
