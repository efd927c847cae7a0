"""What too many bad credentials are answered, what is counted, and that a good one never notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import falcon.testing
import msgspec
import pytest

from endpoints.http.limits import LimitRules
from endpoints.metrics import CONTENT_TYPE, REMEMBERED
from endpoints.routes import build
from ledger.commands import EndSession
from ledger.personal import plain
from ledger.store.interface import Store, open_store
from ops.opening.limits import open_limits
from projections.accounts.tokens import TokenIssuer, make_key, read_keyring
from projections.counters import COUNTERS, Counters
from tests.support.phones.http import SECOND_US, Service, serving
from tests.support.stores.servers import RedisServer

ME = "/api/users/me"
RULES = LimitRules(bad_token="3/minute")


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    store = await open_store(valkey_url)
    yield store
    await store.close()


@pytest.fixture
async def service(store: Store) -> AsyncIterator[Service]:
    async with serving(store, rules=RULES) as service:
        yield service


@asynccontextmanager
async def changed(store: Store, **parts: Any) -> AsyncIterator[Service]:
    """Run the app with some of its services replaced."""
    service = Service(store)
    await service.open()
    service.app = build(msgspec.structs.replace(service.services, **parts))
    async with falcon.testing.ASGIConductor(service.app) as client:
        service.client = client
        yield service


async def statuses(service: Service, token: str, times: int, address: str = "192.0.2.1") -> list[int]:
    return [(await service.ask("GET", ME, token, remote_addr=address)).status_code for _ in range(times)]


async def counted(service: Service) -> dict[str, int]:
    """Read what is not 0, as `name` or `name.label`."""
    counts = await service.counters.all()
    return {".".join(filter(None, (each.name, each.label_value))): each.value for each in counts if each.value}


def guessed(service: Service, user: str) -> str:
    """Make a token that names a user, of a session that never was."""
    return service.tokens.issue(user, service.clock()).token


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer made-up"},
        {"Cookie": "immich_access_token=made-up"},
        {"x-immich-user-token": "made-up"},
        {"x-api-key": "slk_made-up"},
    ],
    ids=lambda headers: next(iter(headers)),
)
async def test_bad_credentials_are_429_after_so_many_and_counted_once_each(
    service: Service, headers: dict[str, str]
) -> None:
    answers = [await service.ask("GET", "/api/sync/ack", headers=headers) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
    limited = answers[-1]
    after_s = int(limited.headers["retry-after"])
    assert 1 <= after_s <= 60
    assert limited.json == {"message": f"Too many requests; try again in {after_s} seconds"}
    assert limited.headers["content-type"] == "application/json"
    assert limited.headers["x-correlation-id"]
    assert await counted(service) == {"bad_tokens": 5, "limited.bad_token": 2}


async def test_no_credential_is_not_a_bad_one(service: Service) -> None:
    for _ in range(5):
        assert (await service.ask("GET", ME)).status_code == 401
    assert await counted(service) == {}


async def test_a_good_token_from_the_same_address_is_never_limited(service: Service) -> None:
    """Phones behind one NAT: one of them tries a token that is none, again and again."""
    good = [(await service.sign_in(user)).token for user in ("ann", "bob", "bob")]
    bad = guessed(service, "ann")
    assert await statuses(service, bad, 6) == [401, 401, 401, 429, 429, 429]
    for token in good:
        assert await statuses(service, token, 6) == [200] * 6
    assert await counted(service) == {"bad_tokens": 6, "limited.bad_token": 3}


async def test_a_token_of_a_session_that_has_ended_is_401_however_often_it_comes(service: Service) -> None:
    issued = await service.sign_in("ann")
    await service.ledger.execute("ann", issued.sid, EndSession("logout", by=plain("ann")))
    assert await statuses(service, issued.token, 9) == [401] * 9
    assert await counted(service) == {"bad_tokens": 9}


async def test_a_forged_token_is_limited_though_it_names_a_session_that_is_there(service: Service) -> None:
    issued = await service.sign_in("ann")
    key = read_keyring(make_key())
    state = await service.ledger.load("ann", issued.sid)
    forged = TokenIssuer(lambda: key).renew(state, service.clock()).token
    assert await statuses(service, forged, 5) == [401, 401, 401, 429, 429]
    assert await statuses(service, issued.token, 1) == [200]


async def test_a_claimed_account_is_limited_from_anywhere_and_its_own_devices_are_not(service: Service) -> None:
    good = (await service.sign_in("ann")).token
    bad = guessed(service, "ann")
    found = [(await statuses(service, bad, 1, f"192.0.2.{n}"))[0] for n in range(5)]
    assert found == [401, 401, 401, 429, 429]
    assert await statuses(service, good, 3, "192.0.2.1") == [200] * 3
    assert await statuses(service, guessed(service, "bob"), 1, "192.0.2.1") == [401]


async def test_a_good_request_asks_the_limits_nothing(store: Store, valkey_server: RedisServer) -> None:
    """Where the limits are counted is away: good credentials go on, bad ones are told nothing."""
    limits = await open_limits(valkey_server.url, RULES, 1.0)
    async with changed(store, limits=limits) as service:
        good, bad = (await service.sign_in()).token, guessed(service, "bob")
        assert await statuses(service, bad, 1) == [401]
        valkey_server.kill()
        assert await statuses(service, good, 3) == [200] * 3
        assert (await service.ask("POST", "/api/sync/ack", good, json={"acks": []})).status_code == 204
        answer = await service.ask("GET", ME, bad)
        assert answer.status_code == 503, "closed, not open, and no 401: an app would log out"
        assert int(answer.headers["retry-after"]) >= 1
    await limits.close()


async def test_a_reused_token_is_counted_as_such(service: Service) -> None:
    issued = await service.sign_in()
    new = (await service.ask("POST", "/ledger/token/refresh", issued.token)).json["accessToken"]
    assert await statuses(service, new, 1) == [200]
    service.clock.now_us += 3600 * SECOND_US
    assert await statuses(service, issued.token, 1) == [401]
    assert await statuses(service, new, 1) == [401]
    assert await counted(service) == {"bad_tokens": 2, "token_reused": 1}


async def test_what_cannot_be_counted_does_not_change_the_answer(
    store: Store, valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    gone = await open_store(valkey_url)
    await gone.close()
    async with changed(store, counters=Counters(gone)) as service:
        assert (await service.ask("GET", ME, "made-up")).status_code == 401
    assert "not counted: bad_tokens" in caplog.text


# /metrics -------------------------------------------------------------------------------------------------------------


async def test_metrics_are_given_to_a_key_with_their_scope_only(service: Service) -> None:
    good, _ = await service.api_keys.create(["metrics.read"], name="", now_us=1)
    other, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    session = (await service.sign_in()).token
    assert (await service.ask("GET", "/metrics")).status_code == 401
    assert (await service.ask("GET", "/metrics", headers={"x-api-key": other})).status_code == 403
    assert (await service.ask("GET", "/metrics", session)).status_code == 403
    answer = await service.ask("GET", "/metrics", headers={"x-api-key": good})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


async def test_a_key_that_read_lately_reads_on_while_the_store_is_away(
    valkey_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many as may, and none that was refused meanwhile."""
    store = await open_store(valkey_server.url, timeout_s=1.0)
    async with serving(store) as service:
        made = [await service.api_keys.create(["metrics.read"], name="", now_us=1) for _ in range(REMEMBERED + 3)]
        unused, _ = made.pop()

        async def read(key: str) -> falcon.testing.Result:
            return await service.ask("GET", "/metrics", headers={"x-api-key": key})

        for key, _ in made:
            assert (await read(key)).status_code == 200
        first, second, *kept = [key for key, _ in made]
        assert await service.api_keys.revoke(made[-1][1].id)
        assert (await read(made[-1][0])).status_code == 401
        valkey_server.kill()
        assert [(await read(key)).status_code for key in (unused, first, second, kept[-1])] == [503] * 4
        for key in kept[:-1]:
            answer = await read(key)
            assert answer.status_code == 200
        assert "syncledger_store_connections_lost_total" in answer.text
        assert "\nsyncledger_sessions_living " not in answer.text, "nothing is known of the ledger"
        monkeypatch.setattr("endpoints.metrics.REMEMBERED_S", 0.0)
        assert (await read(kept[0])).status_code == 503, "an hour later"
    await store.close()


async def test_metrics_tell_every_counter_with_help_and_what_was_counted(service: Service) -> None:
    key, _ = await service.api_keys.create(["metrics.read"], name="", now_us=1)
    await asyncio.gather(*(service.counters.add("sign_in_refused", reason="state_mismatch") for _ in range(7)))
    await service.counters.add("sign_in_refused", reason="something new")
    await statuses(service, "made-up", 4)
    text = (await service.ask("GET", "/metrics", headers={"x-api-key": key})).text
    lines = text.splitlines()
    for name, known in COUNTERS.items():
        assert f"# HELP syncledger_{name}_total {known.help}" in lines
        assert f"# TYPE syncledger_{name}_total counter" in lines
        for value in known.values:
            assert any(line.startswith(f'syncledger_{name}_total{{{known.label}="{value}"}} ') for line in lines)
    assert 'syncledger_sign_in_refused_total{reason="state_mismatch"} 7.0' in lines
    assert 'syncledger_sign_in_refused_total{reason="other"} 1.0' in lines
    assert 'syncledger_sign_in_refused_total{reason="not_enabled"} 0.0' in lines
    assert "syncledger_bad_tokens_total 4.0" in lines
    assert 'syncledger_limited_total{what="bad_token"} 1.0' in lines
    assert "something new" not in text
    assert "python_info" not in text, "only what was counted here, nothing of a registry that all share"
