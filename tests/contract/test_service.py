"""Commands on a ledger that many workers share: each is decided on the current state, and its outcome is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.acks import Ack
from ledger.admission import Caller
from ledger.commands import (
    AdoptCheckpoints,
    CreateSession,
    DescribeDevice,
    EndSession,
    ExpireSession,
    RequestReset,
    ResumeSession,
    RotateToken,
)
from ledger.entity_types import mask_of
from ledger.errors import AckNotOffered, Contended, NoSuchSession, Rebuilding, Refused, SessionEnded, StoreUnavailable
from ledger.events import (
    IMMICH,
    AckRefused,
    AcksRecorded,
    CheckpointsAdopted,
    Event,
    HistoryLost,
    ResetSent,
    SessionCreated,
    SessionResumed,
    StoredAck,
    SyncResetRequested,
    mask_bytes,
)
from ledger.events import SessionEnded as SessionEndedEvent
from ledger.log import families
from ledger.log.append import _APPEND, _END, append
from ledger.log.finding import by_provider_session, locate
from ledger.log.losses import Compared
from ledger.log.reader import read_partition
from ledger.log.service import Ledger
from ledger.log.stored import ATTEMPTS, Stored
from ledger.log.whole import mark_new
from ledger.personal import plain, text_of
from ledger.state import State
from ledger.store.interface import Store, open_store
from projections.checking.rebuild import Rebuild
from projections.checking.verify import verify
from projections.history.event_pages import EventPages
from tests.support.ledger.given import CREATED, NOW, SNAPSHOT, ack, acks, clear, moved, offer, offered, stored
from tests.support.ledger.ledgers import Clock, contents, sid_of
from tests.support.ledger.lost_tail import Tail
from tests.support.stores.losing_proxy import LosingProxy
from tests.support.stores.servers import RedisServer

PARTITIONS = 4
SID = sid_of("first")
HOUR_US = 3_600_000_000
EARLY, LATE = SNAPSHOT - 20, SNAPSHOT - 10
CREATE = CreateSession(
    "ann", "photos", device_type=plain("iPhone"), device_os=plain("iOS"), authenticated_by="password"
)
LOGOUT = EndSession("logout", plain("ann"))


def ledger_on(store: Store, clock: Clock | None = None) -> Ledger:
    return Ledger(store, PARTITIONS, clock or Clock())


@pytest.fixture
async def ledger(store: Store) -> Ledger:
    await mark_new(store, PARTITIONS)
    return ledger_on(store)


@pytest.fixture
def other(store: Store) -> Ledger:
    """Another worker on the same store."""
    return ledger_on(store)


async def child_of(ledger: Ledger, name: str, parent: str = SID, user: str = "ann") -> State:
    return await ledger.execute(user, sid_of(name), CreateSession(user, "photos", parent=parent))


async def events_of(ledger: Ledger, sid: str = SID, user: str = "ann") -> list[Event]:
    pages = read_partition(ledger.store, ledger.partition_of(user))
    return [entry.recorded.event async for page in pages for entry in page if entry.recorded.sid == sid]


async def assert_clean(store: Store) -> None:
    assert (await verify(store, PARTITIONS)).differences == []


# One worker


async def test_a_command_appends_what_decide_says_and_returns_the_state_after_it(ledger: Ledger) -> None:
    created = await ledger.execute("ann", SID, CREATE)
    assert (created.user, created.seq, created.at_us) == ("ann", 1, NOW)
    await ledger.execute("ann", SID, offer("AssetV1"))
    state = await ledger.execute("ann", SID, acks(ack("AssetV1", EARLY, "a")))
    assert await ledger.load("ann", SID) == state
    assert await events_of(ledger) == [CREATED, offered("AssetV1"), moved(ack("AssetV1", EARLY, "a"))]


async def test_what_changes_nothing_appends_nothing(ledger: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    state = await ledger.execute("ann", SID, offer("AssetV1"))
    for _ in range(50):
        assert await ledger.execute("ann", SID, offer("AssetV1")) == state
    assert await ledger.execute("ann", SID, acks()) == state
    assert len(await events_of(ledger)) == 2


async def test_a_refused_ack_is_on_record_once_and_refused_each_time(ledger: Ledger, other: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    for worker in (ledger, ledger, other):
        with pytest.raises(AckNotOffered):
            await worker.execute("ann", SID, acks(ack("AssetV1", EARLY)))
    assert [type(event) for event in await events_of(ledger)] == [SessionCreated, AckRefused]


async def test_time_never_runs_back_within_a_session(store: Store) -> None:
    clock = Clock()
    ledger = ledger_on(store, clock)
    await ledger.execute("ann", SID, CREATE)
    clock.now_us -= 5_000_000
    assert (await ledger.execute("ann", SID, offer("AssetV1"))).at_us == NOW


async def test_nothing_can_be_done_to_sessions_that_do_not_live(ledger: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    await ledger.execute("ann", SID, LOGOUT)
    for sid in (SID, sid_of("nobody")):
        for command in (offer("AssetV1"), acks(), clear(), LOGOUT, RequestReset(True, plain("ann"))):
            with pytest.raises(SessionEnded):
                await ledger.execute("ann", sid, command)
        with pytest.raises(SessionEnded):
            await ledger.load("ann", sid)
    with pytest.raises(SessionEnded):
        await ledger.execute("ann", SID, CREATE)
    assert await events_of(ledger) == [CREATED, SessionEndedEvent("logout", plain("ann"))]
    assert await events_of(ledger, sid_of("nobody")) == []


async def test_a_token_begins_one_session(ledger: Ledger, other: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    for worker in (ledger, other):
        with pytest.raises(Refused, match="has a session already"):
            await worker.execute("ann", SID, CREATE)


async def test_a_session_begins_where_its_device_stood_in_one_append_by_one_of_two_workers(
    ledger: Ledger, other: Ledger
) -> None:
    adopt = AdoptCheckpoints((ack("AssetV1", EARLY, "a"),), IMMICH, EARLY, as_of_us=LATE, types=mask_of(["AssetV1"]))
    create = replace(CREATE, adopted=adopt)
    made = await asyncio.gather(*(one.execute("ann", SID, create) for one in (ledger, other)), return_exceptions=True)
    (state,) = (one for one in made if isinstance(one, State))
    (error,) = (one for one in made if isinstance(one, Refused))
    assert "has a session already" in str(error)
    assert (state.seq, state.checkpoints["AssetV1"].position.id) == (2, "a")
    first = CheckpointsAdopted((stored(adopt.positions[0]),), IMMICH, EARLY, LATE, mask_bytes(adopt.types))
    assert await events_of(ledger) == [CREATED, first]
    later = replace(adopt, as_of_us=LATE + 1)
    states = await asyncio.gather(*(one.execute("ann", SID, later) for one in (ledger, other)))
    assert [one.seq for one in states] == [3, 3], "the other finds it done"
    assert states[0].epoch == 2
    second = replace(first, positions=(replace(first.positions[0], epoch=2),), as_of_us=LATE + 1)
    assert await events_of(ledger) == [CREATED, first, second]


async def test_an_expired_session_is_refused_before_anybody_ended_it(store: Store) -> None:
    clock = Clock()
    ledger = ledger_on(store, clock)
    await ledger.execute("ann", SID, CreateSession("ann", "photos", expires_at_us=NOW + HOUR_US))
    state = await ledger.execute("ann", SID, offer("AssetV1"))
    assert await ledger.admissions.lives(state)
    clock.now_us += HOUR_US
    assert not await ledger.admissions.lives(state)
    assert await ledger.devices("ann") == []
    with pytest.raises(SessionEnded):
        await ledger.load("ann", SID)
    with pytest.raises(SessionEnded):
        await ledger.execute("ann", SID, acks(ack("AssetV1", EARLY)))


# Users


async def test_nobody_reaches_the_session_of_another_user(ledger: Ledger) -> None:
    users = [f"user {number}".replace(" ", "-") for number in range(2 * PARTITIONS + 1)]
    same = [user for user in users[1:] if ledger.partition_of(user) == ledger.partition_of(users[0])]
    assert same, "one of them shares the partition"
    state = await ledger.execute(users[0], SID, CreateSession(users[0], "photos"))
    for user in users[1:]:
        with pytest.raises(SessionEnded):
            await ledger.load(user, SID)
        for command in (
            LOGOUT,
            RequestReset(True, plain(user)),
            clear(),
            acks(),
            offer("AssetV1"),
            DescribeDevice(plain("x")),
        ):
            with pytest.raises(SessionEnded):
                await ledger.execute(user, SID, command)
        assert await ledger.devices(user) == []
    assert await ledger.load(users[0], SID) == state


async def test_a_session_of_another_user_is_no_parent(ledger: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    with pytest.raises(SessionEnded):
        await child_of(ledger, "child", user="bob")


async def test_devices_are_the_living_sessions_of_a_user(ledger: Ledger) -> None:
    assert await ledger.devices("ann") == []
    first, second = await ledger.execute("ann", SID, CREATE), await child_of(ledger, "second")
    await ledger.execute("bob", sid_of("bob"), CreateSession("bob", "photos"))
    assert sorted(await ledger.devices("ann"), key=lambda s: s.seq) == sorted((first, second), key=lambda s: s.seq)
    assert await ledger.sessions.seen_ms("ann", [SID, sid_of("nobody")]) == [NOW // 1000, 0]
    assert await ledger.sessions.seen_ms("ann", []) == []


@pytest.mark.each_store
async def test_ending_others_keeps_oneself_and_those_one_belongs_to(ledger: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    await child_of(ledger, "child")
    await child_of(ledger, "grandchild", sid_of("child"))
    await ledger.execute("ann", sid_of("phone"), CREATE)
    await child_of(ledger, "of phone", sid_of("phone"))
    ended = await ledger.end_others("ann", sid_of("child"), EndSession("revoked_others", plain("ann")))
    assert ended == 3
    assert {state.sid for state in await ledger.devices("ann")} == {SID, sid_of("child")}
    assert await ledger.end_others("ann", sid_of("child"), EndSession("revoked_others", plain("ann"))) == 0
    assert [event for event in await events_of(ledger, sid_of("grandchild")) if isinstance(event, SessionEndedEvent)]
    await assert_clean(ledger.store)


async def test_many_others_end_also_when_children_end_with_parents_of_an_earlier_batch(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "ENDED_TOGETHER", 1)
    await ledger.execute("ann", SID, CREATE)
    await ledger.execute("ann", sid_of("phone"), CREATE)
    for number in range(5):
        await child_of(ledger, f"of phone {number}", sid_of("phone"))
    await ledger.end_others("ann", SID, EndSession("revoked_others", plain("ann")))
    assert [state.sid for state in await ledger.devices("ann")] == [SID]


async def test_two_workers_that_end_others_both_succeed(ledger: Ledger, other: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    await asyncio.gather(*(ledger.execute("ann", sid_of(f"{n}"), CREATE) for n in range(10)))
    command = EndSession("revoked_others", plain("ann"))
    await asyncio.gather(*(worker.end_others("ann", SID, command) for worker in (ledger, other)))
    assert [state.sid for state in await ledger.devices("ann")] == [SID]
    await assert_clean(ledger.store)


@pytest.mark.each_store
async def test_a_session_ends_with_its_children_and_all_that_is_stored_of_them(ledger: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    names = ["child", "grandchild", "great-grandchild"]
    for name, parent in zip(names, ["first", *names], strict=False):
        await child_of(ledger, name, sid_of(parent))
        await ledger.execute("ann", sid_of(name), offer("AssetV1"))
        await ledger.execute("ann", sid_of(name), acks(ack("AssetV1", EARLY)))
    state = await ledger.execute("ann", SID, LOGOUT)
    assert state.ended == "logout"
    sids = [SID, *map(sid_of, names)]
    partition = ledger.partition_of("ann")
    found = await contents(ledger.store, partition, sids)
    kept = found.pop(keys.ended(partition))
    found.pop(keys.stream(partition))
    assert set(kept) == {sid.encode() for sid in sids}
    assert not any(found.values())
    for name in names:
        assert (await events_of(ledger, sid_of(name)))[-1] == SessionEndedEvent("parent_ended")
    await assert_clean(ledger.store)


@pytest.mark.each_store
async def test_a_session_is_found_by_its_id_alone(ledger: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    assert await locate(ledger.stored, SID) == ledger.partition_of("ann")
    await ledger.execute("ann", SID, LOGOUT)
    assert await locate(ledger.stored, SID) == ledger.partition_of("ann")
    with pytest.raises(NoSuchSession):
        await locate(ledger.stored, sid_of("nobody"))
    with pytest.raises(NoSuchSession):
        await EventPages(ledger.store).page(0, sid_of("nobody"), count=9)


# Several workers


async def test_an_ack_is_decided_on_the_current_state_whatever_a_worker_remembers(
    ledger: Ledger, other: Ledger
) -> None:
    await ledger.execute("ann", SID, CREATE)
    await other.load("ann", SID)
    await ledger.execute("ann", SID, offer("AssetV1"))
    state = await other.execute("ann", SID, acks(ack("AssetV1", EARLY)))
    assert state.checkpoints["AssetV1"].position.at_us == EARLY
    assert [type(event) for event in await events_of(ledger)][2:] == [AcksRecorded], "no refusal is on record"


async def test_a_refusal_on_record_does_not_hide_an_offer_of_another_worker(ledger: Ledger, other: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    with pytest.raises(AckNotOffered):
        await other.execute("ann", SID, acks(ack("AssetV1", EARLY)))
    await ledger.execute("ann", SID, offer("AssetV1"))
    state = await other.execute("ann", SID, acks(ack("AssetV1", EARLY)))
    assert "AssetV1" in state.checkpoints


async def test_a_logout_by_another_worker_counts_at_once(ledger: Ledger, other: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    state = await ledger.execute("ann", SID, offer("AssetV1"))
    await other.execute("ann", SID, LOGOUT)
    for command in (acks(ack("AssetV1", EARLY)), acks(), acks(ack("AlbumV2", EARLY)), offer("AssetV1"), clear()):
        with pytest.raises(SessionEnded):
            await ledger.execute("ann", SID, command)
    assert not await ledger.admissions.lives(state)


async def test_a_device_that_one_worker_asks_to_reset_is_reset_by_another(ledger: Ledger, other: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    await other.execute("ann", SID, offer("AssetV1"))
    await ledger.execute("ann", SID, RequestReset(True, plain("ann")))
    assert (await other.execute("ann", SID, offer("AssetV1"))).pending_reset


async def test_every_answered_ack_of_racing_workers_is_in_the_log(ledger: Ledger, other: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    await ledger.execute("ann", SID, offer("AssetV1"))
    sent = [ack("AssetV1", SNAPSHOT - 1000 + number) for number in range(400)]

    async def send(number: int, one: Ack) -> Ack | None:
        worker = (ledger, other)[number % 2]
        try:
            state = await worker.execute("ann", SID, acks(one))
        except Contended:
            return None
        assert state.checkpoints["AssetV1"].position.key >= one.position.key
        return one

    answers = await asyncio.gather(*(send(number, one) for number, one in enumerate(sent)))
    answered = {stored(one) for one in answers if one is not None}
    heard: list[StoredAck] = []
    for event in (await events_of(ledger))[2:]:
        assert isinstance(event, AcksRecorded)
        heard += (*event.moved, *event.stale)
    assert answered == set(heard)
    assert len(heard) == len(answered), "each once"
    assert len(answered) >= 300, "a line of waiting commands, not a stampede"
    await assert_clean(ledger.store)


@pytest.mark.each_store
async def test_acks_racing_a_logout_leave_nothing_of_the_session(ledger: Ledger, other: Ledger) -> None:
    for number in range(10):
        sid = sid_of(f"round {number}")
        await ledger.execute("ann", sid, CREATE)
        await ledger.execute("ann", sid, offer("AssetV1"))
        sent = [acks(ack("AssetV1", EARLY + n)) for n in range(8)]
        racing = [worker.execute("ann", sid, one) for one in sent for worker in (ledger, other)]
        racing.insert(number, other.execute("ann", sid, LOGOUT))
        outcomes = await asyncio.gather(*racing, return_exceptions=True)
        assert all(isinstance(outcome, State | SessionEnded) for outcome in outcomes)
        found = await contents(ledger.store, ledger.partition_of("ann"), [sid])
        found.pop(keys.stream(ledger.partition_of("ann")))
        kept = found.pop(keys.ended(ledger.partition_of("ann")))
        assert sid.encode() in kept
        assert not any(found.values())
    await assert_clean(ledger.store)


async def test_a_session_logs_out_once(ledger: Ledger, other: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    racing = [worker.execute("ann", SID, LOGOUT) for worker in (ledger, other) * 5]
    outcomes = await asyncio.gather(*racing, return_exceptions=True)
    assert sum(isinstance(outcome, State) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, SessionEnded) for outcome in outcomes) == 9


@pytest.mark.each_store
async def test_a_child_made_while_its_parent_logs_out_lives_nowhere(ledger: Ledger, other: Ledger) -> None:
    for number in range(10):
        parent = sid_of(f"parent {number}")
        await ledger.execute("ann", parent, CREATE)
        made = child_of(ledger, f"child {number}", parent)
        ended = other.execute("ann", parent, LOGOUT)
        racing = [made, ended] if number % 2 else [ended, made]
        await asyncio.gather(*racing, return_exceptions=True)
        assert await ledger.devices("ann") == []
    await assert_clean(ledger.store)


async def test_a_command_that_never_gets_its_turn_is_contended(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    await ledger.execute("ann", SID, CREATE)
    await ledger.execute("ann", SID, offer("AssetV1"))
    rival = ledger_on(ledger.store)
    count = 0
    racing = ledger_on(ledger.store)
    await racing.load("ann", SID)
    original = Stored.append

    async def one_behind(self: Stored, *args: object, **more: object) -> object:
        if self is racing.stored:
            nonlocal count
            count += 1
            await rival.execute("ann", SID, RequestReset(count % 2 == 1, plain("ann")))
        return await original(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Stored, "append", one_behind)
    with pytest.raises(Contended, match="try again"):
        await racing.execute("ann", SID, acks(ack("AssetV1", EARLY)))
    assert count == ATTEMPTS


# Expiry is decided on what the script that ends a session still finds


async def test_a_device_heard_of_in_the_moment_of_its_expiry_stays(ledger: Ledger, other: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    before = ExpireSession(idle_before_us=NOW + HOUR_US, seen_us=NOW)
    other.clock = Clock(NOW + 2 * HOUR_US)
    await other.load("ann", SID)  # a request without an event
    state = await ledger.execute("ann", SID, before)
    assert state.ended is None
    assert await ledger.load("ann", SID) == state


# A lost connection


@dataclass
class Lost:
    """A ledger behind a proxy that loses connections, and one that does not know of it."""

    ledger: Ledger
    proxy: LosingProxy
    witness: Ledger


@pytest.fixture
async def lost(shared_valkey: RedisServer) -> AsyncIterator[Lost]:
    shared_valkey.flush()
    witness = await open_store(shared_valkey.url)
    async with LosingProxy(shared_valkey.port) as proxy:
        store = await open_store(proxy.url, timeout_s=2)
        try:
            await mark_new(store, PARTITIONS)
            await ledger_on(store).execute("ann", sid_of("warm"), CREATE)
            await ledger_on(store).execute("ann", sid_of("warm"), LOGOUT)
            yield Lost(ledger_on(store), proxy, ledger_on(witness))
        finally:
            await store.close()
            await witness.close()


both = pytest.mark.parametrize("when", ["before", "after"])


@both
async def test_an_ack_whose_reply_is_lost_is_recorded_once(lost: Lost, when: str) -> None:
    await lost.ledger.execute("ann", SID, CREATE)
    await lost.ledger.execute("ann", SID, offer("AssetV1"))
    lost.proxy.lose(when, _APPEND)  # type: ignore[arg-type]
    state = await lost.ledger.execute("ann", SID, acks(ack("AssetV1", EARLY)))
    assert (lost.proxy.lost, state.seq) == (1, 3)
    assert await lost.witness.load("ann", SID) == state
    assert await events_of(lost.witness) == [CREATED, offered("AssetV1"), moved(ack("AssetV1", EARLY))]
    assert (await lost.ledger.execute("ann", SID, acks(ack("AssetV1", LATE)))).seq == 4


@both
async def test_a_login_whose_reply_is_lost_has_one_session(lost: Lost, when: str) -> None:
    await lost.ledger.execute("ann", SID, CREATE)
    lost.proxy.lose(when, _APPEND)  # type: ignore[arg-type]
    state = await child_of(lost.ledger, "child")
    assert lost.proxy.lost == 1
    assert await lost.witness.load("ann", sid_of("child")) == state
    assert len(await events_of(lost.witness, sid_of("child"))) == 1


@both
async def test_a_logout_whose_reply_is_lost_has_ended_the_session(lost: Lost, when: str) -> None:
    await lost.ledger.execute("ann", SID, CREATE)
    await child_of(lost.ledger, "child")
    lost.proxy.lose(when, _END)  # type: ignore[arg-type]
    state = await lost.ledger.execute("ann", SID, LOGOUT)
    assert (lost.proxy.lost, state.ended) == (1, "logout")
    assert await lost.witness.devices("ann") == []
    await assert_clean(lost.witness.store)


@both
async def test_others_that_write_meanwhile_do_not_hide_the_outcome(lost: Lost, when: str) -> None:
    await lost.ledger.execute("ann", SID, CREATE)
    await lost.ledger.execute("ann", SID, offer("AssetV1", "AlbumV2"))

    async def meanwhile() -> None:
        for number in range(5):
            await lost.witness.execute("ann", SID, acks(ack("AlbumV2", EARLY + number)))

    lost.proxy.lose(when, _APPEND, then=meanwhile)  # type: ignore[arg-type]
    state = await lost.ledger.execute("ann", SID, acks(ack("AssetV1", EARLY)))
    assert state.checkpoints["AssetV1"].position.at_us == EARLY
    recorded = [event for event in await events_of(lost.witness) if isinstance(event, AcksRecorded)]
    assert [event for event in recorded if event == moved(ack("AssetV1", EARLY))] == [moved(ack("AssetV1", EARLY))]
    assert len(recorded) == 6
    await assert_clean(lost.witness.store)


@both
async def test_a_logout_meanwhile_is_found_out(lost: Lost, when: str) -> None:
    await lost.ledger.execute("ann", SID, CREATE)
    await lost.ledger.execute("ann", SID, offer("AssetV1"))

    async def meanwhile() -> None:
        await lost.witness.execute("ann", SID, LOGOUT)

    lost.proxy.lose(when, _APPEND, then=meanwhile)  # type: ignore[arg-type]
    command = acks(ack("AssetV1", EARLY))
    if when == "before":
        with pytest.raises(SessionEnded):
            await lost.ledger.execute("ann", SID, command)
    else:
        assert (await lost.ledger.execute("ann", SID, command)).seq == 3, "it was recorded before the session ended"
    with pytest.raises(SessionEnded):
        await lost.ledger.execute("ann", SID, acks(ack("AssetV1", LATE)))
    await assert_clean(lost.witness.store)


@both
async def test_a_store_that_stays_away_is_unavailable_and_the_same_command_repeats_safely(
    lost: Lost, when: str
) -> None:
    await lost.ledger.execute("ann", SID, CREATE)
    await lost.ledger.execute("ann", SID, offer("AssetV1"))
    lost.proxy.lose(when, _APPEND, close=True)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable):
        await lost.ledger.execute("ann", SID, acks(ack("AssetV1", EARLY)))
    assert (await lost.witness.load("ann", SID)).seq == (2 if when == "before" else 3)
    lost.proxy.open_again()
    for _ in range(100):
        try:
            state = await lost.ledger.execute("ann", SID, acks(ack("AssetV1", EARLY)))
            break
        except StoreUnavailable:
            await asyncio.sleep(0.05)
    assert state.seq == 3
    assert await events_of(lost.witness) == [CREATED, offered("AssetV1"), moved(ack("AssetV1", EARLY))]


# Where projections were lost


async def lose(ledger: Ledger, user: str = "ann") -> None:
    """Delete all that is stored of a user's partition but its stream."""
    partition = ledger.partition_of(user)
    for names in await ledger.store.each_primary("KEYS", f"{{p{partition}}}:*"):
        for name in sorted(names, key=lambda name: not name.endswith(b":whole")):
            if not name.endswith(b":stream"):
                await ledger.store.command("DEL", name, key=name)


async def test_a_session_that_may_only_be_missing_is_never_told_that_it_ended(ledger: Ledger, other: Ledger) -> None:
    state = await ledger.execute("ann", SID, CREATE)
    await ledger.execute("ann", SID, offer("AssetV1"))
    await child_of(ledger, "child")
    await other.load("ann", SID)
    await lose(ledger)
    caller = Caller("ann", SID, bytes.fromhex(SID))
    commands = (
        acks(ack("AssetV1", EARLY)),
        acks(),
        offer("AlbumV2"),
        clear(),
        RequestReset(True, plain("ann")),
        LOGOUT,
    )
    fresh = ledger_on(ledger.store)
    for worker in (ledger, other, fresh):
        for command in commands:
            with pytest.raises(Rebuilding):
                await worker.execute("ann", SID, command)
            with pytest.raises(Rebuilding):
                await worker.act(caller, command)
        for asked in (
            worker.load("ann", SID),
            worker.admit(caller),
            worker.admissions.lives(state),
            worker.devices("ann"),
            worker.end_others("ann", SID, EndSession("revoked_others", plain("ann"))),
            locate(worker.stored, SID),
            locate(worker.stored, sid_of("nobody")),
            EventPages(worker.store).page(worker.partition_of("ann"), SID, count=9),
            child_of(worker, "another child"),
        ):
            with pytest.raises(Rebuilding):
                await asked
        found, unread = await by_provider_session(worker.stored, b"\x01" * 16)
        assert (found, type(unread)) == ([], Rebuilding)
    assert len(await events_of(ledger)) == 2
    assert await events_of(ledger, sid_of("another child")) == []


async def test_one_may_sign_in_where_not_all_is_rebuilt_but_nothing_ends_there(ledger: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    await lose(ledger)
    new = sid_of("new")
    await ledger.execute("ann", new, CREATE)
    await ledger.execute("ann", new, offer("AssetV1"))
    await ledger.execute("ann", new, acks(ack("AssetV1", EARLY)))
    assert (await child_of(ledger, "child of new", new)).parent == new
    for command in (LOGOUT, ExpireSession(NOW + HOUR_US, NOW)):
        with pytest.raises(Rebuilding):
            await ledger.execute("ann", new, command)
    assert (await ledger.load("ann", new)).seq == 3
    assert await ledger.admissions.lives(await ledger.load("ann", new))
    assert await locate(ledger.stored, new) == ledger.partition_of("ann")


async def test_an_end_does_not_overlook_children_that_are_lost_at_that_moment(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script that ends sessions looks itself, not only what was read before it."""
    await ledger.execute("ann", SID, CREATE)
    original = append

    async def lost_right_before(*args: object, **more: object) -> object:
        name = keys.whole(ledger.partition_of("ann"))
        await ledger.store.command("DEL", name, key=name)
        return await original(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("ledger.log.stored.append", lost_right_before)
    with pytest.raises(Rebuilding):
        await ledger.execute("ann", SID, LOGOUT)
    assert (await ledger.load("ann", SID)).ended is None


async def test_who_is_known_to_have_ended_is_told_so_all_the_same(ledger: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    await ledger.execute("ann", SID, LOGOUT)
    name = keys.whole(ledger.partition_of("ann"))
    await ledger.store.command("DEL", name, key=name)
    with pytest.raises(SessionEnded):
        await ledger.load("ann", SID)
    assert await locate(ledger.stored, SID) == ledger.partition_of("ann")


async def test_other_partitions_go_on_as_ever(ledger: Ledger) -> None:
    users = ["ann", next(u for u in map(str, range(99)) if ledger.partition_of(u) != ledger.partition_of("ann"))]
    for user in users:
        await ledger.execute(user, sid_of(user), CreateSession(user, "photos"))
    await lose(ledger)
    with pytest.raises(SessionEnded):
        await ledger.load(users[1], sid_of("nobody"))
    await ledger.execute(users[1], sid_of(users[1]), LOGOUT)


@pytest.mark.each_store
async def test_in_a_partition_that_has_lost_everything_nobody_begins_and_nobody_is_told_to_have_ended(
    store: Store,
) -> None:
    """A primary of a cluster that came up empty, or a store that was emptied under a service."""
    ledger = ledger_on(store)
    await ledger.execute("ann", SID, CREATE)
    names = [name for found in await store.each_primary("KEYS", "*") for name in found]
    for name in names:
        await store.command("DEL", name, key=name)
    for worker in (ledger, ledger_on(store)):  # one remembers the session
        with pytest.raises(Rebuilding):
            await worker.execute("ann", sid_of("second"), CREATE)
        with pytest.raises(Rebuilding):
            await worker.load("ann", SID)
        with pytest.raises(Rebuilding):
            await worker.execute("ann", SID, offer("AssetV1"))
    assert sum(await store.each_primary("DBSIZE")) == 0, "it stays empty, so that it can be restored"


async def test_in_a_partition_whose_events_are_there_sessions_begin_also_while_it_is_rebuilt(store: Store) -> None:
    ledger = ledger_on(store)
    name = keys.whole(ledger.partition_of("ann"))
    await ledger.execute("ann", SID, CREATE)
    await store.command("DEL", name, key=name)
    await ledger.execute("ann", sid_of("second"), CREATE)
    assert await store.command("GET", name, key=name) is None, "that makes nothing whole"


# A store that lost its newest events, as after a power loss or a failover


@pytest.fixture
def tail(store: Store) -> Tail:
    return Tail(store)


@pytest.mark.each_store
async def test_an_event_of_the_same_number_is_not_the_one_that_was_decided_on(
    ledger: Ledger, other: Ledger, tail: Tail
) -> None:
    await ledger.execute("ann", SID, CREATE)
    await ledger.execute("ann", SID, offer("AssetV1"))
    await other.load("ann", SID)
    await tail.note()
    await ledger.execute("ann", SID, acks(ack("AssetV1", EARLY)))
    await tail.lose()
    await other.execute("ann", SID, acks(ack("AssetV1", EARLY + 1)))
    await ledger.execute("ann", SID, acks(ack("AssetV1", EARLY + 2)))
    await assert_clean(ledger.store)


async def test_what_a_worker_remembers_beyond_the_store_keeps_nobody_waiting(ledger: Ledger, tail: Tail) -> None:
    await ledger.execute("ann", SID, CREATE)
    await ledger.load("ann", SID)
    await ledger.execute("ann", SID, offer("AssetV1"))
    await tail.note()
    for number in range(5):
        await ledger.execute("ann", SID, acks(ack("AssetV1", EARLY + number)))
    await tail.lose()
    state = await ledger.execute("ann", SID, acks(ack("AssetV1", EARLY + 9)))
    assert state.checkpoints["AssetV1"].position.at_us == EARLY + 9
    await assert_clean(ledger.store)


async def loses_the_end(ledger: Ledger, tail: Tail) -> State:
    """Make the store lose all that follows a first offer; returns what the worker had seen then."""
    await ledger.execute("ann", SID, CREATE)
    await ledger.load("ann", SID)
    await ledger.execute("ann", SID, offer("AssetV1"))
    await tail.note()
    await ledger.execute("ann", SID, acks(ack("AssetV1", EARLY)))
    known = await ledger.execute("ann", SID, clear())
    await tail.lose()
    return known


@pytest.mark.each_store
async def test_a_session_goes_on_behind_what_the_store_lost_and_its_device_starts_over(
    ledger: Ledger, tail: Tail
) -> None:
    known = await loses_the_end(ledger, tail)
    state = await ledger.execute("ann", SID, offer("AssetV1"))
    assert [type(event) for event in (await events_of(ledger))[2:]] == [HistoryLost, SyncResetRequested, ResetSent]
    lost = (await events_of(ledger))[2]
    assert isinstance(lost, HistoryLost)
    assert (lost.from_seq, lost.to_seq, lost.cause, lost.hash) == (3, known.seq, "remembered", known.hash)
    assert (state.seq, state.reset_sent, state.epoch) == (known.seq + 3, "requested", known.epoch)
    await assert_clean(ledger.store)


async def test_whoever_loads_a_session_finds_what_the_store_lost_of_it(ledger: Ledger, tail: Tail) -> None:
    known = await loses_the_end(ledger, tail)
    state = await ledger.load("ann", SID)
    assert (state.seq, state.pending_reset) == (known.seq + 2, True)
    assert await ledger.load("ann", SID) == state, "once"


@pytest.mark.each_store
async def test_all_that_is_remembered_is_compared_and_made_good_once(ledger: Ledger, other: Ledger, tail: Tail) -> None:
    known = await loses_the_end(ledger, tail)
    await ledger.execute("bob", sid_of("bob"), CreateSession("bob", "photos"))
    assert await ledger.losses.compare() == Compared(sessions=2, lost=1)
    state = await other.load("ann", SID)
    assert (state.seq, state.pending_reset) == (known.seq + 2, True)
    await other.execute("ann", SID, offer("AssetV1"))  # what another worker wrote since is no loss
    assert await ledger.losses.compare() == Compared(sessions=2)
    await assert_clean(ledger.store)


async def test_a_session_that_is_lost_whole_is_there_again_with_its_token(ledger: Ledger, tail: Tail) -> None:
    await ledger.execute("ann", sid_of("before"), CREATE)
    await tail.note()
    await ledger.execute("ann", SID, CREATE)
    child = await child_of(ledger, "child")
    second, caller = b"2" * 32, Caller("ann", SID, bytes.fromhex(SID))
    await ledger.act(caller, RotateToken(caller.digest, second, 1))
    caller = caller._replace(digest=second, number=1)
    known = await ledger.admit(caller)
    await tail.lose()
    state = await ledger.admit(caller)
    assert (state.library, state.pending_reset, state.token) == ("photos", True, second)
    assert [type(event) for event in await events_of(ledger)][:2] == [HistoryLost, SessionCreated]
    assert state.seq > known.seq
    assert (await ledger.losses.compare()).lost == 1, "the child"
    assert (await ledger.load("ann", child.sid)).parent == SID
    assert {each.sid for each in await ledger.devices("ann")} == {SID, child.sid, sid_of("before")}
    await assert_clean(ledger.store)
    run = [run async for run in EventPages(ledger.store).runs(ledger.partition_of("ann"), SID, forward=True, size=2)]
    assert [e.recorded.event for page in run for e in page.entries] == await events_of(ledger)


async def test_a_child_is_there_again_only_with_its_parent(ledger: Ledger, other: Ledger, tail: Tail) -> None:
    await ledger.execute("ann", sid_of("before"), CREATE)
    await tail.note()
    await other.execute("ann", SID, CREATE)
    await child_of(ledger, "child")
    await tail.lose()
    assert await ledger.losses.compare() == Compared(sessions=2)
    with pytest.raises(SessionEnded):
        await ledger.load("ann", sid_of("child"))


async def test_who_signed_out_stays_so_for_who_begins_a_session_of_that_id(ledger: Ledger, tail: Tail) -> None:
    await ledger.execute("ann", SID, CREATE)
    await tail.note()
    await ledger.execute("ann", SID, LOGOUT)
    await tail.lose()
    with pytest.raises(SessionEnded):
        await ledger.execute("ann", SID, CREATE)
    assert await ledger.devices("ann") == []
    await assert_clean(ledger.store)


@pytest.mark.each_store
async def test_a_sign_out_that_the_store_lost_is_one_again(ledger: Ledger, tail: Tail) -> None:
    await ledger.execute("ann", SID, CREATE)
    await ledger.execute("ann", sid_of("other"), CREATE)
    await child_of(ledger, "child")
    await tail.note()
    for sid in (SID, sid_of("other")):
        await ledger.execute("ann", sid, LOGOUT)
    await tail.lose()
    with pytest.raises(SessionEnded):
        await ledger.load("ann", SID)
    assert [state.sid for state in await ledger.devices("ann")] == [sid_of("other")]
    await ledger.losses.compare()
    assert await ledger.devices("ann") == []
    events = await events_of(ledger)
    assert [type(event) for event in events] == [SessionCreated, HistoryLost, SessionEndedEvent]
    await assert_clean(ledger.store)


@pytest.mark.parametrize("first", ["who saw it end", "who saw it live"])
async def test_a_session_that_one_worker_saw_end_is_not_there_again_for_another(
    ledger: Ledger, other: Ledger, tail: Tail, first: str
) -> None:
    await ledger.execute("ann", sid_of("before"), CREATE)
    await tail.note()
    await other.execute("ann", SID, CREATE)
    await ledger.execute("ann", SID, LOGOUT)
    await tail.lose()
    for worker in (ledger, other) if first == "who saw it end" else (other, ledger):
        await worker.losses.compare()
    for worker in (ledger, other):
        with pytest.raises(SessionEnded):
            await worker.load("ann", SID)
    assert {state.sid for state in await ledger.devices("ann")} == {sid_of("before")}
    assert await ledger.losses.compare() == Compared(sessions=2), "once"
    await assert_clean(ledger.store)


@pytest.mark.parametrize("ended", [True, False], ids=["it ended", "it lives"])
async def test_a_session_that_another_worker_puts_back_at_the_same_moment_is_compared_all_the_same(
    ledger: Ledger, other: Ledger, tail: Tail, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    await ledger.execute("ann", sid_of("before"), CREATE)
    await tail.note()
    await other.execute("ann", SID, CREATE)
    await ledger.load("ann", SID)
    if ended:
        await ledger.execute("ann", SID, LOGOUT)
    await tail.lose()
    look = ledger.stored.look

    async def look_just_before(partition: int, sid: str) -> State | None:
        found = await look(partition, sid)
        monkeypatch.undo()
        assert (await other.losses.compare()).lost == 1
        return found

    monkeypatch.setattr(ledger.stored, "look", look_just_before)
    if ended:
        await ledger.losses.compare()
    else:
        assert (await ledger.load("ann", SID)).pending_reset
    assert {state.sid for state in await other.devices("ann")} == {sid_of("before")} | (set() if ended else {SID})
    await assert_clean(ledger.store)


async def test_a_sign_out_that_was_half_made_good_is_one_again(
    ledger: Ledger, other: Ledger, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.execute("ann", SID, CREATE)
    await tail.note()
    await ledger.execute("ann", SID, LOGOUT)
    await tail.lose()

    async def lost(*_: object) -> State:
        raise StoreUnavailable("the connection was lost", maybe_done=False)

    monkeypatch.setattr(ledger.losses, "_end", lost)
    with pytest.raises(StoreUnavailable):
        await ledger.losses.compare()
    monkeypatch.undo()
    assert isinstance((await events_of(ledger))[-1], HistoryLost)
    await ledger.losses.compare()
    for worker in (ledger, other):
        with pytest.raises(SessionEnded):
            await worker.load("ann", SID)
    await assert_clean(ledger.store)


async def test_who_ends_a_session_that_the_store_lost_some_of_ends_it_behind_the_hole(
    ledger: Ledger, tail: Tail
) -> None:
    known = await loses_the_end(ledger, tail)
    assert (await ledger.execute("ann", SID, LOGOUT)).seq > known.seq
    assert isinstance((await events_of(ledger))[2], HistoryLost)
    await assert_clean(ledger.store)


async def test_what_is_missing_only_because_it_is_not_rebuilt_is_no_loss(ledger: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    await lose(ledger)
    assert await ledger.losses.compare() == Compared(sessions=1, left=1)


@pytest.mark.parametrize("damage", [("HSET", "seq", "x"), ("SET", "no hash")], ids=["a field", "the key"])
async def test_one_session_that_cannot_be_read_keeps_no_other_from_being_compared(
    ledger: Ledger, tail: Tail, damage: tuple[str, ...]
) -> None:
    await ledger.execute("bob", sid_of("bob"), CreateSession("bob", "photos"))
    await loses_the_end(ledger, tail)
    name = keys.session(ledger.partition_of("bob"), sid_of("bob"))
    await ledger.store.command(damage[0], name, *damage[1:], key=name)
    assert await ledger.losses.compare() == Compared(sessions=2, lost=1, failed=1)


async def test_a_long_history_is_read_over_a_hole(ledger: Ledger, tail: Tail) -> None:
    """Marks, pages from either end, verify and rebuild: as if the events in the hole had never been counted."""
    await ledger.execute("ann", SID, CREATE)
    await ledger.load("ann", SID)
    for number in range(70):
        await ledger.execute("ann", SID, offer("AssetV1", snapshot_us=NOW + number))
    await tail.note()
    for number in range(70, 300):
        await ledger.execute("ann", SID, offer("AssetV1", snapshot_us=NOW + number))
    await tail.lose()
    for number in range(400, 490):
        await ledger.execute("ann", SID, acks(ack("AssetV1", NOW - 1000 + number)))
    written, partition = await events_of(ledger), ledger.partition_of("ann")
    past = EventPages(ledger.store)
    for size in (7, 64, 500):
        for forward in (True, False):
            runs = past.runs(partition, SID, forward=forward, size=size)
            read = [entry.recorded.event async for run in runs for entry in run.entries]
            assert read == (written if forward else written[::-1])
    for top in (1, 63, 71, 72, 150, 301, 302, 303, 330, 393):
        page = await past.page(partition, SID, top_seq=top, count=1)
        assert page.entries[0].recorded.seq == (top if top <= 71 or top > 301 else 71)
    await assert_clean(ledger.store)
    marks = keys.marks(partition, SID)
    before = await ledger.store.command("LRANGE", marks, 0, -1, key=marks)
    assert len(before) == (await ledger.load("ann", SID)).seq // 32
    await ledger.store.command("DEL", marks, key=marks)
    rebuild = Rebuild(ledger.store, "test")
    await rebuild.session(partition, SID)
    assert await ledger.store.command("LRANGE", marks, 0, -1, key=marks) == before
    await assert_clean(ledger.store)


RESUME = ResumeSession("immich", CREATE, epoch=3)


@pytest.mark.each_store
async def test_a_session_that_had_ended_lives_again_behind_its_end(ledger: Ledger, other: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    await ledger.execute("ann", SID, offer("AssetV1"))
    await ledger.execute("ann", SID, acks(ack("AssetV1", EARLY, "a")))
    await child_of(ledger, "child")
    ended = await ledger.execute("ann", SID, LOGOUT)
    state = await other.resume("ann", SID, RESUME)
    assert (state.seq, state.ended, state.pending_reset, state.epoch) == (ended.seq + 2, None, True, 3)
    assert (state.checkpoints, state.offered, text_of(state.device_type)) == ({}, (), "iPhone")
    assert await other.load("ann", SID) == state
    assert await ledger.load("ann", SID) == state  # who saw it end, too
    assert [device.sid for device in await ledger.devices("ann")] == [SID]
    assert [type(event) for event in (await events_of(ledger))[-3:]] == [
        SessionEndedEvent, SessionResumed, SessionCreated,
    ]  # fmt: skip
    await ledger.execute("ann", SID, RequestReset(on=False, by=b""))
    again = await ledger.execute("ann", SID, LOGOUT)
    assert again.seq == state.seq + 2
    assert (await other.resume("ann", SID, RESUME)).seq == again.seq + 2


@pytest.mark.each_store
async def test_of_two_who_resume_a_session_one_does(ledger: Ledger, other: Ledger) -> None:
    await ledger.execute("ann", SID, CREATE)
    ended = await ledger.execute("ann", SID, LOGOUT)
    states = await asyncio.gather(*(each.resume("ann", SID, RESUME) for each in (ledger, other) * 4))
    assert {(state.seq, state.ended) for state in states} == {(ended.seq + 2, None)}
    await ledger.execute("ann", SID, LOGOUT)
    with pytest.raises(Refused, match="another user"):
        await other.resume("ann", SID, ResumeSession("immich", CreateSession("bob", "photos")))
    with pytest.raises(SessionEnded):
        await ledger.resume("ann", sid_of("never was"), RESUME)


async def test_what_lives_again_is_the_fold_of_its_events(ledger: Ledger, store: Store) -> None:
    await ledger.execute("ann", SID, CREATE)
    await ledger.execute("ann", SID, LOGOUT)
    state = await ledger.resume("ann", SID, RESUME)
    await assert_clean(store)
    partition = ledger.partition_of("ann")
    name = keys.session(partition, SID)
    await store.command("DEL", name, key=name)
    await Rebuild(store, "test").session(partition, SID)
    await assert_clean(store)
    assert await ledger_on(store).load("ann", SID) == state


async def test_a_session_whose_parent_is_another_services_begins_without_it(ledger: Ledger) -> None:
    parent = "0a1b2c3d-0000-4000-8000-000000000001"
    state = await ledger.execute("ann", SID, CreateSession("ann", "ann", parent=parent, authenticated_by="immich"))
    assert state.parent == parent
    assert (await ledger.execute("ann", SID, LOGOUT)).ended == "logout"
