"""Tokens: what they carry, what they open, and that reading one admits nobody and never fails."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import OKPKey

from ledger.events import SessionCreated, TokenRotated
from ledger.keys import MAX_NAME_BYTES
from projections.accounts.tokens import (
    ALGORITHM,
    MAX_TOKEN_CHARS,
    TokenIssuer,
    digest,
    make_key,
    read_keyring,
    read_token,
    session_id,
)
from tests.support.ledger.given import NOW, then
from tests.support.ledger.given import given as state_of

KEY = make_key()
ISSUER = TokenIssuer(lambda: read_keyring(KEY))


def payload(token: str) -> dict[str, object]:
    part = token.split(".")[1]
    claims: dict[str, object] = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def token_of(claims: bytes | str) -> str:
    raw = claims.encode() if isinstance(claims, str) else claims
    return f"e30.{urlsafe_b64encode(raw).decode().rstrip('=')}.sig"


def test_a_token_leads_to_its_user_and_session() -> None:
    issued = ISSUER.issue("ann", NOW)
    assert issued.sid == sha256(issued.token.encode()).hexdigest() == session_id(issued.token)
    assert read_token(issued.token) == ("ann", issued.sid, digest(issued.token), 0, None, False)
    assert issued.expires_at_us is None
    assert set(payload(issued.token)) == {"sub", "iat", "jti"}


def test_two_tokens_are_never_the_same() -> None:
    issuer = ISSUER
    assert len({issuer.issue("ann", NOW).sid for _ in range(20)}) == 20


def test_a_token_with_a_time_to_live_says_so_and_expires_no_sooner_than_its_session() -> None:
    issued = ISSUER.issue("ann", NOW + 1, ttl_us=1_500_000)
    assert issued.expires_at_us == NOW + 1_500_001
    assert payload(issued.token)["exp"] == NOW // 1_000_000 + 2


def test_others_can_tell_a_token_of_ours() -> None:
    token = ISSUER.issue("ann", NOW).token
    public = OKPKey.import_key(read_keyring(KEY)[0].as_dict(private=False))
    assert jwt.decode(token, public, algorithms=[ALGORITHM]).claims["sub"] == "ann"
    with pytest.raises(BadSignatureError):
        jwt.decode(token, read_keyring(make_key())[0], algorithms=[ALGORITHM])


def test_a_changed_token_opens_another_session() -> None:
    token = ISSUER.issue("ann", NOW).token
    head, body, signature = token.split(".")
    forged = f"{head}.{body}.{signature[:-2]}"
    caller = read_token(forged)
    assert caller is not None
    assert caller.sid != session_id(token), "so it names a session that does not exist"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "opaque",
        "a.b",
        "a.b.c.d",
        "a..c",
        "a.b.c",
        "a.é.c",
        "a.\ud800.c",
        token_of("{}"),
        token_of("[]"),
        token_of('{"sub":1}'),
        token_of('{"sub":""}'),
        token_of('{"sub":"a b"}'),
        token_of('{"sub":"{p1}"}'),
        token_of('{"sub":"ann"'),
        token_of(b'{"sub":"\xff"}'),
        token_of('{"sub":"' + "x" * 200 + '"}'),
        token_of('{"a":' + "[" * 2000),
        token_of('{"sub":"ann","x":"' + "x" * MAX_TOKEN_CHARS + '"}'),
    ],
)
def test_what_is_no_token_of_ours_leads_nowhere(token: str) -> None:
    assert read_token(token) is None


@given(st.text() | st.binary().map(token_of) | st.text(st.characters(codec="utf-8")).map(token_of))
def test_reading_never_fails(token: str) -> None:
    read_token(token)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"kty":"oct","k":"c2VjcmV0"}',
        '{"kty":"OKP","crv":"X25519","x":"c2VjcmV0","d":"c2VjcmV0"}',
        json.dumps(read_keyring(KEY)[0].as_dict(private=False)),
    ],
)
def test_what_is_no_private_signing_key_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(ValueError, match="the token key is not") as refused:
        read_keyring(text)
    assert "c2VjcmV0" not in str(refused.value)


@pytest.mark.parametrize("char", ["a", "é", "€", "𝄞"])
def test_the_longest_user_id_fits_a_token(char: str) -> None:
    user = char * (MAX_NAME_BYTES // len(char.encode()))
    first = ISSUER.issue(user, NOW, ttl_us=1)
    state = state_of(SessionCreated(user, "photos"), sid=first.sid)
    token = ISSUER.renew(then(state, TokenRotated(b"x" * 32, 10**6)), NOW, ttl_us=10**12).token
    assert len(token) < 1100
    read = ISSUER.read(token)
    assert read is not None
    assert (read.user, read.sid, read.genuine) == (user, first.sid, True)
