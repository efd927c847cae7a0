"""Nothing secret or personal reaches log, traces or store, also on LEDGER_LOG=debug: of a real service all is read."""

from __future__ import annotations

import json
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from projections.accounts.credentials import Cipher
from projections.accounts.tokens import make_key
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.otlp_receiver import OtlpReceiver
from tests.support.processes.running import RunningService
from tests.support.sources.samples import sample
from tests.support.stores.servers import RedisServer, free_port, valkey_binary

UNKNOWN = "A" * 40
_WORD = re.compile("[Zz]q[0-9a-f]{16}")
PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


class Secrets:
    """Makes secrets and remembers them."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def word(self) -> str:
        """Make one that looks like nothing known, so that only its place tells that it is secret."""
        return self.keep("Zq" + secrets.token_hex(12))

    def address(self) -> str:
        """Make an e-mail address."""
        return self.keep(f"zq{secrets.token_hex(8)}@mail.example.test")

    def keep(self, secret: str) -> str:
        """Remember one made elsewhere; of a token each part that says or proves something."""
        parts = secret.split(".")
        self.made += parts[1:] if len(parts) == 3 and secret.startswith("eyJ") else [secret]
        return secret

    def in_text(self, text: str) -> list[str]:
        """List those that a text holds; words and addresses made here are looked for all at once."""
        looked_for = self.made if _WORD.search(text) else [secret for secret in self.made if not _WORD.search(secret)]
        return [secret for secret in looked_for if secret in text]


class Scene:
    """A service with secrets in its settings, on a store that can be taken away."""

    def __init__(self, folder: Path, receiver: OtlpReceiver, form: str) -> None:
        self.secrets = Secrets()
        self.credentials = Secrets()
        """Those of them that admit somebody; others may be ids of entities to whoever reads the events."""
        password = self.secrets.word()
        self.token_key = make_key()
        self.secrets.keep(json.loads(self.token_key)["d"])
        self.server = RedisServer(valkey_binary(), folder / "valkey", durable=True).start()
        self.server.command("CONFIG", "SET", "requirepass", password)
        self.service = RunningService(
            folder / "service",
            redis_url=f"redis://:{password}@127.0.0.1:{self.server.port}",
            redis_timeout="300ms",
            log="debug",
            log_format=form,
            log_requests="true",
            traces="true",
            sign_in_limit="100000/minute",
            bad_token_limit="100000/minute",
            token_key=self.token_key,
            credential_key=self.secrets.keep(Cipher.make_key()),
            oidc_issuer=f"http://127.0.0.1:{free_port()}",  # nobody answers there
            oidc_client_id="ledger",
            oidc_client_secret=self.secrets.word(),
        )
        self.service.environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={self.secrets.word()}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        self.service.command("store", "begin")
        self.service.start()
        self.token = self.secrets.keep(self.service.sign_in())
        self.key = self.secrets.keep(self.service.entities_key)
        for credential in (self.token, self.key, password, json.loads(self.token_key)["d"]):
            self.credentials.keep(credential)

    def close(self) -> None:
        self.service.kill_all()
        self.server.kill()


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A collector of traces."""
    with OtlpReceiver().running() as server:
        yield server


@pytest.fixture(params=["json", pytest.param("logfmt", marks=pytest.mark.soak)])
def scene(tmp_path: Path, receiver: OtlpReceiver, request: pytest.FixtureRequest) -> Iterator[Scene]:
    made = Scene(tmp_path, receiver, request.param)
    yield made
    made.close()


def presentations(scene: Scene, token: str) -> Iterator[dict[str, Any]]:
    """List every way to present a token, as arguments of a request."""
    yield {"headers": {"Authorization": f"Bearer {token}"}}
    yield {"headers": {"Authorization": f"Basic {token}"}}
    yield {"headers": {"Cookie": f"immich_access_token={token}; immich_is_authenticated=true"}}
    yield {"headers": {"Cookie": f"immich_access_token={token}", "Origin": "https://elsewhere.example"}}
    yield {"headers": {"x-immich-user-token": token}}
    yield {"headers": {"x-immich-session-token": token}}
    yield {"headers": {"x-api-key": token}}
    yield {"headers": {"x-immich-share-key": token}}
    for name in ("sessionKey", "apiKey", "key", "slug"):
        yield {"params": {name: token}}


def credentials(scene: Scene) -> list[str]:
    """List good and bad credentials, as many of them new as can be."""
    made = scene.secrets
    good = scene.token
    head, payload, signature = good.split(".")
    found = [
        good,
        scene.key,
        made.word(),
        made.keep("slk_" + made.word()),
        f"{head}.{payload}.{made.word()}",  # copied claims, another signature
        f"{head}.{made.word()}.{signature}",
        f"{good}.{made.word()}",
        good[:-10],
        made.word() + "\xff\xe9",
        made.word() * 300,
    ]
    for credential in found:
        scene.credentials.keep(credential)
    return found


def bodies(scene: Scene) -> Iterator[dict[str, Any]]:
    """List bodies with secrets in them: such as are asked for, such as nobody asks for, and broken ones."""
    made = scene.secrets
    state, verifier, uri = made.word(), made.keep(secrets.token_urlsafe(40)), "app.immich:///oauth-callback"
    url = f"{uri}?code={made.word()}&state={state}"
    yield {}
    yield {"json": {"redirectUri": uri, "url": url, "state": state, "codeVerifier": verifier}}
    yield {
        "json": {
            "url": f"app.immich:///oauth-callback?code={made.word()}&state={made.word()}&email={made.address()}",
            "state": made.word(),
            "codeVerifier": made.word() * 2,
            "codeChallenge": made.word(),
            "redirectUri": f"https://elsewhere.example/?token={made.word()}",
            "password": made.word(),
            "email": made.address(),
            "acks": [made.word(), f"AssetV2|{made.word()}|{made.address()}"],
            "types": [made.word()],
            "deviceType": made.address(),
        }
    }
    yield {"json": {"acks": [f"AssetV2|2023-11-14T22:13:19.000001Z|{made.word()}"], "types": ["UsersV1"]}}
    yield {"json": [made.word(), made.address()]}
    yield {"content": f'{{"acks": ["{made.word()}", {made.address()}'.encode()}
    yield {"content": b"\xff\xfe" + made.word().encode()}
    yield {"content": json.dumps({"type": "UserV1", "id": "u", "data": {"email": made.address()}}).encode() + b"\n"}
    yield {"data": {"logout_token": made.keep(f"eyJhbGciOiJub25lIn0.{made.word()}.{made.word()}"), "code": made.word()}}
    yield {"content": made.word().encode() * 60_000}


def ask(scene: Scene, client: httpx.Client, method: str, path: str, arguments: dict[str, Any]) -> int:
    """Send a request; a connection that the service ends is an answer too. Streams are not read to their end."""
    headers = {"X-Correlation-ID": scene.secrets.address(), "baggage": f"a={scene.secrets.word()}", **PARENT}
    headers |= arguments.get("headers", {})
    given = {**arguments, "headers": {name: value.encode("latin-1") for name, value in headers.items()}}
    try:
        with client.stream(method, path, **given) as answer:
            return answer.status_code
    except httpx.TransportError:
        return 0


def operations(scene: Scene, client: httpx.Client) -> list[tuple[str, str]]:
    """List every operation the service describes, with secrets in the place of path parameters."""
    made = scene.secrets
    found = []
    for template, methods in client.get("/openapi.json").json()["paths"].items():
        parts = {"session_id": UNKNOWN, "library": made.address(), "key_id": made.word(), "tile": made.word()}
        parts |= {name: made.word() for name in re.findall(r"{(\w+)}", template) if name not in parts}
        path = template.format_map(parts)
        found += [(method.upper(), path) for method in methods]
    assert len(found) > 30
    return found


def ask_everything(scene: Scene) -> set[int]:
    """Ask each operation with every body, and some with every credential; returns the statuses met."""
    seen: set[int] = set()
    with httpx.Client(base_url=scene.service.url, timeout=30, trust_env=False) as client:
        for method, path in operations(scene, client):
            ending = ("logout" in path or method == "DELETE") and "provider" not in path
            for body in bodies(scene):
                credential = scene.secrets.word() if ending else scene.token
                bearer = {"headers": {"Authorization": f"Bearer {credential}"}}
                seen.add(ask(scene, client, method, path, body | bearer))
            seen.add(ask(scene, client, method, path, {"headers": {"x-api-key": scene.key}}))
        for credential in credentials(scene):
            for given in presentations(scene, credential):
                for method, path in (("GET", "/api/users/me"), ("POST", "/api/sync/ack"), ("GET", "/metrics")):
                    seen.add(ask(scene, client, method, path, given))
        for path in (f"/{scene.secrets.address()}", f"/api/{scene.token}", f"/x?code={scene.secrets.word()}"):
            seen.add(ask(scene, client, "GET", path, {}))
    return seen


def send_raw(scene: Scene) -> None:
    """Send what no HTTP library would: broken heads and bodies."""
    made = scene.secrets
    for text in (
        f"GET /api/users/me?sessionKey={made.word()} HTTP/9.9\r\n\r\n",
        f"{made.word()} {made.address()}\r\n\r\n",
        f"GET / HTTP/1.1\r\nAuthorization Bearer {made.word()}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nCookie: immich_access_token={made.word() * 5000}\r\n\r\n",
        f'POST /api/sync/ack HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{{"acks": ["{made.word()}',
        f"POST /api/sync/ack HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{made.word()}\r\n",
    ):
        with socket.create_connection(("127.0.0.1", scene.service.port), timeout=5) as connection:
            connection.sendall(text.encode())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def ask_everything_briefly(scene: Scene) -> set[int]:
    """Ask some operations while the store is away: each takes until it is given up."""
    seen: set[int] = set()
    made = scene.secrets
    state, verifier = made.word(), made.keep(secrets.token_urlsafe(40))
    callback = {"url": f"app.immich:///oauth-callback?code={made.word()}&state={state}", "state": state}
    callback |= {"codeVerifier": verifier}
    with httpx.Client(base_url=scene.service.url, timeout=30, trust_env=False) as client:
        for method, path, body in (
            ("GET", "/api/users/me", None),
            ("POST", "/api/sync/ack", {"acks": [f"AssetV2|2023-11-14T22:13:19.000001Z|{scene.secrets.word()}"]}),
            ("POST", "/api/oauth/callback", callback),
            ("POST", f"/ledger/libraries/{made.address()}-{made.keep('slk_' + made.word())}/entities", None),
        ):
            for given in presentations(scene, scene.token):
                seen.add(ask(scene, client, method, path, given | ({} if body is None else {"json": body})))
            seen.add(ask(scene, client, method, path, {"headers": {"x-api-key": scene.key}}))
    return seen


def test_no_secret_and_no_address_is_told_anywhere(scene: Scene, receiver: OtlpReceiver) -> None:
    service, made = scene.service, scene.secrets
    rows = (sample("UserV1", id=f"u{n}", email=made.address(), name="n" * 20_000) for n in range(200))
    service.put("lib", ({"type": "UserV1", "id": row["id"], "data": row} for row in rows))
    seen = ask_everything(scene)
    assert {200, 201, 400, 401, 403, 404, 413, 503} <= seen
    send_raw(scene)

    # One of those acks was ahead of all streams, so the device was asked to start over.
    with service.client(scene.token) as client:
        assert client.post("/api/sync/ack", json={"acks": ["SyncResetV1|reset"]}).status_code == 204

    # The store goes away: in the middle of a stream, and then for everybody.
    with RawStream(service.port, scene.token, ["UsersV1"], receive_buffer_bytes=4096) as stream:
        stream.read_until(60_000)
        scene.server.kill()
        seen = ask_everything_briefly(scene)
        assert 503 in seen
        stream.read_to_end()
        assert stream.clean is False
    scene.server.start()
    scene.server.pause()
    assert 503 in ask_everything_briefly(scene)
    scene.server.resume()
    service.stop()

    log = service.log.read_text(errors="replace")
    lines = log.splitlines()
    # What was looked into is there: all that went wrong was logged, on the level of debugging, and was traced.
    assert any("level=debug" in line or '"level": "debug"' in line for line in lines)
    assert any("503 POST /api/sync/ack" in line for line in lines)
    assert any("503 POST /ledger/libraries/" in line for line in lines), "the path is masked, not left out"
    assert any("stream broken off" in line for line in lines)
    assert any("stream over: broken" in line for line in lines)
    assert any("sign-in refused" in line for line in lines)
    assert sum("endpoints.http.request_log" in line for line in lines) > 500
    if scene.service.settings.log_format == "json":
        assert all(isinstance(json.loads(line), dict) for line in lines)
    assert {"EVALSHA append", "sync stream", "POST /api/oauth/callback", "GET"} <= {
        span.name for span in receiver.spans
    }
    assert {"503", "broken", "StoreUnavailable"} <= {span.attributes.get("error.type") for span in receiver.spans}
    assert len(made.made) > 1000
    assert (told := made.in_text(log)) == [], [line for line in lines if told[0] in line][:3]
    sent = b"".join(receiver.bodies).decode("latin-1")
    assert made.in_text(sent) == []
    for everything in (log, sent):
        assert "@mail.example" not in everything
        assert "eyJ" not in everything
    assert len(scene.credentials.made) > 10
    assert scene.credentials.in_text("".join(f"{key!r} {value!r}\n" for key, value in stored(scene))) == []
    assert service.faults() == []


def stored(scene: Scene) -> Iterator[tuple[bytes, Any]]:
    """Read all that is in the store, events and everything else."""
    store = scene.service.store()
    for key in store.scan_iter(count=1000):
        match store.type(key):
            case b"stream":
                yield key, store.xrange(key)
            case b"hash":
                yield key, store.hgetall(key)
            case b"list":
                yield key, store.lrange(key, 0, -1)
            case b"zset":
                yield key, store.zrange(key, 0, -1)
            case b"set":
                yield key, store.smembers(key)
            case _:
                yield key, store.get(key)
