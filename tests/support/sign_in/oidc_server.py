"""An OpenID provider whose every answer a test can shape: wrong, forged, broken, slow or endless.

Left alone it is a correct one with one user. `claims` and `sign` shape ID tokens; `metadata`, `keys` and `userinfo` are
what is found there; `pages` puts something else in an answer's place. Codes, PKCE and the client it checks as is due.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from functools import cache
from hashlib import sha256
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote_plus, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from tests.support.processes.http_server import HttpServer, QuietHandler

Json = dict[str, Any]
Sign = Callable[[Json], str]

CLIENT_ID: Final = "ledger"
CLIENT_SECRET: Final = "the+secret of the client: 100%"
REDIRECT_URI: Final = "app.immich:///oauth-callback"
SUBJECT: Final = "subject-1"
EMAIL: Final = "ann.private@example.test"
ALL_ALGORITHMS: Final = sorted(set(JWSRegistry.algorithms))


class Page(NamedTuple):
    """An answer as a test wants it; `body` in pieces, `pause_s` before each. Without `length` it ends at the close."""

    status: int = 200
    body: Iterable[bytes] = ()
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    pause_s: float = 0.0
    length: int | None = None


class Asked(NamedTuple):
    """One request that came."""

    method: str
    path: str
    headers: dict[str, str]
    form: dict[str, str]


class Grant(NamedTuple):
    """What a code stands for."""

    nonce: str
    challenge: str
    redirect_uri: str


@cache
def rsa_key(kid: str = "k1") -> RSAKey:
    """Return the RSA key of a name, the same for all tests of this process."""
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})


def signer(key: Key, alg: str = "RS256", **header: Any) -> Sign:
    """Return what signs claims with a key; `header` adds to the token's header or, as None, takes away."""
    full = {"alg": alg, "kid": key.kid, "typ": "JWT"} | header
    kept = {name: value for name, value in full.items() if value is not None}
    registry = JWSRegistry(algorithms=ALL_ALGORITHMS, strict_check_header=False)
    return lambda claims: jws.serialize_compact(kept, json.dumps(claims), key, registry=registry)


def unsigned(claims: Json) -> str:
    """Make a token that claims to need no signature."""
    return f"{_part({'alg': 'none', 'kid': 'k1'})}.{_part(claims)}."


def hmac_of(secret: bytes) -> Sign:
    """Return what signs claims by HMAC with bytes that are no secret, such as those of a public key."""

    def sign(claims: Json) -> str:
        signed = f"{_part({'alg': 'HS256', 'kid': 'k1', 'typ': 'JWT'})}.{_part(claims)}"
        return f"{signed}.{_base64(hmac.digest(secret, signed.encode(), sha256))}"

    return sign


def key_for(alg: str) -> Key:
    """Make a key that signs with an algorithm."""
    parameters: Any = {"kid": f"for-{alg}", "use": "sig"}
    if alg[:2] in ("RS", "PS"):
        return rsa_key(f"for-{alg[:2]}")
    if alg.startswith("ES"):
        curves: Any = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
        return ECKey.generate_key(curves[alg], parameters)
    return OKPKey.generate_key("Ed25519", parameters)


def ahead(seconds: float) -> Callable[[], int]:
    """Return what tells the time so many seconds after the token is made."""
    return lambda: int(time.time() + seconds)


def half_hash(text: str, algorithm: Any = sha256) -> str:
    """Return what `at_hash` says of an access token."""
    digest: bytes = algorithm(text.encode()).digest()
    return _base64(digest[: len(digest) // 2])


class OidcServer(HttpServer):
    """The provider. `pages` maps a path to the page that is answered instead, `before` to what is done first.

    None takes a claim or a member away; a function is a claim that is made with the token.
    """

    def __init__(self) -> None:
        super().__init__(_handler(self))
        self.issuer = self.url
        self.metadata: Json = {}
        self.claims: Json = {}
        self.userinfo: Json = {"sub": SUBJECT, "email": EMAIL, "name": "Ann"}
        self.userinfo_sign: Sign | None = None
        self.keys: list[Key] = [rsa_key()]
        self.sign: Sign = signer(rsa_key())
        self.jwks_members: list[Json] = []
        self.tokens: Json = {}
        self.token_auth = "client_secret_post"
        self.client_secret = CLIENT_SECRET
        self.moved: dict[str, str] = {}
        """Paths that stand for others, by how they begin."""
        self.pages: dict[str, Page] = {}
        self.before: dict[str, Callable[[], object]] = {}
        self.asked: list[Asked] = []
        self.secrets: list[str] = [CLIENT_SECRET, EMAIL]
        self._grants: dict[str, Grant] = {}

    def times(self, path: str) -> int:
        """Tell how often a path was asked."""
        return sum(asked.path == path for asked in self.asked)

    def approve(self, authorize_url: str) -> str:
        """Sign the user in, as the page at this address would; returns the code."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(authorize_url).query).items()}
        assert query["code_challenge_method"] == "S256"
        assert (query["response_type"], query["client_id"]) == ("code", CLIENT_ID)
        code = self.secret("code")
        self._grants[code] = Grant(query["nonce"], query["code_challenge"], query["redirect_uri"])
        return code

    def secret(self, kind: str) -> str:
        """Make something that must not be seen again."""
        self.secrets.append(f"{kind}-{secrets.token_urlsafe()}")
        return self.secrets[-1]

    def logout_token(self, sign: Sign | None = None, **claims: Any) -> str:
        """Make a logout token for the user, shaped by `claims`."""
        event: Json = {"http://schemas.openid.net/event/backchannel-logout": {}}
        now = int(time.time())
        usual = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 120, "jti": "j", "events": event}
        return (sign or signer(self.keys[0], typ="logout+jwt"))(_made({**usual, "sub": SUBJECT, **claims}))

    def answer(self, asked: Asked) -> Page:
        """Answer a request."""
        for begins, instead in self.moved.items():
            if asked.path.startswith(f"{begins}/.well-known/"):
                asked = asked._replace(path=instead + asked.path.removeprefix(begins))
        self.before.get(asked.path, lambda: None)()
        if asked.path in self.pages:
            return self.pages[asked.path]
        match asked.path:
            case "/.well-known/openid-configuration":
                return _json(200, _without_none({**self._metadata(), **self.metadata}))
            case "/jwks":
                public = [key.as_dict(private=False) for key in self.keys]
                return _json(200, {"keys": [*self.jwks_members, *public]})
            case "/token":
                return self._token(asked)
            case "/userinfo":
                return self._userinfo(asked)
        return _json(404, {"error": "not_found"})

    def _metadata(self) -> Json:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize?tenant=1",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "end_session_endpoint": f"{self.issuer}/logout",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic", "none"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def _token(self, asked: Asked) -> Page:
        if not _is_client(asked, self.token_auth, self.client_secret):
            return _json(401, {"error": "invalid_client", "error_description": CLIENT_SECRET})
        grant = self._grants.pop(asked.form.get("code", ""), None)
        challenge = _base64(sha256(asked.form.get("code_verifier", "").encode()).digest())
        good = grant and challenge == grant.challenge and asked.form.get("redirect_uri") == grant.redirect_uri
        if not good or grant is None or asked.form.get("grant_type") != "authorization_code":
            return _json(400, {"error": "invalid_grant", "error_description": f"no such code for {EMAIL}"})
        now = int(time.time())
        access_token = self.secret("access-token")
        usual = {
            "iss": self.issuer, "sub": SUBJECT, "aud": CLIENT_ID, "iat": now, "exp": now + 300,
            "nonce": grant.nonce, "email": EMAIL, "name": "Ann", "at_hash": half_hash(access_token),
        }  # fmt: skip
        id_token = self.sign(_made({**usual, **self.claims}))
        self.secrets.append(id_token)
        tokens = {"access_token": access_token, "token_type": "Bearer", "expires_in": 300, "id_token": id_token}
        return _json(200, _without_none({**tokens, **self.tokens}))

    def _userinfo(self, asked: Asked) -> Page:
        if asked.headers.get("authorization", "").removeprefix("Bearer ") not in self.secrets:
            return _json(401, {"error": "invalid_token"})
        if self.userinfo_sign is not None:
            return Page(200, [self.userinfo_sign(self.userinfo).encode()], "application/jwt; charset=utf-8")
        return _json(200, self.userinfo)


def _is_client(asked: Asked, token_auth: str, client_secret: str) -> bool:
    """Tell whether the client proved itself in the one way it is registered with."""
    form = (asked.form.get("client_id"), asked.form.get("client_secret"))
    method, _, encoded = asked.headers.get("authorization", "").partition(" ")
    if token_auth == "client_secret_basic":
        client_id, _, secret = b64decode(encoded).decode().partition(":")
        return (method, unquote_plus(client_id), unquote_plus(secret)) == ("Basic", CLIENT_ID, client_secret)
    secret_due = client_secret if token_auth == "client_secret_post" else None
    return method == "" and form == (CLIENT_ID, secret_due)


def _json(status: int, body: Any) -> Page:
    raw = json.dumps(body).encode()
    return Page(status, [raw], length=len(raw))


def _without_none(values: Json) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def _made(claims: Json) -> Json:
    return _without_none({name: value() if callable(value) else value for name, value in claims.items()})


def _part(value: Json) -> str:
    return _base64(json.dumps(value).encode())


def _base64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _handler(server: OidcServer) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def handle_any(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            form = {name: values[0] for name, values in parse_qs(raw).items()}
            headers = self.named_headers
            asked = Asked(self.command, self.path.partition("?")[0], headers, form)
            server.asked.append(asked)
            page = server.answer(asked)
            self.send_response(page.status)
            for name, value in (("Content-Type", page.media_type), *page.headers):
                self.send_header(name, value)
            if page.length is None:
                self.send_header("Connection", "close")  # and the handler closes
            else:
                self.send_header("Content-Length", str(page.length))
            self.end_headers()
            try:
                for piece in page.body:
                    time.sleep(page.pause_s)
                    self.wfile.write(piece)
                    self.wfile.flush()
            except OSError:
                self.close_connection = True  # the client had enough

        do_GET = do_POST = handle_any  # noqa: N815

    return Handler
