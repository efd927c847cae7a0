"""Rebuild: what events fold into comes back key by key, whatever was lost; damage is named and stays where it is."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from ledger import keys
from ledger.commands import CreateSession, EndSession, RequestReset
from ledger.errors import LayoutError, Rebuilding, StoreReplyError
from ledger.events import SCHEMA
from ledger.log import whole
from ledger.log.finding import locate
from ledger.log.service import Ledger
from ledger.log.store_check import open_layout
from ledger.log.stored_sessions import find_strays
from ledger.personal import plain
from ledger.store.interface import Store, open_store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from projections.archive.catalog import Archive
from projections.archive.objects import open_objects
from projections.checking.rebuild import Rebuild, RebuildReport, find_session, not_whole
from projections.checking.verify import NOT_WHOLE, verify
from tests.support.ledger.given import NOW, SNAPSHOT, ack, acks, offer
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.ledger.lives import delete_projections, dump, last_seen_by_events, live, with_order_as_seen

PARTITIONS = 4
PHONE, TABLET, GONE, NOBODY = map(sid_of, ("phone", "tablet", "gone", "nobody"))


async def rebuild(store: Store, *, everything: bool = False, **options: Any) -> RebuildReport:
    made = Rebuild(store, "one", **options)
    which = range(PARTITIONS) if everything else await not_whole(store, PARTITIONS)
    await made.partitions(which, await find_strays(store, PARTITIONS))
    return made.report


async def assert_clean(store: Store) -> None:
    assert (await verify(store, PARTITIONS)).differences == []


@pytest.fixture
async def ledger(store: Store) -> Ledger:
    await whole.mark_new(store, PARTITIONS)
    return Ledger(store, PARTITIONS, Clock())


# All of it


@pytest.mark.parametrize("seed", range(3))
async def test_all_that_was_deleted_comes_back_as_it_was(store: Store, seed: int) -> None:
    clock = Clock()
    await whole.mark_new(store, PARTITIONS)
    ledger = Ledger(store, PARTITIONS, clock)
    await live(ledger, clock, Random(seed))
    before, seen = await dump(store), await last_seen_by_events(store, PARTITIONS)
    living = sum(len(held) for name, held in before.items() if name.endswith(b":activity"))
    ended = sum(len(held) for name, held in before.items() if name.endswith(b":ended"))
    assert living > 3
    assert ended > 3

    await delete_projections(store, PARTITIONS)
    found = await verify(store, PARTITIONS)
    assert {difference.what for difference in found.differences} >= {NOT_WHOLE}
    assert found.different >= living + ended

    report = await rebuild(store)
    assert report.is_complete
    assert (report.sessions, report.ended, report.written, report.unchanged) == (living, ended, living + ended, 0)
    assert report.events == sum(len(held) for name, held in before.items() if name.endswith(b":stream"))
    after = await dump(store)
    for name, held in before.items():
        if name.endswith(b":activity"):
            held.update((sid, seen[sid]) for sid in held)
    assert after == with_order_as_seen(before)
    await assert_clean(store)

    again = await rebuild(store, everything=True)
    assert (again.written, again.removed, again.unchanged) == (0, 0, living + ended)
    assert await dump(store) == before


async def test_marks_come_back_of_living_and_ended_sessions(ledger: Ledger) -> None:
    partition = ledger.partition_of("ann")
    for sid, count in ((PHONE, 200), (TABLET, 30), (GONE, 127)):
        await ledger.execute("ann", sid, CreateSession("ann", "photos"))
        for number in range(count):
            await ledger.execute("ann", sid, RequestReset(number % 2 == 0, plain("ann")))
    await ledger.execute("ann", GONE, EndSession("logout", plain("ann")))
    before = {name: held for name, held in (await dump(ledger.store)).items() if b":marks:" in name}
    assert {name: len(held) for name, held in before.items()} == {
        keys.marks(partition, PHONE): 6,
        keys.marks(partition, GONE): 4,
    }

    async def found() -> dict[bytes, Any]:
        return {name: held for name, held in (await dump(ledger.store)).items() if b":marks:" in name}

    await delete_projections(ledger.store, PARTITIONS)
    await rebuild(ledger.store)
    assert await found() == before
    for name in before:
        await ledger.store.command("LSET", name, 0, "1-1", key=name)
    for name in (keys.marks(partition, TABLET), keys.marks(partition, NOBODY)):
        await ledger.store.command("RPUSH", name, "1-1", key=name)
    report = await rebuild(ledger.store, everything=True)
    assert (report.written, report.removed) == (3, 1)
    assert await found() == before
    await assert_clean(ledger.store)


async def test_when_a_session_was_last_seen_is_kept_where_it_is_known(ledger: Ledger) -> None:
    await ledger.execute("ann", PHONE, CreateSession("ann", "photos"))
    name = keys.activity(ledger.partition_of("ann"))
    await ledger.store.command("ZADD", name, NOW // 1000 + 9_000_000, PHONE, key=name)
    session = keys.session(ledger.partition_of("ann"), PHONE)
    await ledger.store.command("DEL", session, key=session)
    assert (await rebuild(ledger.store, everything=True)).written == 1
    assert float(await ledger.store.command("ZSCORE", name, PHONE, key=name)) == NOW // 1000 + 9_000_000


@pytest.mark.each_store
async def test_of_several_rebuilds_at_once_none_harms_another(store: Store) -> None:
    clock = Clock()
    await whole.mark_new(store, PARTITIONS)
    await live(Ledger(store, PARTITIONS, clock), clock, Random(7))
    before = await dump(store)
    await delete_projections(store, PARTITIONS)
    reports = await asyncio.gather(*(rebuild(store, everything=True) for _ in range(4)))
    assert all(report.is_complete for report in reports)
    after = await dump(store)
    by_seen = (b"activity", b"order")
    assert {name: held for name, held in after.items() if not name.endswith(by_seen)} == {
        name: held for name, held in before.items() if not name.endswith(by_seen)
    }
    await assert_clean(store)


@pytest.mark.each_store
async def test_what_is_not_whole_is_rebuilt_and_nothing_else(store: Store) -> None:
    clock = Clock()
    await whole.mark_new(store, PARTITIONS)
    ledger = Ledger(store, PARTITIONS, clock)
    await live(ledger, clock, Random(1))
    assert (await rebuild(store)).partitions == 0
    await store.command("DEL", keys.whole(2), key=keys.whole(2))
    assert await not_whole(store, PARTITIONS) == [2]
    assert (await rebuild(store)).partitions == 1
    assert await not_whole(store, PARTITIONS) == []


async def test_a_rebuild_whose_work_is_deleted_meanwhile_begins_again(ledger: Ledger) -> None:
    await ledger.execute("ann", PHONE, CreateSession("ann", "photos"))
    partition, deleted = ledger.partition_of("ann"), 0
    store = ledger.store

    class Meanwhile:
        """The store, with everything deleted right before the partition is said to be whole."""

        async def script(self, script: Any, *args: Any) -> Any:
            nonlocal deleted
            if script is whole._FINISH and not deleted:
                deleted += await delete_projections(store, PARTITIONS)
            return await store.script(script, *args)

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

    made = Rebuild(Meanwhile(), "one")
    await made.partition(partition, await find_strays(store, PARTITIONS))
    assert deleted
    assert (await ledger.load("ann", PHONE)).seq == 1
    assert await whole.is_whole(store, partition)


# Meanwhile


async def test_what_sessions_do_while_they_are_rebuilt_is_not_lost(valkey_url: str) -> None:
    mine, theirs = await open_store(valkey_url), await open_store(valkey_url)
    await whole.mark_new(mine, PARTITIONS)
    ledger, over = Ledger(theirs, PARTITIONS, Clock()), asyncio.Event()
    answered: dict[str, int] = {}
    refused = 0

    async def device(number: int) -> None:
        nonlocal refused
        user, sid = f"user-{number % 5}", sid_of(f"device {number}")
        await ledger.execute(user, sid, CreateSession(user, "photos"))
        step = 0
        while not over.is_set() or step < 20:
            step += 1
            try:
                state = await ledger.execute(user, sid, RequestReset(step % 2 == 1, plain(user)))
                answered[sid] = state.seq
            except Rebuilding:
                refused += 1
                step -= 1
                await asyncio.sleep(0.001)

    devices = [asyncio.create_task(device(number)) for number in range(20)]
    try:
        for _ in range(5):
            await asyncio.sleep(0.1)
            await delete_projections(mine, PARTITIONS)
            await asyncio.sleep(0.02)
            assert (await rebuild(mine)).is_complete
    finally:
        over.set()
        await asyncio.gather(*devices)
    assert refused
    for sid, seq in answered.items():
        partition = await locate(ledger.stored, sid)
        name = keys.session(partition, sid)
        assert int(await mine.command("HGET", name, "seq", key=name)) >= seq
    await assert_clean(mine)
    for store in (mine, theirs):
        await store.close()


async def test_a_session_that_acts_between_the_look_and_the_write_is_looked_at_again(ledger: Ledger) -> None:
    store, acted = ledger.store, 0
    await ledger.execute("ann", PHONE, CreateSession("ann", "photos"))
    name = keys.devices(ledger.partition_of("ann"), "ann")
    await store.command("DEL", name, key=name)

    class Meanwhile:
        """The store, with a session that acts right before it is written."""

        async def script(self, script: Any, *args: Any) -> Any:
            nonlocal acted
            if script.name == "rebuild" and acted < 5:
                acted += 1
                await ledger.execute("ann", PHONE, RequestReset(acted % 2 == 1, plain("ann")))
            return await store.script(script, *args)

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

    report = await rebuild(Meanwhile(), everything=True)
    assert (acted, report.written) == (5, 1)
    assert (await ledger.load("ann", PHONE)).seq == 6
    await assert_clean(store)


# Damage of what is stored


@pytest.fixture
async def filled(ledger: Ledger) -> Ledger:
    for sid in (PHONE, TABLET, GONE):
        await ledger.execute("ann", sid, CreateSession("ann", "photos", provider_session=b"\x01" * 16))
        await ledger.execute("ann", sid, offer("AssetV1"))
        await ledger.execute("ann", sid, acks(ack("AssetV1", SNAPSHOT - 9, "a")))
    await ledger.execute("ann", GONE, EndSession("logout", plain("ann")))
    await ledger.execute("bob", sid_of("bob"), CreateSession("bob", "photos"))
    return ledger


def _session(sid: str) -> Any:
    return lambda partition: keys.session(partition, sid)


def _devices(user: str) -> Any:
    return lambda partition: keys.devices(partition, user)


DAMAGE = {
    "a field": ["HSET", _session(PHONE), "library", "other"],
    "a seq behind": ["HSET", _session(PHONE), "seq", "2"],
    "a seq that is no number": ["HSET", _session(PHONE), "seq", "x"],
    "the head": ["HSET", _session(PHONE), "head", "1-1"],
    "a lost session": ["DEL", _session(PHONE)],
    "lost checkpoints": ["DEL", lambda partition: keys.checkpoints(partition, PHONE)],
    "the activity index": ["DEL", keys.activity],
    "the ended sessions": ["DEL", keys.ended],
    "an ended session kept wrongly": ["HSET", keys.ended, GONE, b"1-1 \x93\x04\xc4\x00\xa0"],
    "an ended session that lives": ["HSET", _session(GONE), "seq", "4"],
    "an ended session among the devices": ["HSET", _devices("ann"), GONE, ""],
    "a session among another user's devices": ["HSET", _devices("eve"), PHONE, ""],
    "a session of another parent": ["HSET", _devices("ann"), PHONE, TABLET],
    "a living session kept as ended": ["HSET", keys.ended, PHONE, b"1-1 \x93\x01\xc4\x00\xa0"],
    "the provider's sessions": ["DEL", keys.provider_sessions],
    "an ended session at its provider": ["ZADD", keys.provider_sessions, 0, "01" * 16 + ":" + GONE],
    "a session at another provider": ["ZADD", keys.provider_sessions, 0, "02" * 16 + ":" + PHONE],
    "nobody at a provider": ["ZADD", keys.provider_sessions, 0, "02" * 16 + ":" + NOBODY],
    "nobody who was seen": ["ZADD", keys.activity, 1, NOBODY],
    "nobody among the devices": ["HSET", _devices("ann"), NOBODY, ""],
    "nobody among nobody's devices": ["HSET", _devices("eve"), NOBODY, ""],
    "a session without an event": ["HSET", _session(NOBODY), "user", "eve", "seq", "3", "head", "1-1"],
    "the order of devices": ["DEL", keys.order],
    "a session not in the order": ["ZREM", keys.order, PHONE],
    "a session at another place": ["ZADD", keys.order, 2**43 + 5, PHONE],
    "a session marked as stuck": ["ZADD", keys.order, 5, PHONE],
    "an ended session in the order": ["ZADD", keys.order, 2**43, GONE],
    "nobody in the order": ["ZADD", keys.order, 2**43, NOBODY],
    "a session not among all ids": ["ZREM", keys.sids, PHONE],
    "an ended session not among all ids": ["ZREM", keys.sids, GONE],
    "nobody among all ids": ["ZADD", keys.sids, 0, NOBODY],
    "checkpoints without a session": ["HSET", lambda partition: keys.checkpoints(partition, NOBODY), "UserV1", "1||1"],
}


@pytest.mark.parametrize("command", DAMAGE.values(), ids=DAMAGE)
async def test_damage_is_named_and_mended(valkey_store: Store, command: list[Any]) -> None:
    await whole.mark_new(valkey_store, PARTITIONS)
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    for sid in (PHONE, TABLET, GONE):
        await ledger.execute("ann", sid, CreateSession("ann", "photos", provider_session=b"\x01" * 16))
        await ledger.execute("ann", sid, offer("AssetV1"))
        await ledger.execute("ann", sid, acks(ack("AssetV1", SNAPSHOT - 9, "a")))
    await ledger.execute("ann", GONE, EndSession("logout", plain("ann")))
    before, partition = await dump(valkey_store), ledger.partition_of("ann")
    args = [arg(partition) if callable(arg) else arg for arg in command]
    await valkey_store.command(*args, key=keys.stream(partition))
    found = await verify(valkey_store, PARTITIONS)
    assert found.different
    assert {difference.partition for difference in found.differences} == {partition}

    made = Rebuild(valkey_store, "one")
    await made.repair(partition, await find_strays(valkey_store, PARTITIONS))
    assert made.report.is_complete
    assert await dump(valkey_store) == before
    await assert_clean(valkey_store)


MISTYPED = {
    "session": (_session(PHONE), "hash", PHONE),
    "checkpoints": (lambda partition: keys.checkpoints(partition, PHONE), "hash", PHONE),
    "marks": (lambda partition: keys.marks(partition, PHONE), "list", PHONE),
    "activity": (keys.activity, "zset", ""),
    "ended": (keys.ended, "hash", ""),
    "devices": (_devices("ann"), "hash", PHONE),
    "provider's sessions": (keys.provider_sessions, "zset", ""),
    "order of devices": (keys.order, "zset", ""),
    "ids of all sessions": (keys.sids, "zset", ""),
}


@pytest.mark.parametrize(("key", "belongs", "whose"), MISTYPED.values(), ids=MISTYPED)
async def test_a_key_of_another_type_is_named_and_left_alone(
    filled: Ledger, key: Any, belongs: str, whose: str
) -> None:
    """Nobody of us writes such a key: what it is only its writer knows."""
    store, partition = filled.store, filled.partition_of("ann")
    before, name = await dump(store), key(partition)
    await store.command("SET", name, "x", key=name)
    others = keys.session(partition, TABLET)
    await store.command("HSET", others, "library", "other", key=others)
    what = f"{name.decode()} is a string, where a {belongs} belongs"
    found = await verify(store, PARTITIONS)
    assert any(what in difference.what and difference.session in (whose, "") for difference in found.differences)

    report = await rebuild(store, everything=True)
    assert not report.is_complete
    assert report.not_whole == [partition]
    assert any(what in broken.what and broken.session in (whose, "") for broken in report.named)
    assert await store.command("GET", name, key=name) == b"x"
    if whose == PHONE and name != keys.devices(partition, "ann"):
        assert await store.command("HGET", others, "library", key=others) == b"photos", "the others are mended"
    with pytest.raises((Rebuilding, StoreReplyError)):
        await filled.load("ann", NOBODY)

    await store.command("DEL", name, key=name)
    assert (await rebuild(store, everything=True)).is_complete
    after = await dump(store)
    assert {n: v for n, v in after.items() if n != name} == {n: v for n, v in before.items() if n != name}
    await assert_clean(store)


async def test_a_session_stored_beyond_its_events_is_named_and_left_alone(filled: Ledger) -> None:
    """Either it is wrong, or events that were answered are lost: to take it back is for people to decide."""
    partition = filled.partition_of("ann")
    name = keys.session(partition, PHONE)
    await filled.store.command("HSET", name, "seq", 9, key=name)
    report = await rebuild(filled.store, everything=True)
    assert [(broken.session, broken.what) for broken in report.named] == [
        (PHONE, "stored at seq 9, but its events end at seq 3")
    ]
    assert await filled.store.command("HGET", name, "seq", key=name) == b"9"


async def test_where_the_stream_is_lost_nothing_is_removed(filled: Ledger) -> None:
    partition = filled.partition_of("ann")
    await filled.store.command("DEL", keys.stream(partition), key=keys.stream(partition))
    before = await dump(filled.store)
    report = await rebuild(filled.store, everything=True)
    assert report.not_whole == [partition]
    assert "no event at all" in report.named[0].what
    after = await dump(filled.store)
    assert after.pop(keys.whole(partition)).startswith(whole.REBUILDING)
    before.pop(keys.whole(partition))
    assert after == before


# One session, one user


async def test_one_session_is_rebuilt_alone(filled: Ledger) -> None:
    partition, before = filled.partition_of("ann"), await dump(filled.store)
    for sid in (PHONE, TABLET):
        name = keys.session(partition, sid)
        await filled.store.command("DEL", name, key=name)
    assert await find_session(filled.store, PARTITIONS, PHONE) == partition
    assert await find_session(filled.store, PARTITIONS, NOBODY) is None
    made = Rebuild(filled.store, "one")
    await made.session(partition, PHONE)
    assert (made.report.written, made.report.sessions) == (1, 1)
    assert (await filled.load("ann", PHONE)).seq == 3
    found = await verify(filled.store, PARTITIONS)
    assert {difference.session for difference in found.differences} == {TABLET}
    await made.session(partition, TABLET)
    assert await dump(filled.store) == before


async def test_the_sessions_of_one_user_are_rebuilt_alone(filled: Ledger) -> None:
    partition, before = filled.partition_of("ann"), await dump(filled.store)
    for sid in (PHONE, TABLET):
        name = keys.session(partition, sid)
        await filled.store.command("DEL", name, key=name)
    await filled.store.command("DEL", keys.devices(partition, "ann"), key=keys.devices(partition, "ann"))
    await filled.store.command("HSET", keys.devices(partition, "ann"), NOBODY, "", key=keys.devices(partition, "ann"))
    made = Rebuild(filled.store, "one")
    await made.user(partition, "ann")
    assert (made.report.sessions, made.report.ended, made.report.written, made.report.removed) == (2, 1, 2, 1)
    assert await dump(filled.store) == before


# Damage of events


async def damage(store: Store, partition: int, of: str, seq: int, **values: bytes) -> str:
    """Write the stream anew with one entry's values changed, under the same ids; returns that entry's id."""
    name, changed = keys.stream(partition), ""
    rows = await store.command("XRANGE", name, "-", "+", key=name)
    await store.command("DEL", name, key=name)
    for entry_id, flat in rows:
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        if (fields[b"sid"].hex(), fields[b"seq"]) == (of, b"%d" % seq):
            fields.update({name.encode(): value for name, value in values.items()})
            changed = entry_id.decode()
        await store.command("XADD", name, entry_id, *(part for pair in fields.items() for part in pair), key=name)
    return changed


BAD_EVENTS = {
    "the event": {"event": b"\xc1"},
    "its hash": {"hash": b"\x00" * 32},
    "its schema": {"schema": b"%d" % (SCHEMA + 1)},
    "its place": {"prev": b"1-1"},
}


@pytest.mark.parametrize("seq", [1, 2, 3])
@pytest.mark.parametrize("values", BAD_EVENTS.values(), ids=BAD_EVENTS)
async def test_a_bad_event_stops_its_session_alone(valkey_store: Store, values: dict[str, bytes], seq: int) -> None:
    await whole.mark_new(valkey_store, PARTITIONS)
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    for sid in (PHONE, TABLET):
        await ledger.execute("ann", sid, CreateSession("ann", "photos"))
        await ledger.execute("ann", sid, offer("AssetV1"))
        await ledger.execute("ann", sid, acks(ack("AssetV1", SNAPSHOT - 9, "a")))
    partition = ledger.partition_of("ann")
    event = await damage(valkey_store, partition, PHONE, seq, **values)
    await delete_projections(valkey_store, PARTITIONS)
    report = await rebuild(valkey_store)
    assert [(broken.session, broken.event) for broken in report.named] == [(PHONE, event)]
    assert (report.broken, report.written, report.not_whole) == (1, 1, [])
    assert (await ledger.load("ann", TABLET)).seq == 3
    with pytest.raises(Rebuilding):
        await Ledger(valkey_store, PARTITIONS, Clock()).load("ann", PHONE)
    found = await verify(valkey_store, PARTITIONS)
    assert {difference.session for difference in found.differences} == {PHONE}


async def test_a_session_whose_events_are_mended_is_rebuilt(valkey_store: Store) -> None:
    await whole.mark_new(valkey_store, PARTITIONS)
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    await ledger.execute("ann", PHONE, CreateSession("ann", "photos"))
    await ledger.execute("ann", PHONE, offer("AssetV1"))
    partition = ledger.partition_of("ann")
    before = await dump(valkey_store)
    row = before[keys.stream(partition)][1][1]
    await damage(valkey_store, partition, PHONE, 2, hash=b"\x00" * 32)
    await delete_projections(valkey_store, PARTITIONS)
    assert (await rebuild(valkey_store)).broken == 1
    await damage(valkey_store, partition, PHONE, 2, hash=row[row.index(b"hash") + 1])
    assert (await rebuild(valkey_store, everything=True)).is_complete
    assert await dump(valkey_store) == before


async def test_a_damaged_session_that_is_stored_goes_on(valkey_store: Store) -> None:
    await whole.mark_new(valkey_store, PARTITIONS)
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    await ledger.execute("ann", PHONE, CreateSession("ann", "photos"))
    state = await ledger.execute("ann", PHONE, offer("AssetV1"))
    await damage(valkey_store, ledger.partition_of("ann"), PHONE, 1, hash=b"\x00" * 32)
    report = await rebuild(valkey_store, everything=True)
    assert (report.broken, report.removed, report.written) == (1, 0, 0)
    assert await ledger.load("ann", PHONE) == state


async def test_an_event_of_nobody_can_tell_whom_leaves_its_partition_alone(valkey_store: Store) -> None:
    await whole.mark_new(valkey_store, PARTITIONS)
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    await ledger.execute("ann", PHONE, CreateSession("ann", "photos"))
    partition = ledger.partition_of("ann")
    event = await damage(valkey_store, partition, PHONE, 1, sid=b"x")
    await delete_projections(valkey_store, PARTITIONS)
    report = await rebuild(valkey_store)
    assert [(broken.session, broken.event) for broken in report.named] == [("", event)]
    assert (report.not_whole, report.written) == ([partition], 0)


async def test_an_event_given_to_another_session_breaks_its_own_too(valkey_store: Store) -> None:
    """Else the session would come back as it was before that event: perhaps before its end."""
    await whole.mark_new(valkey_store, PARTITIONS)
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    await ledger.execute("ann", PHONE, CreateSession("ann", "photos"))
    await ledger.execute("ann", TABLET, CreateSession("ann", "photos"))
    await ledger.execute("ann", PHONE, EndSession("logout", plain("ann")))
    partition = ledger.partition_of("ann")
    await damage(valkey_store, partition, PHONE, 2, sid=bytes.fromhex(TABLET))
    await delete_projections(valkey_store, PARTITIONS)
    report = await rebuild(valkey_store)
    assert {broken.session for broken in report.named} == {PHONE, TABLET}
    with pytest.raises(Rebuilding):
        await ledger.load("ann", PHONE)


# With an archive


@pytest.mark.parametrize("hot_events", [0, 40])
async def test_what_is_archived_is_rebuilt_from_segments_and_the_hot_tail(
    real_store: Store, tmp_path: Any, hot_events: int
) -> None:
    clock, objects = Clock(), open_objects(f"file://{tmp_path}/archive")
    await whole.mark_new(real_store, PARTITIONS)
    ledger = Ledger(real_store, PARTITIONS, clock)
    options = ArchiveOptions(hot_s=10**9, hot_events=hot_events, segment_events=25)
    for seed in range(2):
        await live(ledger, clock, Random(seed), steps=150)
        archived = await archive(real_store, objects, range(PARTITIONS), options, clock())
        assert archived.failures == []
    sealed = Archive(real_store, objects)
    assert sum([len(await sealed.segments(partition)) for partition in range(PARTITIONS)]) > 4
    before, seen = await dump(real_store), await last_seen_by_events(real_store, PARTITIONS)
    assert (await verify(real_store, PARTITIONS, sealed=sealed)).differences == []

    await delete_projections(real_store, PARTITIONS)
    with pytest.raises(LayoutError, match="set LEDGER_ARCHIVE"):
        await rebuild(real_store)
    report = await rebuild(real_store, sealed=sealed)
    assert report.is_complete
    assert report.events == sum(len(held) for name, held in before.items() if name.endswith(b":stream"))
    for name, held in before.items():
        if name.endswith(b":activity"):
            held.update((sid, seen[sid]) for sid in held)
    assert await dump(real_store) == with_order_as_seen(before)
    assert (await verify(real_store, PARTITIONS, sealed=sealed)).differences == []


async def test_what_is_archived_while_it_is_read_is_not_missed(valkey_store: Store, tmp_path: Any) -> None:
    clock, objects = Clock(), open_objects(f"file://{tmp_path}/archive")
    await whole.mark_new(valkey_store, PARTITIONS)
    await live(Ledger(valkey_store, PARTITIONS, clock), clock, Random(5))
    before, seen = await dump(valkey_store), await last_seen_by_events(valkey_store, PARTITIONS)
    options = ArchiveOptions(hot_s=10**9, hot_events=3, segment_events=25)
    archived: set[bytes] = set()

    class Meanwhile:
        """The store, with every stream archived and trimmed right before it is read for the first time."""

        async def command(self, *args: Any, key: bytes) -> Any:
            if args[0] == "XRANGE" and key not in archived:
                archived.add(key)
                partition = next(p for p in range(PARTITIONS) if keys.stream(p) == key)
                await archive(valkey_store, objects, [partition], options, clock())
            return await valkey_store.command(*args, key=key)

        def __getattr__(self, name: str) -> Any:
            return getattr(valkey_store, name)

    await delete_projections(valkey_store, PARTITIONS)
    sealed = Archive(valkey_store, objects)
    assert (await rebuild(Meanwhile(), sealed=sealed)).is_complete
    assert archived
    assert (await verify(valkey_store, PARTITIONS, sealed=sealed)).differences == []
    after = await dump(valkey_store)
    for name, held in before.items():
        if name.endswith(b":activity"):
            held.update((sid, seen[sid]) for sid in held)
    for name, held in with_order_as_seen(before).items():
        if not name.endswith(b":stream"):
            assert after[name] == held


async def test_nothing_begins_while_a_ledger_is_restored(valkey_store: Store) -> None:
    await open_layout(valkey_store, PARTITIONS, NOW + 5)
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    mark = whole.COPYING + b"%d" % NOW
    for partition in range(PARTITIONS):
        await valkey_store.command("SET", keys.whole(partition), mark, key=keys.whole(partition))
    with pytest.raises(Rebuilding):
        await ledger.execute("ann", PHONE, CreateSession("ann", "photos"))
    with pytest.raises(LayoutError, match="not restored yet"):
        await not_whole(valkey_store, PARTITIONS)
