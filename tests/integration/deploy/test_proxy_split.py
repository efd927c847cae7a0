"""Who is asked what: each proxy between a service and a photo backend that only tell what came."""

from __future__ import annotations

import base64
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final
from urllib.parse import unquote

import httpx
import pytest

from tests.integration.deploy.conftest import BAD_TOKENS, begun
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.photo_backend import ANSWER, PhotoBackend
from tests.support.processes.proxies import KINDS, Proxy, program
from tests.support.processes.running import RunningService
from tests.support.processes.scripted_server import Broken, ScriptedServer, line
from tests.support.stores.servers import free_port

LINE: Final = line("UserV1", {"name": "Ann"}, "UserV1|1")
END: Final = line("SyncCompleteV1", {}, "SyncCompleteV1|now")


@pytest.fixture
def ledger() -> Iterator[ScriptedServer]:
    """The service, played."""
    with ScriptedServer().running() as server:
        yield server


@pytest.fixture
def between(kind: str, started: Callable[..., Proxy], ledger: ScriptedServer, backend: PhotoBackend) -> Proxy:
    """A proxy of this kind between both."""
    proxy = started(kind, ledger_port=int(ledger.url.rpartition(":")[2]), backend_port=backend.port)
    backend.forget()
    return proxy


def asked(port: int, target: str, *headers: str, body: bytes = b"", address: str = "127.0.0.1") -> bytes:
    """Send a request with its target as it stands here; returns the whole answer."""
    fields = ["Host: localhost", "Connection: close", *headers, *([f"Content-Length: {len(body)}"] if body else [])]
    method = "POST" if body else "GET"
    with socket.create_connection(("127.0.0.1", port), 10, source_address=(address, 0)) as connection:
        connection.sendall("\r\n".join([f"{method} {target} HTTP/1.1", *fields, "", ""]).encode() + body)
        with connection.makefile("rb") as answer:
            return answer.read()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# Streams --------------------------------------------------------------------------------------------------------------


def test_a_line_arrives_before_the_next_is_made(between: Proxy, ledger: ScriptedServer) -> None:
    arrived = threading.Event()

    def script() -> Iterator[bytes]:
        yield LINE
        assert arrived.wait(10), "the first line is held back"
        yield END

    def ask() -> RawStream:
        ledger.scripts[:] = [script()]
        return RawStream(between.port, "token", ["UsersV1"])

    with begun(ask, between) as stream:
        stream.read_until(len(LINE))
        assert (bytes(stream.body), stream.clean) == (LINE, None)
        arrived.set()
        stream.read_to_end()
        assert (bytes(stream.body), stream.clean) == (LINE + END, True)


def test_a_stream_that_breaks_after_its_last_line_is_broken(between: Proxy, ledger: ScriptedServer) -> None:
    def script() -> Iterator[bytes]:
        yield LINE
        time.sleep(0.1)  # so that it is on its way
        raise Broken

    def ask() -> RawStream:
        ledger.scripts[:] = [script()]
        return RawStream(between.port, "token", ["UsersV1"])

    with begun(ask, between) as stream:
        stream.read_to_end()
        assert (bytes(stream.body), stream.clean) == (LINE, False)


@pytest.mark.soak
def test_pauses_are_longer_than_what_proxies_wait_by_themselves(
    started: Callable[..., Proxy], ledger: ScriptedServer, backend: PhotoBackend
) -> None:
    pause_s = 70  # 60 is a usual default
    kinds = [kind for kind in KINDS if program(kind) is not None]
    if not kinds:
        pytest.skip("no proxy is installed: pip install -e '.[proxies]'")

    def script() -> Iterator[bytes]:
        yield LINE
        time.sleep(pause_s)
        yield LINE * 200_000  # more than the kernel holds on the way
        yield END

    with ExitStack() as stack:
        streams = []
        for kind in kinds:
            proxy = started(kind, ledger_port=int(ledger.url.rpartition(":")[2]), backend_port=backend.port)

            def ask(port: int = proxy.port) -> RawStream:
                ledger.scripts[:] = [script()]
                return RawStream(port, "token", ["UsersV1"], receive_buffer_bytes=4096)

            streams.append((proxy, stack.enter_context(begun(ask, proxy))))
        for _, stream in streams:
            while len(stream.body) < 3 * len(LINE):
                assert stream.read(timeout_s=pause_s + 20) > 0
        time.sleep(pause_s)
        for proxy, stream in streams:
            stream.read_to_end()
            assert (stream.clean, len(stream.body)) == (True, 200_001 * len(LINE) + len(END)), proxy.kind + proxy.log


# Paths ----------------------------------------------------------------------------------------------------------------

OURS: Final = ("/api/sync", "/ledger", "/console")
PLAIN: Final = {
    "/api/sync/stream": "ledger", "/api/sync/ack?types=AssetV2": "ledger", "/api/sync": "ledger",
    "/ledger/whoami": "ledger", "/ledger": "ledger", "/console": "ledger", "/console/devices?page=2": "ledger",
    "/": "backend", "/api/assets": "backend", "/api/synchronise": "backend", "/api/sync.js": "backend",
    "/ledgers/x": "backend", "/photos/ledger": "backend", "/api/users/me?next=/api/sync": "backend",
    "/metrics": "backend", "/readyz": "backend", "/healthz": "backend", "/docs": "backend",
    "/api/socket.io/?EIO=4&transport=polling": "backend", "/.well-known/immich": "backend",
    "/share/a%20b%2Fc": "backend", "/s/caf%C3%A9": "backend", "/folders?path=%2Fphotos%2F..%2Fx": "backend",
}  # fmt: skip
TRICKS: Final = (
    "//api/sync/stream", "/api//sync/stream", "/api/./sync/stream", "/x/../api/sync/stream", "/api/sync/../assets",
    "/api/x/%2e%2e/sync/stream", "/%2e/api/sync", "/api%2fsync/stream", "/api/sync%2Fstream", "/api%2Fsync%2fstream",
    "/x%2f..%2fapi%2fsync/ack", "/x/..%2Fapi/sync/ack", "/x%2f%2e%2e%2fapi/sync", "/api/s%79nc/stream",
    "/API/Sync/Stream", "/aPi%2FSYNC/ack", "/api\\sync\\stream", "/api%5csync/stream", "/x\\..\\api\\sync",
    "/x%5C..%5Capi/sync", "/api/sync/%2e%2e/%2e%2e/metrics", "/ledger/../metrics", "/ledger/..%2fmetrics",
    "/ledger%2f..%2freadyz", "/ledger/%2e%2e/readyz", "/console/..\\metrics", "//ledger/metrics", "//metrics",
    "/LEDGER/../ledger/whoami", "/x/../ledger/whoami", "http://localhost/api/sync/stream", "/api/sync/stream#/x",
    "/x#/../api/sync", "/api/sync#", "/api\\sync/ack#", "/../api/sync", "/api/sync/..", "/ledger/.", "/..",
    "/api/sync%23", "/api/sync%3Fx", "/console%3fx",
)  # fmt: skip


def readings(target: str) -> set[str]:
    """List what programs make of a target, each with its own ideas of slashes, dots, escapes and case."""
    path = re.sub(r"^https?://[^/]*", "", target).split("?")[0]
    found = {path}
    for read in (
        unquote,
        str.lower,
        lambda path: path.replace("\\", "/"),
        lambda path: re.sub("/+", "/", path),
        lambda path: re.split("[?#]", path)[0],
        resolved,
    ):
        found |= {read(path) for path in found}
    return found | {resolved(path) for path in found}


def resolved(path: str) -> str:
    """Resolve the dots of a path, as RFC 3986 has it."""
    kept: list[str] = []
    for part in path.split("/")[1:]:
        if part == "..":
            kept = kept[:-1]
        elif part != ".":
            kept.append(part)
    return "/" + "/".join(kept)


def is_ours(path: str) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in OURS)


def test_readings_find_what_is_hidden() -> None:
    hidden = ("/api/x/%2e%2e/sync/stream", "/x%5C..%5CAPI/sync", "/api\\sync/ack#", "http://h/api//sync", "//ledger/x")
    assert [target for target in hidden if not any(map(is_ours, readings(target)))] == []
    assert not any(map(is_ours, readings("/api/synchronise")))


def test_each_path_has_one_place(between: Proxy, ledger: ScriptedServer, backend: PhotoBackend) -> None:
    for target, place in PLAIN.items():
        backend.forget()
        ledger.seen.clear()
        answer = asked(between.port, target)
        came = [f"{seen.path}?{seen.headers['query']}".removesuffix("?") for seen in ledger.seen]
        assert {"ledger": came, "backend": backend.targets} == {"ledger": [], "backend": [], place: [target]}, answer


def test_no_spelling_of_a_path_reaches_the_other_side(
    between: Proxy, ledger: ScriptedServer, backend: PhotoBackend
) -> None:
    for target in TRICKS:
        backend.forget()
        ledger.seen.clear()
        answer = asked(between.port, target)
        assert status(answer) in {200, 400, 404}, f"{target}: {answer!r}"
        for came in backend.targets:
            assert not any(map(is_ours, readings(came))), f"{target} reached the backend as {came}"
        for seen in ledger.seen:
            # That the service makes no more of it is the next test's.
            taken = re.sub("/+", "/", unquote(seen.path)).strip("/")
            assert taken not in {"metrics", "readyz"}, f"{target} reached the service as {seen.path}"


def test_what_the_real_service_has_for_the_inner_network_stays_there(proxy: Proxy, service: RunningService) -> None:
    paths = [f"{prefix}{target}" for target in ("metrics", "readyz") for prefix in (
        "/", "//", "/ledger/../", "/ledger/..%2f", "/ledger%2f..%2f", "//ledger/../", "/api/sync/../../",
        "/console/%2e%2e/", "http://ledger/", "/ledger/..\\",
    )]  # fmt: skip
    for path in paths:
        answer = asked(proxy.port, path, f"x-api-key: {service.entities_key}")
        assert ANSWER in answer or status(answer) in {400, 404}, f"{path}: {answer!r}"
    assert b'"store"' in asked(service.port, "/readyz"), "which is told to who asks it itself"


def test_one_line_has_phones_sync_at_the_backend_again(
    kind: str, started: Callable[..., Proxy], ledger: ScriptedServer, backend: PhotoBackend
) -> None:
    proxy = started(kind, ledger_port=int(ledger.url.rpartition(":")[2]), backend_port=backend.port, back=True)
    backend.forget()
    for target in ("/api/sync/stream", "/api/sync/ack", "/api/assets"):
        assert ANSWER in asked(proxy.port, target)
    asked(proxy.port, "/ledger/whoami")
    assert backend.targets == ["/api/sync/stream", "/api/sync/ack", "/api/assets"]
    assert ledger.paths() == ["GET /ledger/whoami"]


def test_nobody_stands_in_for_a_service_that_is_not_there(
    kind: str, started: Callable[..., Proxy], backend: PhotoBackend
) -> None:
    proxy = started(kind, ledger_port=free_port(), backend_port=backend.port)
    backend.forget()
    for target in ("/api/sync/stream", "/API/sync/ack", "/ledger/whoami"):
        for _ in range(3):
            assert status(asked(proxy.port, target, body=b"{}")) in {502, 503, 504}
    assert backend.targets == []
    assert ANSWER in asked(proxy.port, "/api/assets")


# What goes along ------------------------------------------------------------------------------------------------------


def test_what_a_client_says_of_itself_is_replaced(
    between: Proxy, ledger: ScriptedServer, backend: PhotoBackend
) -> None:
    lies = ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", "X-Real-IP: 203.0.113.9")
    ids = ("X-Correlation-ID: mine", "Accept-Encoding: zstd, br")
    for target in ("/api/sync/ack", "/api/assets"):
        asked(between.port, target, *lies, *lies, *ids, address="127.0.0.5")
    for headers in (ledger.seen[0].headers, backend.headers[0]):
        assert headers["x-forwarded-for"] == "127.0.0.5"
        assert headers["x-real-ip"] == "127.0.0.5"
        assert headers["x-forwarded-proto"] == "http"
        assert headers["host"] == "localhost"
        assert (headers["x-correlation-id"], headers["accept-encoding"]) == ("mine", "zstd, br")


def test_no_compression_is_asked_for_in_a_clients_place(between: Proxy, ledger: ScriptedServer) -> None:
    asked(between.port, "/api/sync/ack")
    # Traefik unpacks it itself, and cannot be told otherwise.
    assert ledger.seen[0].headers.get("accept-encoding") == ("gzip" if between.kind == "traefik" else None)


def test_the_service_counts_clients_by_the_address_that_the_proxy_saw(proxy: Proxy, service: RunningService) -> None:
    """Bad tokens are limited by address: one client cannot pass for many, and many are not taken for one."""
    client, other = {"nginx": ("127.0.1.1", "127.0.2.1"), "caddy": ("127.0.1.2", "127.0.2.2")}.get(
        proxy.kind, ("127.0.1.3", "127.0.2.3")
    )

    def bad(number: int, address: str) -> int:
        lie = f"X-Forwarded-For: 203.0.113.{number}"
        token = f"Authorization: Bearer {base64.b64encode(os.urandom(24)).decode()}"
        return status(asked(proxy.port, "/api/sync/ack", lie, token, address=address))

    assert [bad(number, client) for number in range(BAD_TOKENS)] == [401] * BAD_TOKENS
    assert bad(BAD_TOKENS, client) == 429
    assert bad(0, other) == 401


def test_an_answer_has_the_id_of_its_request(proxy: Proxy) -> None:
    answer = httpx.get(f"{proxy.url}/ledger/whoami", headers={"X-Correlation-ID": "a-phone-1"})
    assert (answer.status_code, answer.headers["x-correlation-id"]) == (401, "a-phone-1")


def test_tokens_are_in_no_log(between: Proxy) -> None:
    for target in ("/api/sync/ack?sessionKey=a-token", "/api/assets?key=a-token"):
        assert status(asked(between.port, target, "x-immich-user-token: a-token")) == 200
    assert not between.wrote("a-token")
    assert between.wrote("PROXY_LEDGER" if between.kind != "nginx" else "proxy_pass"), "its files are looked through"


# The backend's own ----------------------------------------------------------------------------------------------------


def test_web_sockets_reach_the_backend(proxy: Proxy, backend: PhotoBackend) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
        connection.sendall(
            (
                "GET /api/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
        )
        with connection.makefile("rb") as answers:
            assert b" 101 " in answers.readline()
            while answers.readline().strip():
                pass
            for text in (b"2probe", b"on_upload_success"):
                connection.sendall(bytes((0x81, 0x80 | len(text))) + b"\0\0\0\0" + text)
                assert answers.read(2 + len(text)) == bytes((0x81, len(text))) + text
    assert backend.targets == ["/api/socket.io/?EIO=4&transport=websocket"]


@pytest.mark.parametrize("megabytes", [16, pytest.param(100, marks=pytest.mark.soak)])
def test_an_upload_goes_straight_through(proxy: Proxy, backend: PhotoBackend, megabytes: int) -> None:
    piece = bytes(1 << 20)
    held = proxy.memory_bytes()
    with socket.create_connection(("127.0.0.1", proxy.port), 30) as connection:
        head = f"POST /api/assets HTTP/1.1\r\nHost: localhost\r\nContent-Length: {megabytes << 20}\r\n\r\n"
        connection.sendall(head.encode() + piece)
        assert backend.upload_began.wait(10), "the proxy waits for all of it"
        for _ in range(megabytes - 1):
            connection.sendall(piece)
        with connection.makefile("rb") as answer:
            assert b" 200 " in answer.readline()
            while answer.readline().strip():
                pass
            size = str(megabytes << 20).encode()
            assert answer.read(len(size)) == size
    assert proxy.memory_bytes() - held < 8 << 20
