"""Devices across all users: the index that orders them, what keeps it, and the pages that are merged of it."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any

import msgspec
import pytest

from ledger import keys
from ledger.commands import CreateSession, EndSession
from ledger.entity_types import COMPLETE
from ledger.errors import InvalidInput, SessionEnded, StoreReplyError
from ledger.log.formats import FORMAT, Formats
from ledger.log.order import INDEXED
from ledger.log.service import Ledger
from ledger.log.store_check import open_layout
from ledger.log.whole import mark_new
from ledger.store.interface import Store
from projections.checking.verify import verify
from projections.devices.filling import fill
from projections.devices.listing import MAX_LIMIT, Asked, Devices
from projections.devices.told import DeviceTold
from projections.entities.catalog.catalog import Catalog
from projections.history.event_pages import EventPages
from projections.sent.judgement import judge
from projections.sent.marking import note_end
from projections.sent.record import SentStream, newest
from tests.contract.test_rebuild import rebuild
from tests.support.ledger.given import NOW, SNAPSHOT, acks, clear, completed, offer
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.ledger.lives import delete_projections, live

PARTITIONS = 4
HOUR_US = 3_600_000_000
PHONE, TABLET, OLD = sid_of("phone"), sid_of("tablet"), sid_of("old")
STREAM = SentStream(NOW, 1_500_000, "gone", 3, 900, "AssetV1|t|a", "AssetV1|t|c", NOW, "corr-1")


ALL = Asked()


class Scene:
    """A ledger with a clock, and what lists its devices."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = Clock()
        self.ledger = Ledger(store, PARTITIONS, self.clock)
        self.catalog = Catalog(store)
        self.devices = Devices(self.ledger, EventPages(store), self.catalog)
        self.marks: dict[str, int] = {}
        """Since when devices are stuck, by what was judged at the end of a stream, in ms."""

    async def begin(self, user: str, sid: str, **more: Any) -> None:
        await self.ledger.execute(user, sid, CreateSession(user, "photos", **more))

    async def complete(self, user: str, sid: str, snapshot_us: int = SNAPSHOT) -> None:
        state = await self.ledger.execute(user, sid, offer("AssetV1", snapshot_us=snapshot_us))
        ack = completed("AssetV1", snapshot_us=snapshot_us, epoch=state.epoch_of(COMPLETE))
        await self.ledger.execute(user, sid, acks(ack))
        self.marks.pop(sid, None)

    async def over(self, user: str, sid: str, **changes: Any) -> None:
        """Have a stream end."""
        assert await note_end(self.ledger, user, sid, msgspec.structs.replace(STREAM, at_us=self.clock(), **changes))
        partition = self.ledger.partition_of(user)
        state = await self.ledger.look(partition, sid)
        assert state is not None
        self.marks.pop(sid, None)
        if stuck := judge(await newest(self.ledger, partition, sid), state):
            self.marks[sid] = stuck.since_us // 1000

    async def heard_of(self, user: str, sid: str) -> None:
        await self.ledger.load(user, sid)

    async def sids(self, asked: Asked = ALL, limit: int = 50) -> list[str]:
        return [one.session for one in await self.all(asked, limit)]

    async def all(self, asked: Asked = ALL, limit: int = 50) -> list[DeviceTold]:
        found: list[DeviceTold] = []
        cursor: str | None = None
        while True:
            page = await self.devices.page(asked, cursor, limit)
            assert page.unread == []
            found += page.devices
            if (cursor := page.next) is None:
                return found

    async def naive(self) -> list[str]:
        """Sort all living devices by what is read of each."""
        ranked = []
        for partition in range(PARTITIONS):
            name = keys.activity(partition)
            flat = await self.store.command("ZRANGE", name, 0, -1, "WITHSCORES", key=name)
            for raw, seen in zip(flat[::2], flat[1::2], strict=True):
                state = await self.ledger.look(partition, sid := raw.decode())
                assert state is not None
                held = state.checkpoints.get(COMPLETE)
                since_ms = (held.acked_at_us if held else state.created_at_us) // 1000
                place = (1 if float(seen) > since_ms else 2, since_ms)
                ranked.append(((0, self.marks[sid]) if sid in self.marks else place, sid))
        return [sid for _, sid in sorted(ranked)]


@pytest.fixture
async def scene(store: Store) -> Scene:
    await mark_new(store, PARTITIONS)
    return Scene(store)


async def test_who_needs_help_comes_first(scene: Scene) -> None:
    clock = scene.clock
    for user, sid in (("ann", PHONE), ("ben", TABLET), ("cem", OLD), ("dan", sid_of("stuck")), ("eve", sid_of("away"))):
        await scene.begin(user, sid)
        clock.now_us += 1_000_000
        await scene.complete(user, sid)
    clock.now_us += 2 * HOUR_US
    for user, sid in (("ben", TABLET), ("ann", PHONE), ("cem", OLD), ("dan", sid_of("stuck"))):
        await scene.heard_of(user, sid)
    await scene.complete("cem", OLD, SNAPSHOT + 5)
    await scene.over("dan", sid_of("stuck"), how="refused", rows=0, why="the source is down")
    assert await scene.sids() == [sid_of("stuck"), PHONE, TABLET, sid_of("away"), OLD]
    assert await scene.naive() == await scene.sids()
    assert await scene.sids(Asked(order="seen")) != await scene.sids()
    rows = {row.session: row for row in await scene.all()}
    assert (stuck := rows[sid_of("stuck")].stuck)
    assert stuck.why == "streams fail here"
    assert rows[PHONE].stuck is None
    assert rows[PHONE].last_completed_at is not None
    clock.now_us += 1_000_000
    await scene.complete("dan", sid_of("stuck"), SNAPSHOT + 6)
    assert (await scene.sids())[0] == PHONE, "who completed is not stuck any more"
    assert (await verify(scene.store, PARTITIONS)).differences == []


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 12))])
async def test_the_order_is_that_of_a_plain_sort_whatever_devices_do(valkey_store: Store, seed: int) -> None:
    scene, dice = Scene(valkey_store), Random(seed)
    await live(scene.ledger, scene.clock, dice, steps=60)
    for step in range(150):
        scene.clock.now_us += dice.choice([0, 1_000_000, HOUR_US])
        user, number = f"user-{dice.randrange(5)}", dice.randrange(4)
        sid = sid_of(f"{user} {number}")
        partition = scene.ledger.partition_of(user)
        if await scene.ledger.look(partition, sid) is None:
            if not await valkey_store.command("HEXISTS", keys.ended(partition), sid, key=keys.ended(partition)):
                await scene.begin(user, sid)
            continue
        match dice.randrange(6):
            case 0:
                await scene.complete(user, sid, SNAPSHOT + step)
            case 1:
                await scene.ledger.execute(user, sid, clear())
            case 2 if dice.random() < 0.3:
                await scene.ledger.execute(user, sid, EndSession("logout"))
            case 3:
                how = dice.choice(["gone", "completed", "stalled", "refused", "broken"])
                await scene.over(user, sid, how=how, rows=0 if how == "refused" else 5)
            case _:
                await scene.heard_of(user, sid)
    expected = await scene.naive()
    assert len(expected) > 10
    for limit in (3, MAX_LIMIT):
        assert await scene.sids(limit=limit) == expected
    assert (await verify(valkey_store, PARTITIONS)).differences == []
    by_seen = await scene.sids(Asked(order="seen"), limit=4)
    assert sorted(by_seen) == sorted(expected)
    seen = [row.last_seen_at for row in await scene.all(Asked(order="seen"))]
    assert len(seen) == len(expected)

    assert scene.marks
    scene.marks.clear()
    await delete_projections(valkey_store, PARTITIONS)
    await rebuild(valkey_store)
    assert await scene.sids() == await scene.naive()


async def test_pages_go_on_within_devices_of_one_place(scene: Scene) -> None:
    for number in range(40):  # all of one instant, and of one partition
        await scene.begin("ann", sid_of(f"same {number}"))
    for order in ("help", "seen"):
        for limit in (1, 7, 40):
            found = await scene.sids(Asked(order=order), limit=limit)
            assert found == sorted(found, reverse=order == "seen")
            assert len(found) == 40
    page = await scene.devices.page(Asked(), None, 10_000)
    assert len(page.devices) == 40


# What an earlier version left


async def as_an_earlier_version_left_it(store: Store) -> None:
    """Take the index away, as where no version kept it, and have the ledger be in the format of before."""
    await open_layout(store, PARTITIONS, NOW)
    for partition in range(PARTITIONS):
        for name in (keys.order(partition), keys.sids(partition)):
            await store.command("DEL", name, key=name)
    meta = keys.meta()
    await store.command("HDEL", meta, INDEXED, key=meta)
    await store.command("HSET", meta, "format", 1, key=meta)


async def test_a_ledger_without_the_index_is_filled_once_no_older_version_runs(real_store: Store) -> None:
    scene, dice = Scene(real_store), Random(5)
    await live(scene.ledger, scene.clock, dice)
    sid, user = (await scene.sids())[0], "user-1"
    user = (await scene.all(Asked(session=sid)))[0].user
    await scene.over(user, sid, how="refused", rows=0)
    before, all_before = await scene.sids(), await sids_of_all(real_store)
    await as_an_earlier_version_left_it(real_store)

    page = await scene.devices.page(Asked())
    assert {one.partition for one in page.unread} == set(range(PARTITIONS))
    assert all("in the index yet" in one.why for one in page.unread)
    assert [one.session for one in (await scene.devices.page(Asked(session=sid[:8]))).devices] == [sid]
    assert (await verify(real_store, PARTITIONS)).differences == [], "what is not filled yet is no damage"

    old, new = Formats(real_store, FORMAT - 1), Formats(real_store)
    await old.note("old", "1.0", scene.clock())
    await new.note("new", "2.0", scene.clock())
    assert (await fill(real_store, PARTITIONS, new, scene.clock())).waits
    assert await scene.devices.page(Asked()) == page
    await new.finish(scene.clock(), whoever_runs=True)
    report = await fill(real_store, PARTITIONS, new, scene.clock())
    assert (report.waits, report.partitions, report.failed) == (False, PARTITIONS, {})
    assert await scene.sids() == before
    assert await sids_of_all(real_store) == all_before
    assert (await verify(real_store, PARTITIONS)).differences == []
    assert (await fill(real_store, PARTITIONS, new, scene.clock())).partitions == 0, "nothing is left to do"


async def sids_of_all(store: Store) -> list[bytes]:
    names = map(keys.sids, range(PARTITIONS))
    return [sid for name in names for sid in await store.command("ZRANGE", name, 0, -1, key=name)]


async def test_what_happens_while_it_is_filled_is_kept(valkey_store: Store) -> None:
    scene, dice = Scene(valkey_store), Random(6)
    await live(scene.ledger, scene.clock, dice)
    await as_an_earlier_version_left_it(valkey_store)
    acted = 0

    class Meanwhile:
        """A store in which others act between any two steps of the filling."""

        async def script(self, script: Any, names: Any, args: Any) -> Any:
            nonlocal acted
            if script.name in ("look", "place"):
                for number in range(6):
                    acted += 1
                    with suppress(SessionEnded):  # it, or whom it belongs to, in another partition's turn
                        await self.act(f"user-{number}", acted)
            return await valkey_store.script(script, names, args)

        async def act(self, user: str, turn: int) -> None:
            for state in await scene.ledger.devices(user):
                if turn % 7 == 0:
                    await scene.ledger.execute(user, state.sid, EndSession("logout"))
                elif not state.pending_reset:
                    await scene.complete(user, state.sid, SNAPSHOT + 10_000 + turn)
                break
            await scene.begin(user, sid_of(f"{user} new {turn}"))

        def __getattr__(self, name: str) -> Any:
            return getattr(valkey_store, name)

    formats = Formats(valkey_store)
    await formats.finish(scene.clock(), whoever_runs=True)
    report = await fill(Meanwhile(), PARTITIONS, formats, scene.clock())
    assert report.failed == {}
    assert acted >= 12 * PARTITIONS
    assert await scene.sids() == await scene.naive()
    assert (await verify(valkey_store, PARTITIONS)).differences == []


async def test_a_partition_that_cannot_be_read_is_named_and_the_others_are_listed(valkey_store: Store) -> None:
    scene = Scene(valkey_store)
    await mark_new(valkey_store, PARTITIONS)
    users = [f"user-{number}" for number in range(12)]
    for user in users:
        await scene.begin(user, sid_of(user))
    lost = scene.ledger.partition_of(users[0])
    name = keys.order(lost)
    await valkey_store.command("SET", name, "x", key=name)
    page = await scene.devices.page(Asked())
    assert [one.partition for one in page.unread] == [lost]
    assert {one.session for one in page.devices} == {
        sid_of(user) for user in users if scene.ledger.partition_of(user) != lost
    }
    name = keys.whole((lost + 1) % PARTITIONS)
    await valkey_store.command("DEL", name, key=name)
    page = await scene.devices.page(Asked(order="seen"))
    assert [one.partition for one in page.unread] == [(lost + 1) % PARTITIONS]
    assert "not whole" in page.unread[0].why
    for partition in range(PARTITIONS):
        name = keys.order(partition)
        await valkey_store.command("SET", name, "x", key=name)
    with pytest.raises(StoreReplyError):
        await scene.devices.page(Asked())


async def test_a_search_for_no_start_of_an_id_is_refused(scene: Scene) -> None:
    for prefix in ("", "abc", "XYZW", "a" * 65, "abcd*"):
        with pytest.raises(InvalidInput):
            await scene.devices.page(Asked(session=prefix))
