"""Spans of statements that PostgreSQL is asked, by what they do and from which table."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Tracer

from ops.tracing.spans import failed

_NAME: Final = r'(?:"[^"]{1,63}"|[A-Za-z_][\w$]{0,62})'
_WORD: Final = re.compile(r"\s*([A-Za-z]{2,16})")
_TABLE: Final = re.compile(rf"\b(?:FROM|INTO|UPDATE)\s+({_NAME}(?:\.{_NAME})?)(?![\w$.\"]|\s*\()", re.IGNORECASE)
_KEPT: Final = 1024


def statement_spans(tracer: Tracer) -> Callable[[Any], Awaitable[None]]:
    """Make what a pool of connections calls with each one that is made: from then on its statements have spans.

    The driver tells of a statement behind its end, in the context of whoever asked.
    """

    def tell(told: Any) -> None:
        above = trace.get_current_span()
        if not above.get_span_context().trace_flags.sampled:
            return
        now_ns = time.time_ns()
        began_ns = now_ns - int(told.elapsed * 1e9)
        ended_ns = getattr(above, "end_time", None)
        if ended_ns is not None and began_ns > ended_ns:  # a task goes on behind the request that began it
            return
        operation, summary = summed_up(told.query)
        attributes = {"db.system.name": "postgresql", "db.operation.name": operation, "db.query.summary": summary}
        span = tracer.start_span(summary, kind=SpanKind.CLIENT, attributes=attributes, start_time=began_ns)
        if told.exception is not None:
            failed(span, type(told.exception).__name__)
            if code := getattr(told.exception, "sqlstate", None):
                span.set_attribute("db.response.status_code", str(code))
        span.end(now_ns)

    async def begin(connection: Any) -> None:
        connection.add_query_logger(tell)

    return begin


@lru_cache(_KEPT)
def summed_up(query: str) -> tuple[str, str]:
    """Tell what a statement does, and that with the first table it names; no literal of it is in either."""
    word = _WORD.match(query)
    operation = word[1].upper() if word else "SQL"
    table = _TABLE.search(query)
    return operation, f"{operation} {table[1]}" if table else operation
