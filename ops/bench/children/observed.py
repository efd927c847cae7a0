"""CPU time of acks in one process, as they are and watched in several ways, in alternating rounds.

Job on stdin, what each way took on stdout. The acks go through the whole application, as one that a worker serves is
put together, to the store, on their quick way where there is one: what has requests watched takes that from them, which
is a part of its price. There is no HTTP below it, so that little else is measured.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext
from typing import Any, Final

import msgspec
import uvloop
from msgspec import structs

from endpoints.figures.of_http import Answers
from endpoints.http.quick import QuickWays
from endpoints.routes import build
from ledger.figures.families import Times
from ledger.figures.of_log import LogFigures
from ledger.figures.of_store import StoreFigures
from ledger.positions import iso_from_us
from ops.bench.rig import assets
from ops.bench.rig.scene import ACK_PATH, Device
from ops.bench.rig.wire import STEP_US
from ops.opening.observing import Observing
from ops.opening.services import open_services
from ops.server.logs import configure_logging
from ops.server.messages import decode_settings
from ops.settings.settings import Settings
from ops.verify_processes import collect_rarely

PLAIN: Final = "plain"
UNCOUNTED: Final = "uncounted"
REQUESTS: Final = "requests"
TRACES: Final = "traces"
_COUNTS: Final = (
    (Times, "note"),
    (Answers, "note"),
    (StoreFigures, "wrote"),
    (StoreFigures, "answered"),
    (LogFigures, "appended"),
    (LogFigures, "moved_one"),
)
"""All that counts on the way of an ack."""

NO_CONTENT: Final = 204
Serve = Callable[[Any, Any, Any], Awaitable[None]]


class Head:
    """The head that all acks of one device have."""

    def __init__(self, device: Device) -> None:
        self.fields = [(b"host", b"x"), (b"authorization", b"Bearer " + device.token.encode())]
        self.prepared: Any = None


class Asked:
    """An ack that its quick way is asked to take; `over` tells whether it did."""

    def __init__(self, head: Head, body: bytes) -> None:
        self.head = head
        self.body = body
        self.over = asyncio.get_running_loop().create_future()

    def answer(self, status: int, _: bytes) -> None:
        """Take the answer."""
        if status != NO_CONTENT:
            raise RuntimeError(f"an ack was answered {status}")
        self.over.set_result(True)

    def serve_plainly(self, _: object) -> None:
        """Have it go the plain way, which decides anew what was begun."""
        self.over.set_result(False)


class Job(msgspec.Struct):
    """Which ledger and devices, which ways, and how many acks of each device in each of how many rounds."""

    url: str
    settings: msgspec.Raw
    devices: Sequence[Device]
    ways: list[str]
    rounds: int
    acks: int
    first_us: int
    """Nothing was acknowledged at it, or later."""


class Spent(msgspec.Struct):
    """CPU time of an ack in µs, by the way it was watched, round by round."""

    us: dict[str, list[float]]


async def measure(job: Job, settings: Settings) -> Spent:
    """Send the acks."""
    spent: dict[str, list[float]] = {way: [] for way in job.ways}
    async with AsyncExitStack() as closing:
        # One for each, so that each meets as often what another one wrote meanwhile.
        apps = {way: await _app(job, settings, way, closing) for way in job.ways}
        pushed = 0
        for number in range(-1, job.rounds):  # one that is not counted: what is remembered is remembered from then on
            for way in job.ways if number % 2 else reversed(job.ways):
                first_us = job.first_us + pushed * STEP_US
                with uncounted() if way == UNCOUNTED else nullcontext():
                    began_s = time.process_time()
                    await asyncio.gather(*(_push(apps[way], device, first_us, job.acks) for device in job.devices))
                    took_s = time.process_time() - began_s
                pushed += job.acks
                if number >= 0:
                    spent[way].append(took_s / (job.acks * len(job.devices)) * 1e6)
    return Spent(spent)


async def _app(job: Job, settings: Settings, way: str, closing: AsyncExitStack) -> Serve:
    settings = structs.replace(settings, log_requests=way == REQUESTS, traces=way == TRACES)
    observing = Observing(settings)
    _, services = await open_services(job.url, settings, closing, observing=observing)
    return observing.around(build(services, observing.middleware))


async def _push(app: Serve, device: Device, first_us: int, count: int) -> None:
    """Acknowledge one position after the other."""
    ways: QuickWays = getattr(app, "quick", {})
    way, head = ways.get(b"POST %b" % ACK_PATH.encode()), Head(device)
    for number in range(count):
        at = iso_from_us(first_us + number * STEP_US)
        body = f'{{"acks":["{assets.TYPE}|{at}|a"]}}'.encode()
        asked = Asked(head, body)
        if way is not None and way.begin(asked) and await asked.over:
            continue
        headers = [*head.fields, (b"content-length", str(len(body)).encode())]
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": "POST", "scheme": "http", "path": ACK_PATH, "query_string": b"", "root_path": "",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "extensions": {},
        }  # fmt: skip
        events: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive(events: list[dict[str, Any]] = events) -> dict[str, Any]:
            return events.pop()

        async def send(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start" and event["status"] != NO_CONTENT:
                raise RuntimeError(f"an ack was answered {event['status']}")

        await app(scope, receive, send)


@contextmanager
def uncounted() -> Iterator[None]:
    """Count nothing meanwhile."""
    kept = [(owner, name, getattr(owner, name)) for owner, name in _COUNTS]
    for owner, name in _COUNTS:
        setattr(owner, name, lambda *_: None)
    try:
        yield
    finally:
        for owner, name, before in kept:
            setattr(owner, name, before)


def _begin_to_trace() -> None:
    """Make spans as a worker does, and have them sent nowhere."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)


def main() -> None:
    """Do one job from stdin."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    settings = decode_settings(job.settings)
    configure_logging("info")
    for handler in logging.getLogger().handlers:
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(open(os.devnull, "w"))  # noqa: SIM115 - to the end of the process
    if TRACES in job.ways:
        _begin_to_trace()
    collect_rarely()
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(measure(job, settings))))


if __name__ == "__main__":
    main()
