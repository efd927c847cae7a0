"""What all spans have in common: whose they are, who may be above them, and how a failure is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

NAME: Final = "syncledger"
W3C: Final = TraceContextTextMapPropagator()
"""Reads and writes `traceparent` and `tracestate`, and no baggage: what a client sends would be told to providers."""
Attributes = Mapping[str, str | int]


def tracer() -> Tracer:
    """Give what makes spans; they go nowhere until a worker has begun to send them."""
    return trace.get_tracer(NAME)


@contextmanager
def child(tracer: Tracer, name: str, attributes: Attributes) -> Iterator[Span]:
    """Make a span of something asked of others, below the one that is open; it ends with the block."""
    with tracer.start_as_current_span(
        name, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            failed(span, type(error).__name__)
            raise


def failed(span: Span, kind: str) -> None:
    """Note that what a span is of failed, by the kind of the error: its message may quote what nobody may read."""
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))
