"""Each proxy with a certificate of one's own: streams over HTTP/2, whole and broken, and what the service is told."""

from __future__ import annotations

import datetime
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.integration.deploy.conftest import ROW_BYTES, ROWS
from tests.support.processes.photo_backend import PhotoBackend
from tests.support.processes.proxies import Proxy
from tests.support.processes.running import RunningService

pytest.importorskip("h2", reason="h2 is not installed: pip install -e '.[proxies]'")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for `localhost`, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


@pytest.fixture
def app(
    kind: str,
    started: Callable[..., Proxy],
    service: RunningService,
    backend: PhotoBackend,
    certificate: tuple[Path, Path],
) -> Iterator[httpx.Client]:
    """A signed-in app that speaks HTTP/2 on one connection."""
    proxy = started(kind, ledger_port=service.port, backend_port=backend.port, certificate=certificate)
    backend.forget()
    token = service.sign_in("u0")
    trusted = ssl.create_default_context(cafile=str(certificate[0]))
    with httpx.Client(
        http2=True, base_url=proxy.url, verify=trusted, headers={"Cookie": f"immich_access_token={token}"}, timeout=20
    ) as client:
        yield client


def test_a_stream_and_an_ack_share_a_connection(app: httpx.Client, backend: PhotoBackend) -> None:
    with app.stream("POST", "/api/sync/stream", json={"types": ["UsersV1"]}) as stream:
        assert (stream.status_code, stream.http_version) == (200, "HTTP/2")
        lines = stream.iter_lines()
        ack = json.loads(next(lines))["ack"]
        assert app.post("/api/sync/ack", json={"acks": [ack]}).status_code == 204
        rest = list(lines)
    assert len(rest) == ROWS
    assert json.loads(rest[-1])["type"] == "SyncCompleteV1"
    assert app.get("/api/assets").http_version == "HTTP/2"
    assert backend.headers[0]["x-forwarded-proto"] == "https"
    assert backend.targets == ["/api/assets"]


def test_a_session_that_ends_in_mid_stream_breaks_it(app: httpx.Client, service: RunningService) -> None:
    taken = 0
    with app.stream("POST", "/api/sync/stream", json={"types": ["UsersV1"]}) as stream:
        pieces = stream.iter_raw()
        while taken < 3 * ROW_BYTES:
            taken += len(next(pieces))
        service.command("session", "end", "--user", "u0", "--all")
        with pytest.raises(httpx.RemoteProtocolError):
            taken += sum(map(len, pieces))
    assert app.get("/api/sync/ack").status_code == 401
