"""Tokens that a backend of one's own signs: whom they admit, which are one session, when that is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any, Protocol
from urllib.parse import urlencode

import pytest

from endpoints.accounts.identity.jwt.backend import JwtBackend
from endpoints.accounts.identity.jwt.config import JwtConfig
from endpoints.http.limits import LimitRules
from endpoints.services import HttpSettings
from ledger.store.interface import open_store
from projections.expiry import expire
from tests.support.phones.http import Service, serving
from tests.support.phones.quick_requests import QuickAck
from tests.support.sign_in.oidc_server import (
    CLIENT_ID,
    OidcServer,
    Page,
    Sign,
    hmac_of,
    key_for,
    rsa_key,
    signer,
    unsigned,
)

ACK, WHOAMI = "/api/sync/ack", "/ledger/whoami"
LOGOUT = "/api/oauth/backchannel-logout"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def issuer() -> Iterator[OidcServer]:
    """Whoever signs, with its keys at /jwks."""
    with OidcServer().running() as server:
        yield server


class Open(Protocol):
    """Opens one worker more on the test's store."""

    async def __call__(self, *, known: int = 100, rules: LimitRules | None = None, **config: Any) -> Service: ...


@pytest.fixture
async def workers(valkey_url: str, issuer: OidcServer) -> AsyncIterator[Open]:
    """Make workers of one service; all are closed behind the test."""
    async with AsyncExitStack() as stack:

        async def worker(*, known: int = 100, rules: LimitRules | None = None, **config: Any) -> Service:
            store = await open_store(valkey_url)
            stack.push_async_callback(store.close)
            usual: dict[str, Any] = {"issuer": issuer.url, "audience": CLIENT_ID, "jwks_url": f"{issuer.url}/jwks"}
            made = JwtConfig(**usual | {"timeout_s": 2.0} | config)
            settings = HttpSettings(tokens_elsewhere=f"from {issuer.url}")
            service = await stack.enter_async_context(
                serving(store, settings, rules=rules, jwt=lambda ledger: JwtBackend(made, ledger, known=known))
            )
            assert service.jwt is not None
            stack.push_async_callback(service.jwt.close)
            return service

        yield worker


@pytest.fixture
async def service(workers: Open) -> Service:
    """One worker."""
    return await workers()


def token(issuer: OidcServer, sign: Sign | None = None, **claims: Any) -> str:
    """Make a token of Ann's first device, shaped by `claims`; None takes one away."""
    now = int(time.time())
    usual = {"iss": issuer.url, "aud": CLIENT_ID, "sub": "ann", "sid": "phone", "iat": now, "exp": now + 300}
    made = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    return (sign or signer(issuer.keys[0]))(made)


def sid_of(issuer: OidcServer, subject: str = "ann", session: str = "phone") -> str:
    return sha256(f"{issuer.url}\0{subject}\0{session}".encode()).hexdigest()


async def logout(service: Service, logout_token: str) -> tuple[int, Any]:
    body = urlencode({"logout_token": logout_token})
    answer = await service.ask("POST", LOGOUT, body=body, headers=FORM)
    return answer.status_code, answer.json if answer.content else None


# Who is admitted ------------------------------------------------------------------------------------------------------


async def test_a_token_made_anew_is_of_the_same_session_on_each_worker(
    service: Service, workers: Open, issuer: OidcServer
) -> None:
    first, second = token(issuer), token(issuer, exp=int(time.time()) + 600)
    assert first != second
    for worker, shown in ((service, first), (service, second), (await workers(), second)):
        answer = await worker.ask("GET", WHOAMI, shown)
        assert answer.status_code == 204
        told = {name: answer.headers[f"x-ledger-{name}"] for name in ("user", "library", "session")}
        assert told == {"user": "ann", "library": "ann", "session": sid_of(issuer)}
    [state] = await service.ledger.devices("ann")
    assert (state.sid, state.authenticated_by, state.seq) == (sid_of(issuer), "jwt", 1)
    assert [line["type"] for line in await service.stream(second, "UsersV1")][-1] == "SyncCompleteV1"


async def test_users_subjects_and_sessions_are_told_apart(workers: Open, issuer: OidcServer) -> None:
    service = await workers(session_claim="device", user_claim="uid", library_claim="lib")
    claims: dict[str, Any] = {"sid": None, "device": "d1", "uid": "u1", "lib": "l1"}
    for changed in ({}, {"device": "d2"}, {"sub": "bob", "uid": "u2", "lib": "l2"}):
        answer = await service.ask("GET", WHOAMI, token(issuer, **claims | changed))
        assert answer.status_code == 204
        assert answer.headers["x-ledger-user"] == (claims | changed)["uid"]
        assert answer.headers["x-ledger-library"] == (claims | changed)["lib"]
    assert {state.sid for user in ("u1", "u2") for state in await service.ledger.devices(user)} == {
        sid_of(issuer, "ann", "d1"), sid_of(issuer, "ann", "d2"), sid_of(issuer, "bob", "d1"),
    }  # fmt: skip


async def refused(service: Service, shown: str) -> str:
    answer = await service.ask("GET", ACK, shown)
    assert answer.status_code == 401, answer.text
    message: str = answer.json["message"]
    return message


async def test_what_does_not_fit_is_401_and_named(service: Service, issuer: OidcServer) -> None:
    now = int(time.time())
    for claims, named in (
        ({"sid": None}, "claim sid"), ({"sid": 7}, "claim sid"), ({"sid": ""}, "claim sid"),
        ({"sub": None}, "claim sub"), ({"sub": "a|b"}, "claim sub"), ({"sub": "x" * 300}, "claim sub"),
        ({"iss": "https://other.example"}, "claim iss"),
        ({"aud": "another service"}, "claim aud"), ({"aud": None}, "claim aud"), ({"exp": None}, "claim exp"),
        ({"exp": "soon"}, "claim exp"), ({"exp": 1e300}, "claim exp"),
        ({"exp": now - 60, "aud": "another"}, "claim aud"), ({"exp": True}, "claim exp"),
        ({"nbf": now + 900}, "claim nbf"), ({"exp": now - 60}, "expired"),
        ({"events": 7}, "not made to admit"),
        ({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}, "not made to admit"),
    ):  # fmt: skip
        assert named in await refused(service, token(issuer, **claims)), claims
    assert "not made to admit" in await refused(service, token(issuer, signer(rsa_key(), typ="logout+jwt")))
    assert (await service.ask("GET", ACK, token(issuer, aud=["x", CLIENT_ID]))).status_code == 200
    assert await service.ledger.devices("ann") != []


async def test_only_signatures_of_the_issuers_keys_count(service: Service, issuer: OidcServer) -> None:
    ec = key_for("ES256")
    issuer.keys.append(ec)
    public = rsa_key().as_pem(private=False)
    now = int(time.time())
    claims = {"iss": issuer.url, "aud": CLIENT_ID, "sub": "ann", "sid": "s", "iat": now, "exp": now + 300}
    good = token(issuer)
    for shown, named in (
        (unsigned(claims), "LEDGER_JWT_ALGORITHMS"),
        (hmac_of(public)(claims), "LEDGER_JWT_ALGORITHMS"),
        (token(issuer, signer(rsa_key(), "PS256")), "LEDGER_JWT_ALGORITHMS"),
        (token(issuer, signer(rsa_key("stranger"), kid="k1")), "signed it"),
        (good[:-8] + "AAAAAAAA", "signed it"),
        ("x.y.z", "not a signed token"),
        ("a" * 20_000, "longer than"),
    ):
        assert named in await refused(service, shown)
    assert await service.ledger.devices("ann") == []
    assert (await service.ask("GET", ACK, token(issuer, signer(ec, "ES256")))).status_code == 200


# Keys -----------------------------------------------------------------------------------------------------------------


async def test_keys_are_rotated_and_what_was_checked_before_goes_on(service: Service, issuer: OidcServer) -> None:
    before = token(issuer)
    assert (await service.ask("GET", ACK, before)).status_code == 200
    issuer.keys = [rsa_key("k2")]
    after = token(issuer)
    assert (await service.ask("GET", ACK, after)).status_code == 200
    assert issuer.times("/jwks") == 2
    assert (await service.ask("GET", ACK, before)).status_code == 200, (
        "its signature was checked while its key was there"
    )
    assert "signed it" in await refused(service, token(issuer, signer(rsa_key("k1")), sid="another"))


async def test_guesses_at_keys_have_them_fetched_once_a_second(service: Service, issuer: OidcServer) -> None:
    assert (await service.ask("GET", ACK, token(issuer))).status_code == 200
    began = time.monotonic()
    guesses = [token(issuer, signer(rsa_key("stranger"), kid=f"guess-{n}")) for n in range(40)]
    await asyncio.gather(*(refused(service, guess) for guess in guesses))
    assert issuer.times("/jwks") <= 2 + (time.monotonic() - began)


async def test_while_the_keys_are_away_known_tokens_go_on_and_others_are_503(
    workers: Open, service: Service, issuer: OidcServer
) -> None:
    known = token(issuer)
    assert (await service.ask("GET", ACK, known)).status_code == 200
    issuer.pages["/jwks"] = Page(500)
    new_key = token(issuer, signer(rsa_key("k2")))
    fresh = await workers()
    for worker, shown in ((service, new_key), (fresh, known), (fresh, new_key)):
        for _ in range(3):
            answer = await worker.ask("GET", ACK, shown)
            assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True), answer.text
            assert "JWKS" in answer.json["message"]
    assert (await service.ask("GET", ACK, known)).status_code == 200
    assert fresh.jwt is not None
    asked = issuer.times("/jwks")
    await asyncio.gather(*(fresh.ask("GET", ACK, known) for _ in range(50)))
    assert issuer.times("/jwks") <= asked + 2, "what failed is not asked for by each request"
    ok, text = await fresh.jwt.health()
    assert (ok, "new ones are answered 503" in text) == (False, True)
    issuer.pages.clear()
    await asyncio.sleep(1.0)
    assert (await fresh.ask("GET", ACK, known)).status_code == 200
    ok, text = await fresh.jwt.health()
    assert (ok, "1 key" in text) == (True, True)


async def test_what_is_remembered_is_bounded_and_keeps_whom_it_hears_of(workers: Open, issuer: OidcServer) -> None:
    service = await workers(known=4)
    mine = token(issuer)
    for number in range(10):
        assert (await service.ask("GET", ACK, mine)).status_code == 200
        assert (await service.ask("GET", ACK, token(issuer, sid=f"s{number}"))).status_code == 200
    assert service.jwt is not None
    assert (len(service.jwt._known), len(service.jwt._sessions)) == (4, 4)
    issuer.pages["/jwks"] = Page(500)
    assert service.jwt.last_caller(mine) is not None


# The end --------------------------------------------------------------------------------------------------------------


async def test_who_logs_out_stays_out_with_all_tokens_of_the_session(
    service: Service, workers: Open, issuer: OidcServer
) -> None:
    first, second = token(issuer), token(issuer, exp=int(time.time()) + 900)
    other = token(issuer, sid="tablet")
    for shown in (first, other):
        assert (await service.ask("GET", ACK, shown)).status_code == 200
    assert (await service.ask("POST", "/api/auth/logout", first)).status_code == 200
    for worker in (service, await workers()):
        for shown in (first, second):
            assert (await worker.ask("GET", ACK, shown)).status_code == 401
            assert (await worker.ask("GET", WHOAMI, shown)).status_code == 401
        assert (await worker.ask("GET", ACK, other)).status_code == 200
    assert (await service.ask("DELETE", f"/api/sessions/{sid_of(issuer, session='tablet')}", other)).status_code == 204
    assert (await service.ask("GET", ACK, other)).status_code == 401
    assert await service.ledger.devices("ann") == []


@pytest.mark.parametrize("claim", ["sid", "device"])
async def test_the_backend_logs_a_session_or_a_user_out(workers: Open, issuer: OidcServer, claim: str) -> None:
    service = await workers(session_claim=claim)

    def of(session: str, **claims: Any) -> str:
        claims |= {"sid": None} | {claim: session}
        return token(issuer, **claims)

    shown = {name: of(name) for name in ("phone", "tablet", "pc")}
    stranger = of("phone", sub="bob")
    for each in (*shown.values(), stranger):
        assert (await service.ask("GET", ACK, each)).status_code == 200
    status, told = await logout(service, issuer.logout_token(None, sub=None, **{claim: "tablet"}))
    assert status == 200, told
    assert [(await service.ask("GET", ACK, each)).status_code for each in shown.values()] == [200, 401, 200]
    status, _ = await logout(service, issuer.logout_token(None, sub="ann", **{claim: "phone"}))
    assert status == 200
    assert (await service.ask("GET", ACK, stranger)).status_code == 200, "who has a session of the same name"
    assert [(await service.ask("GET", ACK, each)).status_code for each in shown.values()] == [401, 401, 200]
    status, _ = await logout(service, issuer.logout_token(sub="ann"))
    assert status == 200
    assert [(await service.ask("GET", ACK, each)).status_code for each in shown.values()] == [401, 401, 401]
    assert (await service.ask("GET", ACK, stranger)).status_code == 200
    status, told = await logout(service, issuer.logout_token(aud="another"))
    assert (status, "not good" in told["message"]) == (400, True)


async def test_a_logout_of_a_subject_whose_user_is_not_told_is_refused(workers: Open, issuer: OidcServer) -> None:
    service = await workers(user_claim="uid")
    assert (await service.ask("GET", ACK, token(issuer, uid="u1"))).status_code == 200
    status, told = await logout(service, issuer.logout_token(sub="ann"))
    assert (status, "claim sid or uid" in told["message"]) == (400, True)
    assert (await logout(service, issuer.logout_token(sub="ann", uid="u1")))[0] == 200
    assert await service.ledger.devices("u1") == []


async def test_idleness_ends_a_session_for_good(service: Service, issuer: OidcServer) -> None:
    shown = token(issuer)
    assert (await service.ask("GET", ACK, shown)).status_code == 200
    service.clock.now_us += 10**6
    assert (await expire(service.ledger, None, idle_us=1, tombstones_us=1)).idle == 1
    assert (await service.ask("GET", ACK, shown)).status_code == 401


# What is ours ---------------------------------------------------------------------------------------------------------


async def test_tokens_of_ours_admit_nobody_and_are_not_made(service: Service, issuer: OidcServer) -> None:
    ours = await service.sign_in()
    assert (await service.ask("GET", ACK, ours.token)).status_code == 401
    shown = token(issuer)
    for method, path in (("POST", "/api/sessions"), ("POST", "/ledger/token/refresh")):
        answer = await service.ask(method, path, shown)
        assert (answer.status_code, issuer.url in answer.json["message"]) == (400, True)


async def test_expired_tokens_are_no_guesses(workers: Open, issuer: OidcServer) -> None:
    service = await workers(rules=LimitRules(bad_token="3/minute"))
    assert (await service.ask("GET", ACK, token(issuer))).status_code == 200
    late = token(issuer, exp=int(time.time()) - 60)
    for _ in range(6):
        assert "expired" in await refused(service, late)
    statuses = [(await service.ask("GET", ACK, f"{late}{number}")).status_code for number in range(5)]
    assert statuses == [401, 401, 401, 429, 429]


async def test_acks_go_their_quick_way_until_the_token_expires(service: Service, issuer: OidcServer) -> None:
    shown = token(issuer)
    assert service.jwt is not None
    user, _ = await service.stream(shown, "UsersV1")
    ack = QuickAck(service, shown, user["ack"])
    assert await ack.sent() == 204
    state = await service.ledger.load("ann", sid_of(issuer))
    assert list(state.checkpoints) == ["UserV1"]
    assert await QuickAck(service, token(issuer, sid="tablet"), user["ack"]).sent() is None, "nobody checked it yet"
    service.jwt._now_s = lambda: time.time() + 301
    assert await QuickAck(service, shown, user["ack"]).sent() is None
    assert await ack.sent() is None, "with the head that it was answered for"


async def test_a_store_that_lost_its_ledger_signs_nobody_out(service: Service, issuer: OidcServer) -> None:
    shown = token(issuer)
    assert (await service.ask("GET", ACK, shown)).status_code == 200
    await service.store.command("FLUSHALL", key=b"x")
    for each in (shown, token(issuer, sid="new")):
        answer = await service.ask("GET", ACK, each)
        assert answer.status_code == 503, answer.text
    assert await service.store.command("DBSIZE", key=b"x") == 0, "and begins nothing"
