"""Gumnut on loopback: sign-in, profile, the events feed and photos. It speaks the SDK's own shapes, and fails as told.

Its answers are made with the SDK's models, which check them. Tokens look like JWTs; a token is good until it is expired
here. The sign-in page is `sign_in`, or over HTTP `GET /authorize`, which signs `someone` in and sends the browser back.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from gumnut.types import AuthURLResponse, ExchangeResponse, LibraryResponse, LogoutEndpointResponse, UserResponse
from gumnut.types.exchange_response import User
from pydantic import BaseModel

from tests.support.gumnut.api import PATHS, Api, BadRequest
from tests.support.gumnut.photos import Photos

LISTS: Final = frozenset(("ids", "entity_types", "include"))
EPOCH: Final = datetime(2025, 1, 1, tzinfo=UTC)
REDIRECT_URI: Final = "app.immich:///oauth-callback"
ANN: Final = "intuser_ann"
EMAIL: Final = "Ann.Secret@Example.test"


class Seen(NamedTuple):
    """One request; `token` is the bearer's."""

    path: str
    token: str | None
    headers: Mapping[str, str]
    fields: dict[str, Any]


class Answered(NamedTuple):
    """What is answered instead: `body` as JSON, or as it is if it is bytes; `delay_s` before it."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = {}
    delay_s: float = 0.0


def user(user_id: str = ANN, **more: Any) -> UserResponse:
    """Make a user as `users.me` tells of them."""
    fields: dict[str, Any] = {
        "id": user_id,
        "created_at": EPOCH,
        "updated_at": EPOCH,
        "demo_mode_enabled": False,
        "face_detection_available": True,
        "favorite_display_mode": "favorite",
        "is_active": True,
        "is_superuser": False,
        "is_verified": True,
        "storage_limit_bytes": 10**12,
        "storage_used_bytes": 0,
        "email": EMAIL,
        "first_name": "Ann",
        "last_name": "Example",
    }
    return UserResponse(**fields | more)


def library(library_id: str, year: int, role: str = "owner") -> LibraryResponse:
    """Make a library of that year."""
    fields: dict[str, Any] = {
        "id": library_id,
        "asset_count": 0,
        "created_at": EPOCH.replace(year=year),
        "updated_at": EPOCH,
        "name": library_id,
        "owner": {"id": ANN, "display_name": "Ann"},
        "role": role,
        "storage_used_bytes": 0,
        "user_id": ANN,
    }
    return LibraryResponse(**fields)


class GumnutServer:
    """`someone` is who signs in; `libraries` are theirs, newest first as Gumnut lists them.

    `instead` maps a path to answers that are given once each, in order, in place of the real ones. `refresh` makes the
    next answers to good tokens bring new ones, so many. `secrets` are all codes, states and tokens ever made. Libraries
    hold what `photos` has of them; `down` makes everything 503.
    """

    def __init__(self) -> None:
        self.someone = user()
        self.libraries = [library("lib_new", 2024), library("lib_old", 2020)]
        self.instead: dict[str, list[Answered]] = {}
        self.refresh = 0
        self.down = False
        self.photos = Photos()
        self.api = Api(self.photos)
        self.seen: list[Seen] = []
        self.secrets: list[str] = []
        self._good: dict[str, UserResponse] = {}
        self._states: dict[str, tuple[str, str]] = {}
        self._codes: dict[str, tuple[str, UserResponse]] = {}
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    @contextmanager
    def running(self) -> Iterator[GumnutServer]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()

    def sign_in(self, url: str) -> str:
        """Sign `someone` in on the page at `url`; returns the address they are sent back to."""
        asked = dict(parse_qsl(urlsplit(url).query))
        redirect_uri, _ = self._states[asked["state"]]
        code = self._secret()
        self._codes[code] = (asked["state"], self.someone)
        return f"{redirect_uri}?{urlencode({'code': code, 'state': asked['state']})}"

    def token(self, who: UserResponse | None = None) -> str:
        """Make a good token."""
        claims = {"sub": (who or self.someone).id, "jti": secrets.token_hex(8)}
        parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
        parts.append(secrets.token_bytes(32))
        token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
        self._good[token] = who or self.someone
        self.secrets.append(token)
        return token

    def expire(self, *tokens: str) -> None:
        """Take tokens for good no more."""
        for token in tokens:
            self._good.pop(token, None)

    def paths(self) -> list[str]:
        """Tell what was asked, in order."""
        return [seen.path for seen in self.seen]

    def answer(self, seen: Seen) -> Answered:
        """Answer a request."""
        with self._lock:
            self.seen.append(seen)
            if self.down:
                return Answered(503, {"detail": "Down"}, {"retry-after": "7"})
            if self.instead.get(seen.path):
                return self.instead[seen.path].pop(0)
            match seen.path:
                case "/api/oauth/auth-url":
                    return self._auth_url(**seen.fields)
                case "/authorize":
                    return Answered(302, headers={"location": self.sign_in(f"?{urlencode(seen.fields)}")})
                case "/api/oauth/exchange":
                    return self._exchange(**seen.fields)
                case "/api/oauth/logout-endpoint":
                    return _ok(LogoutEndpointResponse(logout_endpoint=f"{self.url}/sign-out"))
                case "/api/server/ping":
                    return Answered(200, "pong")
                case path if path.startswith("/api/"):
                    return self._authenticated(seen)
        return Answered(404, {"detail": "Not found"})

    def _auth_url(
        self, redirect_uri: str, code_challenge: str = "", code_challenge_method: str = ""
    ) -> Answered:  # fmt: skip
        if redirect_uri != REDIRECT_URI and not redirect_uri.startswith(("http://127.0.0.1", "http://localhost")):
            return Answered(400, {"detail": "redirect_uri is not registered"})
        if code_challenge and code_challenge_method != "S256":
            return Answered(422, {"detail": "code_challenge_method"})
        state = self._secret()
        self._states[state] = (redirect_uri, code_challenge)
        return _ok(AuthURLResponse(url=f"{self.url}/authorize?{urlencode({'state': state, 'nonce': self._secret()})}"))

    def _exchange(self, code: str = "", state: str = "", code_verifier: str = "", error: str = "") -> Answered:
        began, who = self._codes.pop(code, ("", self.someone))
        _, challenge = self._states.pop(state, ("", ""))
        digest = base64.urlsafe_b64encode(hashlib.sha256(code_verifier.encode()).digest()).decode().rstrip("=")
        if error or not began or began != state or digest != challenge:
            return Answered(400, {"detail": f"Invalid state or code {code} {state} {code_verifier}"})
        fields = {name: getattr(who, name) for name in ("id", "is_active", "is_verified", "email", "first_name")}
        person = User(**fields, last_name=who.last_name, clerk_user_id="user_clerk")
        return _ok(ExchangeResponse(access_token=self.token(who), user=person))

    def _authenticated(self, seen: Seen) -> Answered:
        who = self._good.get(seen.token or "")
        if who is None or not who.is_active:
            return Answered(401, {"detail": f"Token {seen.token} is not good"})
        headers = {}
        if self.refresh:
            self.refresh -= 1
            headers["X-New-Access-Token"] = self.token(who)
        found = {one.id: one for one in self.libraries}
        prefix, _, library_id = seen.path.rpartition("/")
        if prefix == "/api/libraries" and library_id in found:
            return _ok(found[library_id], headers)
        match seen.path:
            case "/api/users/me":
                return _ok(who, headers)
            case "/api/libraries":
                return _ok(self.libraries, headers)
            case _ if seen.fields.get("library_id") not in found:
                return Answered(404, {"detail": "Not found"})
            case "/api/events":
                try:
                    return _ok(self.api.events(seen.fields), headers)
                except BadRequest:
                    return Answered(400, {"detail": "Invalid cursor"}, headers)
            case path if path in PATHS:
                return Answered(200, self.api.rows(path, seen.fields), headers)
        return Answered(404, {"detail": "Not found"})

    def _secret(self) -> str:
        self.secrets.append(secrets.token_urlsafe(24))
        return self.secrets[-1]


def _ok(body: BaseModel | list[LibraryResponse], headers: Mapping[str, str] | None = None) -> Answered:
    plain = [item.model_dump(mode="json") for item in body] if isinstance(body, list) else body.model_dump(mode="json")
    return Answered(200, plain, headers or {})


def _handler(server: GumnutServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def handle_any(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            path, _, query = self.path.partition("?")
            asked = {name: found if name in LISTS else found[-1] for name, found in parse_qs(query).items()}
            fields = json.loads(raw) if raw else asked
            scheme, _, token = self.headers.get("authorization", "").partition(" ")
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = server.answer(Seen(path, token if scheme == "Bearer" else None, headers, fields))
            time.sleep(answer.delay_s)
            with suppress(BrokenPipeError, ConnectionResetError):  # a client may leave an answer it has had enough of
                self.reply(answer)

        def reply(self, answer: Answered) -> None:
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"content-type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = handle_any  # noqa: N815

    return Handler
