"""Many open streams, idle connections and acks at once: the figures are what was sent, no more and no less."""

from __future__ import annotations

import re
import resource
import socket
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.phones.raw_stream import RawStream
from tests.support.processes.running import RunningService
from tests.support.sources.samples import USER_ID, sample
from tests.support.stores.servers import wait_until

pytestmark = pytest.mark.soak

STREAM, ACK, PING = "/api/sync/stream", "/api/sync/ack", "/api/server/ping"
ROWS = 300
"""Of 9 KB each: more than the kernel holds for a reader that takes nothing."""
ACKS_A_REQUEST = 50
OF_A_USER = 10
SPARE = 200
"""Descriptors for all else that a process has open."""


class Scale(NamedTuple):
    """How many there are of each."""

    streams: int
    idle: int


@pytest.fixture
def scale() -> Scale:
    """500 streams and 2,000 idle connections, or as many as this process may have sockets."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the service inherits it
    sockets = 2500 if most == resource.RLIM_INFINITY else min(2500, most - SPARE)
    return Scale(sockets // 5, sockets * 4 // 5)


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory, scale: Scale) -> Iterator[RunningService]:
    with RunningService(
        tmp_path_factory.mktemp("many"), workers=2, stall="1h", session_limit="100000/minute"
    ) as service:
        service.put("lib", [{"type": "UserV1", "id": USER_ID, "data": sample("UserV1")}])
        service.put(
            "lib",
            (
                {
                    "type": "AssetV2",
                    "id": f"b{number}",
                    "data": sample("AssetV2", id=f"b{number}", checksum=f"{number:027}=", thumbhash="x" * 9000),
                }
                for number in range(ROWS)
            ),
        )
        yield service
        assert service.faults() == []


class Figures:
    """What a service tells."""

    def __init__(self, service: RunningService) -> None:
        self._url = f"{service.url}/metrics"
        self._headers = {"x-api-key": service.command("key", "create", "--scope=metrics.read").stdout.strip()}

    def value(self, name: str, **labels: str) -> float:
        """Add up the samples of a name that have these labels."""
        answer = httpx.get(self._url, headers=self._headers, timeout=60, trust_env=False)
        assert answer.status_code == 200
        return sum(
            sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def soon(self, name: str, expected: float, timeout_s: float = 30.0, **labels: str) -> None:
        """Wait until a figure is as expected, and no other: workers hand theirs over once a second."""
        found = [0.0]

        def as_expected() -> bool:
            found[0] = self.value(name, **labels)
            return found[0] == expected

        try:
            wait_until(as_expected, name, timeout_s)
        except TimeoutError:
            raise AssertionError(f"{name} {labels} is {found[0]}, not {expected}") from None


def idle_connection(port: int) -> socket.socket:
    """Ask once, and keep the connection."""
    connection = socket.create_connection(("127.0.0.1", port), 30)
    connection.sendall(f"GET {PING} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    return connection


def test_the_figures_are_what_was_sent(service: RunningService, scale: Scale) -> None:
    figures = Figures(service)
    tokens = [
        token
        for number in range(scale.streams // OF_A_USER)
        for token in service.sign_in_many(OF_A_USER, f"user-{number}")
    ]
    count = len(tokens)
    idle = [idle_connection(service.port) for _ in range(scale.idle)]
    streams = [RawStream(service.port, token, ["AssetsV2"], receive_buffer_bytes=4096) for token in tokens]
    try:
        for stream in streams:
            stream.read_until(1)
            assert stream.status == 200
        figures.soon("syncledger_streams_open", count)
        figures.soon("syncledger_http_requests_total", scale.idle, route=PING, method="GET", status="200")
        figures.soon("syncledger_http_requests_total", count, route=STREAM, method="POST", status="200")

        rows = size = requests = 0
        for stream, token in zip(streams, tokens, strict=True):
            stream.read_to_end(600)
            assert stream.clean
            acks = re.findall(rb'"ack":"([^"]+)"', stream.body)
            rows, size = rows + len(acks) - 1, size + len(stream.body)  # all but the completion are rows
            stream.close()
            stream.body.clear()
            with service.client(token) as client:
                for begin in range(0, len(acks), ACKS_A_REQUEST):
                    body = {"acks": [ack.decode() for ack in acks[begin : begin + ACKS_A_REQUEST]]}
                    assert client.post(ACK, json=body).status_code == 204
                    requests += 1
        assert rows == count * ROWS
    finally:
        for connection in idle:
            connection.close()
        for stream in streams:
            stream.close()

    figures.soon("syncledger_streams_open", 0)
    for name, expected in {
        "syncledger_streams_total": count,
        "syncledger_stream_seconds_count": count,
        "syncledger_stream_first_line_seconds_count": count,
        "syncledger_stream_rows_total": rows,
        "syncledger_stream_bytes_total": size,
    }.items():
        figures.soon(name, expected)
    figures.soon("syncledger_streams_total", count, how="completed")
    figures.soon("syncledger_http_requests_total", requests, route=ACK, method="POST", status="204")
    figures.soon("syncledger_http_requests_total", requests, route=ACK)
    figures.soon("syncledger_http_request_seconds_count", requests, route=ACK)
    figures.soon("syncledger_events_total", requests, type="acks_recorded")
    figures.soon("syncledger_acks_total", requests, outcome="moved")
    figures.soon("syncledger_acks_total", 0, outcome="stale")
    figures.soon("syncledger_store_commands_in_flight", 0)
    census_s = 200.0  # it is counted once a minute
    figures.soon("syncledger_sessions_living", count, census_s)
    figures.soon("syncledger_devices_completed", count, census_s, within="1h")
    figures.soon("syncledger_devices_behind", count, census_s)
    figures.soon("syncledger_devices_seen", count, census_s, within="1h")
    service.verify()
