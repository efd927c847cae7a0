"""Expiry: who is idle or expired is ended exactly once, however many workers look; old delete markers are purged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from ledger import keys
from ledger.commands import CreateSession, EndSession
from ledger.errors import SessionEnded
from ledger.events import Event
from ledger.events import SessionEnded as SessionEndedEvent
from ledger.log.families import ENDED_TOGETHER
from ledger.log.reader import read_partition
from ledger.log.service import Ledger
from ledger.log.whole import mark_new
from ledger.store.interface import Script, Store
from projections.checking.verify import verify
from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import read_line
from projections.expiry import ExpiryReport, claim, expire
from tests.support.ledger.given import NOW, SNAPSHOT, ack, acks, offer
from tests.support.ledger.ledgers import Clock, sid_of

PARTITIONS = 4
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
IDLE_US = 90 * DAY_US
SID = sid_of("first")
CREATE = CreateSession("ann", "photos")


class Counting:
    """A store that counts scripts, and the devices of users that are listed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.scripts: Counter[str] = Counter()
        self.listed = 0

    async def script(self, script: Script, *args: Any) -> Any:
        self.scripts[script.name] += 1
        return await self._store.script(script, *args)

    async def command(self, *args: Any, key: bytes) -> Any:
        reply = await self._store.command(*args, key=key)
        if args[0] == "HSCAN":
            self.listed += len(reply[1]) // 2
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Workers:
    """Workers on one store that share a clock."""

    def __init__(self, store: Store, count: int = 1) -> None:
        self.clock = Clock()
        self.ledgers = [Ledger(store, PARTITIONS, self.clock) for _ in range(count)]
        self.ledger = self.ledgers[0]
        self.catalog = Catalog(store)

    async def expire(self, ledger: Ledger | None = None) -> ExpiryReport:
        """Run once, after the ledger was served until now."""
        await self.served()
        return await self.run(ledger)

    async def served(self) -> None:
        await self.note("noted_ms", self.clock.now_us // 1000)

    async def note(self, field: str, value: int) -> None:
        name = keys.meta()
        await self.ledger.store.command("HSET", name, "partitions", PARTITIONS, field, value, key=name)

    async def run(self, ledger: Ledger | None = None) -> ExpiryReport:
        return await expire(ledger or self.ledger, self.catalog, idle_us=IDLE_US, tombstones_us=30 * DAY_US)

    async def last_event(self, sid: str, user: str = "ann") -> Event:
        pages = read_partition(self.ledger.store, self.ledger.partition_of(user))
        return [e.recorded.event async for page in pages for e in page if e.recorded.sid == sid][-1]


def over(report: ExpiryReport) -> tuple[int, int, int]:
    """Tell how many sessions were idle, and expired, and could not be looked at."""
    return report.idle, report.expired, report.failed


@pytest.fixture
async def workers(store: Store) -> Workers:
    await mark_new(store, PARTITIONS)
    workers = Workers(store, 4)
    await workers.note("format", 1)
    return workers


async def test_a_session_nothing_was_heard_of_is_ended_as_idle(workers: Workers) -> None:
    await workers.ledger.execute("ann", SID, CREATE)
    workers.clock.now_us = NOW + IDLE_US
    assert await workers.expire() == ExpiryReport(sessions=1)
    workers.clock.now_us += 1
    assert await workers.expire() == ExpiryReport(sessions=1, idle=1)
    assert await workers.last_event(SID) == SessionEndedEvent("idle")
    assert await workers.expire() == ExpiryReport()
    with pytest.raises(SessionEnded):
        await workers.ledger.load("ann", SID)


async def test_one_that_is_damaged_among_many_of_a_user_hides_none_of_them(workers: Workers) -> None:
    """More than end in one script: those that ended before it are counted, and it is named."""
    sids = sorted(sid_of(f"device {number}") for number in range(ENDED_TOGETHER + 6))
    for sid in sids:
        await workers.ledger.execute("ann", sid, CREATE)
    name = keys.session(workers.ledger.partition_of("ann"), sids[-1])
    await workers.ledger.store.command("HSET", name, "seq", "none", key=name)
    workers.clock.now_us = NOW + IDLE_US + 1
    report = await workers.expire()
    assert over(report) == (len(sids) - 1, 0, 1)
    assert [left.name for left in report.passed_over] == sids[-1:]


async def test_requests_without_events_keep_a_session_alive(workers: Workers) -> None:
    await workers.ledger.execute("ann", SID, CREATE)
    state = await workers.ledger.execute("ann", SID, offer("AssetV1"))
    workers.clock.now_us = NOW + IDLE_US - DAY_US
    assert await workers.ledger.execute("ann", SID, offer("AssetV1")) == state
    workers.clock.now_us = NOW + IDLE_US + DAY_US
    assert await workers.expire() == ExpiryReport(sessions=1)


async def test_looking_is_no_sign_of_life(workers: Workers) -> None:
    await workers.ledger.execute("ann", SID, CREATE)
    workers.clock.now_us = NOW + IDLE_US - DAY_US
    await workers.expire()
    await workers.ledger.devices("ann")
    await verify(workers.ledger.store, PARTITIONS)
    workers.clock.now_us = NOW + IDLE_US + 1
    assert (await workers.expire()).idle == 1


async def test_a_session_past_its_time_is_ended_as_expired_however_busy_it_was(workers: Workers) -> None:
    await workers.ledger.execute("ann", SID, CreateSession("ann", "photos", expires_at_us=NOW + HOUR_US))
    workers.clock.now_us = NOW + HOUR_US - 1
    await workers.ledger.load("ann", SID)
    assert await workers.expire() == ExpiryReport(sessions=1)
    workers.clock.now_us = NOW + HOUR_US
    assert await workers.expire() == ExpiryReport(sessions=1, expired=1)
    assert await workers.last_event(SID) == SessionEndedEvent("expired")


async def test_children_end_with_an_idle_parent(workers: Workers) -> None:
    await workers.ledger.execute("ann", SID, CREATE)
    workers.clock.now_us = NOW + IDLE_US
    child = sid_of("child")
    await workers.ledger.execute("ann", child, CreateSession("ann", "photos", parent=SID))
    workers.clock.now_us += 1
    report = await workers.expire()
    assert report.idle == 1
    assert await workers.last_event(child) == SessionEndedEvent("parent_ended")
    assert await workers.ledger.devices("ann") == []


@pytest.mark.each_store
async def test_many_workers_end_each_session_exactly_once(workers: Workers) -> None:
    users = [f"user-{number}" for number in range(30)]
    for number, user in enumerate(users):
        expires_at_us = NOW + HOUR_US if number % 3 == 0 else None
        for device in ("phone", "tablet"):
            sid = sid_of(f"{user} {device}")
            await workers.ledger.execute(user, sid, CreateSession(user, "photos", expires_at_us=expires_at_us))
    workers.clock.now_us = NOW + IDLE_US - DAY_US
    for user in users[1::3]:
        await workers.ledger.load(user, sid_of(f"{user} phone"))
    workers.clock.now_us = NOW + IDLE_US + 1
    reports = await asyncio.gather(*map(workers.expire, workers.ledgers))
    assert sum(report.expired for report in reports) == 20
    assert sum(report.idle for report in reports) == 30
    for user in users:
        living = [state.sid for state in await workers.ledger.devices(user)]
        assert living == ([sid_of(f"{user} phone")] if user in users[1::3] else [])
    report = await verify(workers.ledger.store, PARTITIONS)
    assert (report.differences, report.events, report.ended) == ([], 60 + 50, 50)


async def test_many_idle_sessions_of_one_user_are_ended_in_one_run(real_store: Store) -> None:
    workers = Workers(real_store)
    sids = [sid_of(f"device {number}") for number in range(600)]
    for number, sid in enumerate(sids):
        parent = sids[number - 1] if number % 3 == 2 else None
        await workers.ledger.execute("ann", sid, CreateSession("ann", "photos", parent=parent))
    workers.clock.now_us = NOW + IDLE_US + 1
    assert (await workers.expire()).idle >= 400, "the others end with those they belong to"
    assert await workers.ledger.devices("ann") == []
    report = await verify(real_store, PARTITIONS)
    assert (report.differences, report.ended, report.events) == ([], 600, 1200)


@pytest.mark.each_store
async def test_only_who_may_be_over_is_looked_at_but_for_once_a_day(workers: Workers) -> None:
    for number in range(20):
        expires_at_us = NOW + HOUR_US if number == 7 else None
        create = CreateSession("ann", "photos", expires_at_us=expires_at_us)
        await workers.ledger.execute("ann", sid_of(f"device {number}"), create)
    assert (await workers.expire()).sessions == 20, "no look was noted yet"
    assert (await workers.expire()).sessions == 0
    workers.clock.now_us = NOW + HOUR_US
    assert await workers.expire() == ExpiryReport(sessions=1, expired=1)
    workers.clock.now_us = NOW + 2 * DAY_US
    assert (await workers.expire()).sessions == 19
    workers.clock.now_us = NOW + 2 * DAY_US + HOUR_US
    await workers.ledger.load("ann", sid_of("device 3"))
    for days in range(3, 90):
        workers.clock.now_us = NOW + days * DAY_US
        await workers.expire()
    workers.clock.now_us = NOW + IDLE_US + 1
    assert over(await workers.expire()) == (18, 0, 0)


async def test_what_an_earlier_version_wrote_is_listed_by_the_daily_look(workers: Workers) -> None:
    await workers.ledger.execute("ann", SID, CreateSession("ann", "photos", expires_at_us=NOW + HOUR_US))
    await workers.expire()
    due = keys.due(workers.ledger.partition_of("ann"))
    await workers.ledger.store.command("ZREM", due, SID, key=due)
    workers.clock.now_us = NOW + HOUR_US
    assert await workers.expire() == ExpiryReport()
    workers.clock.now_us = NOW + 2 * DAY_US
    assert over(await workers.expire()) == (0, 1, 0)
    await workers.ledger.execute("ann", sid_of("later"), CreateSession("ann", "photos", expires_at_us=NOW + 9 * DAY_US))
    await workers.ledger.store.command("DEL", due, key=due)
    assert over(await workers.expire()) == (0, 0, 0)
    assert await workers.ledger.store.command("ZSCORE", due, sid_of("later"), key=due) is not None


@pytest.mark.each_store
async def test_what_was_left_of_a_family_ends(workers: Workers) -> None:
    await workers.ledger.execute("ann", SID, CREATE)
    parent = SID
    for number in range(3):
        child = sid_of(f"child {number}")
        await workers.ledger.execute("ann", child, CreateSession("ann", "photos", parent=parent))
        parent = child
    await workers.ledger.execute("ann", sid_of("other"), CREATE)
    await workers.ledger.families._end_first("ann", [SID], EndSession("logout"))  # and here it dies
    assert len(await workers.ledger.devices("ann")) == 4
    await workers.expire()
    assert [state.sid for state in await workers.ledger.devices("ann")] == [sid_of("other")]
    ending = keys.ending(workers.ledger.partition_of("ann"))
    assert await workers.ledger.store.command("EXISTS", ending, key=ending) == 0
    assert (await verify(workers.ledger.store, PARTITIONS)).differences == []


async def test_thousands_of_one_user_expire_in_as_many_scripts_as_that_takes(valkey_store: Store) -> None:
    workers = Workers(Counting(valkey_store))
    for number in range(600):
        await workers.ledger.execute("ann", sid_of(f"device {number}"), CREATE)
    workers.clock.now_us = NOW + IDLE_US + 1
    counting = workers.ledger.store
    assert isinstance(counting, Counting)
    counting.scripts.clear()
    assert (await workers.expire()).idle == 600
    assert counting.scripts["append"] <= 40  # pages of 100 in fives
    assert counting.listed <= 600 * 7


async def test_a_device_that_acts_while_it_is_looked_at_stays(workers: Workers) -> None:
    clock = workers.clock
    sids = [sid_of(f"device {number}") for number in range(40)]
    for sid in sids:
        await workers.ledger.execute("ann", sid, CREATE)
        await workers.ledger.execute("ann", sid, offer("AssetV1"))
    clock.now_us = NOW + IDLE_US + 1

    async def act(number: int, sid: str) -> bool:
        """Ack or only ask; tell whether the device was admitted."""
        await asyncio.sleep(number / 4000)
        try:
            if number % 2:
                await workers.ledgers[1].execute("ann", sid, acks(ack("AssetV1", SNAPSHOT - 1)))
            else:
                await workers.ledgers[1].load("ann", sid)
        except SessionEnded:
            return False
        return True

    _, *admitted = await asyncio.gather(workers.expire(), *(act(number, sid) for number, sid in enumerate(sids)))
    living = {state.sid for state in await workers.ledger.devices("ann")}
    assert living == {sid for sid, was in zip(sids, admitted, strict=True) if was}
    assert (await verify(workers.ledger.store, PARTITIONS)).differences == []


async def test_seen_is_noted_at_most_hourly_by_each_worker(workers: Workers) -> None:
    first, second = workers.ledgers[:2]
    await first.execute("ann", SID, CREATE)
    await first.execute("ann", SID, offer("AssetV1"))
    noted = {NOW // 1000}
    for minute in range(1, 5 * 60):
        workers.clock.now_us = NOW + minute * 60_000_000
        for worker in (first, second):
            await worker.execute("ann", SID, offer("AssetV1"))
            await worker.execute("ann", SID, acks(ack("AssetV1", SNAPSHOT - 1000 + minute)))
        noted.update(await first.sessions.seen_ms("ann", [SID]))
    assert len(noted) == 5
    gaps = [(later - earlier) // 60_000 for earlier, later in zip(sorted(noted), sorted(noted)[1:], strict=False)]
    assert min(gaps) >= 60


@pytest.mark.each_store
async def test_one_worker_claims_each_run(workers: Workers) -> None:
    claims = await asyncio.gather(*(claim(ledger, HOUR_US) for ledger in workers.ledgers))
    assert sorted(claims) == [False, False, False, True]
    workers.clock.now_us += HOUR_US - 1000
    assert not await claim(workers.ledger, HOUR_US)
    workers.clock.now_us += 1000
    assert await claim(workers.ledger, HOUR_US)


@pytest.mark.each_store
async def test_idle_sessions_are_ended_also_at_the_memory_limit(real_store: Store) -> None:
    workers = Workers(real_store)
    await workers.ledger.execute("ann", SID, CREATE)
    workers.clock.now_us = NOW + IDLE_US + 1
    await workers.served()
    await real_store.each_primary("CONFIG", "SET", "maxmemory", 1)
    try:
        assert await claim(workers.ledger, HOUR_US)
        assert (await workers.run()).idle == 1
    finally:
        await real_store.each_primary("CONFIG", "SET", "maxmemory", 0)


@pytest.mark.each_store
async def test_delete_markers_nobody_needs_are_purged_and_the_floor_is_raised(real_store: Store) -> None:
    workers = Workers(real_store)
    ids = [f"0194803a-1111-7000-8000-{number:012x}" for number in range(3)]
    markers = [read_line(b'{"type":"AssetDeleteV1","data":{"assetId":"%b"}}' % each.encode()) for each in ids]
    assert (await workers.catalog.put("photos", markers)).taken == 3
    horizon_us = await workers.catalog.horizon("photos")
    workers.clock.now_us = time.time_ns() // 1000
    assert (await workers.expire()).delete_markers == 0
    workers.clock.now_us += 30 * DAY_US + 1_000_000
    assert (await workers.expire()).delete_markers == 3
    assert await workers.catalog.tombstone_floor("photos") == horizon_us - 1
    assert await workers.catalog.horizon("photos") == horizon_us
    assert (await workers.expire()).delete_markers == 0
    assert (
        await real_store.command(
            "EXISTS", keys.catalog_rows("photos", "AssetDeleteV1"), key=keys.catalog_meta("photos")
        )
        == 0
    )


async def test_partitions_that_are_not_whole_are_left_for_a_later_run(workers: Workers) -> None:
    await workers.ledger.execute("ann", SID, CREATE)
    name = keys.whole(workers.ledger.partition_of("ann"))
    await workers.ledger.store.command("DEL", name, key=name)
    workers.clock.now_us = NOW + IDLE_US + 1
    assert await workers.expire() == ExpiryReport(partitions_not_whole=1)
    await workers.ledger.store.command("SET", name, "1", key=name)
    assert await workers.expire() == ExpiryReport(sessions=1, idle=1)


# Clocks that jump


@pytest.fixture
async def living(workers: Workers) -> Workers:
    """Sessions heard of today, a month ago, nearly too long ago, and one that expires in a month; served until now."""
    ages = {"today": 0, "a-month-ago": 30 * DAY_US, "nearly": IDLE_US - HOUR_US // 2}
    for name, age_us in ages.items():
        workers.clock.now_us = NOW - age_us
        await workers.ledger.execute(name, sid_of(name), CreateSession(name, "photos"))
    workers.clock.now_us = NOW
    await workers.ledger.execute("ann", SID, CreateSession("ann", "photos", expires_at_us=NOW + 30 * DAY_US))
    assert await workers.expire() == ExpiryReport(sessions=4)
    return workers


@pytest.mark.parametrize("jump_us", [HOUR_US, -HOUR_US, 100 * DAY_US, -100 * DAY_US, 365 * DAY_US])
async def test_nobody_is_ended_because_a_clock_jumped(living: Workers, jump_us: int) -> None:
    for _ in range(3):  # it stays wrong for a while
        living.clock.now_us += jump_us
        for _ in range(3):
            living.clock.now_us += 60_000_000
            assert over(await living.run()) == (0, 0, 0)
        living.clock.now_us -= jump_us
        assert over(await living.run()) == (0, 0, 0)


async def test_nobody_is_ended_because_one_workers_clock_is_ahead(living: Workers) -> None:
    wrong = Ledger(living.ledger.store, PARTITIONS, lambda: living.clock.now_us + 100 * DAY_US)
    for _ in range(20):
        living.clock.now_us += 60_000_000
        assert over(await living.run(wrong)) == (0, 0, 0)
        assert over(await living.run()) == (0, 0, 0)
    held = await living.ledger.store.command("HGET", keys.meta(), "jumps", key=keys.meta())
    assert len((held or b"").split(b",")) <= 16


async def test_time_in_which_nobody_was_served_makes_nobody_idle(living: Workers) -> None:
    """Nor does it hold up for good those who are: what passes afterwards counts."""
    living.clock.now_us += 200 * DAY_US
    assert over(await living.run()) == (0, 0, 0)
    for _ in range(4):
        living.clock.now_us += HOUR_US // 5
        await living.served()
    assert over(await living.run()) == (1, 0, 0), "of nearly too long ago, half an hour later"
    living.clock.now_us += 31 * DAY_US
    assert await living.expire() == ExpiryReport(sessions=3, expired=1)


async def test_a_ledger_that_noted_nothing_yet_goes_by_its_newest_event(workers: Workers) -> None:
    await workers.ledger.execute("ann", SID, CREATE)
    workers.clock.now_us += 100 * DAY_US
    assert await workers.run() == ExpiryReport(sessions=1)


async def test_delete_markers_stay_where_a_clock_jumped(workers: Workers) -> None:
    marker = b'{"type":"AssetDeleteV1","data":{"assetId":"0194803a-1111-7000-8000-000000000000"}}'
    await workers.catalog.put("photos", [read_line(marker)])
    workers.clock.now_us = time.time_ns() // 1000
    await workers.served()
    workers.clock.now_us += 100 * DAY_US
    assert (await workers.run()).delete_markers == 0


@pytest.mark.each_store
async def test_a_claim_of_a_clock_that_was_ahead_holds_nobody_up(workers: Workers) -> None:
    workers.clock.now_us += 365 * DAY_US
    assert await claim(workers.ledger, HOUR_US)
    workers.clock.now_us -= 365 * DAY_US
    claims = await asyncio.gather(*(claim(ledger, HOUR_US) for ledger in workers.ledgers))
    assert sorted(claims) == [False, False, False, True]
    workers.clock.now_us -= 1_000_000
    assert not await claim(workers.ledger, HOUR_US), "a worker whose clock is a little behind"


async def test_while_a_ledger_is_restored_nothing_is_claimed_nor_noted(workers: Workers) -> None:
    """A service may go on under a restore: what is half there must not be judged."""
    name, store = keys.meta(), workers.ledger.store
    await store.command("HSET", name, "restoring", "a backup", key=name)
    before = await store.command("HGETALL", name, key=name)
    assert not await claim(workers.ledger, HOUR_US)
    await workers.run()
    assert await store.command("HGETALL", name, key=name) == before


async def test_without_a_ledger_nothing_is_claimed_nor_noted(store: Store) -> None:
    workers = Workers(store)
    assert not await claim(workers.ledger, HOUR_US)
    await workers.run()
    assert not await store.command("EXISTS", keys.meta(), key=keys.meta())
