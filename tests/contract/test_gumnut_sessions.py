"""Calls to Gumnut in the name of sessions: the JWT is held encrypted, renewed by answers, and never set back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import pytest

from endpoints.accounts.identity.port import Answer
from ledger import keys
from ledger.commands import CreateSession, EndSession
from ledger.errors import StoreUnavailable
from ledger.log.service import Ledger
from ledger.store.interface import Arg, Script, Store
from projections.accounts.credentials import Cipher, Credentials
from projections.accounts.identities import Identities
from projections.entities.gumnut.client import GumnutUnavailable
from projections.entities.gumnut.config import GumnutConfig
from projections.entities.gumnut.session_calls import GumnutSessions, SignInAgain
from tests.support.gumnut.flow import assert_tells_nothing, provider_of, sent_back
from tests.support.gumnut.server import ANN, EMAIL, REDIRECT_URI, Answered, GumnutServer
from tests.support.ledger.given import NOW
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.stores.dump import bytes_of, values_of
from tests.support.stores.servers import wait_until

PARTITIONS: Final = 4
SID: Final = sid_of("first")
ME: Final = "/api/users/me"
CIPHER: Final = Cipher.from_keys([Cipher.make_key()])


class Device:
    """A session that was signed in with Gumnut, and what workers do in its name."""

    def __init__(self, store: Store, server: GumnutServer) -> None:
        self.store = store
        self.server = server
        self.ledger = Ledger(store, PARTITIONS, Clock())
        self.credentials = Credentials(store, PARTITIONS, CIPHER)
        self.sessions = GumnutSessions(GumnutConfig(server.url), self.credentials)
        self.first = server.token()

    async def sign_in(self) -> None:
        await self.ledger.execute("ann", SID, CreateSession("ann", "photos", authenticated_by="gumnut"))
        await self.credentials.hold("ann", SID, self.first)

    async def profile(self) -> str:
        return (await self.sessions.profile("ann", SID)).id

    async def held(self) -> str | None:
        return await self.credentials.read("ann", SID)

    def used(self) -> list[str | None]:
        return [seen.token for seen in self.server.seen if seen.path == ME]


class Away:
    """A store that takes no writes while it is `away`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away = False

    async def command(self, *args: Arg, key: bytes) -> Any:
        return await self._store.command(*args, key=key)

    async def script(self, script: Script, names: Sequence[bytes], args: Sequence[Arg]) -> Any:
        if self.away:
            raise StoreUnavailable("the store is away", maybe_done=False)
        return await self._store.script(script, names, args)

    async def each_primary(self, *args: Arg) -> list[Any]:
        return await self._store.each_primary(*args)

    async def close(self) -> None:
        raise AssertionError("not the test's to close")


@pytest.fixture
def server() -> Iterator[GumnutServer]:
    with GumnutServer().running() as server:
        yield server


@pytest.fixture
async def device(store: Store, server: GumnutServer) -> AsyncIterator[Device]:
    device = Device(store, server)
    await device.sign_in()
    yield device
    await device.sessions.close()


async def test_a_session_asks_with_its_own_token(device: Device) -> None:
    assert await device.profile() == ANN
    assert device.used() == [device.first]
    assert await device.held() == device.first


async def test_a_new_token_takes_the_place_of_the_old_one_and_the_session_stays(device: Device) -> None:
    before = await device.ledger.load("ann", SID)
    for _ in range(10):
        device.server.refresh = 1
        old = await device.held()
        await device.profile()
        new = await device.held()
        assert new == device.server.secrets[-1] != old
        assert old is not None
        device.server.expire(old)
    assert await device.profile() == ANN
    after = await device.ledger.load("ann", SID)
    assert (after.seq, after.hash) == (before.seq, before.hash)


async def test_of_calls_at_once_that_all_bring_new_tokens_one_is_kept_and_all_succeed(device: Device) -> None:
    device.server.refresh = 8
    assert await asyncio.gather(*(device.profile() for _ in range(8))) == [ANN] * 8
    kept = await device.held()
    assert kept in device.server.secrets[1:]
    assert await device.profile() == ANN
    assert device.used()[-1] == kept


async def test_calls_of_one_client_at_once_agree_on_one_token(device: Device) -> None:
    client = await device.sessions.client("ann", SID)
    for _ in range(5):
        device.server.refresh = 4
        await asyncio.gather(*(client.users.me() for _ in range(4)))
        await client.users.me()
        assert device.used()[-1] == await device.held()


async def test_a_token_that_comes_late_does_not_replace_a_newer_one(device: Device) -> None:
    """An answer to the oldest token arrives after others brought newer ones."""
    late = device.server.token()
    body = device.server.someone.model_dump(mode="json")
    device.server.instead[ME] = [Answered(200, body, {"X-New-Access-Token": late}, delay_s=0.5)]
    slow = asyncio.create_task(device.profile())
    await asyncio.to_thread(wait_until, device.used, "the slow call to arrive")
    for _ in range(2):
        device.server.refresh = 1
        await device.profile()
    newest = device.server.secrets[-1]
    assert await slow == ANN
    assert await device.held() == newest != late


async def test_who_asked_with_a_token_that_just_expired_asks_again_with_the_newer_one(device: Device) -> None:
    client = await device.sessions.client("ann", SID)
    device.server.refresh = 1
    await device.profile()
    device.server.expire(device.first)
    assert (await client.users.me()).id == ANN
    assert device.used() == [device.first, device.first, await device.held()]


async def test_without_a_good_token_the_user_must_sign_in_again_and_the_session_lives(device: Device) -> None:
    device.server.expire(device.first)
    with pytest.raises(SignInAgain) as caught:
        await device.profile()
    assert_tells_nothing(device.server, caught.value)
    assert device.used() == [device.first]
    assert (await device.ledger.load("ann", SID)).ended is None
    for user, sid in (("ann", sid_of("other")), ("bob", SID)):
        with pytest.raises(SignInAgain):
            await device.sessions.profile(user, sid)


async def test_a_session_that_ends_meanwhile_keeps_nothing(device: Device) -> None:
    client = await device.sessions.client("ann", SID)
    await device.ledger.execute("ann", SID, EndSession("logout"))
    device.server.refresh = 1
    assert (await client.users.me()).id == ANN
    assert await device.held() is None
    assert keys.credentials(keys.partition_of("ann", PARTITIONS)) not in await values_of(device.store)


@pytest.mark.parametrize("garbage", ["", "garbage", "a.b.c d", "a.b." + "c" * 8192, "a..c", "ä.b.c"])
async def test_what_is_no_token_is_not_kept(
    device: Device, garbage: str, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    body = device.server.someone.model_dump(mode="json")
    device.server.instead[ME] = [Answered(200, body, {"X-New-Access-Token": garbage})]
    assert await device.profile() == ANN
    assert await device.held() == device.first
    assert "sent something that is no new token" in caplog.text
    assert not garbage or garbage not in caplog.text


@pytest.mark.parametrize("status", [429, 500, 404])
async def test_trouble_at_gumnut_is_told_from_a_refusal(device: Device, status: int) -> None:
    device.server.instead[ME] = [Answered(status, {"detail": device.first}, {"retry-after": "0.01"})] * 3
    with pytest.raises(GumnutUnavailable) as caught:
        await device.profile()
    assert_tells_nothing(device.server, caught.value)
    assert await device.held() == device.first


async def test_a_call_succeeds_also_when_its_new_token_cannot_be_kept(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    store = Away(device.store)
    sessions = GumnutSessions(GumnutConfig(device.server.url), Credentials(store, PARTITIONS, CIPHER))
    client = await sessions.client("ann", SID)
    store.away, device.server.refresh = True, 1
    assert (await client.users.me()).id == ANN
    assert await device.held() == device.first
    assert "could not be kept: StoreUnavailable" in caplog.text
    store.away, device.server.refresh = False, 1
    device.server.expire(device.first)
    assert (await client.users.me()).id == ANN
    assert await device.held() == device.server.secrets[-1]
    await sessions.close()


async def test_a_store_that_is_away_is_told_as_such(device: Device) -> None:
    await device.profile()
    client = await device.sessions.client("ann", SID)
    device.server.expire(device.first)
    await device.store.close()
    with pytest.raises(StoreUnavailable):
        await device.profile()
    with pytest.raises(StoreUnavailable):
        await device.sessions._pool.ask("user", client.users.me(), object)


async def test_nothing_of_a_sign_in_lies_in_the_store_or_the_log_in_clear(
    store: Store, server: GumnutServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The address lies in the identity record, which can be erased, and nowhere else; all other secrets nowhere."""
    caplog.set_level(logging.DEBUG)
    device, identities = Device(store, server), Identities(store, PARTITIONS)
    async with provider_of(server) as provider:
        answer, verifier = await sent_back(server, provider)
        identity = await provider.sign_in(answer, REDIRECT_URI, verifier)
        for wrong in (answer, Answer("code", answer.state)):
            with pytest.raises(Exception, match=r"^OAuth authentication failed$"):
                await provider.sign_in(wrong, REDIRECT_URI, verifier)
    assert identity.email is not None
    assert identity.credential is not None
    profile = await identities.sign_in(
        identity.issuer,
        identity.subject,
        email=identity.email,
        name=identity.name,
        library=identity.library,
        now_us=NOW,
    )
    create = CreateSession(profile.user, profile.library, authenticated_by="gumnut")
    await device.ledger.execute(profile.user, SID, create)
    assert await device.credentials.hold(profile.user, SID, identity.credential)
    server.refresh = 3
    for _ in range(4):
        await device.sessions.profile(profile.user, SID)
    await device.sessions.close()

    stored = {name: name + b"\n" + bytes_of(value) for name, value in (await values_of(store)).items()}
    assert len(stored) >= 7
    everything = b"\n".join(stored.values()).lower()
    hidden = [text.lower() for text in (*server.secrets, identity.subject)]
    assert len(hidden) >= 9
    assert not [text for text in hidden if text.encode() in everything]
    payloads = [text.split(".")[1] for text in hidden if text.count(".") == 2]
    assert payloads
    assert not [text for text in payloads if text.encode() in everything]
    record = keys.identity(keys.partition_of(profile.user, PARTITIONS), profile.user)
    assert [name for name, text in stored.items() if EMAIL.lower().encode() in text.lower()] == [record]
    assert [name for name, text in stored.items() if b"Ann Example" in text] == [record]
    assert await identities.erase(profile.user)
    left = b"\n".join(bytes_of(value) for value in (await values_of(store)).values())
    assert EMAIL.lower().encode() not in left.lower()
    assert not [text for text in (*server.secrets, EMAIL, EMAIL.lower()) if text in caplog.text]
    assert not [text for text in (*server.secrets, EMAIL) if text in f"{identity!r} {profile!r} {device.credentials!r}"]
