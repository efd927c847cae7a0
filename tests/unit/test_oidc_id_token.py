"""Which ID tokens are taken: forged, borrowed, outdated and malformed ones are not."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from hashlib import sha384, sha512
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey

from endpoints.accounts.identity.jwks import MAX_TRIES, KeySet
from endpoints.accounts.identity.oidc.config import ALGORITHMS, SYMMETRIC
from projections.counters import COUNTERS
from tests.support.sign_in.oidc_flow import config_of, provider_of, refused, sign_in, try_in
from tests.support.sign_in.oidc_server import (
    CLIENT_ID,
    CLIENT_SECRET,
    SUBJECT,
    Json,
    OidcServer,
    Sign,
    ahead,
    half_hash,
    hmac_of,
    key_for,
    rsa_key,
    signer,
    unsigned,
)
from tests.unit.oidc_fixtures import server

__all__ = ["server"]


def public_jwk(name: str = "k1") -> bytes:
    return json.dumps(rsa_key(name).as_dict(private=False)).encode()


def part(text: str) -> str:
    return urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def token(header: str, payload: str = "{}", signature: str = "AAAA") -> str:
    return f"{part(header)}.{part(payload)}.{signature}"


def spoiled(claims: Json) -> str:
    header, payload, signature = signer(rsa_key())(claims).split(".")
    return f"{header}.{payload}.{signature[:-8]}AAAAAAAA"


def swapped(claims: Json) -> str:
    """Put other claims under a good signature."""
    header, _, signature = signer(rsa_key())(claims).split(".")
    return f"{header}.{part(json.dumps({**claims, 'sub': 'root'}))}.{signature}"


def without_signature(claims: Json) -> str:
    return signer(rsa_key())(claims).rpartition(".")[0] + "."


FORGED: dict[str, Sign] = {
    "alg none": unsigned,
    "alg NONE": lambda claims: token('{"alg": "NONE"}', json.dumps(claims), ""),
    "HS256 with the public key as PEM": lambda claims: hmac_of(rsa_key().as_pem(private=False))(claims),
    "HS256 with the public key as DER": lambda claims: hmac_of(rsa_key().as_der(private=False))(claims),
    "HS256 with the public key as JWK": lambda claims: hmac_of(public_jwk())(claims),
    "HS256 with the client's secret": hmac_of(CLIENT_SECRET.encode()),
    "another key under the same kid": lambda claims: signer(rsa_key("other"), kid="k1")(claims),
    "a key in its own header": lambda claims: signer(
        rsa_key("other"), kid="k1", jwk=rsa_key("other").as_dict(private=False)
    )(claims),
    "another key and no kid": lambda claims: signer(rsa_key("other"), kid=None)(claims),
    "an unknown kid": lambda claims: signer(rsa_key("other"))(claims),
    "a kid that is no text": lambda _: token('{"alg": "RS256", "kid": 1}'),
    "an algorithm that is not configured": lambda claims: signer(rsa_key(), "RS512")(claims),
    "a critical extension": lambda claims: signer(rsa_key(), crit=["b64"], b64=True)(claims),
    "a spoiled signature": spoiled,
    "claims put in another's place": swapped,
    "no signature": without_signature,
    "no token": lambda _: "no token",
    "dots": lambda _: "..",
    "a header of brackets": lambda _: token("[" * 6000),
    "a header that is a text": lambda _: token('"alg"'),
    "an encrypted token": lambda _: token('{"alg": "RSA-OAEP", "enc": "A256GCM"}') + ".c.d",
    "claims that are a list": lambda _: signer(rsa_key())(["iss"]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("forged", FORGED)
async def test_a_forged_token_signs_nobody_in(server: OidcServer, forged: str) -> None:
    server.sign = FORGED[forged]
    assert (await refused(server, try_in(server))).reason == "id_token_invalid"


UNFIT: dict[str, tuple[Json, str]] = {
    "another nonce": ({"nonce": "another"}, "nonce_mismatch"),
    "no nonce": ({"nonce": None}, "nonce_mismatch"),
    "a list of nonces": ({"nonce": ["x"]}, "nonce_mismatch"),
    "a broken nonce": ({"nonce": "\ud800"}, "nonce_mismatch"),
    "another issuer": ({"iss": "https://other.example"}, "issuer_mismatch"),
    "no issuer": ({"iss": None}, "issuer_mismatch"),
    "a list of issuers": ({"iss": ["x"]}, "issuer_mismatch"),
    "expired a while ago": ({"exp": ahead(-120)}, "id_token_expired"),
    "expired long ago": ({"exp": 0}, "id_token_expired"),
    "no expiry": ({"exp": None}, "id_token_invalid"),
    "a text as expiry": ({"exp": "tomorrow"}, "id_token_invalid"),
    "NaN as expiry": ({"exp": float("nan")}, "id_token_invalid"),
    "infinite expiry": ({"exp": float("inf")}, "id_token_invalid"),
    "true as expiry": ({"exp": True}, "id_token_invalid"),
    "not good yet": ({"nbf": ahead(600)}, "id_token_invalid"),
    "made in the future": ({"iat": ahead(600)}, "id_token_invalid"),
    "no time": ({"iat": None}, "id_token_invalid"),
    "another audience": ({"aud": "another-client"}, "id_token_invalid"),
    "another in a list": ({"aud": ["another-client"]}, "id_token_invalid"),
    "nobody in a list": ({"aud": []}, "id_token_invalid"),
    "no audience": ({"aud": None}, "id_token_invalid"),
    "an object as audience": ({"aud": {CLIENT_ID: 1}}, "id_token_invalid"),
    "two and no azp": ({"aud": [CLIENT_ID, "another-client"]}, "id_token_invalid"),
    "another azp": ({"azp": "another-client"}, "id_token_invalid"),
    "another access token": ({"at_hash": half_hash("another token")}, "id_token_invalid"),
    "an empty hash": ({"at_hash": ""}, "id_token_invalid"),
    "a list of hashes": ({"at_hash": ["x"]}, "id_token_invalid"),
    "a broken hash": ({"at_hash": "é\ud800"}, "id_token_invalid"),
    "no subject": ({"sub": None}, "id_token_invalid"),
    "an empty subject": ({"sub": ""}, "id_token_invalid"),
    "a number as subject": ({"sub": 1}, "id_token_invalid"),
    "a long subject": ({"sub": "s" * 256}, "id_token_invalid"),
    "a zero byte in the subject": ({"sub": "a\0b"}, "id_token_invalid"),
    "a broken subject": ({"sub": "\ud800"}, "id_token_invalid"),
    "a number as sid": ({"sid": 1}, "id_token_invalid"),
    "an empty sid": ({"sid": ""}, "id_token_invalid"),
    "a long sid": ({"sid": "s" * 256}, "id_token_invalid"),
}


@pytest.mark.parametrize("unfit", UNFIT)
async def test_a_signed_token_that_is_not_for_this_sign_in_signs_nobody_in(server: OidcServer, unfit: str) -> None:
    server.claims, reason = UNFIT[unfit]
    assert (await refused(server, try_in(server))).reason == reason


FIT: list[Json] = [
    {"aud": [CLIENT_ID]},
    {"aud": [CLIENT_ID, "another-client"], "azp": CLIENT_ID},
    {"at_hash": None},
    {"sub": SUBJECT, "jti": 5, "amr": "pwd", "auth_time": "today", "acr": [1]},
    {"nbf": ahead(10), "iat": ahead(10)},
    {"exp": ahead(-10)},
    {"exp": lambda: time.time() + 300.5},
]


@pytest.mark.parametrize("claims", FIT, ids=lambda claims: "-".join(claims))
async def test_a_token_that_fits_within_the_clocks_difference_is_taken(server: OidcServer, claims: Json) -> None:
    server.claims = claims
    assert (await try_in(server)).subject == SUBJECT


async def test_a_longest_subject_is_taken(server: OidcServer) -> None:
    server.claims = {"sub": "s" * 255}
    assert (await try_in(server)).subject == "s" * 255


@pytest.mark.parametrize(("ahead_s", "skew_s", "reason"), [(301, 0, "id_token_expired"), (-5, 0, "id_token_invalid")])
async def test_without_a_difference_allowed_the_clock_decides(
    server: OidcServer, ahead_s: int, skew_s: float, reason: str
) -> None:
    error = await refused(server, try_in(server, lambda: time.time() + ahead_s, clock_skew_s=skew_s))
    assert error.reason == reason


@pytest.mark.parametrize("alg", sorted(ALGORITHMS))
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
async def test_every_algorithm_works_where_it_is_configured_and_nowhere_else(server: OidcServer, alg: str) -> None:
    key = key_for(alg)
    server.keys, server.sign = [rsa_key(), key], signer(key, alg)
    bits = {"384": sha384, "512": sha512, "DSA": sha512, "519": sha512}.get(alg[-3:])
    server.tokens = {"access_token": "the-access-token"}
    server.claims = {"at_hash": half_hash("the-access-token", bits) if bits else half_hash("the-access-token")}
    assert (await try_in(server, algorithms=(alg,))).subject == SUBJECT
    other = "ES256" if alg != "ES256" else "RS256"
    assert (await refused(server, try_in(server, algorithms=(other,)))).reason == "id_token_invalid"


@pytest.mark.parametrize("alg", sorted(SYMMETRIC))
async def test_the_clients_secret_signs_where_the_settings_take_that(server: OidcServer, alg: str) -> None:
    secret = "the secret of the client, long enough for any of them: 0123456789"
    sign = signer(OctKey.import_key(secret), alg, kid=None)
    config = {"client_secret": secret, "algorithms": ("RS256", alg)}
    async with provider_of(config_of(server, **config)) as provider:
        signed = await provider._signatures.verify(sign({"sub": SUBJECT}))
        assert (signed.alg, signed.claims) == (alg, {"sub": SUBJECT})
        forgers = [hmac_of(rsa_key().as_pem(private=False)), hmac_of(public_jwk())] if alg == "HS256" else []
        for forger in (*forgers, signer(OctKey.import_key(secret[::-1]), alg, kid="k1")):
            forged = forger({"sub": SUBJECT})
            assert "not with this client's secret" in str(await refused(server, provider._signatures.verify(forged)))
    assert server.times("/jwks") == 0


async def test_a_provider_that_signs_with_the_secret_needs_no_keys(server: OidcServer) -> None:
    server.metadata = {"jwks_uri": None, "id_token_signing_alg_values_supported": ["HS256"]}
    server.client_secret = CLIENT_SECRET * 2
    server.sign = hmac_of(server.client_secret.encode())
    identity = await try_in(server, client_secret=server.client_secret, algorithms=("HS256",))
    assert identity.subject == SUBJECT
    assert server.times("/jwks") == 0


@pytest.mark.parametrize(
    ("sign", "named"),
    [
        (signer(rsa_key(), "RS512"), "signed with RS512, and LEDGER_OIDC_ALGORITHMS takes RS256, PS256"),
        (unsigned, "signed with none,"),
        (hmac_of(b"x"), "signed with HS256,"),
        (lambda _: token('{"alg": "<script>"}'), "signed with an algorithm of no known name,"),
        (lambda _: token(json.dumps({"alg": "R" * 4000})), "signed with an algorithm of no known name,"),
    ],
    ids=["RS512", "none", "HS256", "no name", "a long name"],
)
async def test_a_refusal_says_which_algorithm_came(server: OidcServer, sign: Sign, named: str) -> None:
    server.sign = sign
    error = await refused(server, try_in(server, algorithms=("RS256", "PS256")))
    assert named in str(error)


async def test_a_large_token_is_taken_and_one_too_large_has_a_reason_of_its_own(server: OidcServer) -> None:
    server.claims = {"groups": ["a group of that name"] * 3500}
    assert (await try_in(server)).subject == SUBJECT
    server.claims = {"groups": ["a group of that name"] * 5000}
    error = await refused(server, try_in(server))
    assert error.reason == "id_token_too_large"
    assert "131,072 are taken" in str(error)
    assert "id_token_too_large" in COUNTERS["sign_in_refused"].values


async def test_keys_without_a_name_verify_tokens_that_name_one(server: OidcServer) -> None:
    public = rsa_key().as_dict(private=False)
    server.keys = [rsa_key("k2")]
    server.jwks_members = [{name: value for name, value in public.items() if name != "kid"}]
    assert (await try_in(server)).subject == SUBJECT
    server.jwks_members = [{**public, "kid": 5}]
    assert (await try_in(server)).subject == SUBJECT
    server.jwks_members = [{**public, "kid": "another"}]
    assert "none of the provider's keys" in str(await refused(server, try_in(server)))


@pytest.mark.parametrize("kid", ["k1", None])
async def test_a_key_behind_hundreds_of_others_is_found(server: OidcServer, kid: str | None) -> None:
    others = [ECKey.generate_key("P-256", {"kid": f"e{at}"}).as_dict(private=False) for at in range(200)]
    more = {**rsa_key("k2").as_dict(private=False)}
    server.jwks_members = ["none", *others, *({**more, "kid": f"r{at}"} for at in range(200))]  # type: ignore[list-item]
    server.sign = signer(rsa_key(), kid=kid)
    assert (await try_in(server)).subject == SUBJECT


async def test_so_many_keys_are_tried_for_a_token_and_no_more(server: OidcServer) -> None:
    unnamed = {name: value for name, value in rsa_key("k2").as_dict(private=False).items() if name != "kid"}
    keys = KeySet([unnamed] * (MAX_TRIES + 5))
    assert len(keys) == MAX_TRIES + 5
    assert sum(1 for _ in keys.fitting("RS256", None)) == MAX_TRIES
    assert sum(1 for _ in keys.fitting("RS256", "k1")) == MAX_TRIES
    assert list(keys.fitting("ES256", None)) == []
    assert list(keys.fitting("HS256", None)) == []


async def test_a_token_without_kid_is_tried_with_every_key(server: OidcServer) -> None:
    server.keys = [ECKey.generate_key("P-256"), rsa_key("k2"), rsa_key()]
    server.sign = signer(rsa_key(), kid=None, typ=None)
    assert (await try_in(server)).subject == SUBJECT


async def test_a_header_may_say_more_than_is_understood(server: OidcServer) -> None:
    server.sign = signer(rsa_key(), nonce="x", x5c=["A" * 4000])
    assert (await try_in(server)).subject == SUBJECT


async def test_keys_that_cannot_be_used_are_passed_over(server: OidcServer) -> None:
    public = rsa_key().as_dict(private=False)
    server.jwks_members = [
        {"kty": "oct", "kid": "k1", "k": "c2VjcmV0"},
        {"kty": "AKP", "kid": "k1", "pub": "AAAA"},
        {"kid": "k1"},
        {"kty": 5, "kid": "k1"},
        {"kty": "RSA", "kid": "k1"},
        {"kty": "RSA", "kid": "k1", "n": 5, "e": []},
        {"kty": "RSA", "kid": "k1", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "kid": "k1", "n": "A" * 9000, "e": "AQAB"},
        {"kty": "EC", "kid": "k1", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "kid": "k1", "crv": "P-999", "x": "AAAA", "y": "AAAA"},
        {"kty": "OKP", "kid": "k1", "crv": "X25519", "x": "A" * 43},
        {**public, "use": "enc"},
        {**public, "use": "dancing"},
        {**public, "alg": "RS512"},
        {**public, "key_ops": ["encrypt"]},
    ]
    assert (await try_in(server)).subject == SUBJECT
    server.keys = []
    assert (await refused(server, try_in(server))).reason == "id_token_invalid"


@pytest.mark.filterwarnings("ignore:Key size should be")
async def test_a_key_that_is_too_short_signs_nothing(server: OidcServer) -> None:
    short = RSAKey.generate_key(1024, {"kid": "k1"})
    server.keys, server.sign = [short], signer(short)
    assert (await refused(server, try_in(server))).reason == "id_token_invalid"


async def test_a_secret_among_the_keys_verifies_no_hmac_even_where_it_is_called_rs256(server: OidcServer) -> None:
    secret = OctKey.generate_key(256, {"kid": "secret"})
    server.jwks_members = [secret.as_dict(private=True)]
    server.sign = signer(secret, "HS256")
    assert (await refused(server, try_in(server))).reason == "id_token_invalid"


async def test_rotated_keys_are_fetched_when_a_token_needs_them(server: OidcServer) -> None:
    async with provider_of(config_of(server)) as provider:
        await sign_in(server, provider)
        server.keys, server.sign = [rsa_key("k2")], signer(rsa_key("k2"))
        assert (await sign_in(server, provider)).subject == SUBJECT
        server.sign = signer(rsa_key())
        assert (await refused(server, sign_in(server, provider))).reason == "id_token_invalid"
    assert server.times("/jwks") == 3


async def test_a_key_replaced_under_its_name_is_fetched_too(server: OidcServer) -> None:
    async with provider_of(config_of(server)) as provider:
        await sign_in(server, provider)
        stranger: Any = rsa_key("other").as_dict(private=True)
        again = RSAKey.import_key({**stranger, "kid": "k1"})
        server.keys, server.sign = [again], signer(again)
        assert (await sign_in(server, provider)).subject == SUBJECT
    assert server.times("/jwks") == 2


async def test_keys_and_metadata_are_kept(server: OidcServer) -> None:
    async with provider_of(config_of(server)) as provider:
        for _ in range(5):
            await sign_in(server, provider)
    assert (server.times("/jwks"), server.times("/.well-known/openid-configuration")) == (1, 1)
