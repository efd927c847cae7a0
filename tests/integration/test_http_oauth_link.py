"""Linking an identity to a user who is signed in, and taking it away."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from endpoints.accounts.identity.port import Identity
from ledger.store.interface import open_store
from tests.support.phones.http import Service, serving
from tests.support.sign_in.provider import ANN, ISSUER, MemoryProvider
from tests.support.sign_in.sign_ins import SignIn, browser, client, living, refused

BOB = Identity(issuer=ISSUER, subject="sub-bob", email="bob@example.test", name="Bob", credential="credential-of-bob")


@pytest.fixture
def provider() -> MemoryProvider:
    return MemoryProvider()


@pytest.fixture
async def service(valkey_url: str, provider: MemoryProvider) -> AsyncIterator[Service]:
    store = await open_store(valkey_url)
    async with serving(store, provider=provider) as service:
        yield service
    await store.close()


async def link(
    service: Service, provider: MemoryProvider, token: str, who: Identity = ANN, prefix: str = "/api"
) -> httpx.Response:
    async with client(service, authorization=f"Bearer {token}") as http:
        sign_in = SignIn(http, provider, by_app=True, prefix=prefix)
        return await sign_in.come_back(provider.send_back(await sign_in.begin(), who), "link")


async def user_by_sign_in(service: Service, provider: MemoryProvider, who: Identity = ANN) -> str:
    async with client(service) as http:
        user: str = (await SignIn(http, provider, by_app=True).complete(who)).json()["userId"]
    return user


@pytest.mark.parametrize("prefix", ["/api", ""])
async def test_a_user_signs_in_with_the_identity_that_was_linked(
    service: Service, provider: MemoryProvider, prefix: str
) -> None:
    device = await service.sign_in("ann", "family")
    answer = await link(service, provider, device.token, prefix=prefix)
    assert answer.status_code == 200
    assert "set-cookie" in answer.headers, "what the browser kept for this is over"
    assert "immich_access_token" not in answer.headers["set-cookie"]
    me = answer.json()
    assert (me["id"], me["email"], me["name"]) == ("ann", "ann@example.test", "Ann")
    assert me == (await service.ask("GET", "/api/users/me", device.token)).json
    assert await living(service) == [device.sid], "linking makes no session"
    assert await user_by_sign_in(service, provider) == "ann"
    libraries = {state.library for state in await service.ledger.devices("ann")}
    assert libraries == {"family"}


async def test_a_browser_links_by_its_cookies(service: Service, provider: MemoryProvider) -> None:
    async with browser(service) as http:
        http.cookies["immich_access_token"] = (await service.sign_in("ann")).token
        sign_in = SignIn(http, provider, by_app=False)
        answer = await sign_in.come_back(provider.send_back(await sign_in.begin()), "link")
        assert (answer.status_code, answer.json()["id"]) == (200, "ann")
        assert set(http.cookies) == {"immich_access_token"}


async def test_an_identity_of_somebody_else_is_not_linked(service: Service, provider: MemoryProvider) -> None:
    owner = await user_by_sign_in(service, provider)
    answer = await link(service, provider, (await service.sign_in("bob")).token)
    assert (answer.status_code, answer.json()) == (400, {"message": "This account is already linked to another user"})
    assert await refused(service) == {"identity_taken": 1}
    assert await user_by_sign_in(service, provider) == owner


async def test_an_email_address_of_somebody_else_is_not_linked(service: Service, provider: MemoryProvider) -> None:
    await user_by_sign_in(service, provider)
    other = Identity(issuer=ISSUER, subject="sub-other", email="ann@example.test")
    answer = await link(service, provider, (await service.sign_in("bob")).token, other)
    assert (answer.status_code, answer.json()) == (400, {"message": "OAuth authentication failed"})
    assert await refused(service) == {"email_taken": 1}
    assert await service.identities.user_of(ISSUER, "sub-other") is None


async def test_an_identity_whose_claim_names_another_user_is_not_linked(
    service: Service, provider: MemoryProvider
) -> None:
    token = (await service.sign_in("ann")).token
    claimed = msgspec.structs.replace(ANN, user="bob")
    answer = await link(service, provider, token, claimed)
    assert answer.status_code == 400
    assert answer.json() == {"message": "The identity provider says that this account is another user's"}
    assert await refused(service) == {"claim_differs": 1}
    assert await service.identities.user_of(ISSUER, "sub-ann") is None
    assert (await link(service, provider, token, msgspec.structs.replace(ANN, user="ann"))).status_code == 200


async def test_a_claim_that_names_another_user_than_the_known_one_is_told(
    service: Service, provider: MemoryProvider, caplog: pytest.LogCaptureFixture
) -> None:
    bound = await user_by_sign_in(service, provider)
    claimed = msgspec.structs.replace(ANN, user="bob")
    assert await user_by_sign_in(service, provider, claimed) == bound, "devices and history stay whose they are"
    assert await service.services.claim_conflicts.all() == {bound: "bob"}
    assert [record for record in caplog.records if f"user {bound} signed in" in record.getMessage()]
    async with client(service, authorization=f"Bearer {(await service.sign_in(bound)).token}") as http:
        assert (await http.post("/api/oauth/unlink")).status_code == 200
    assert await service.services.claim_conflicts.all() == {}


async def test_an_answer_that_is_refused_links_nothing(service: Service, provider: MemoryProvider) -> None:
    token = (await service.sign_in("ann")).token
    async with client(service, authorization=f"Bearer {token}") as http:
        sign_in = SignIn(http, provider, by_app=True)
        back = provider.send_back(await sign_in.begin())
        http.cookies.clear()
        for changes, reason in (
            ({"state": None}, "state_missing"),
            ({"state": "x"}, "state_mismatch"),
            ({"codeVerifier": None}, "verifier_missing"),
            ({"codeVerifier": "x" * 43}, "code_refused"),
        ):
            assert (await sign_in.come_back(back, "link", **changes)).status_code == 400
            assert reason in await refused(service)
        nameless = Identity(issuer=ISSUER, subject="sub-ann")
        answer = await sign_in.come_back(provider.send_back(await sign_in.begin(), nameless), "link")
        assert answer.json() == {"message": "OAuth profile does not have an email address"}
    assert await service.identities.user_of(ISSUER, "sub-ann") is None


@pytest.mark.parametrize("path", ["/api/oauth/link", "/oauth/link", "/api/oauth/unlink", "/oauth/unlink"])
async def test_only_who_is_signed_in_links(service: Service, path: str) -> None:
    body = {"url": "app.immich:///oauth-callback?code=x&state=y", "state": "y", "codeVerifier": "x" * 43}
    assert (await service.ask("POST", path, json=body)).status_code == 401
    assert (await service.ask("POST", path, "a.bad.token", json=body)).status_code == 401
    key, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    answer = await service.ask("POST", path, headers={"x-api-key": key}, json=body)
    assert (answer.status_code, answer.json) == (403, {"message": "Missing required permission: user.update"})


async def test_an_identity_that_was_unlinked_is_somebody_else_again(service: Service, provider: MemoryProvider) -> None:
    device = await service.sign_in("ann", "family")
    await link(service, provider, device.token)
    answer = await service.ask("POST", "/api/oauth/unlink", device.token)
    assert (answer.status_code, answer.json["id"]) == (200, "ann")
    assert answer.json["email"] == "ann@example.test", "who the user is stays on record"
    assert await living(service) == [device.sid]
    assert await service.identities.user_of(ISSUER, "sub-ann") is None
    async with client(service) as http:
        again = await SignIn(http, provider, by_app=True).complete()
    assert (again.status_code, again.json()) == (400, {"message": "OAuth authentication failed"})
    assert await refused(service) == {"email_taken": 1}, "the address is still the user's"


async def test_unlinking_twice_is_unlinking_once(service: Service) -> None:
    device = await service.sign_in("ann")
    for _ in range(2):
        assert (await service.ask("POST", "/oauth/unlink", device.token)).status_code == 200
