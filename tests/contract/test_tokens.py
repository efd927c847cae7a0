"""Tokens that last: a device whose token is replaced keeps its session, and one that was copied loses it."""

from __future__ import annotations

import asyncio

import pytest

from ledger import keys
from ledger.admission import Caller
from ledger.commands import Command, CreateSession, EndSession, RotateToken
from ledger.errors import Refused, SessionEnded, TokenReused
from ledger.events import AcksRecorded, Event, TokenFirstUsed, TokenRotated
from ledger.events import SessionEnded as SessionEndedEvent
from ledger.log.finding import by_provider_session
from ledger.log.reader import read_partition
from ledger.log.service import Ledger
from ledger.state import State
from ledger.store.interface import Store
from projections.accounts.tokens import Issued, TokenIssuer, make_key, read_keyring
from projections.checking.verify import verify
from tests.support.ledger.given import NOW, SNAPSHOT, ack, acks, offer
from tests.support.ledger.ledgers import Clock

PARTITIONS = 4
GRACE_US = 60_000_000
SECOND_US = 1_000_000
KEY = make_key()
ISSUER = TokenIssuer(lambda: read_keyring(KEY))


class Phone:
    """A device with a token."""

    def __init__(self, store: Store) -> None:
        self.clock = Clock()
        self.workers = [Ledger(store, PARTITIONS, self.clock, GRACE_US) for _ in range(2)]
        self.ledger, self.other = self.workers
        self.tokens: list[Issued] = []

    async def sign_in(self, **fields: object) -> State:
        issued = ISSUER.issue("ann", self.clock())
        self.tokens = [issued]
        return await self.ledger.execute("ann", issued.sid, CreateSession("ann", "photos", **fields))  # type: ignore[arg-type]

    def caller(self, number: int = -1) -> Caller:
        found = ISSUER.read(self.tokens[number].token)
        assert found is not None
        return found

    async def refresh(self, worker: int = 0, ttl_us: int | None = None, by: int = -1) -> None:
        """Ask for a new token with the newest one, or with another."""
        state = await self.workers[worker].admit(self.caller(by))
        issued = ISSUER.renew(state, self.clock(), ttl_us)
        new = ISSUER.read(issued.token)
        assert new is not None
        command = RotateToken(self.caller(by).digest, new.digest, new.number, issued.expires_at_us)
        await self.workers[worker].act(self.caller(by), command)
        self.tokens.append(issued)

    async def events(self) -> list[Event]:
        pages = read_partition(self.ledger.store, self.ledger.partition_of("ann"))
        return [entry.recorded.event async for page in pages for entry in page]


@pytest.fixture
def phone(store: Store) -> Phone:
    return Phone(store)


async def assert_clean(store: Store) -> None:
    assert (await verify(store, PARTITIONS)).differences == []


@pytest.mark.each_store
async def test_a_session_goes_on_over_ten_tokens_and_two_workers(phone: Phone, store: Store) -> None:
    await phone.sign_in()
    await phone.ledger.act(phone.caller(), offer("AssetV1"))
    for number in range(10):
        await phone.refresh(worker=number % 2)
        state = await phone.workers[number % 2].act(phone.caller(), acks(ack("AssetV1", SNAPSHOT - 20 + number)))
        assert state.sid == phone.tokens[0].sid
        assert state.checkpoints["AssetV1"].position.at_us == SNAPSHOT - 20 + number
        assert await phone.workers[(number + 1) % 2].admit(phone.caller()) == state
    kinds = [type(event) for event in await phone.events()][2:]
    assert kinds == [TokenRotated, TokenFirstUsed, AcksRecorded] * 10
    await assert_clean(store)


async def test_the_first_use_counts_also_if_the_command_is_refused(phone: Phone) -> None:
    await phone.sign_in()
    await phone.refresh()
    with pytest.raises(Refused):
        await phone.other.act(phone.caller(), acks(ack("AssetV1", SNAPSHOT)))
    assert isinstance((await phone.events())[-2], TokenFirstUsed)


async def test_a_token_first_used_at_two_workers_at_once_is_taken_up_once(phone: Phone, store: Store) -> None:
    await phone.sign_in()
    for worker in phone.workers:
        await worker.act(phone.caller(), offer("AssetV1"))
    await phone.refresh()
    one: list[Command] = [acks(ack("AssetV1", SNAPSHOT - 100 + number)) for number in range(20)]
    calls = [worker.act(phone.caller(), command) for command in one for worker in phone.workers]
    await asyncio.gather(*calls, *(worker.admit(phone.caller()) for worker in phone.workers))
    assert [type(event) for event in await phone.events()].count(TokenFirstUsed) == 1
    await assert_clean(store)


async def test_a_lost_reply_locks_nobody_out(phone: Phone) -> None:
    await phone.sign_in()
    for _ in range(3):
        await phone.refresh()
        del phone.tokens[-1]  # the reply never came
        phone.clock.now_us += 10 * GRACE_US
        await phone.ledger.admit(phone.caller())
    await phone.refresh()
    assert (await phone.other.admit(phone.caller())).token == phone.caller().digest


async def test_the_grace_begins_when_the_new_token_is_first_used(phone: Phone) -> None:
    await phone.sign_in()
    await phone.refresh()
    phone.clock.now_us += 10 * GRACE_US
    await phone.ledger.admit(phone.caller())
    phone.clock.now_us += GRACE_US - 1
    for worker in phone.workers:
        await worker.admit(phone.caller(0))
        with pytest.raises(Refused, match="replaced by a newer one"):
            await worker.act(phone.caller(0), RotateToken(phone.caller(0).digest, b"x" * 32, 2))


async def test_the_first_of_nine_refreshes_is_refused_and_the_session_goes_on(phone: Phone, store: Store) -> None:
    await phone.sign_in()
    first = phone.caller(0)
    for _ in range(9):
        await phone.refresh(by=0)
    for late in (phone.caller(1), phone.caller(1)):
        with pytest.raises(SessionEnded) as refused:
            await phone.other.admit(late)
        assert not isinstance(refused.value, TokenReused)
    await phone.ledger.admit(first)
    await phone.other.admit(phone.caller())
    await assert_clean(store)


async def test_two_tabs_that_refresh_at_once_keep_their_session(phone: Phone, store: Store) -> None:
    await phone.sign_in()
    await phone.refresh(by=0)
    await phone.refresh(by=0)
    await phone.ledger.admit(phone.caller(1))
    await phone.other.admit(phone.caller(2))  # in its grace
    phone.clock.now_us += GRACE_US
    with pytest.raises(SessionEnded) as refused:
        await phone.other.admit(phone.caller(2))
    assert not isinstance(refused.value, TokenReused)
    await phone.ledger.admit(phone.caller(1))  # the tab whose token is in use
    await assert_clean(store)
    with pytest.raises(TokenReused):
        await phone.ledger.admit(phone.caller(0))


@pytest.mark.parametrize("number", [0, 1])
async def test_a_token_that_comes_after_its_grace_ends_the_session_and_its_children(
    phone: Phone, store: Store, number: int
) -> None:
    state = await phone.sign_in()
    child = ISSUER.issue("ann", phone.clock())
    await phone.ledger.execute("ann", child.sid, CreateSession("ann", "photos", parent=state.sid))
    for _ in range(2):
        await phone.refresh()
        await phone.ledger.admit(phone.caller())
    phone.clock.now_us += GRACE_US
    with pytest.raises(TokenReused):
        await phone.other.act(phone.caller(number), offer("AssetV1"))
    for worker in phone.workers:
        for token in range(3):
            with pytest.raises(SessionEnded):
                await worker.admit(phone.caller(token))
        with pytest.raises(SessionEnded):
            await worker.load("ann", child.sid)
    ended = [event for event in await phone.events() if isinstance(event, SessionEndedEvent)]
    assert [event.reason for event in ended] == ["token_reused", "parent_ended"]
    await assert_clean(store)


async def test_a_forged_or_foreign_token_is_refused_and_ends_nothing(phone: Phone) -> None:
    state = await phone.sign_in()
    key = make_key()
    forged = TokenIssuer(lambda: read_keyring(key)).renew(state, phone.clock()).token
    presented = ISSUER.read(forged)
    assert presented is not None
    assert not presented.genuine
    length = len(await phone.events())
    for worker in phone.workers:
        with pytest.raises(SessionEnded) as refused:
            await worker.act(presented, offer("AssetV1"))
        assert not isinstance(refused.value, TokenReused)
    assert len(await phone.events()) == length
    await phone.ledger.admit(phone.caller())


async def test_an_expired_token_is_refused_at_once_and_a_newer_one_goes_on(phone: Phone) -> None:
    await phone.sign_in(token_expires_at_us=NOW + 5 * SECOND_US)
    phone.tokens = phone.tokens[:1]
    await phone.refresh(ttl_us=60 * SECOND_US)
    phone.clock.now_us += 10 * SECOND_US
    state = await phone.ledger.admit(phone.caller())
    assert state.over_at_us == NOW + 60 * SECOND_US
    phone.clock.now_us += 50 * SECOND_US
    for worker in phone.workers:
        with pytest.raises(SessionEnded):
            await worker.act(phone.caller(), offer("AssetV1"))
        with pytest.raises(SessionEnded):
            await worker.admit(phone.caller())


async def test_a_stream_outlives_the_token_it_began_with(phone: Phone) -> None:
    state = await phone.sign_in(token_expires_at_us=NOW + 5 * SECOND_US)
    await phone.refresh()
    phone.clock.now_us += 10 * SECOND_US
    assert await phone.other.admissions.lives(state)
    await phone.ledger.execute("ann", state.sid, EndSession("logout"))
    assert not await phone.other.admissions.lives(state)


@pytest.mark.each_store
async def test_sessions_are_found_by_their_provider_s_session(phone: Phone, store: Store) -> None:
    digests = [bytes([number]) * 16 for number in range(3)]
    expected: dict[bytes, set[tuple[str, str]]] = {digest: set() for digest in digests}
    for number in range(12):
        user, issued = f"user-{number}", ISSUER.issue(f"user-{number}", NOW)
        digest = digests[number % 3]
        command = CreateSession(user, "photos", provider_session=digest)
        await phone.ledger.execute(user, issued.sid, command)
        expected[digest].add((user, issued.sid))

    async def found(digest: bytes) -> set[tuple[str, str]]:
        sessions, unread = await by_provider_session(phone.other.stored, digest)
        assert unread is None
        return set(sessions)

    for digest in digests:
        assert await found(digest) == expected[digest]
    assert await found(b"x" * 16) == set()
    user, sid = expected[digests[0]].pop()
    await phone.ledger.execute(user, sid, EndSession("logout"))
    assert await found(digests[0]) == expected[digests[0]]
    await assert_clean(store)


@pytest.mark.parametrize("kept", [True, False])
async def test_verify_tells_a_wrong_index_of_provider_sessions(phone: Phone, store: Store, kept: bool) -> None:
    state = await phone.sign_in(provider_session=b"0" * 16)
    name = keys.provider_sessions(phone.ledger.partition_of("ann"))
    member = f"{(b'0' * 16).hex()}:{state.sid}"
    if kept:
        await phone.ledger.execute("ann", state.sid, EndSession("logout"))
        await store.command("ZADD", name, 0, member, key=name)
    else:
        await store.command("ZREM", name, member, key=name)
    told = (await verify(store, PARTITIONS)).differences
    assert [difference.session for difference in told] == [state.sid]
    assert "provider" in told[0].what


async def test_a_credential_goes_with_its_session(phone: Phone, store: Store) -> None:
    state = await phone.sign_in()
    name = keys.credentials(phone.ledger.partition_of("ann"))
    await store.command("HSET", name, state.sid, "sealed", key=name)
    await assert_clean(store)
    await phone.ledger.execute("ann", state.sid, EndSession("logout"))
    assert await store.command("EXISTS", name, key=name) == 0
    await store.command("HSET", name, state.sid, "sealed", key=name)
    assert [difference.what for difference in (await verify(store, PARTITIONS)).differences] == [
        "ended, but still has credential"
    ]
