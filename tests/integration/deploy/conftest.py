"""Each proxy beside Immich, with the shipped configuration, in front of a real service or of one that follows a script.

| fixture | gives |
|---|---|
| `kind` | nginx, caddy and traefik in turn |
| `service` | the real service, with a library of 12 MB; shared, and running when a test is given it |
| `backend` | the stand-in for the photo backend; shared |
| `proxy` | the shared proxy of that kind in front of both |
| `started` | starts a proxy of the test's own |
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from tests.support.phones.raw_stream import RawStream
from tests.support.processes.photo_backend import PhotoBackend
from tests.support.processes.proxies import KINDS, Proxy, program
from tests.support.processes.running import RunningService
from tests.support.sources.samples import sample

ROWS: Final = 400
ROW_BYTES: Final = 30_000
"""12 MB: some 4 of them the kernel holds on the way through a proxy to a reader that takes nothing."""
GRACE_S: Final = 2.0
BAD_TOKENS: Final = 20


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of proxy."""
    name: str = request.param
    return name


def users(count: int) -> Iterator[dict[str, Any]]:
    """Make rows of `ROW_BYTES` each that hardly compress."""
    dice = random.Random(count)
    for number in range(count):
        name = base64.b64encode(dice.randbytes(ROW_BYTES * 3 // 4)).decode()
        yield {"type": "UserV1", "id": f"u{number}", "data": sample("UserV1", id=f"u{number}", name=name)}


def begun(ask: Callable[[], RawStream], proxy: Proxy) -> RawStream:
    """Ask for a stream and wait for its first bytes; once more, as a phone does, where Traefik broke it before them.

    Over HTTP/1.1 it does now and then, when the answer begins while it still looks for the end of the request
    (golang/go#40747): ops/deploy/immich/README.md.
    """
    stream = ask().read_until(1)
    for _ in range(10):
        if proxy.kind != "traefik" or stream.clean is not False:
            break
        stream.close()
        stream = ask().read_until(1)
    return stream


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    settings = {"stall": "1s", "grace": f"{GRACE_S:g}s", "bad_token_limit": f"{BAD_TOKENS}/minute"}
    folder = tmp_path_factory.mktemp("beside")
    with RunningService(folder, workers=2, trusted_proxies="127.0.0.1", **settings) as service:
        service.put("lib", users(ROWS))
        service.put(
            "small", ({"type": "UserV1", "id": f"u{n}", "data": sample("UserV1", id=f"u{n}")} for n in range(99))
        )
        yield service
        assert service.faults() == []


@pytest.fixture
def service(shared_service: RunningService) -> RunningService:
    """The real service; one that a test ended is started again."""
    if shared_service.process is None or shared_service.process.poll() is not None:
        shared_service.start()
    return shared_service


@pytest.fixture(scope="session")
def shared_backend() -> Iterator[PhotoBackend]:
    with PhotoBackend().running() as backend:
        yield backend


@pytest.fixture
def backend(shared_backend: PhotoBackend) -> PhotoBackend:
    """The photo backend, which remembers nothing."""
    shared_backend.forget()
    return shared_backend


@pytest.fixture(scope="session")
def shared_proxies(
    tmp_path_factory: pytest.TempPathFactory, shared_service: RunningService, shared_backend: PhotoBackend
) -> Iterator[Callable[[str], Proxy]]:
    """Give the proxy of a kind in front of service and backend, started when it is first wanted."""
    running: dict[str, Proxy] = {}

    def proxy_of(kind: str) -> Proxy:
        if kind not in running:
            folder = tmp_path_factory.mktemp("proxy") / kind
            made = Proxy(kind, folder, ledger_port=shared_service.port, backend_port=shared_backend.port)
            running[kind] = made.start()
            shared_backend.forget()
        return running[kind]

    yield proxy_of
    for proxy in running.values():
        proxy.stop()


@pytest.fixture
def proxy(kind: str, shared_proxies: Callable[[str], Proxy], service: RunningService, backend: PhotoBackend) -> Proxy:
    """The proxy of this kind in front of service and backend."""
    return shared_proxies(kind)


@pytest.fixture
def proxies(shared_proxies: Callable[[str], Proxy], service: RunningService, backend: PhotoBackend) -> list[Proxy]:
    """All that are installed, for tests that take their time; of those missing, the others tell."""
    found = [shared_proxies(kind) for kind in KINDS if program(kind) is not None]
    if not found:
        pytest.skip("no proxy is installed: pip install -e '.[proxies]'")
    return found


@pytest.fixture
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Proxy]]:
    """Start a proxy of the test's own; takes what `Proxy` takes but the folder."""
    running = []

    def start(kind: str, **options: Any) -> Proxy:
        proxy = Proxy(kind, tmp_path_factory.mktemp("proxy") / kind, **options).start()
        running.append(proxy)
        return proxy

    yield start
    for proxy in running:
        proxy.stop()
