"""Spans: which there are, what they say and what they do not, whose trace they are in. No service, no collector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any, Final

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import Tracer

from endpoints.sync.stream_over import StreamOver
from ledger.errors import StoreUnavailable
from ledger.store.interface import TakesPacked, open_store
from ledger.store.scripts import Script, pack
from ops.opening.observing import Observing
from ops.settings.settings import Settings
from ops.tracing.outgoing import trace_outgoing
from ops.tracing.requests import Named, TracedApp, given, stream_teller
from ops.tracing.sql import statement_spans, summed_up
from ops.tracing.stores import traced_kinds
from tests.support.phones.http import Service, serving
from tests.support.processes.scripted_server import ScriptedServer
from tests.support.stores.fake_store import FakeStore

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT: Final = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Where spans go."""
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Tracer:
    """What makes them."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider.get_tracer("test")


class Traces(Observing):
    """Traces with a tracer of the test's own."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__(Settings(traces=True))
        self._tracer = tracer
        self.stream_over = stream_teller(tracer)

    def around(self, app: Any) -> Any:
        return TracedApp(app, self._tracer)


@pytest.fixture
async def service(tracer: Tracer) -> AsyncIterator[Service]:
    """A service that is traced."""
    async with serving(FakeStore(), observing=Traces(tracer)) as service:
        yield service


def finished(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    """Give the one span of a name."""
    (found,) = [span for span in spans.get_finished_spans() if span.name == name]
    return found


def of(span: ReadableSpan) -> dict[str, Any]:
    """Give a span's attributes."""
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan) -> str:
    """Give the id of the span above, '' of none."""
    return "" if span.parent is None else f"{span.parent.span_id:016x}"


def trace_of(span: ReadableSpan) -> str:
    """Give the id of a span's trace."""
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}"


# Requests -----------------------------------------------------------------------------------------------------------


async def test_a_request_is_named_by_its_route_and_tells_nothing_else(
    service: Service, spans: InMemorySpanExporter
) -> None:
    token, sid, _ = await service.sign_in()
    headers = {"X-Correlation-ID": "mine", "traceparent": PARENT, "cookie": "a=hidden-1", "user-agent": "hidden-2"}
    answer = await service.ask("GET", "/api/sync/ack", token, headers=headers, params={"a": "hidden-3"})
    assert answer.status_code == 200
    span = finished(spans, "GET /api/sync/ack")
    assert (trace_of(span), parent_of(span), span.kind) == (TRACE, SPAN, trace.SpanKind.SERVER)
    assert of(span) == {
        "http.request.method": "GET",
        "http.route": "/api/sync/ack",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "syncledger.correlation_id": "mine",
        "syncledger.session": sid[:12],
    }
    assert span.status.is_unset
    assert (list(span.events), list(span.links)) == ([], [])


async def test_what_is_no_route_has_the_method_alone_and_a_forged_token_no_session(
    service: Service, spans: InMemorySpanExporter
) -> None:
    forged, _, _ = service.tokens.issue("bob", service.clock())
    await service.ask("GET", "/hidden/ann@example.org")
    await service.ask("POST", "/api/sync/ack", forged, json={"acks": []})
    assert of(finished(spans, "GET"))["http.response.status_code"] == 404
    assert "http.route" not in of(finished(spans, "GET"))
    refused = finished(spans, "POST /api/sync/ack")
    assert of(refused)["http.response.status_code"] == 401
    assert "syncledger.session" not in of(refused)
    assert refused.status.is_unset, "a client's error is none of the server's"
    assert "hidden" not in "".join(span.to_json() for span in spans.get_finished_spans())


async def test_a_failure_of_ours_is_one_without_its_message(tracer: Tracer, spans: InMemorySpanExporter) -> None:
    class Breaking(FakeStore):
        broken = False

        async def script(self, *given: Any) -> Any:
            if self.broken:
                raise StoreUnavailable("hidden", maybe_done=False)
            return await super().script(*given)

    store = Breaking()
    async with serving(store, observing=Traces(tracer)) as service:
        token, _, _ = await service.sign_in()
        store.broken = True
        answer = await service.ask("GET", "/api/sync/ack", token)
    assert answer.status_code == 503
    span = finished(spans, "GET /api/sync/ack")
    assert (of(span)["error.type"], span.status.status_code) == ("503", trace.StatusCode.ERROR)
    assert "hidden" not in span.to_json()


async def test_a_stream_has_a_span_with_what_it_sent_below_its_request(
    service: Service, spans: InMemorySpanExporter
) -> None:
    token, sid, _ = await service.sign_in()
    await service.stream(token, "AssetsV2")
    stream, request = finished(spans, "sync stream"), finished(spans, "POST /api/sync/stream")
    context = request.get_span_context()
    assert context is not None
    assert parent_of(stream) == f"{context.span_id:016x}"
    told = of(stream)
    assert (told.pop("syncledger.stream.bytes") > 0, told) == (
        True,
        {"syncledger.session": sid[:12], "syncledger.stream.how": "completed", "syncledger.stream.rows": 0},
    )
    assert request.start_time is not None
    assert stream.start_time is not None
    assert request.end_time is not None
    assert stream.end_time is not None
    assert request.start_time <= stream.start_time <= stream.end_time <= request.end_time


async def test_a_stream_that_broke_is_an_error_of_its_request_too(tracer: Tracer, spans: InMemorySpanExporter) -> None:
    over = StreamOver("s" * 12, "ann", "/r", 200, "broken", 0.5, 3, 100, "c", "last", "hidden")
    with tracer.start_as_current_span("request"):
        stream_teller(tracer)(over)
    for name in ("request", "sync stream"):
        assert of(finished(spans, name))["error.type"] == "broken"
    stream = finished(spans, "sync stream")
    assert stream.end_time is not None
    assert stream.start_time is not None
    assert stream.end_time - stream.start_time == 500_000_000
    assert "hidden" not in stream.to_json()


async def test_a_request_whose_client_left_ends_its_span(tracer: Tracer, spans: InMemorySpanExporter) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    scope: dict[str, Any] = {"type": "http", "method": "GET", "scheme": "http", "http_version": "1.1", "headers": []}
    task = asyncio.create_task(TracedApp(app, tracer)(scope, None, None))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert of(finished(spans, "GET"))["error.type"] == "CancelledError"


async def test_methods_are_of_few_values(tracer: Tracer, spans: InMemorySpanExporter) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Do nothing."""

    for method in ("PROPFIND", "M-SEARCH"):
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "http_version": "1.1",
            "headers": [],
        }
        await TracedApp(app, tracer)(scope, None, None)
    found = spans.get_finished_spans()
    assert [(span.name, of(span)["http.request.method"]) for span in found] == [("HTTP", "_OTHER")] * 2


async def test_sockets_and_the_lifespan_pass_as_they_are(tracer: Tracer, spans: InMemorySpanExporter) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    for kind in ("lifespan", "websocket"):
        await TracedApp(app, tracer)({"type": kind}, None, None)
    assert seen == ["lifespan", "websocket"]
    assert spans.get_finished_spans() == ()


# Whose trace it is --------------------------------------------------------------------------------------------------


def given_in(*headers: tuple[str, str]) -> trace.SpanContext:
    """Read a context from headers."""
    read = given([(name.encode(), value.encode("latin-1")) for name, value in headers])
    return trace.get_current_span(read).get_span_context()


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "x",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\xff",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        "00-" + "a" * 60_000,
    ],
)
def test_a_parent_that_is_not_as_it_should_be_is_none(parent: str) -> None:
    assert not given_in(("traceparent", parent)).is_valid
    assert not given_in(("traceparent", parent), ("tracestate", "a=b")).is_valid


def test_a_parent_is_taken_with_its_state_if_it_is_one_and_that_is_short() -> None:
    found = given_in(("traceparent", PARENT), ("tracestate", "a=1"), ("baggage", "x=hidden"), ("tracestate", "b=2"))
    assert (f"{found.trace_id:032x}", f"{found.span_id:016x}", found.is_remote) == (TRACE, SPAN, True)
    assert dict(found.trace_state) == {"a": "1", "b": "2"}
    assert not given_in(("traceparent", PARENT), ("traceparent", PARENT)).is_valid
    long = given_in(("traceparent", PARENT), ("tracestate", "a=" + "x" * 256), ("tracestate", "b=" + "x" * 256))
    assert (f"{long.trace_id:032x}", dict(long.trace_state)) == (TRACE, {}), "none of it, rather than a part"


async def test_of_what_is_not_to_be_sampled_there_are_no_spans(spans: InMemorySpanExporter, valkey_url: str) -> None:
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")
    async with serving(FakeStore(), observing=Traces(tracer)) as service:
        await service.ask("GET", "/api/server/ping")
        await service.ask("GET", "/api/server/ping", headers={"traceparent": PARENT})
    assert [trace_of(span) for span in spans.get_finished_spans()] == [TRACE]


# The store ----------------------------------------------------------------------------------------------------------


async def test_scripts_and_commands_have_spans_within_a_request_alone(
    tracer: Tracer, spans: InMemorySpanExporter, valkey_url: str
) -> None:
    store = await open_store(valkey_url, kinds=traced_kinds(tracer))
    script, packed = Script("three", "return 3"), Script("four", "return 4")
    assert isinstance(store, TakesPacked)
    assert await store.script(packed, [b"hidden"], []) == 4
    await store.command("SET", b"hidden", "hidden", key=b"hidden")
    assert await store.script(script, [b"hidden"], []) == 3
    assert spans.get_finished_spans() == (), "jobs have none"
    with tracer.start_as_current_span("request"):
        assert await store.command(b"GET", b"hidden", key=b"hidden") == b"hidden"
        assert await store.script(script, [b"hidden"], ["hidden"]) == 3
        assert await store.packed(packed, b"hidden", pack((b"EVALSHA", packed.sha, 1, b"hidden"))) == 4
        assert len(await store.each_primary("PING")) == 1
        with pytest.raises(Exception, match="WRONGTYPE"):
            await store.command("HGETALL", b"hidden", key=b"hidden")
    await store.close()
    request = finished(spans, "request")
    for name, attributes in {
        "GET": {"db.operation.name": "GET"},
        "PING": {"db.operation.name": "PING"},
        "EVALSHA three": {"db.operation.name": "EVALSHA", "db.stored_procedure.name": "three"},
        "EVALSHA four": {"db.operation.name": "EVALSHA", "db.stored_procedure.name": "four"},
        "HGETALL": {"db.operation.name": "HGETALL", "error.type": "StoreReplyError"},
    }.items():
        span = finished(spans, name)
        assert (span.kind, of(span)) == (trace.SpanKind.CLIENT, {"db.system.name": "redis", **attributes})
        assert trace_of(span) == trace_of(request)
        assert "hidden" not in span.to_json()


# SQL ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "summary"),
    [
        ("SELECT 'secret' FROM \"asset\" a", 'SELECT "asset"'),
        ("  select x from public.asset where y = 'from secret'", "SELECT public.asset"),
        ("WITH a AS (SELECT * FROM b) SELECT 1 FROM c", "WITH b"),
        ("SELECT extract(epoch FROM clock_timestamp())", "SELECT"),
        ("SELECT x FROM unnest($1::text[]) u, asset", "SELECT"),
        ("INSERT INTO t VALUES ('secret')", "INSERT t"),
        ("UPDATE session SET x = 'secret'", "UPDATE session"),
        ("SET plan_cache_mode = auto", "SET"),
        ("", "SQL"),
        ("'secret'", "SQL"),
        ("SELECT FROM " + "x" * 100, "SELECT"),
    ],
)
def test_a_statement_is_summed_up_without_its_values(query: str, summary: str) -> None:
    assert summed_up(query)[1] == summary


async def test_statements_are_told_of_behind_their_end(tracer: Tracer, spans: InMemorySpanExporter) -> None:
    tellers: list[Any] = []
    await statement_spans(tracer)(SimpleNamespace(add_query_logger=tellers.append))
    (tell,) = tellers
    tell(SimpleNamespace(query="SELECT 1 FROM none", elapsed=0.1, exception=None))
    assert spans.get_finished_spans() == ()
    wrong = ValueError("hidden")
    wrong.sqlstate = "42P01"  # type: ignore[attr-defined]
    with tracer.start_as_current_span("request") as request:
        tell(SimpleNamespace(query="SELECT 1 FROM one", elapsed=0.5, exception=None))
        await asyncio.sleep(0.001)
        request.end()
        # The driver tells in the next turn of the event loop: by then a request may be over.
        tell(SimpleNamespace(query="SELECT 1 FROM two", elapsed=0.5, exception=wrong))
        await asyncio.sleep(0.002)
        tell(SimpleNamespace(query="SELECT 1 FROM three", elapsed=0.0, exception=None))  # of a task that goes on
    one, two = finished(spans, "SELECT one"), finished(spans, "SELECT two")
    assert one.start_time is not None
    assert one.end_time is not None
    assert one.end_time - one.start_time == 500_000_000
    assert of(two) == {
        "db.system.name": "postgresql",
        "db.operation.name": "SELECT",
        "db.query.summary": "SELECT two",
        "db.response.status_code": "42P01",
        "error.type": "ValueError",
    }
    assert not [span for span in spans.get_finished_spans() if span.name == "SELECT three"]
    assert "hidden" not in two.to_json()


# Other services -----------------------------------------------------------------------------------------------------


@pytest.fixture
def traced_httpx(tracer: Tracer) -> Iterator[None]:
    """All that httpx sends is traced until the test ends."""
    before = httpx.AsyncHTTPTransport.handle_async_request
    undo = trace_outgoing(tracer)
    yield
    undo()
    assert httpx.AsyncHTTPTransport.handle_async_request is before


@pytest.mark.usefixtures("traced_httpx")
async def test_other_services_are_told_the_trace_and_spans_no_more_than_where(
    tracer: Tracer, spans: InMemorySpanExporter
) -> None:
    server = ScriptedServer()
    with server.running():
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"{server.url}/a/b?token=hidden"
            await client.get(url)
            with tracer.start_as_current_span("request"):
                await client.get(url.replace("http://", "http://hidden:hidden@"), headers={"authorization": "hidden"})
                with pytest.raises(httpx.ConnectError):
                    await client.get("http://127.0.0.1:1/")
    without, within = server.seen
    assert "traceparent" not in without.headers
    asked, failed = [span for span in spans.get_finished_spans() if span.name == "GET"]
    context = asked.get_span_context()
    assert context is not None
    parent, flags = within.headers["traceparent"].rsplit("-", 1)
    assert (parent, int(flags, 16) & 1) == (f"00-{trace_of(asked)}-{context.span_id:016x}", 1)
    port = int(server.url.rpartition(":")[2])
    assert of(asked) == {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"{server.url}/a/b",
        "http.response.status_code": 404,
        "error.type": "404",
    }
    assert (of(failed)["error.type"], list(failed.events)) == ("ConnectError", [])
    assert "hidden" not in asked.to_json() + failed.to_json()


def test_named_is_no_trouble_without_a_span() -> None:
    asyncio.run(Named().process_response(SimpleNamespace(), SimpleNamespace(), None, True))  # type: ignore[arg-type]
