"""One trace from a client's request to the store's script, SQL and other services, sent as OTLP by a real service.

And that nobody waits for a collector that is slow, and that traces without their packages are told of.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes.otlp_receiver import OtlpReceiver
from tests.support.processes.running import COMMAND, RunningService
from tests.support.sign_in.oidc_server import CLIENT_ID, OidcServer, key_for, signer
from tests.support.sources.photo_database import MAPPING, PhotoDatabase
from tests.support.stores.postgres_server import PASSWORD

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{CLIENT}-01"
SERVER, OTHERS, WRONG = 2, 3, 2
"""Kinds and a status as OTLP has them."""
NEVER: dict[str, str] = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
"""Spans are sent when there are many, or at the end."""


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A collector."""
    with OtlpReceiver().running() as server:
        yield server


@pytest.fixture
def issuer() -> Iterator[OidcServer]:
    """Whoever signs tokens, with its keys at /jwks."""
    with OidcServer().running() as server:
        yield server


def traced(folder: Path, receiver: OtlpReceiver, **settings: Any) -> RunningService:
    """A service that sends its traces to a collector, and logs as JSON."""
    service = RunningService(folder, traces="true", log_format="json", log_requests="true", **settings)
    service.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **NEVER}
    return service


def lines_of(service: RunningService) -> list[dict[str, Any]]:
    """Read all that it said: each line must be an object of its own."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert all({"ts", "level", "logger", "message"} <= line.keys() for line in lines)
    return lines


def photos(url: str) -> None:
    """Make a photo database with a photo in it, below its horizon."""

    async def work() -> None:
        database = await PhotoDatabase.build(url)
        await database.put_photo("lib", "p1")
        await database.settle()
        await database.close()

    asyncio.run(work())


def signed(issuer: OidcServer, session: str, alg: str = "ES256") -> str:
    """Make a token of a phone, signed with the newest key."""
    now = int(time.time())
    claims = {"iss": issuer.url, "aud": CLIENT_ID, "sub": "lib", "sid": session, "iat": now, "exp": now + 300}
    return signer(issuer.keys[0], alg)(claims)


def test_one_trace_joins_client_http_script_sql_and_provider(
    tmp_path: Path, receiver: OtlpReceiver, issuer: OidcServer, postgres_url: str
) -> None:
    photos(postgres_url)
    (tmp_path / "photos.toml").write_text(MAPPING)
    settings = {"identity": "jwt", "jwt_issuer": issuer.url, "jwt_audience": CLIENT_ID}
    settings |= {"jwt_jwks": f"{issuer.url}/jwks", "postgres": postgres_url}
    headers = {"traceparent": PARENT, "tracestate": "vendor=1", "x-correlation-id": "phone-17"}
    mapping = str(tmp_path / "photos.toml")
    service = traced(tmp_path / "service", receiver, postgres_mapping=mapping, **settings)
    with service:
        with service.client(signed(issuer, "another", "RS256")) as another:
            assert another.get("/api/sync/ack").status_code == 200, "the service has the keys"
        issuer.keys = [key_for("ES256")]  # from now on: whoever asks first has the keys read again
        token = signed(issuer, "phone")
        client = service.client(token, **headers)
        answer = client.post("/api/sync/stream", json={"types": ["AssetsV2"]}, params={"nothing": "to-be-told"})
        assert answer.status_code == 200, answer.text
        assert [json.loads(line)["type"] for line in answer.text.splitlines()] == ["AssetV2", "SyncCompleteV1"]
        assert receiver.spans == []  # all that comes is what is sent at the end
        service.stop()

    found = receiver.of(TRACE)
    request = found["POST /api/sync/stream"]
    assert (request.parent, request.kind) == (CLIENT, SERVER)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/sync/stream",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "syncledger.correlation_id": "phone-17",
        "syncledger.session": (session := request.attributes["syncledger.session"]),
    }
    expected: dict[str, dict[str, Any]] = {
        "EVALSHA append": {"db.system.name": "redis", "db.stored_procedure.name": "append"},
        "SELECT photo": {"db.system.name": "postgresql", "db.operation.name": "SELECT"},
        "GET": {"http.request.method": "GET", "url.full": f"{issuer.url}/jwks", "http.response.status_code": 200},
    }
    for name, attributes in expected.items():
        span = found[name]
        assert (span.parent, span.kind) == (request.span, OTHERS), name
        assert attributes.items() <= span.attributes.items()
        assert request.began_ns <= span.began_ns <= span.ended_ns <= request.ended_ns
    stream = found["sync stream"]
    assert stream.parent == request.span
    size = len(answer.content)
    assert stream.attributes == {
        "syncledger.session": session,
        "syncledger.stream.how": "completed",
        "syncledger.stream.rows": 1,
        "syncledger.stream.bytes": size,
    }
    assert (request.resource["service.name"], len(request.resource["service.instance.id"])) == ("syncledger", 32)

    # The provider was told of the trace, and which of its spans asks.
    asked = [asked for asked in issuer.asked if asked.path == "/jwks"][-1]
    given = {name.lower(): value for name, value in asked.headers.items()}
    assert given["traceparent"] == f"00-{TRACE}-{found['GET'].span}-01"
    assert given["tracestate"] == "vendor=1"

    # The log tells the same of it, and each of its lines is JSON.
    lines = lines_of(service)
    (over,) = [line for line in lines if line["message"].startswith("stream over")]
    (told,) = [line for line in lines if (line["message"], line.get("trace_id")) == ("request", TRACE)]
    for line in (over, told):
        names = ("trace_id", "session", "user", "route", "status", "correlation_id")
        assert [line[name] for name in names] == [TRACE, session, "lib", "/api/sync/stream", 200, "phone-17"]
    assert (over["how"], over["rows"], over["bytes"], told["method"]) == ("completed", 1, size, "POST")
    assert 0 < told["seconds"] < 60
    assert {line["pid"] for line in lines} >= {service.process.pid, over["pid"]}  # type: ignore[union-attr]

    # What is nobody else's is in neither: what the token says, the query, the address of the database.
    everything = [service.log.read_bytes(), *receiver.bodies]
    for secret in (*token.split("."), "to-be-told", PASSWORD):
        assert not any(secret.encode() in text for text in everything), secret
    assert service.faults() == []


WORKER = """
import asyncio, json, time
from ops.server.logs import configure_logging
from ops.settings.settings import Settings
from ops.tracing.sending import Sending
from ops.tracing.spans import tracer

async def work():
    sending = Sending.begin(Settings(grace_s=2.0))
    for _ in range(500):
        with tracer().start_as_current_span("one"):
            pass
    input()  # until the first spans were taken
    began_s = time.monotonic()
    for _ in range(500):
        with tracer().start_as_current_span("one"):
            pass
    made_s = time.monotonic()
    await sending.end()
    print(json.dumps([made_s - began_s, time.monotonic() - made_s]), flush=True)

configure_logging("info", "json")
asyncio.run(work())
"""
LITTLE = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}
"""What waits at most, and what is sent at once."""


def test_who_makes_spans_does_not_wait_for_a_collector_that_is_silent(receiver: OtlpReceiver) -> None:
    """It takes connections and never answers: the exporter alone would wait for ten seconds.

    And a key that is written as HTTP has it is not what the SDK wants, and is not told all the same.
    """
    receiver.silent.set()
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization: Bearer hunter2,x-key=hunter3,=hunter4"}
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": paths,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            **LITTLE,
            **headers,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert receiver.asked.acquire(timeout=60), "the first spans were never sent"
    out, err = process.communicate("\n", timeout=60)
    made_s, ended_s = json.loads(out)
    assert made_s < 5, "it was 0.02 s"
    assert ended_s < 5, "it was 0.7 s"
    told = [json.loads(line)["message"] for line in err.splitlines()]
    assert told.count("Queue full, dropping Span.") <= 1, "once a minute is enough; older SDKs say nothing"
    assert "a header of OTEL_EXPORTER_OTLP_HEADERS is left out: write it as name=value" in told
    assert "hunter" not in err


@pytest.mark.soak
def test_a_service_does_not_wait_for_a_collector_that_is_silent(tmp_path: Path, receiver: OtlpReceiver) -> None:
    receiver.silent.set()
    service = traced(tmp_path, receiver, grace="2s", workers=2)
    service.environment |= LITTLE
    with service, service.client() as client:
        for _ in range(10):
            client.get("/api/server/ping")
        assert receiver.asked.acquire(timeout=30), "the first spans were never sent"
        for _ in range(500):  # many times what waits at most
            assert client.get("/api/server/ping").status_code == 200
        took_s = service.stop()
    assert sum(line["message"] == "request" for line in lines_of(service)) >= 510
    assert took_s < 10


@pytest.mark.parametrize(
    "missing", ["opentelemetry.sdk", pytest.param("opentelemetry.exporter", marks=pytest.mark.soak)]
)
def test_traces_without_their_packages_are_told_of(tmp_path: Path, missing: str) -> None:
    hidden = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if (name + '.').startswith({missing + '.'!r}):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "LEDGER_DATA_DIR": str(tmp_path),
        "LEDGER_PORT": "0",
        "LEDGER_TRACES": "1",
    }
    command = (sys.executable, "-c", hidden + COMMAND[2], "serve")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: LEDGER_TRACES: traces need packages that are not installed: pip install 'syncledger[traces]'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_keeps_a_service_from_starting_is_json_too(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "LEDGER_DATA_DIR": str(tmp_path),
        "LEDGER_LOG_FORMAT": "json",
        "LEDGER_WORKERS": "none",
        "LEDGER_LOG": "loud",
    }
    command = (*COMMAND, "serve")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    told = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert [line.partition(":")[0] for line in told] == ["LEDGER_WORKERS", "LEDGER_LOG"]


def test_what_the_sdk_cannot_use_keeps_a_service_from_starting_with_a_word_why(tmp_path: Path) -> None:
    service = RunningService(tmp_path, traces="true")
    service.environment["OTEL_BSP_MAX_QUEUE_SIZE"] = "-1"
    with pytest.raises(RuntimeError, match="the service ended at start with 1"):
        service.start()
    log = service.log.read_text()
    assert "LEDGER_TRACES: what OTEL_* say cannot be used: max_queue_size must be a positive integer." in log
    assert "Traceback" not in log
