"""Refreshing a token over HTTP, and the keys that verify one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from endpoints.services import HttpSettings
from tests.support.phones.http import SECOND_US, Service, serving
from tests.support.stores.fake_store import FakeStore

TTL_S = 3600
GRACE_US = 60 * SECOND_US
REFRESH = "/ledger/token/refresh"


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving(FakeStore(), HttpSettings(token_ttl_us=TTL_S * SECOND_US)) as service:
        yield service


async def status(service: Service, token: str) -> int:
    return (await service.ask("GET", "/api/auth/status", token)).status_code


async def test_a_new_token_is_for_the_same_session(service: Service) -> None:
    issued = await service.sign_in()
    answer = await service.ask("POST", REFRESH, issued.token)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    assert answer.json["sessionId"] == issued.sid
    assert answer.json["expiresAt"] == "2023-11-14T23:13:20.000Z"
    assert await status(service, answer.json["accessToken"]) == 200
    listed = (await service.ask("GET", "/api/sessions", answer.json["accessToken"])).json
    assert [(row["id"], row["current"], row["expiresAt"]) for row in listed] == [
        (issued.sid, True, answer.json["expiresAt"])
    ]
    told = (await service.ask("GET", "/api/auth/status", answer.json["accessToken"])).json
    assert told["expiresAt"] == answer.json["expiresAt"]


async def test_the_old_token_is_good_for_the_grace_and_its_return_ends_the_session(service: Service) -> None:
    issued = await service.sign_in()
    new = (await service.ask("POST", REFRESH, issued.token)).json["accessToken"]
    service.clock.now_us += 10 * GRACE_US
    assert await status(service, issued.token) == 200, "nobody used the new one yet"
    assert await status(service, new) == 200
    refused = await service.ask("POST", REFRESH, issued.token)
    assert refused.status_code == 400
    assert "replaced by a newer one" in refused.json["message"]
    service.clock.now_us += GRACE_US - 1
    assert await status(service, issued.token) == 200
    service.clock.now_us += 1
    assert await status(service, issued.token) == 401
    assert await status(service, new) == 401, "one of two who hold it stole it"


async def test_an_expired_token_is_refused_at_once(service: Service) -> None:
    issued = await service.sign_in()
    new = (await service.ask("POST", REFRESH, issued.token)).json["accessToken"]
    assert await status(service, new) == 200
    service.clock.now_us += TTL_S * SECOND_US
    for method, path in (("GET", "/api/auth/status"), ("POST", REFRESH), ("POST", "/api/sync/ack")):
        assert (await service.ask(method, path, new, json={"acks": []})).status_code == 401


async def test_a_browser_gets_its_new_token_as_a_cookie(service: Service) -> None:
    issued = await service.sign_in()
    headers = {"cookie": f"immich_access_token={issued.token}; immich_auth_type=oauth"}
    answer = await service.ask("POST", REFRESH, headers=headers)
    assert answer.cookies["immich_access_token"].value == answer.json["accessToken"]
    assert answer.cookies["immich_access_token"].http_only
    assert answer.cookies["immich_auth_type"].value == "oauth"


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "slk_none"}, {"authorization": "Bearer x.y.z"}])
async def test_only_a_session_has_tokens(service: Service, headers: dict[str, str]) -> None:
    assert (await service.ask("POST", REFRESH, headers=headers)).status_code == 401
    key, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    assert (await service.ask("POST", REFRESH, headers={"x-api-key": key})).status_code == 403


async def test_refreshing_is_limited(service: Service) -> None:
    issued = await service.sign_in()
    answers = [await service.ask("POST", REFRESH, issued.token) for _ in range(31)]
    assert {answer.status_code for answer in answers[:30]} == {200}
    assert answers[30].status_code == 429
    assert int(answers[30].headers["retry-after"]) >= 1
    assert await status(service, issued.token) == 200


async def test_anybody_can_verify_a_token_with_the_published_keys(service: Service) -> None:
    issued = await service.sign_in()
    new = (await service.ask("POST", REFRESH, issued.token)).json["accessToken"]
    answer = await service.ask("GET", "/.well-known/jwks.json")
    assert answer.status_code == 200
    assert not any("d" in key for key in answer.json["keys"]), "no private part"
    keys = KeySet.import_key_set(answer.json)
    for token, sid in ((issued.token, None), (new, issued.sid)):
        decoded = jwt.decode(token, keys, algorithms=["Ed25519"])
        assert decoded.claims["sub"] == "ann"
        assert decoded.claims.get("sid") == sid
