"""Tokens: JWTs of our own making.

A token's claims only route: `sub`, the user, leads to the partition. What admits is that the session named by the
token's SHA-256 lives, so no signature is checked on the way of a request. It lets others tell a token of ours.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from hashlib import sha256
from secrets import token_urlsafe  # noqa: TID251 - a token must be unguessable; this is not the pure core
from typing import Final, NamedTuple

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from ledger.errors import InvalidInput
from ledger.keys import check_name

ALGORITHM: Final = "Ed25519"
MAX_TOKEN_CHARS: Final = 4096


class Issued(NamedTuple):
    """A new token and the session it opens. The token is shown once and never stored."""

    token: str
    sid: str
    expires_at_us: int | None


class Caller(NamedTuple):
    """Who a token claims to be: the user it is routed by, and the session only this very token can have opened."""

    user: str
    sid: str


class _Claims(msgspec.Struct):
    sub: str


_claims: Final = msgspec.json.Decoder(_Claims)


class TokenIssuer:
    """Signs tokens with one Ed25519 key."""

    def __init__(self, key: OKPKey) -> None:
        self._key = key

    def issue(self, user: str, now_us: int, ttl_us: int | None = None) -> Issued:
        """Make a token for a user, valid for `ttl_us` from `now_us`, or until the session ends."""
        issued_at_s, expires_at_us = now_us // 1_000_000, None
        claims: dict[str, str | int] = {"sub": user, "iat": issued_at_s, "jti": token_urlsafe(16)}
        if ttl_us is not None:
            expires_at_us = now_us + ttl_us
            claims["exp"] = -(-expires_at_us // 1_000_000)
        token = jwt.encode({"alg": ALGORITHM}, claims, self._key, algorithms=[ALGORITHM])
        return Issued(token, session_id(token), expires_at_us)


def make_key() -> str:
    """Make a signing key; returns it as a JSON Web Key, the private part included."""
    return msgspec.json.encode(OKPKey.generate_key("Ed25519", auto_kid=True).as_dict(private=True)).decode()


def read_key(text: str) -> OKPKey:
    """Read a signing key; raises ValueError (without the key in it) if it is not an Ed25519 JSON Web Key."""
    try:
        key = OKPKey.import_key(msgspec.json.decode(text, type=dict[str, str | list[str]]))
    except (msgspec.DecodeError, JoseError, ValueError, TypeError, KeyError) as error:
        raise ValueError("the token key is not a JSON Web Key") from error
    if key.curve_name != "Ed25519" or not key.is_private:
        raise ValueError("the token key is not a private Ed25519 key")
    return key


def session_id(token: str) -> str:
    """Tell the session a first token opens: its SHA-256 in hex."""
    return sha256(token.encode()).hexdigest()


def read_token(token: str) -> Caller | None:
    """Tell which session a token claims to open; None if it is no token of ours. Admits nobody by itself."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_CHARS:
        return None
    payload = parts[1]
    try:
        user = _claims.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4))).sub
        return Caller(check_name("sub", user), session_id(token))
    except (msgspec.DecodeError, InvalidInput, Base64Error, ValueError, RecursionError):
        return None
