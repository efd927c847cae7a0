"""Sending spans to a collector: begun by a worker once it is a process of its own, ended with it in bounded time.

What is sent where, how often and which of all, the environment's `OTEL_*` say, which the SDK reads. Spans wait in a
queue of bounded length, and a thread sends them; when a collector is slow or down the queue runs over, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from importlib import metadata, util
from typing import TYPE_CHECKING, Final, Self
from uuid import uuid4

from ledger.errors import InvalidInput
from ops.settings.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

_NEEDED: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_LONGEST_CHARS: Final = 256
"""Of an attribute's text."""
_SAID_EVERY_S: Final = 60.0
_SAID: Final = 64
"""How many different texts are remembered."""
_SHARE: Final = 0.7
"""How much of the time between the breaking of streams and the killing of workers the last spans may take."""


def check_installed(settings: Settings) -> None:
    """See that what sends traces is there, where they are wanted; raises InvalidInput."""
    if settings.traces and not is_installed():
        told = "traces need packages that are not installed: pip install 'syncledger[traces]'"
        raise InvalidInput([(("LEDGER_TRACES",), told)])


def is_installed() -> bool:
    """Tell whether what sends traces is there."""
    return all(map(_is_there, _NEEDED))


def _is_there(name: str) -> bool:
    try:
        return util.find_spec(name) is not None
    except ImportError:  # of what it lies in
        return False


class Sending:
    """Sends the spans of one process, from `begin` to `end`."""

    def __init__(self, provider: TracerProvider, within_s: float) -> None:
        self._provider = provider
        self._within_s = within_s

    @classmethod
    def begin(cls, settings: Settings) -> Self:
        """Begin to send, and to name traces in the log; after the fork, for threads do not outlive one.

        Raises InvalidInput for what the SDK cannot use.
        """
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from ops.tracing.outgoing import trace_outgoing
        from ops.tracing.spans import NAME, tracer

        logging.getLogger("opentelemetry.util.re").addFilter(_without_header)
        try:
            provider = TracerProvider(
                resource=_resource(Resource, NAME),
                span_limits=SpanLimits(max_span_attribute_length=_LONGEST_CHARS),
                shutdown_on_exit=False,  # it may take half a minute
            )
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        except (ValueError, OSError) as error:
            raise InvalidInput([(("LEDGER_TRACES",), f"what OTEL_* say cannot be used: {error}")]) from None
        trace.set_tracer_provider(provider)
        trace_outgoing(tracer())
        for handler in logging.getLogger().handlers:
            handler.addFilter(_TraceIds())
            handler.addFilter(_Seldom())
        # Streams are broken so long before the grace is over (worker.py).
        return cls(provider, min(1.0, settings.grace_s / 2) * _SHARE)

    async def end(self) -> None:
        """Send what waits, for as long as there is time."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, self._within_s)


def _resource(kind: type[Resource], name: str) -> Resource:
    """Say whose spans they are; what the environment says of that goes before."""
    version = metadata.version("syncledger")
    found = kind.create({"service.version": version, "service.instance.id": uuid4().hex, "process.pid": os.getpid()})
    if str(found.attributes["service.name"]).startswith("unknown_service"):
        found = found.merge(kind({"service.name": name}))
    return found


def _without_header(record: logging.LogRecord) -> bool:
    """Leave out of what the SDK says of a header that it cannot read what it is: it holds a key, most likely."""
    if record.args:
        record.msg, record.args = "a header of OTEL_EXPORTER_OTLP_HEADERS is left out: write it as name=value", ()
    return True


class _TraceIds(logging.Filter):
    """Puts the ids of the trace and span into each line that is written within one."""

    def filter(self, record: logging.LogRecord) -> bool:
        from opentelemetry import trace

        found = trace.get_current_span().get_span_context()
        if found.is_valid:
            record.trace_id, record.span_id = f"{found.trace_id:032x}", f"{found.span_id:016x}"
        return True


class _Seldom(logging.Filter):
    """Lets through what the SDK says of its trouble once a minute: a collector may be down for a night."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("opentelemetry."):
            return True
        text, now_s = str(record.msg), time.monotonic()
        if now_s < self._said.get(text, -math.inf) + _SAID_EVERY_S:
            return False
        if len(self._said) >= _SAID:
            self._said.clear()
        self._said[text] = now_s
        return True
