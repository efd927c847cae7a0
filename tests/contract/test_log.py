"""What the event log promises on every backend: atomic appends, walks, and a layout that is checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.errors import CorruptLedger, LayoutError, ParentOver, StoreFull, StoreReplyError, TooManySessions
from ledger.events import SCHEMA, DeviceDescribed, SessionCreated, SessionEnded, TokenFirstUsed, TokenRotated
from ledger.log.append import Conflict, append, load, read_ended
from ledger.log.formats import FORMAT
from ledger.log.reader import Entry, last_id, read_partition, walk
from ledger.log.state_fields import checkpoint_fields, session_fields
from ledger.log.store_check import open_layout, read_promise
from ledger.personal import plain
from ledger.state import State
from ledger.store.interface import Store
from projections.checking.rebuild import not_whole
from tests.support.ledger.given import CREATED, NOW, SNAPSHOT, ack, cleared, moved, offered
from tests.support.ledger.ledgers import PARTITION, Log, contents, section, sid_of

pytestmark = pytest.mark.each_store

HOUR_US = 3_600_000_000
CHILD = SessionCreated("ann", "photos", parent=sid_of("first"), device_type=plain("Web"))
ENDED = SessionEnded("logout", plain("ann"))


@pytest.fixture
def log(store: Store) -> Log:
    return Log(store)


async def events_of(log: Log) -> list[Entry]:
    return [entry async for page in read_partition(log.store, log.partition) for entry in page]


# Appending


async def test_a_new_session_is_there_with_all_that_belongs_to_it(log: Log) -> None:
    state = await log.create()
    assert await log.load(state.sid) == state
    (entry,) = await events_of(log)
    assert (entry.recorded.event, entry.recorded.hash, entry.prev) == (CREATED, state.hash, "")
    assert await contents(log.store, PARTITION, [state.sid]) == {
        keys.ended(PARTITION): {},
        keys.devices(PARTITION, "ann"): {state.sid.encode(): b""},
        keys.session(PARTITION, state.sid): {
            **session_fields(state),
            b"head": entry.id.encode(),
        },
        keys.checkpoints(PARTITION, state.sid): {},
        keys.activity(PARTITION): {state.sid.encode(): b"%d" % (NOW // 1000)},
        keys.stream(PARTITION): await log.store.command(
            "XRANGE", keys.stream(PARTITION), "-", "+", key=keys.stream(PARTITION)
        ),
    }


async def test_events_and_what_they_fold_into_are_written_together(log: Log) -> None:
    state = await log.create()
    state = await log.append(state, offered("AssetV1", "AlbumV2"))
    state = await log.append(state, moved(ack("AssetV1", SNAPSHOT - 9, "é")), moved(ack("AlbumV2", SNAPSHOT - 8)))
    state = await log.append(state, cleared("AssetV1"))
    assert await log.load(state.sid) == state
    found = await contents(log.store, PARTITION, [state.sid])
    assert found[keys.checkpoints(PARTITION, state.sid)] == checkpoint_fields(state)
    entries = await events_of(log)
    assert [entry.recorded.seq for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry.prev for entry in entries] == ["", *(entry.id for entry in entries[:-1])]


async def test_a_session_that_does_not_exist_is_none(log: Log) -> None:
    await log.create()
    assert await log.load(sid_of("nobody")) is None


async def test_a_conflict_writes_nothing_and_carries_the_current_state(log: Log) -> None:
    old = await log.create()
    new = await log.append(old, offered("AssetV1"), moved(ack("AssetV1", SNAPSHOT - 1)))
    before = await contents(log.store, PARTITION, [old.sid])
    for events in ((cleared(),), (ENDED,)):
        assert await log.try_append(section(old, *events)) == Conflict(new)
    assert await contents(log.store, PARTITION, [old.sid]) == before


async def test_of_many_writers_at_one_version_one_wins(log: Log) -> None:
    state = await log.create()
    made = [section(state, offered("AssetV1", snapshot_us=us)) for us in range(20)]
    replies = await asyncio.gather(*(log.try_append(each) for each in made))
    (winner,) = [each for each, reply in zip(made, replies, strict=True) if reply is None]
    assert all(reply is None or reply.state == winner.after for reply in replies)
    assert await log.length() == 2


async def test_a_token_that_has_a_session_cannot_begin_another(log: Log) -> None:
    state = await log.create()
    assert await log.try_append(section(None, CREATED, sid=state.sid)) == Conflict(state)


async def test_sections_of_several_sessions_are_written_all_or_none(log: Log) -> None:
    one, other = await log.create("one"), await log.create("other")
    newer = await log.append(other, offered("AssetV1"))
    both = [section(one, SessionEnded("revoked")), section(other, SessionEnded("revoked"))]
    assert await log.try_append(*both) == Conflict(one)
    assert (await log.load(one.sid), await log.load(other.sid)) == (one, newer)
    assert await log.try_append(both[0], section(newer, SessionEnded("revoked"))) is None
    assert (await log.load(one.sid), await log.load(other.sid)) == (None, None)


# Ending


async def test_an_ended_session_leaves_its_history_and_nothing_else(log: Log) -> None:
    state = await log.append(await log.create(), offered("AssetV1"), moved(ack("AssetV1", SNAPSHOT - 1)))
    over = await log.append(state, ENDED)
    assert await log.load(state.sid) is None
    found = await contents(log.store, PARTITION, [state.sid])
    stream, kept = found.pop(keys.stream(PARTITION)), found.pop(keys.ended(PARTITION))
    assert len(stream) == 4
    assert not any(found.values())
    assert list(kept) == [state.sid.encode()]
    assert await read_ended(log.store, PARTITION, state.sid) == (stream[-1][0].decode(), 4, over.hash, "ann")
    assert await read_ended(log.store, PARTITION, sid_of("nobody")) is None
    existing = [
        name
        for name in (keys.session(PARTITION, state.sid), keys.checkpoints(PARTITION, state.sid))
        if await log.store.command("EXISTS", name, key=name)
    ]
    assert existing == []


async def test_an_ended_session_takes_no_event_and_cannot_begin_again(log: Log) -> None:
    state = await log.create()
    await log.append(state, ENDED)
    for late in (section(state, offered("AssetV1")), section(state, ENDED), section(None, CREATED, sid=state.sid)):
        assert await log.try_append(late) == Conflict(None)
    assert await log.length() == 2


async def test_no_child_of_an_ended_or_expired_session_is_admitted_nor_heard(log: Log) -> None:
    parent = await log.create("first")
    child = await log.create("child", CHILD)
    grandchild = await log.create("grandchild", msgspec.structs.replace(CHILD, parent=child.sid))
    above = (child.sid, parent.sid)
    more = section(grandchild, DeviceDescribed(b"x"))
    assert await append(log.store, PARTITION, [section(parent, ENDED)], NOW, leaves=True) is None
    name = keys.ending(PARTITION)
    assert await log.store.command("HGETALL", name, key=name) == [parent.sid.encode(), b"ann"], "what is still to do"
    for _ in range(2):
        with pytest.raises(ParentOver) as caught:
            await load(log.store, PARTITION, grandchild.sid, NOW, seen=True, ancestors=above)
        assert caught.value.ended
        with pytest.raises(ParentOver):
            await append(log.store, PARTITION, [more], NOW, ancestors=above)
    assert await log.load(grandchild.sid) == grandchild


async def test_a_child_of_an_expired_session_is_not_admitted(log: Log) -> None:
    parent = await log.create("first", msgspec.structs.replace(CREATED, expires_at_us=NOW + 2_000_000))
    child = await log.create("child", CHILD)
    assert await load(log.store, PARTITION, child.sid, NOW + 1_999_000, seen=True, ancestors=[parent.sid]) == child
    with pytest.raises(ParentOver) as caught:
        await load(log.store, PARTITION, child.sid, NOW + 2_000_000, seen=True, ancestors=[parent.sid])
    assert not caught.value.ended


async def test_no_session_begins_beyond_the_bound_of_its_user(log: Log) -> None:
    for name in ("one", "two"):
        made = section(None, CREATED, sid=sid_of(name))
        assert await append(log.store, PARTITION, [made], NOW, most_sessions=2) is None
    third = section(None, CREATED, sid=sid_of("three"))
    with pytest.raises(TooManySessions, match="2 signed-in devices"):
        await append(log.store, PARTITION, [third], NOW, most_sessions=2)
    assert await append(log.store, PARTITION, [made], NOW, most_sessions=2) is not None, "it is there: a conflict"
    await log.append(made.after, ENDED)
    assert await append(log.store, PARTITION, [third], NOW, most_sessions=2) is None


async def test_when_sessions_are_over_is_listed_as_long_as_they_live(log: Log) -> None:
    name = keys.due(PARTITION)

    async def listed() -> list[bytes]:
        return list(await log.store.command("ZRANGE", name, 0, -1, "WITHSCORES", key=name))

    state = await log.create("first", msgspec.structs.replace(CREATED, token_expires_at_us=NOW + 5000))
    sid = state.sid.encode()
    assert await listed() == [sid, b"%d" % (NOW // 1000 + 5)]
    state = await log.append(state, TokenRotated(b"t" * 32, 1, NOW + 9000))
    assert await listed() == [sid, b"%d" % (NOW // 1000 + 9)]
    state = await log.append(state, TokenFirstUsed(b"t" * 32, NOW), DeviceDescribed(b"x"))
    assert await listed() == [sid, b"%d" % (NOW // 1000 + 9)]
    state = await log.append(state, TokenRotated(b"u" * 32, 2, None))
    assert await listed() == []
    await log.append(await log.append(state, TokenRotated(b"v" * 32, 3, NOW + 9000)), ENDED)
    assert await listed() == []


async def test_a_child_ends_without_its_parent(log: Log) -> None:
    parent, child = await log.create("first"), await log.create("child", CHILD)
    await log.append(child, ENDED)
    assert await log.load(parent.sid) == parent


async def test_a_child_of_an_ended_or_unknown_parent_is_refused(log: Log) -> None:
    made = section(None, CHILD, sid=sid_of("child"))
    assert await log.try_append(made, living_parent=sid_of("first")) == Conflict(None)
    await log.append(await log.create("first"), ENDED)
    assert await log.try_append(made, living_parent=sid_of("first")) == Conflict(None)
    assert await log.load(made.after.sid) is None


async def test_hundreds_of_sessions_end_at_once(log: Log) -> None:
    parent = await log.create("first")
    children = [await log.create(f"child {number}", CHILD) for number in range(150)]
    because = SessionEnded("parent_ended")
    assert await log.try_append(section(parent, ENDED), *(section(child, because) for child in children)) is None
    assert not await log.store.command("EXISTS", keys.devices(PARTITION, "ann"), key=keys.devices(PARTITION, "ann"))


# Keys of a wrong type


@pytest.mark.parametrize(
    "damaged",
    [
        lambda sid: keys.stream(PARTITION),
        lambda sid: keys.session(PARTITION, sid),
        lambda sid: keys.checkpoints(PARTITION, sid),
        lambda sid: keys.activity(PARTITION),
        lambda sid: keys.devices(PARTITION, "ann"),
        lambda sid: keys.ended(PARTITION),
    ],
    ids=["stream", "session", "checkpoints", "activity", "devices", "ended"],
)
async def test_a_key_of_a_wrong_type_stops_an_append_before_its_first_write(
    log: Log, damaged: Callable[[str], bytes]
) -> None:
    states: list[State | None] = [await log.create("living"), None]
    key = damaged(sid_of("living"))
    await log.store.command("DEL", key, key=key)
    await log.store.command("SET", key, "x", key=key)
    ending = section(states[0], ENDED)
    creating = section(None, CREATED, sid=sid_of("new"))
    touched = [made for made in (ending, creating) if made is ending or sid_of("living").encode() not in key]
    everything = [keys.stream(PARTITION), keys.activity(PARTITION), keys.devices(PARTITION, "ann")]
    everything += [keys.ended(PARTITION), keys.session(PARTITION, sid_of("new"))]
    everything += [keys.session(PARTITION, sid_of("living")), keys.checkpoints(PARTITION, sid_of("living"))]

    async def dump() -> list[object]:
        return [await log.store.command("DUMP", name, key=name) for name in everything]

    before = await dump()
    for made in touched:
        with pytest.raises(StoreReplyError, match="WRONGTYPE"):
            await log.try_append(made)
        assert await dump() == before


# At the memory limit


async def test_at_the_memory_limit_nothing_is_appended_but_sessions_can_be_read_and_ended(real_store: Store) -> None:
    log = Log(real_store)
    await open_layout(real_store, 8, NOW)
    state = await log.append(await log.create(), offered("AssetV1"))
    await real_store.each_primary("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(StoreFull):
            await log.try_append(section(state, moved(ack("AssetV1", SNAPSHOT - 1))))
        with pytest.raises(StoreFull):
            await log.try_append(section(None, CREATED, sid=sid_of("new")))
        assert await load(real_store, PARTITION, state.sid, NOW + 2 * HOUR_US, seen=True) == state
        assert await walk(real_store, PARTITION, state.sid) is not None
        assert await open_layout(real_store, 8, NOW) == 8, "a service can be started"
        assert await log.try_append(section(state, ENDED)) is None
        assert await log.load(state.sid) is None
    finally:
        await real_store.each_primary("CONFIG", "SET", "maxmemory", 0)
    assert await log.length() == 3


# Noting that a session was seen


async def test_a_session_is_noted_as_seen_at_most_hourly_and_only_by_itself(log: Log) -> None:
    state = await log.create()
    name = keys.activity(PARTITION)

    async def seen_us_after(at_us: int, *, seen: bool = True) -> int:
        await load(log.store, PARTITION, state.sid, at_us, seen=seen)
        return int(float(await log.store.command("ZSCORE", name, state.sid, key=name))) * 1000

    assert await seen_us_after(NOW + HOUR_US) == NOW, "not before an hour is over"
    assert await seen_us_after(NOW + 9 * HOUR_US, seen=False) == NOW
    assert await seen_us_after(NOW + 2 * HOUR_US) == NOW + 2 * HOUR_US
    assert await seen_us_after(NOW + HOUR_US) == NOW + 2 * HOUR_US, "never back"
    await load(log.store, PARTITION, sid_of("nobody"), NOW, seen=True)
    assert await log.store.command("ZCARD", name, key=name) == 1


# Loading what is known


async def test_of_a_session_that_is_as_it_is_known_nothing_is_read_and_it_is_noted_as_seen(log: Log) -> None:
    state = await log.append(await log.create(), offered("AssetV1"))
    state = await log.append(state, moved(ack("AssetV1", SNAPSHOT - 1)))

    async def loaded(known: State) -> State | None:
        return await load(log.store, PARTITION, state.sid, NOW + 3 * HOUR_US, seen=True, known=known)

    assert await loaded(state) is state
    name = keys.activity(PARTITION)
    assert int(float(await log.store.command("ZSCORE", name, state.sid, key=name))) * 1000 == NOW + 3 * HOUR_US
    for other in (replace(state, seq=2), replace(state, hash=b"x" * 32), replace(state, checkpoints={})):
        found = await loaded(other)
        assert found == state
        assert found is not other
    assert await log.try_append(section(state, ENDED)) is None
    assert await loaded(state) is None


# Reading a partition


async def test_a_partition_is_read_in_stream_order_between_two_ids(log: Log) -> None:
    assert await events_of(log) == []
    assert await last_id(log.store, PARTITION) is None
    state = await log.history(25)
    entries = await events_of(log)
    assert [entry.id for entry in entries] == sorted((e.id for e in entries), key=lambda i: [*map(int, i.split("-"))])
    assert await last_id(log.store, PARTITION) == entries[-1].id
    for size in (1, 7, len(entries), 500):
        pages = [p async for p in read_partition(log.store, PARTITION, page=size)]
        assert [entry for each in pages for entry in each] == entries
        assert max(map(len, pages)) <= size
    between = read_partition(log.store, PARTITION, entries[3].id, entries[6].id, page=2)
    assert [entry async for each in between for entry in each] == entries[4:7]
    assert {entry.recorded.sid for entry in entries} == {state.sid, sid_of("long other")}


async def test_an_entry_that_cannot_be_read_is_named(log: Log) -> None:
    name = keys.stream(PARTITION)
    raw = section(None, CREATED, sid=sid_of("x")).events[0].raw
    whole: dict[str, str | bytes | None] = {
        "sid": b"\x01" * 32, "seq": "1", "at": "5", "schema": str(SCHEMA), "event": raw, "hash": b"", "prev": "",
    }  # fmt: skip
    for field, value in (
        ("seq", "x"),
        ("event", b"\x90"),
        ("schema", str(SCHEMA + 1)),
        ("prev", b"\xff"),
        ("sid", None),
    ):
        damaged = {**whole, field: value}
        flat = [part for key, held in damaged.items() if held is not None for part in (key, held)]
        entry_id = (await log.store.command("XADD", name, "*", *flat, key=name)).decode()
        with pytest.raises(CorruptLedger) as caught:
            await events_of(log)
        assert caught.value.details["id"] == entry_id
        await log.store.command("XDEL", name, entry_id, key=name)


# The layout

# fakeredis has no INFO, which the layout is checked by.


async def test_the_partition_count_is_fixed_when_a_ledger_is_created(real_store: Store) -> None:
    assert await open_layout(real_store, 256, NOW) == 256
    assert await open_layout(real_store, 256, NOW + 1) == 256
    with pytest.raises(LayoutError, match=r"created with 256 partitions.*LEDGER_PARTITIONS=256"):
        await open_layout(real_store, 16, NOW)
    assert await real_store.command("HGET", keys.meta(), "created_at_us", key=keys.meta()) == b"%d" % NOW


async def test_of_services_that_create_a_ledger_together_all_agree(real_store: Store) -> None:
    counts = (8, 16, 32, 64)
    replies = await asyncio.gather(*(open_layout(real_store, count, NOW) for count in counts), return_exceptions=True)
    assert sum(isinstance(reply, LayoutError) for reply in replies) == len(counts) - 1
    (agreed,) = [reply for reply in replies if isinstance(reply, int)]
    assert await open_layout(real_store, agreed, NOW) == agreed


@pytest.mark.parametrize("partitions", [0, -1, 16_385])
async def test_a_count_out_of_bounds_creates_nothing(real_store: Store, partitions: int) -> None:
    with pytest.raises(LayoutError, match="1 to 16384"):
        await open_layout(real_store, partitions, NOW)
    assert await real_store.command("EXISTS", keys.meta(), key=keys.meta()) == 0


async def test_a_ledger_of_another_format_is_refused(real_store: Store) -> None:
    await open_layout(real_store, 8, NOW)
    await real_store.command("HSET", keys.meta(), "format", FORMAT + 1, key=keys.meta())
    with pytest.raises(LayoutError, match=f"format {FORMAT + 1}.*upgrade"):
        await open_layout(real_store, 8, NOW)


async def test_a_server_that_may_evict_is_refused(real_store: Store) -> None:
    await real_store.each_primary("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(LayoutError, match=r"allkeys-lru.*noeviction"):
            await open_layout(real_store, 8, NOW)
        assert await real_store.command("EXISTS", keys.meta(), key=keys.meta()) == 0
    finally:
        await real_store.each_primary("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert await open_layout(real_store, 8, NOW) == 8


async def test_what_the_append_only_file_promises_is_told(real_store: Store) -> None:
    promise = await read_promise(real_store)
    assert promise.fsync == "off"
    assert "no append-only file" in promise.text
    assert promise.server.split()[0] in ("valkey", "redis")
    assert promise.server.split()[1][0].isdigit()


async def test_a_ledger_of_before_says_once_that_its_partitions_are_whole(real_store: Store) -> None:
    await open_layout(real_store, 8, NOW)
    assert await not_whole(real_store, 8) == []
    for name in (keys.whole(2), keys.whole(3)):
        await real_store.command("DEL", name, key=name)
    await open_layout(real_store, 8, NOW)
    assert await not_whole(real_store, 8) == [2, 3], "what is lost later stays lost"
    await real_store.command("HDEL", keys.meta(), "whole_marked_at_us", key=keys.meta())
    await open_layout(real_store, 8, NOW)
    assert await not_whole(real_store, 8) == []
