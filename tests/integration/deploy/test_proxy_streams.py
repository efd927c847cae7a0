"""Streams of the real service through each proxy: whole, at the reader's pace, and never ended cleanly when broken."""

from __future__ import annotations

import signal
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import zstandard

from tests.integration.deploy.conftest import GRACE_S, ROW_BYTES, ROWS, begun, users
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.photo_backend import PhotoBackend
from tests.support.processes.proxies import Proxy
from tests.support.processes.running import RunningService
from tests.support.stores.servers import wait_until

SMALL_BUFFER = 4096
MEMORY_BYTES = 8 << 20
"""How much more memory a proxy may hold for a stream that its reader does not take: less than the stream by far."""
LOOK_S = 5.0
"""How often the service looks at the session of a stream that waits for its reader."""
SLACK_S = 3.0


def opened(proxy: Proxy, token: str, buffer_bytes: int | None = SMALL_BUFFER) -> RawStream:
    """Open a stream whose reader has taken the first few rows."""
    stream = begun(lambda: RawStream(proxy.port, token, ["UsersV1"], receive_buffer_bytes=buffer_bytes), proxy)
    stream.read_until(3 * ROW_BYTES)
    assert (stream.status, stream.clean) == (200, None), proxy.kind
    return stream


@contextmanager
def opened_through(proxies: list[Proxy], service: RunningService) -> Iterator[list[RawStream]]:
    """Open a stream through each proxy."""
    with ExitStack() as stack:
        tokens = service.sign_in_many(len(proxies), "u0")
        yield [stack.enter_context(opened(proxy, token)) for proxy, token in zip(proxies, tokens, strict=True)]


def assert_broken(stream: RawStream, kind: str) -> None:
    stream.read_to_end()
    assert stream.clean is False, kind
    assert b"SyncCompleteV1" not in stream.body, kind
    assert len(stream.body) < ROWS * ROW_BYTES, kind


def said(service: RunningService, since: int, what: str) -> int:
    """Count how often the service has said something."""
    return service.log.read_text()[since:].count(what)


@pytest.mark.parametrize("rows", [ROWS, pytest.param(1700, marks=pytest.mark.soak)])
def test_a_stream_is_whole_and_acks_go_beside_it(proxy: Proxy, service: RunningService, rows: int) -> None:
    library = "lib" if rows == ROWS else f"lib-{proxy.kind}"
    if library != "lib":
        service.put(library, users(rows))
    token = service.sign_in("u0", library)
    held = proxy.memory_bytes()
    presented = {"x-immich-user-token": token}
    with opened(proxy, token, None) as stream, httpx.Client(base_url=proxy.url, headers=presented) as app:
        ack = stream.lines[0]["ack"]
        assert app.post("/api/sync/ack", json={"acks": [ack]}).status_code == 204
        assert app.get("/api/sync/ack").json() == [{"type": "UserV1", "ack": ack}]
        pauses = 0
        while stream.clean is None:  # slow, but no slower than the guard's patience
            stream.read_until(len(stream.body) + 40 * ROW_BYTES)
            time.sleep(0.02)
            pauses += 1
        assert pauses > 5, "the stream was open when the ack was sent"
        assert (stream.clean, len(stream.lines)) == (True, rows + 1)
        assert stream.lines[-1]["type"] == "SyncCompleteV1"
    assert proxy.memory_bytes() - held < MEMORY_BYTES


def test_a_reader_that_takes_nothing_is_seen_by_the_service(proxies: list[Proxy], service: RunningService) -> None:
    held = [proxy.memory_bytes() for proxy in proxies]
    since = len(service.log.read_text())
    with opened_through(proxies, service) as streams:
        ends = [f"stream over: stalled [{stream.headers['x-correlation-id']}]" for stream in streams]
        wait_until(lambda: all(said(service, since, end) for end in ends), "all to be cut off", 60)
        for proxy, stream, before in zip(proxies, streams, held, strict=True):
            assert proxy.memory_bytes() - before < MEMORY_BYTES, proxy.kind
            assert_broken(stream, proxy.kind)


def test_a_reader_that_leaves_is_seen_by_the_service(proxy: Proxy, service: RunningService) -> None:
    since = len(service.log.read_text())
    with opened(proxy, service.sign_in("u0")):
        assert said(service, since, "stream over") == 0
    wait_until(lambda: said(service, since, "stream over: gone") == 1, "the service to see it", LOOK_S)


def test_a_session_that_ends_in_mid_stream_breaks_it(proxy: Proxy, service: RunningService) -> None:
    token = service.sign_in("u0")
    with opened(proxy, token) as stream:
        service.command("session", "end", "--user", "u0", "--all")
        assert_broken(stream, proxy.kind)
    answer = httpx.post(
        f"{proxy.url}/api/sync/stream", json={"types": ["UsersV1"]}, headers={"x-immich-user-token": token}
    )
    assert answer.status_code == 401


def test_killed_workers_break_streams_and_new_ones_serve(
    proxies: list[Proxy], service: RunningService, backend: PhotoBackend
) -> None:
    with opened_through(proxies, service) as streams:
        for worker in service.workers():
            worker.kill()
        for proxy, stream in zip(proxies, streams, strict=True):
            assert_broken(stream, proxy.kind)
    for proxy in proxies:
        wait_until(lambda proxy=proxy: status(proxy) == 401, f"{proxy.kind} to reach the service again")  # type: ignore[misc]
    assert [target for target in backend.targets if "sync" in target] == []


def status(proxy: Proxy) -> int:
    """Ask for a stream without a token: 401 of the service, or of the proxy what it says without one."""
    answer = httpx.post(f"{proxy.url}/api/sync/stream", json={"types": ["UsersV1"]}, timeout=10)
    assert answer.status_code in {401, 502, 503, 504}, proxy.kind
    return answer.status_code


def test_a_service_that_ends_breaks_streams_and_nobody_stands_in(
    proxies: list[Proxy], service: RunningService, backend: PhotoBackend
) -> None:
    with opened_through(proxies, service) as streams:
        service.signal(signal.SIGTERM)
        assert service.process is not None
        assert service.process.wait(GRACE_S + SLACK_S) == 0
        for proxy, stream in zip(proxies, streams, strict=True):
            assert_broken(stream, proxy.kind)
            assert status(proxy) in {502, 503, 504}, proxy.kind
            assert httpx.get(f"{proxy.url}/ledger/whoami").status_code in {502, 503, 504}
            assert httpx.get(f"{proxy.url}/api/assets").status_code == 200, "photos go on"
        assert [target for target in backend.targets if target != "/api/assets"] == []
    service.start()
    for proxy in proxies:
        assert status(proxy) == 401, f"{proxy.kind} is to reach the service as soon as it is back"


def asked(proxy: Proxy, token: str, accepted: str) -> RawStream:
    return RawStream(proxy.port, token, ["UsersV1"], accept_encoding=accepted)


@pytest.mark.parametrize(("coding", "decoded"), [
    ("gzip", lambda body: zlib.decompress(body, 16 + zlib.MAX_WBITS)),
    ("zstd", lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body)),
], ids=["gzip", "zstd"])  # fmt: skip
def test_what_the_service_compressed_arrives_as_it_is(
    proxy: Proxy, service: RunningService, coding: str, decoded: Callable[[bytes], bytes]
) -> None:
    plain, packed = (
        begun(lambda token=token, accepted=accepted: asked(proxy, token, accepted), proxy).read_to_end()  # type: ignore[misc]
        for token, accepted in zip(service.sign_in_many(2, "u0", "small"), ("identity", coding), strict=True)
    )
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == coding
    assert len(packed.body) < len(plain.body) / 3
    assert decoded(bytes(packed.body)).count(b"\n") == len(plain.lines) == 99 + 1
