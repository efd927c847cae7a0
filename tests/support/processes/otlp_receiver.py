"""A collector of traces for tests: takes what OpenTelemetry's exporters send over HTTP and keeps it."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.processes.http_server import HttpServer, QuietHandler


class Received(NamedTuple):
    """One span as it was sent; ids in hex, `parent` is '' of one that has none."""

    trace: str
    span: str
    parent: str
    name: str
    kind: int
    status: int
    attributes: dict[str, Any]
    began_ns: int
    ended_ns: int
    resource: dict[str, Any]


class OtlpReceiver(HttpServer):
    """Takes spans at `/v1/traces`; while `silent` is set it takes connections and answers nothing."""

    def __init__(self) -> None:
        super().__init__(_handler(self))
        self.silent = threading.Event()
        self.asked = threading.Semaphore(0)
        """Released with every request that came."""
        self.spans: list[Received] = []
        self.bodies: list[bytes] = []

    def of(self, trace: str) -> dict[str, Received]:
        """Give the spans of a trace by their name; of several with one name the last."""
        return {span.name: span for span in self.spans if span.trace == trace}

    def take(self, body: bytes) -> None:
        """Keep what a request brought."""
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            whose = _plain(resource.resource.attributes)
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.spans.append(
                    Received(
                        span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.name, span.kind,
                        span.status.code, _plain(span.attributes), span.start_time_unix_nano, span.end_time_unix_nano,
                        whose,
                    )
                )  # fmt: skip


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def _handler(receiver: OtlpReceiver) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802 - as the library calls it
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.asked.release()
            if receiver.silent.is_set():
                self.rfile.read(1)  # until the sender is gone
                return
            assert self.path == "/v1/traces"
            receiver.take(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

    return Handler
