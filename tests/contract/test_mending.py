"""One damaged session keeps nothing from any other, and is itself made anew from its events wherever it is met."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from ledger import keys
from ledger.acks import Ack
from ledger.commands import CreateSession, EndSession, RecordAcks
from ledger.errors import CorruptLedger, NotAllEnded, SessionEnded, StoreReplyError
from ledger.events import SessionEnded as SessionEndedEvent
from ledger.log.finding import by_provider_session, locate
from ledger.log.reader import read_partition
from ledger.log.service import Ledger
from ledger.log.whole import mark_new
from ledger.personal import plain
from ledger.positions import Position
from ledger.store.interface import Store
from projections.accounts.credentials import Cipher
from projections.accounts.erasure import NotAllErased, erase_again, erase_user
from projections.accounts.identities import Identities
from projections.accounts.user_keys import UserKeys
from projections.archive.objects import open_objects
from projections.checking import mending
from projections.checking.mending import Mending
from projections.checking.partition_fold import PartitionFold
from projections.checking.verify import verify
from projections.counters import Counters
from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import read_line
from projections.expiry import expire
from tests.support.ledger.given import SNAPSHOT, offer
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.ledger.lives import dump
from tests.support.sources.samples import sample

PARTITIONS = 4
DAY_US = 86_400_000_000
PROVIDER = b"\x01" * 16
BAD, GOOD, OTHER = map(sid_of, ("bad", "good", "other"))

# What may happen to what is stored of a session; each gets its key names by what they hold.
DAMAGE: dict[str, list[tuple[Any, ...]]] = {
    "the session is a string": [("DEL", "session"), ("SET", "session", "x")],
    "the checkpoints are a string": [("DEL", "checkpoints"), ("SET", "checkpoints", "x")],
    "an unreadable field": [("HSET", "session", "offered", "garbage")],
    "no time": [("HDEL", "session", "at_us")],
    "a time that is none": [("HSET", "session", "at_us", "soon")],
    "no user": [("HDEL", "session", "user")],
    "a user that is no text": [("HSET", "session", "user", b"\xff")],
    "no seq": [("HDEL", "session", "seq")],
    "a seq that is none": [("HSET", "session", "seq", "x")],
    "no head": [("HDEL", "session", "head")],
    "a head that is none": [("HSET", "session", "head", "garbage")],
    "a hash that is none": [("HSET", "session", "hash", "garbage")],
    "an unreadable checkpoint": [("HSET", "checkpoints", "AssetV1", "garbage")],
    "a checkpoint of no type": [("HSET", "checkpoints", "Garbage", "1|a|2")],
    "marks are a string": [("SET", "marks", "x"), ("HSET", "session", "offered", "garbage")],
}
BRIEFLY = ("the session is a string", "an unreadable field", "no user")
damaged_so = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
damaged_briefly = pytest.mark.parametrize(
    "damage",
    [pytest.param(what, id=name, marks=() if name in BRIEFLY else pytest.mark.soak) for name, what in DAMAGE.items()],
)


class Scene(NamedTuple):
    """A ledger in which ann has three devices and bob one; BAD has checkpoints and is known to a provider."""

    ledger: Ledger
    clock: Clock

    @property
    def store(self) -> Store:
        return self.ledger.store

    @property
    def partition(self) -> int:
        return self.ledger.partition_of("ann")

    async def damage(self, what: list[tuple[Any, ...]], sid: str = BAD) -> None:
        """Damage what is stored of a session."""
        for verb, key, *rest in what:
            name = getattr(keys, key)(self.partition, sid)
            await self.store.command(verb, name, *rest, key=name)

    async def break_chain(self, sid: str = BAD) -> None:
        """Damage what is stored of a session and lose its second event, so that nothing tells what it was like."""
        pages = read_partition(self.store, self.partition)
        ids = [entry.id async for page in pages for entry in page if entry.recorded.sid == sid]
        name = keys.stream(self.partition)
        await self.store.command("XDEL", name, ids[1], key=name)
        await self.damage(DAMAGE["an unreadable field"], sid)

    async def living(self, user: str = "ann") -> set[str]:
        """List a user's sessions by what is in the index, read or not."""
        name = keys.devices(self.ledger.partition_of(user), user)
        return {sid.decode() for sid in await self.store.command("HKEYS", name, key=name)}

    async def last_event(self, sid: str) -> Any:
        pages = read_partition(self.store, self.partition)
        return [entry.recorded.event async for page in pages for entry in page if entry.recorded.sid == sid][-1]

    async def counted(self, counter: str) -> int:
        return sum(one.value for one in await Counters(self.store).all() if one.name == counter)

    async def expire(self) -> Any:
        return await expire(self.ledger, Catalog(self.store), idle_us=90 * DAY_US, tombstones_us=30 * DAY_US)

    async def assert_clean(self) -> None:
        assert (await verify(self.store, PARTITIONS)).differences == []


@pytest.fixture
async def scene(store: Store) -> Scene:
    await mark_new(store, PARTITIONS)
    clock = Clock()
    ledger = Ledger(store, PARTITIONS, clock, mender=Mending(store))
    for sid in (BAD, GOOD, OTHER):
        await ledger.execute("ann", sid, CreateSession("ann", "photos", provider_session=PROVIDER))
    await ledger.execute("bob", sid_of("bob"), CreateSession("bob", "photos"))
    await ledger.execute("ann", BAD, offer("AssetV1"))
    await ledger.execute("ann", BAD, RecordAcks((Ack("AssetV1", Position(SNAPSHOT - 5, "a")),)))
    # Another process: nothing is remembered of any session.
    return Scene(Ledger(store, PARTITIONS, clock, mender=Mending(store)), clock)


@damaged_so
async def test_a_damaged_session_is_made_anew_for_its_own_device(scene: Scene, damage: list[tuple[Any, ...]]) -> None:
    before = await dump(scene.store)
    state = await scene.ledger.look(scene.partition, BAD)
    await scene.damage(damage)
    assert await scene.ledger.load("ann", BAD) == state
    counted = await scene.counted("sessions_mended")
    name = keys.counters()
    await scene.store.command("DEL", name, key=name)
    assert (counted, await dump(scene.store)) == (1, before)
    await scene.assert_clean()


@damaged_briefly
async def test_expiry_goes_on_and_ends_the_damaged_one_too(scene: Scene, damage: list[tuple[Any, ...]]) -> None:
    await scene.damage(damage)
    scene.clock.now_us += 100 * DAY_US
    report = await scene.expire()
    assert (report.sessions, report.idle, report.failed) == (4, 4, 0)
    assert await scene.last_event(BAD) == SessionEndedEvent("idle")
    await scene.assert_clean()


@damaged_briefly
async def test_signing_out_ends_the_damaged_one_and_all_others(scene: Scene, damage: list[tuple[Any, ...]]) -> None:
    await scene.damage(damage)
    assert {state.sid for state in await scene.ledger.devices("ann")} == {BAD, GOOD, OTHER}
    await scene.damage(damage)
    assert await scene.ledger.end_others("ann", GOOD, EndSession("revoked_others")) == 2
    assert await scene.living() == {GOOD}
    with pytest.raises(SessionEnded):
        await scene.ledger.load("ann", BAD)
    await scene.assert_clean()


@damaged_briefly
async def test_a_damaged_session_can_be_ended_by_itself(scene: Scene, damage: list[tuple[Any, ...]]) -> None:
    await scene.damage(damage)
    assert (await scene.ledger.execute("ann", BAD, EndSession("revoked"))).ended == "revoked"
    assert await scene.last_event(BAD) == SessionEndedEvent("revoked")
    assert await scene.living() == {GOOD, OTHER}
    await scene.assert_clean()


@damaged_briefly
async def test_a_providers_logout_finds_all_its_sessions(scene: Scene, damage: list[tuple[Any, ...]]) -> None:
    await scene.damage(damage)
    found, unread = await by_provider_session(scene.ledger.stored, PROVIDER)
    assert unread is None
    assert sorted(found) == sorted(("ann", sid) for sid in (BAD, GOOD, OTHER))
    assert await locate(scene.ledger.stored, BAD) == scene.partition


async def test_what_a_worker_remembers_of_a_session_that_is_damaged_meanwhile(scene: Scene) -> None:
    """Its next write meets what cannot be read, decides again on what was mended, and is in the chain."""
    await scene.ledger.load("ann", BAD)
    await scene.damage(DAMAGE["a seq that is none"])
    after = await scene.ledger.execute("ann", BAD, RecordAcks((Ack("AssetV1", Position(SNAPSHOT - 1, "b")),)))
    assert after.checkpoints["AssetV1"].position == Position(SNAPSHOT - 1, "b")
    await scene.assert_clean()


async def test_a_partition_that_cannot_be_read_hides_no_other_from_a_provider(scene: Scene) -> None:
    other = (scene.partition + 1) % PARTITIONS
    name = keys.provider_sessions(other)
    await scene.store.command("SET", name, "x", key=name)
    found, unread = await by_provider_session(scene.ledger.stored, PROVIDER)
    assert sorted(sid for _, sid in found) == sorted((BAD, GOOD, OTHER))
    assert isinstance(unread, StoreReplyError), "so the provider is told to come again"
    assert await locate(scene.ledger.stored, GOOD) == scene.partition


# What cannot be mended


@pytest.fixture
async def unmendable(scene: Scene) -> Scene:
    await scene.break_chain()
    return scene


async def test_expiry_names_what_it_cannot_read_and_goes_on(unmendable: Scene) -> None:
    unmendable.clock.now_us += 100 * DAY_US
    report = await unmendable.expire()
    assert (report.sessions, report.idle, report.failed) == (4, 3, 1)
    assert [(one.what, one.name) for one in report.passed_over] == [("session", BAD)]
    assert await unmendable.living() == {BAD}
    assert await unmendable.living("bob") == set()
    assert await unmendable.counted("sessions_damaged") == 1


async def test_others_end_where_one_cannot_and_it_is_named(unmendable: Scene) -> None:
    with pytest.raises(NotAllEnded) as raised:
        await unmendable.ledger.end_others("ann", GOOD, EndSession("revoked_others"))
    assert (raised.value.sids, raised.value.ended) == ((BAD,), 1)
    assert "rebuild --session" in str(raised.value)
    assert BAD in str(raised.value)
    assert await unmendable.living() == {BAD, GOOD}
    with pytest.raises(NotAllEnded):
        await unmendable.ledger.end_all("ann", [BAD, GOOD], EndSession("provider_logout"))
    assert await unmendable.living() == {BAD}


async def test_it_is_told_beside_the_others(unmendable: Scene) -> None:
    found = await unmendable.ledger.all_devices("ann")
    assert ({state.sid for state in found.living}, set(found.damaged)) == ({GOOD, OTHER}, {BAD})


async def test_a_user_is_erased_but_for_it(unmendable: Scene) -> None:
    class NoKeys:
        async def erase(self, user: str, now_us: int) -> bool:
            return True

    identities = Identities(unmendable.store, PARTITIONS)
    await identities.sign_in("https://id", "1", email="ann@example.org", user="ann", now_us=1)
    erased = await erase_user(unmendable.ledger, identities, NoKeys(), "ann", plain("test"))  # type: ignore[arg-type]
    assert erased == (2, True, True, (BAD,))
    assert await identities.profile("ann") is None
    assert await unmendable.living() == {BAD}


async def test_what_is_damaged_of_one_keeps_no_other_from_being_erased_again(unmendable: Scene, tmp_path: Path) -> None:
    """Of ann a session is damaged, of bob the list of sessions, of carl the record; of dora nothing."""
    cipher, identities = Cipher.from_keys((Cipher.make_key(),)), Identities(unmendable.store, PARTITIONS)
    user_keys = UserKeys(unmendable.store, lambda: open_objects(tmp_path.as_uri()), lambda: cipher)
    for user in ("ann", "bob", "carl", "dora"):
        await identities.sign_in("https://id", user, email=f"{user}@example.org", user=user, now_us=1)
        await unmendable.ledger.execute(user, sid_of(f"{user} too"), CreateSession(user, "photos"))
        await user_keys.erase(user, unmendable.clock())
    for key, user in (keys.devices, "bob"), (keys.identity, "carl"):
        name = key(unmendable.ledger.partition_of(user), user)
        await unmendable.store.command("SET", name, "x", key=name)
    note = tmp_path / "erased" / ("0" * 64) / f"{1:020}"
    note.parent.mkdir()
    note.write_bytes(b"{")

    with pytest.raises(NotAllErased) as raised:
        await erase_again(unmendable.ledger, identities, user_keys)
    assert set(raised.value.left) == {"sessions of ann", "sessions of bob", "the record of carl", "notes"}
    assert all(named in str(raised.value) for named in (BAD, "bob", "carl", "0" * 64))
    assert await unmendable.living("ann") == {BAD}
    assert [await unmendable.living(user) for user in ("carl", "dora")] == [set(), set()]
    assert [await identities.profile(user) for user in ("ann", "bob", "dora")] == [None, None, None]


async def test_what_stays_damaged_is_looked_at_once_a_minute(
    unmendable: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its device comes again and again, and each look reads a partition's events."""
    for _ in range(5):
        with pytest.raises(CorruptLedger):
            await unmendable.ledger.load("ann", BAD)
    assert await unmendable.counted("sessions_damaged") == 1
    monkeypatch.setattr(mending, "AGAIN_S", 0.0)
    with pytest.raises(CorruptLedger):
        await unmendable.ledger.load("ann", BAD)
    assert await unmendable.counted("sessions_damaged") == 2


async def test_many_damaged_sessions_take_one_fold(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    folds: list[PartitionFold] = []
    forward = PartitionFold.forward

    async def counted(fold: PartitionFold, until: str = "+") -> None:
        folds.append(fold)
        await forward(fold, until)

    monkeypatch.setattr(PartitionFold, "forward", counted)
    for sid in (BAD, GOOD, OTHER):
        await scene.damage(DAMAGE["an unreadable field"], sid)
    assert len(await scene.ledger.devices("ann")) == 3
    assert len(set(map(id, folds))) == 1


# Other walks


async def test_a_partition_or_a_library_that_fails_keeps_none_of_the_others(scene: Scene) -> None:
    catalog = Catalog(scene.store, scene.clock)
    for library in ("first", "second", "third"):
        asset = sample("AssetV2", id="a", ownerId="u")
        rows = [{"type": "UserV1", "data": sample("UserV1", id="u")}, {"type": "AssetV2", "data": asset}]
        for row in (*rows, {"type": "AssetDeleteV1", "data": {"assetId": "a"}}):
            await catalog.put(library, [read_line(msgspec.json.encode(row))])
    activity = keys.activity(scene.partition)
    await scene.store.command("SET", activity, "x", key=activity)
    meta = keys.catalog_meta("second")
    await scene.store.command("SET", meta, "x", key=meta)
    scene.clock.now_us = time.time_ns() // 1000 + 100 * DAY_US  # rows are stamped by the store's own clock
    report = await scene.expire()
    assert {(one.what, one.name) for one in report.passed_over} == {
        ("partition", str(scene.partition)),
        ("library", "second"),
    }
    assert (report.failed, report.idle) == (2, 1), "bob's"
    assert report.delete_markers == 2


async def test_a_counter_that_is_none_leaves_the_others(store: Store) -> None:
    counters = Counters(store)
    await counters.add("bad_tokens", 3)
    await store.command("HSET", keys.counters(), "slow_bodies", "x", key=keys.counters())
    assert {one.name: one.value for one in await counters.all()}["bad_tokens"] == 3
