"""The feed over every store: nothing is missed where archive and stream meet, whoever is killed, slow or in the way."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger import keys
from ledger.errors import InvalidInput, StoreUnavailable
from ledger.events import SCHEMA, SessionCreated, SessionEnded, encode_event
from ledger.log.presence import Presence
from ledger.log.service import Ledger
from ledger.log.store_check import open_layout, read_id
from ledger.state import State
from ledger.store.interface import Store, open_store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from projections.archive.catalog import Archive
from projections.archive.objects import Objects
from projections.feed.follower import Batch
from projections.feed.hub import FeedHub
from projections.feed.live import LiveReader, Teller
from projections.feed.owners import Owners
from projections.feed.partition import PartitionReader
from projections.feed.position import FeedPosition, StreamId, stream_id
from projections.feed.ring import Ring
from projections.feed.seats import MOST_OF_USER, TooManyFollowers
from projections.feed.told import ALL, FeedFilter, Notice, Seen
from tests.support.ledger.archives import everything, opened
from tests.support.ledger.given import NOW, offered
from tests.support.ledger.ledgers import Clock, Log, sid_of
from tests.support.stores.servers import RedisServer

PARTITIONS = 8
TURN_S = 0.02
PATIENCE_S = 30.0
SEAL_ALL = ArchiveOptions(hot_events=0, segment_events=30, lease_s=5.0)


class Scene:
    """A ledger with some sessions, its archive, and the feed of both."""

    def __init__(self, store: Store, place: Objects, presence: Presence) -> None:
        self.store = store
        self.archive = Archive(store, place)
        self.place = place
        self.clock = Clock()
        self.ledger = Ledger(store, PARTITIONS, self.clock)
        self.presence = presence
        self.sessions: dict[str, tuple[Log, State]] = {}
        self._number = 0

    def hub(self, **options: Any) -> FeedHub:
        return FeedHub(self.ledger, options.pop("archive", self.archive), self.presence, turn_s=TURN_S, **options)

    async def begin(self, name: str, partition: int, user: str = "ann") -> None:
        log = Log(self.store, partition)
        self.sessions[name] = log, await log.create(name, SessionCreated(user, "photos"))

    async def act(self, name: str, times: int = 1) -> None:
        for _ in range(times):
            log, state = self.sessions[name]
            self._number += 1
            at_us = NOW + self._number * 1000
            self.sessions[name] = log, await log.append(state, offered("AssetV1", snapshot_us=at_us), at_us=at_us)

    async def seal(self, *partitions: int, options: ArchiveOptions = SEAL_ALL) -> None:
        wanted = partitions or range(PARTITIONS)
        report = await archive(self.store, self.place, list(wanted), options, NOW)
        assert [failure.what for failure in report.failures] == []

    async def all_ids(self) -> dict[int, list[str]]:
        """The stream ids of all events there are, of each partition, in order."""
        return {
            partition: [entry.id for entry in await everything(self.store, self.archive, partition)]
            for partition in range(PARTITIONS)
        }


@pytest.fixture
async def scene(real_store: Store, tmp_path: Path) -> Scene:
    await open_layout(real_store, PARTITIONS, NOW)
    presence = Presence(real_store, await read_id(real_store))
    found = Scene(real_store, opened(tmp_path / "segments"), presence)
    for number in range(5):
        await found.begin(f"device {number}", number % 3, f"user{number % 3}")
    return found


def seen_in(batches: list[Batch]) -> list[Seen]:
    return [told for batch in batches for told in batch.told if isinstance(told, Seen)]


def notices_in(batches: list[Batch]) -> list[Notice]:
    return [told for batch in batches for told in batch.told if isinstance(told, Notice)]


def by_partition(told: list[Seen]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for one in told:
        found[one.partition].append(one.entry.id)
    return found


async def read_all(hub: FeedHub, position: FeedPosition, wanted: FeedFilter = ALL) -> list[Batch]:
    async with aclosing(hub.follow(position, wanted, ends=True)) as batches:
        return [batch async for batch in batches]


class Following:
    """One who follows in the background."""

    def __init__(self, hub: FeedHub, position: FeedPosition, wanted: FeedFilter = ALL) -> None:
        self.batches: list[Batch] = []
        self._feed = hub.follow(position, wanted)
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with aclosing(self._feed):
            async for batch in self._feed:
                self.batches.append(batch)

    @property
    def told(self) -> list[Seen]:
        return seen_in(self.batches)

    @property
    def position(self) -> FeedPosition | None:
        return next((batch.position for batch in reversed(self.batches) if batch.position is not None), None)

    async def until(self, condition: Any, what: str) -> None:
        await until(lambda: self._task.done() or condition(self), what)
        if self._task.done():
            self._task.result()

    async def kill(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def following(hub: FeedHub, position: FeedPosition, wanted: FeedFilter = ALL) -> AsyncIterator[Following]:
    one = Following(hub, position, wanted)
    try:
        yield one
    finally:
        await one.kill()


async def until(condition: Any, what: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is of many kinds
            await asyncio.sleep(0.005)
    assert condition(), what


async def load(scene: Scene, over: asyncio.Event, dice: random.Random) -> None:
    """Have devices act and come, while segments are sealed and trimmed."""
    number = 0
    while not over.is_set():
        number += 1
        name = dice.choice(list(scene.sessions))
        await scene.act(name, dice.randrange(1, 9))
        if number % 7 == 0:
            await scene.begin(f"late {number}", dice.randrange(PARTITIONS), "late")
        if number % 5 == 0:
            await scene.seal(dice.randrange(PARTITIONS))
        await asyncio.sleep(0)


@pytest.mark.each_store
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.soak)])
async def test_a_follower_that_is_killed_misses_nothing_while_segments_are_sealed(scene: Scene, kills: int) -> None:
    dice, over = random.Random(kills), asyncio.Event()
    hub = scene.hub()
    position, told, first_told = hub.start, list[Seen](), dict[str, int]()
    writing = asyncio.create_task(load(scene, over, dice))
    for _ in range(kills):
        async with following(hub, position) as one:
            wanted = dice.randrange(1, 150)
            await one.until(lambda one, n=wanted: len(one.told) >= n or writing.done(), f"{wanted} events")
        assert not writing.done(), writing.exception()
        told += one.told
        position = one.position or position  # as somebody who was killed comes back: behind what was written down
    over.set()
    await writing
    rest = await read_all(hub, position)
    told += seen_in(rest)
    everything_there = await scene.all_ids()
    for partition, ids in by_partition(told).items():
        assert list(dict.fromkeys(ids)) == everything_there[partition]  # each, and in order when first told
    assert {one.entry.id for one in told} == {each for ids in everything_there.values() for each in ids}
    for recorded in (event.entry.recorded for event in told):
        assert recorded.seq <= first_told.get(recorded.sid, 0) + 1
        first_told[recorded.sid] = max(recorded.seq, first_told.get(recorded.sid, 0))
    assert seen_in(await read_all(hub, rest[-1].position or hub.start)) == []
    assert hub.followers == 0


async def test_archive_and_stream_join_wherever_the_cut_is(scene: Scene) -> None:
    hub = scene.hub()
    for round_ in range(3):
        for name in list(scene.sessions):
            await scene.act(name, 40)
        if round_ < 2:
            await scene.seal()
    expected = await scene.all_ids()
    assert by_partition(seen_in(await read_all(hub, hub.start))) == {p: ids for p, ids in expected.items() if ids}
    for partition in range(3):
        for at in (0, 29, 30, 31, 79, len(expected[partition]) - 1):
            place = [stream_id(ids[-1]) if ids else StreamId(0, 0) for ids in expected.values()]
            place[partition] = stream_id(expected[partition][at])
            found = by_partition(seen_in(await read_all(hub, FeedPosition(tuple(place)))))
            assert found.get(partition, []) == expected[partition][at + 1 :]
            assert set(found) <= {partition}


async def test_who_follows_hears_what_comes_and_goes_on_elsewhere(scene: Scene) -> None:
    """Two hubs are two workers: one may be ahead of the other."""
    one_hub, other_hub = scene.hub(), scene.hub()
    async with following(one_hub, await one_hub.now()) as one:
        await one.until(lambda one: one.batches, "the first batch")
        await scene.act("device 0", 3)
        await one.until(lambda one: len(one.told) == 3, "what came")
    position = FeedPosition(tuple(await one_hub._newest()))
    async with following(other_hub, position) as other:
        await other.until(lambda other: other.batches, "the first batch")
        await scene.act("device 0", 2)
        await other.until(lambda other: len(other.told) == 2, "what came there")
    seqs = [told.entry.recorded.seq for told in one.told + other.told]
    assert seqs == sorted(set(seqs))
    assert one.told[0].user == "user0"


async def test_who_comes_back_soon_takes_what_came_from_the_ring(scene: Scene) -> None:
    hub = scene.hub()
    async with following(hub, hub.start) as other:
        await other.until(lambda one: len(one.told) == 5, "what was there")
        position = await hub.now()
        for name in ("device 0", "device 1", "device 0"):
            await scene.act(name, 2)
        await other.until(lambda one: len(one.told) == 11, "what came")
        read = hub.pages_behind
        async with following(hub, position) as one, following(hub, await hub.now()) as new:
            await one.until(lambda one: len(one.told) == 6, "what came meanwhile")
            await new.until(lambda one: one.batches, "a batch")
        assert hub.pages_behind == read
        assert new.told == []
        assert [told.id for told in one.told] == [told.id for told in other.told[5:]]


async def test_where_it_stands_may_be_lost_though_the_ring_goes_beyond(scene: Scene) -> None:
    """Not everything behind a lost event is in the ring in its order, so the partition is read again."""
    hub = scene.hub()
    place = list((await hub.now()).ids)
    async with following(hub, await hub.now()) as one:
        await one.until(lambda one: one.batches, "a batch")
        await scene.act("device 0")
        await one.until(lambda one: one.told, "what came")
        head = stream_id(one.told[0].entry.id)
        place[0] = StreamId(head.ms, head.number - 1) if head.number else StreamId(head.ms - 1, 2**40)
        async with following(hub, FeedPosition(tuple(place))) as back:
            await back.until(lambda one: len(one.told) >= 1, "what came behind it")
            assert [notice.kind for notice in notices_in(back.batches)] == ["went_back"]


async def test_filters_give_what_is_asked_for_alone(scene: Scene) -> None:
    hub = scene.hub()
    users = [user for user in (f"u{n}" for n in range(99)) if scene.ledger.partition_of(user) == 5][:2]
    for user in users:
        for number in range(2):
            await scene.begin(f"{user} {number}", 5, user)
            await scene.act(f"{user} {number}", 2)
    log, state = scene.sessions[f"{users[0]} 1"]
    await log.append(state, SessionEnded("logout"))
    await scene.seal(5)
    await scene.begin("young", 5, users[0])
    everything_told = seen_in(await read_all(hub, hub.start))
    sid = sid_of(f"{users[0]} 0")

    async def asked(**wanted: Any) -> list[str]:
        # a hub of its own: whose session it is must be found where nobody read its beginning, too
        late = FeedPosition(tuple(StreamId(0, 0) for _ in range(PARTITIONS)))
        fresh = scene.hub()
        return [one.id for one in seen_in(await read_all(fresh, late, await fresh.filter_of(**wanted)))]

    of_user = [one.id for one in everything_told if one.user == users[0]]
    assert len(of_user) == 8
    assert await asked(user=users[0]) == of_user
    assert await asked(session=sid) == [one.id for one in everything_told if one.entry.recorded.sid == sid]
    assert await asked(session=sid, user=users[0], types=["session_created"]) == [
        f for f in of_user if f.startswith(f"{sid}:1:")
    ]
    created = [one.id for one in everything_told if isinstance(one.entry.recorded.event, SessionCreated)]
    assert await asked(types=["session_created"]) == created
    with pytest.raises(InvalidInput):
        await asked(types=["session_started"])


async def test_whose_event_it_is_is_known_behind_a_position_in_mid_session(scene: Scene) -> None:
    await scene.act("device 1", 2)
    ended, state = scene.sessions["device 2"]
    await ended.append(state, SessionEnded("logout"))
    hub = scene.hub()
    middle = (await read_all(hub, hub.start))[-1].position
    assert middle is not None
    await scene.act("device 1")
    place = list(middle.ids)
    place[2] = StreamId(place[2].ms - 1, 2**63)  # before the end, at most
    fresh = scene.hub()
    told = seen_in(await read_all(fresh, FeedPosition(tuple(place))))
    assert {one.user for one in told if one.partition == 1} == {"user1"}


async def test_followers_are_bounded_and_leave_nothing(scene: Scene) -> None:
    hub = scene.hub(most=2)
    async with following(hub, hub.start) as one, following(hub, hub.start) as other:
        await one.until(lambda one: one.batches, "a batch")
        await other.until(lambda other: other.batches, "a batch")
        with pytest.raises(TooManyFollowers, match="LEDGER_FEED_FOLLOWERS"):
            await read_all(hub, hub.start)
    assert hub.followers == 0
    assert await read_all(hub, hub.start)
    assert hub._reading is None


async def test_users_crowd_nobody_out(scene: Scene) -> None:
    hub = scene.hub(most=30)
    followers = [hub.follow(hub.start, user=user) for user in ("ann", "bob", "cleo") for _ in range(MOST_OF_USER)]
    for follower in followers:
        await anext(follower)
    for user in ("ann", "dan"):
        with pytest.raises(TooManyFollowers, match="A user has"):
            await anext(hub.follow(hub.start, user=user))
    assert await read_all(hub, hub.start), "who sees all still may"
    for follower in followers:
        await follower.aclose()
    assert (hub.followers, hub.seats.of_users) == (0, {})


async def test_a_slow_follower_reads_again_from_where_it_stands_and_keeps_nothing(scene: Scene) -> None:
    hub = scene.hub(ring_bytes=60_000)
    slow, told = hub.follow(hub.start), list[Seen]()
    async with aclosing(slow), following(hub, await hub.now()) as fast:
        while not told or told[-1].partition != 2:  # to the end of what was there
            told += seen_in([await anext(slow)])
        for _ in range(20):
            for name in list(scene.sessions):
                await scene.act(name, 4)
        await fast.until(lambda fast: len({one.id for one in fast.told}) == 400, "the fast one has all")
        assert hub._live is not None
        ring = hub._live.ring
        assert ring.get(0) is None  # the slow one stands before what is kept
        assert ring.kept_bytes <= 60_000 or ring.get(ring.end - 2) is None
        before = hub.pages_behind
        while len({one.id for one in told}) < 5 + 400:
            told += seen_in([await asyncio.wait_for(anext(slow), PATIENCE_S)])
        assert hub.pages_behind > before
    expected = await scene.all_ids()
    assert by_partition(told) == {p: ids for p, ids in expected.items() if ids}


async def test_a_hundred_followers_cost_the_store_one_reader(scene: Scene) -> None:
    async def commands() -> dict[str, int]:
        found: dict[str, int] = defaultdict(int)
        for info in await scene.store.each_primary("INFO", "commandstats"):
            for line in info.decode().splitlines():
                if line.startswith("cmdstat_"):
                    name, _, stats = line.partition(":")
                    found[name[8:]] += int(stats.split("calls=")[1].split(",")[0])
        return found

    async def asked_for(followers: int) -> int:
        hub = FeedHub(scene.ledger, None, scene.presence, turn_s=3600.0)
        many = [Following(hub, await hub.now()) for _ in range(followers)]
        for one in many:
            await one.until(lambda one: one.batches, "it follows")
        live, reading = hub._live, hub._reading
        assert live is not None
        assert reading is not None
        reading.cancel()  # its turns are taken here, so that they can be counted
        await asyncio.wait([reading])
        before = await commands()
        for number in range(4):
            await scene.act("device 0", 5)
            await live.turn(number)
        for one in many:
            await one.until(lambda one: len(one.told) == 20, "all that came")
        after = await commands()
        for one in many:
            await one.kill()
        return sum(after[name] - before[name] for name in ("xrange", "xrevrange", "hgetall", "hget"))

    alone = await asked_for(1)
    assert alone > 0
    assert await asked_for(100) == alone


async def test_without_followers_nothing_is_asked(scene: Scene) -> None:
    hub = scene.hub()
    async with following(hub, hub.start) as one:
        await one.until(lambda one: one.batches, "it follows")
        reading = hub._reading
        assert reading is not None
    await until(reading.done, "the reader ended")
    assert hub._reading is None


async def test_a_partition_that_cannot_be_read_is_named_and_the_others_go_on(scene: Scene) -> None:
    hub = scene.hub(archive=None)
    for name in ("device 0", "device 1"):
        await scene.act(name, 5)
    await scene.seal(1)
    await scene.act("device 1")
    batches = await read_all(hub, hub.start)
    (notice,) = notices_in(batches)
    assert (notice.kind, notice.partition) == ("unreadable", 1)
    assert "LEDGER_ARCHIVE" in notice.what
    expected = await scene.all_ids()
    assert by_partition(seen_in(batches)) == {p: ids for p, ids in expected.items() if ids and p != 1}
    position = batches[-1].position
    assert position is not None
    assert position.ids[1] == StreamId(0, 0)  # nothing of it is passed over
    again = await read_all(scene.hub(), position)
    assert by_partition(seen_in(again)) == {1: expected[1]}


async def test_a_partition_that_becomes_unreadable_is_named_once_and_read_on_later(scene: Scene) -> None:
    hub, name = scene.hub(), keys.stream(4)
    async with following(hub, await hub.now()) as one:
        await one.until(lambda one: one.batches, "it follows")
        await scene.store.command("SET", name, "no stream", key=name)
        await one.until(lambda one: notices_in(one.batches), "it is named")
        await scene.act("device 0")
        await one.until(lambda one: one.told, "the others go on")
        await scene.store.command("DEL", name, key=name)
        await scene.begin("healed", 4)
        await one.until(lambda one: len(one.told) == 2, "it is read on")
    assert [(notice.kind, notice.partition) for notice in notices_in(one.batches)] == [
        ("unreadable", 4),
        ("readable", 4),
    ]
    assert one.told[1].partition == 4


async def test_who_comes_while_a_partition_cannot_be_read_misses_nothing_of_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.feed.hub.AGAIN_S", 0.1)
    await scene.act("device 1", 30)
    expected = (await scene.all_ids())[1]
    name, elsewhere = keys.stream(1), b"{p1}:elsewhere"
    await scene.store.command("RENAME", name, elsewhere, key=name)
    await scene.store.command("SET", name, "no stream", key=name)
    hub = scene.hub()
    async with following(hub, hub.start) as old, following(hub, await hub.now()) as new:
        for one in (old, new):
            await one.until(lambda one: notices_in(one.batches), "it is named")
        await scene.act("device 0")
        await new.until(lambda one: one.told, "the others go on")
        await scene.store.command("DEL", name, key=name)
        await scene.store.command("RENAME", elsewhere, name, key=name)
        await scene.act("device 1", 3)
        for one in (old, new):
            last = (await scene.all_ids())[1][-1]
            await one.until(lambda one, last=last: last in by_partition(one.told)[1], "it is read on")
    assert list(dict.fromkeys(by_partition(old.told)[1]))[: len(expected)] == expected
    assert set((await scene.all_ids())[1]) == set(by_partition(old.told)[1])
    assert {*(await scene.all_ids())[1][-3:]} <= set(by_partition(new.told)[1])


async def test_a_stream_entry_that_is_damaged_is_named_and_passed_over(scene: Scene) -> None:
    hub, name = scene.hub(), keys.stream(6)
    await scene.begin("before", 6)
    bad = await scene.store.command("XADD", name, "*", "sid", b"short", "other", "field", key=name)
    await scene.begin("behind", 6)
    batches = await read_all(hub, hub.start)
    (notice,) = notices_in(batches)
    assert (notice.kind, notice.partition, notice.stream_id) == ("damaged", 6, bad.decode())
    assert len([one for one in seen_in(batches) if one.partition == 6]) == 2


async def test_an_event_of_a_newer_version_is_waited_for(scene: Scene) -> None:
    hub, name = scene.hub(), keys.stream(6)
    await scene.begin("before", 6)
    fields = ("sid", bytes(32), "seq", 1, "at", 1, "schema", SCHEMA + 1, "event", encode_event(SessionEnded("x")))
    await scene.store.command("XADD", name, "*", *fields, "hash", bytes(32), "prev", "", key=name)
    batches = await read_all(hub, hub.start)
    (notice,) = notices_in(batches)
    assert (notice.kind, notice.partition) == ("unreadable", 6)
    assert len([one for one in seen_in(batches) if one.partition == 6]) == 1


async def test_what_a_store_lost_and_wrote_again_lower_is_told(scene: Scene) -> None:
    """A replica that became the primary lacks the newest events, and its clock may be behind."""
    hub, name = scene.hub(), keys.stream(0)
    rows: list[Any] = []
    while len(rows) < 2 or stream_id(rows[-1][0].decode()).ms == stream_id(rows[-2][0].decode()).ms:
        await scene.act("device 0")
        rows = await scene.store.command("XRANGE", name, "-", "+", key=name)
    position = (await read_all(hub, hub.start))[-1].position
    assert position is not None
    await scene.store.command("DEL", name, key=name)
    kept, lost = rows[:-1], rows[-1]
    for row in kept:
        await scene.store.command("XADD", name, row[0], *row[1], key=name)
    ms, number = stream_id(lost[0].decode())
    between = f"{stream_id(kept[-1][0].decode()).ms}-{stream_id(kept[-1][0].decode()).number + 1}"
    assert stream_id(between) < (ms, number)
    await scene.store.command("XADD", name, between, *lost[1], key=name)
    batches = await read_all(scene.hub(), position)
    (notice,) = notices_in(batches)
    assert (notice.kind, notice.partition) == ("went_back", 0)
    assert between in by_partition(seen_in(batches))[0]
    last = batches[-1].position
    assert last is not None
    assert notices_in(await read_all(scene.hub(), last)) == []


async def test_followers_go_on_behind_a_store_that_was_killed(valkey_server: RedisServer, tmp_path: Path) -> None:
    store = await open_store(valkey_server.url, timeout_s=0.5)
    await open_layout(store, PARTITIONS, NOW)
    scene = Scene(store, opened(tmp_path / "segments"), Presence(store, await read_id(store)))
    await scene.begin("device 0", 0)
    hub = scene.hub()
    async with following(hub, hub.start) as one:
        await one.until(lambda one: one.told, "what was there")
        valkey_server.kill()
        await asyncio.sleep(5 * TURN_S)  # some turns meet nobody
        valkey_server.start()
        for attempt in range(100):
            try:
                await scene.act("device 0", 3)
                break
            except StoreUnavailable:
                assert attempt < 99
                await asyncio.sleep(0.1)
        await one.until(lambda one: len(one.told) >= 4, "what came behind it")
    assert by_partition(one.told)[0] == (await scene.all_ids())[0]
    await store.close()


async def test_what_retention_removed_is_told_as_that(scene: Scene) -> None:
    hub = scene.hub()
    await scene.act("device 1", 40)
    await scene.seal(1)
    await scene.act("device 1", 3)
    cut = (await scene.archive.segments(1))[0].last
    name = keys.archive(1)
    await scene.store.command("HSET", name, "cut", cut, key=name)
    batches = await read_all(hub, hub.start)
    (notice,) = notices_in(batches)
    assert (notice.kind, notice.partition) == ("removed", 1)
    assert cut in notice.what
    expected = (await scene.all_ids())[1]
    assert by_partition(seen_in(batches))[1] == [one for one in expected if stream_id(one) > stream_id(cut)]


class Away(LiveReader):
    """A reader whose store does not answer in some turns; it stops in the last one."""

    async def turn(self, number: int) -> None:
        if number == 6:
            raise asyncio.CancelledError
        if number in (1, 2, 4):
            raise StoreUnavailable("away", maybe_done=False)


async def test_that_the_feed_waits_is_told_once_until_it_goes_on(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    heads = [StreamId(0, 0)] * PARTITIONS
    reader = PartitionReader(scene.store, None, scene.presence.check)
    away = Away(reader, Teller(Owners(scene.store), scene.clock), Ring(heads, 1000), heads)
    with caplog.at_level(logging.INFO, "syncledger.feed"), pytest.raises(asyncio.CancelledError):
        await away.run(0.0)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    waits, goes_on = ("ERROR", "the feed waits, and goes on where it stands: away"), ("INFO", "the feed goes on")
    assert told == [waits, goes_on, waits, goes_on]
