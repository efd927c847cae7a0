"""Tokens: JWTs of our own making.

A token's claims only route: `sub`, the user, leads to the partition, and from a session's second token on `sid` names
the session. What admits is that the token's SHA-256 is found in a living session, so no signature is checked on the way
of a request. It lets others tell a token of ours, and us a copied one that was replaced long ago.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from hashlib import sha256
from secrets import token_urlsafe
from typing import Any, Final, NamedTuple

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from ledger.admission import Caller
from ledger.errors import InvalidInput
from ledger.keys import check_name
from ledger.state import State

ALGORITHM: Final = "Ed25519"
MAX_TOKEN_CHARS: Final = 1536
"""A token of the longest user id, with every character of it escaped, has less than 1,100."""
_SESSION_ID: Final = re.compile("[0-9a-f]{64}")
_SECOND_US: Final = 1_000_000

Keyring = tuple[OKPKey, ...]
"""The keys of a service: the first one signs, the others still verify."""


class Issued(NamedTuple):
    """A new token and the session it is for. The token is shown once and never stored."""

    token: str
    sid: str
    expires_at_us: int | None


class _Claims(msgspec.Struct):
    sub: str
    sid: str | None = None
    num: int = 0
    exp: int | None = None


_claims: Final = msgspec.json.Decoder(_Claims)


class TokenIssuer:
    """Signs tokens and tells its own ones."""

    def __init__(self, keyring: Callable[[], Keyring]) -> None:
        """Take what gives the current keys; it is asked each time, so that keys can be rotated in a running service."""
        self._keyring = keyring

    def issue(self, user: str, now_us: int, ttl_us: int | None = None) -> Issued:
        """Make the first token of a session, which it names; valid for `ttl_us`, or until the session ends."""
        expires_at_us = None if ttl_us is None else now_us + ttl_us
        token = self._sign({"sub": user}, now_us, expires_at_us)
        return Issued(token, session_id(token), expires_at_us)

    def renew(self, state: State, now_us: int, ttl_us: int | None = None) -> Issued:
        """Make a later token of a session, valid for `ttl_us`, but no longer than the session itself."""
        ends = [us for us in (state.expires_at_us, None if ttl_us is None else now_us + ttl_us) if us is not None]
        expires_at_us = min(ends) if ends else None
        claims: dict[str, str | int] = {"sub": state.user, "sid": state.sid, "num": state.token_number + 1}
        return Issued(self._sign(claims, now_us, expires_at_us), state.sid, expires_at_us)

    def read(self, token: str) -> Caller | None:
        """Tell what a token claims, as `read_token` does, and of later tokens also whether they are ours."""
        caller = read_token(token)
        return caller if caller is None or caller.number == 0 else caller._replace(genuine=self.is_ours(token))

    def is_ours(self, token: str) -> bool:
        """Tell whether one of our keys signed a token; nothing is said of its session."""
        for key in self._keyring():
            try:
                jwt.decode(token, key, algorithms=[ALGORITHM])
            except (JoseError, ValueError):
                continue
            return True
        return False

    def public_keys(self) -> dict[str, list[dict[str, Any]]]:
        """Give the public keys as a JSON Web Key Set, for others who verify our tokens."""
        return {
            "keys": [
                {**key.as_dict(private=False), "kid": _kid(key), "alg": ALGORITHM, "use": "sig"}
                for key in self._keyring()
            ]
        }

    def _sign(self, claims: dict[str, str | int], now_us: int, expires_at_us: int | None) -> str:
        key = self._keyring()[0]
        claims |= {"iat": now_us // _SECOND_US, "jti": token_urlsafe(16)}
        if expires_at_us is not None:
            claims["exp"] = -(-expires_at_us // _SECOND_US)
        return jwt.encode({"alg": ALGORITHM, "kid": _kid(key)}, claims, key, algorithms=[ALGORITHM])


def make_key() -> str:
    """Make a signing key; returns it as a JSON Web Key, the private part included."""
    return msgspec.json.encode(OKPKey.generate_key("Ed25519", auto_kid=True).as_dict(private=True)).decode()


def read_keyring(text: str) -> Keyring:
    """Read a JSON Web Key, or a set of them; raises ValueError (without a key in it) for all but Ed25519 keys."""
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
        keys = tuple(OKPKey.import_key(key) for key in found.get("keys", [found]))
    except (msgspec.DecodeError, JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError("the token key is not a JSON Web Key, or a set of them") from error
    if not keys or any(key.curve_name != "Ed25519" or not key.is_private for key in keys):
        raise ValueError("the token key is not a private Ed25519 key")
    return keys


def session_id(token: str) -> str:
    """Tell the session a first token opens: its SHA-256 in hex."""
    return sha256(token.encode()).hexdigest()


def digest(token: str) -> bytes:
    """Tell what is kept of a token: its SHA-256, 32 bytes."""
    return sha256(token.encode()).digest()


def read_token(token: str) -> Caller | None:
    """Tell what a token claims; None if it is no token of ours. Admits nobody by itself."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_CHARS:
        return None
    payload = parts[1]
    try:
        claims = _claims.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        user, hashed = check_name("sub", claims.sub), digest(token)
    except (msgspec.DecodeError, InvalidInput, Base64Error, ValueError, RecursionError):
        return None
    expires_at_us = None if claims.exp is None else claims.exp * _SECOND_US
    if claims.sid is None and claims.num == 0:
        return Caller(user, hashed.hex(), hashed, 0, expires_at_us)
    if claims.sid is None or claims.num < 1 or not _SESSION_ID.fullmatch(claims.sid):
        return None
    return Caller(user, claims.sid, hashed, claims.num, expires_at_us)


def _kid(key: OKPKey) -> str:
    return key.kid or key.thumbprint()
