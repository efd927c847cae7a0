"""What a walk along a session's events promises on every backend: pages, marks, and an end that is told."""

from __future__ import annotations

import pytest

from ledger import keys
from ledger.errors import CorruptLedger, StoreReplyError
from ledger.events import SessionEnded
from ledger.log.reader import Entry, read_partition, walk
from ledger.personal import plain
from ledger.store.interface import Store
from tests.support.ledger.given import NOW, offered
from tests.support.ledger.ledgers import PARTITION, Log, sid_of

pytestmark = pytest.mark.each_store

ENDED = SessionEnded("logout", plain("ann"))


@pytest.fixture
def log(store: Store) -> Log:
    return Log(store)


async def events_of(log: Log) -> list[Entry]:
    return [entry async for entries in read_partition(log.store, log.partition) for entry in entries]


def seqs(entries: list[Entry]) -> list[int]:
    return [entry.recorded.seq for entry in entries]


async def page(log: Log, sid: str, **wanted: int) -> tuple[list[int], bool]:
    found = await walk(log.store, PARTITION, sid, **wanted)
    assert found is not None
    return seqs(found.entries), found.below_floor


async def test_a_history_is_walked_in_pages_by_seq_and_by_time(log: Log) -> None:
    state = await log.history(330)
    assert await page(log, state.sid, count=3) == ([330, 329, 328], False)
    assert await page(log, state.sid, count=1000) == (list(range(330, 0, -1)), False)
    for top in (330, 329, 257, 256, 255, 200, 129, 128, 127, 2, 1):
        assert await page(log, state.sid, top_seq=top, count=2) == (list(range(top, max(0, top - 2), -1)), False)
        assert await page(log, state.sid, top_at_us=NOW + top, count=1) == ([top], False)
    assert await page(log, state.sid, top_seq=0) == ([], False)
    assert await page(log, state.sid, top_at_us=NOW) == ([], False)
    assert await page(log, state.sid, top_seq=300, top_at_us=NOW + 200, count=1) == ([200], False)
    over = await log.append(state, ENDED, at_us=NOW + 400)
    assert await page(log, over.sid, count=2) == ([331, 330], False)
    assert await page(log, over.sid, top_seq=100, count=2) == ([100, 99], False)
    assert await walk(log.store, PARTITION, sid_of("nobody")) is None


async def marks_of(log: Log, sid: str) -> list[str]:
    name = keys.marks(PARTITION, sid)
    return [mark.decode() for mark in await log.store.command("LRANGE", name, 0, -1, key=name)]


async def ids_of(log: Log, sid: str) -> dict[int, str]:
    return {e.recorded.seq: e.id for e in await events_of(log) if e.recorded.sid == sid}


async def test_every_32nd_event_is_a_mark_also_of_a_session_that_ended(log: Log) -> None:
    state = await log.history(31)
    name = keys.marks(PARTITION, state.sid)
    assert await log.store.command("EXISTS", name, key=name) == 0, "a session with few events costs nothing"
    state = await log.history(200, "longer")
    ids = await ids_of(log, state.sid)
    assert await marks_of(log, state.sid) == [ids[seq] for seq in range(32, 200, 32)]
    for n in range(201, 256):
        state = await log.append(state, offered("AssetV1", snapshot_us=n))
    over = await log.append(state, ENDED)
    assert over.seq == 256
    assert await marks_of(log, state.sid) == [(await ids_of(log, state.sid))[seq] for seq in range(32, 257, 32)]


async def test_several_marks_in_one_append(log: Log) -> None:
    state = await log.create("long")
    state = await log.append(state, *(offered("AssetV1", snapshot_us=n) for n in range(130)))
    ids = await ids_of(log, state.sid)
    assert await marks_of(log, state.sid) == [ids[seq] for seq in (32, 64, 96, 128)]


async def test_a_key_of_another_type_in_place_of_marks_stops_the_append_that_needs_them(log: Log) -> None:
    state = await log.history(30)
    name = keys.marks(PARTITION, state.sid)
    await log.store.command("SET", name, "x", key=name)
    state, length = await log.append(state, offered("AssetV1", snapshot_us=31)), await log.length()
    with pytest.raises(StoreReplyError):
        await log.append(state, offered("AssetV1", snapshot_us=32))
    assert await log.length() == length, "nothing was written"


async def test_times_that_stand_still_are_found_by_their_newest_event(log: Log) -> None:
    """An event's time is never before that of the one before, whatever the clock says: several may share one."""
    state = await log.create("long", at_us=NOW)
    for seq in range(2, 301):
        state = await log.append(state, offered("AssetV1", snapshot_us=seq), at_us=NOW + seq // 100)
    for at_us, newest in ((0, 99), (1, 199), (2, 299), (3, 300)):
        assert await page(log, state.sid, top_at_us=NOW + at_us, count=2) == ([newest, newest - 1], False)


@pytest.mark.parametrize("kept", ["all", "newer", "none"])
async def test_a_page_is_the_same_wherever_marks_lead_to(log: Log, kept: str) -> None:
    state = await log.history(700)
    name = keys.marks(PARTITION, state.sid)
    if kept == "newer":
        await log.store.command("LTRIM", name, 4, -1, key=name)
    elif kept == "none":
        await log.store.command("DEL", name, key=name)
    for top in (1, 2, 63, 64, 65, 127, 128, 129, 319, 320, 321, 383, 384, 385, 639, 640, 641, 699, 700):
        wanted = (list(range(top, max(0, top - 3), -1)), False)
        assert await page(log, state.sid, top_seq=top, count=3) == wanted
        assert await page(log, state.sid, top_at_us=NOW + top, count=3) == wanted
        assert await page(log, state.sid, top_seq=top + 100, top_at_us=NOW + top, count=3) == wanted
        assert await page(log, state.sid, top_seq=top, top_at_us=NOW + top + 100, count=3) == wanted


async def test_one_page_reads_few_events_besides_its_own(valkey_store: Store) -> None:
    log = Log(valkey_store)
    state = await log.history(1300)
    for wanted in ({"top_seq": 70}, {"top_seq": 640}, {"top_at_us": NOW + 70}, {"top_at_us": NOW + 1201}):
        before = await reads(valkey_store)
        found = await walk(valkey_store, PARTITION, state.sid, **wanted, count=10)
        assert found is not None
        assert len(found.entries) == 10
        assert await reads(valkey_store) - before <= 10 + 32 + 7, wanted  # a step between marks, and a bisection of 20


async def reads(store: Store) -> int:
    infos = await store.each_primary("INFO", "commandstats")
    lines = [line for info in infos for line in info.decode().splitlines() if line.startswith("cmdstat_xrange:")]
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)  # no line before the first


async def test_without_marks_a_walk_that_would_be_long_says_what_makes_them(log: Log) -> None:
    state = await log.history(1200)
    name = keys.marks(PARTITION, state.sid)
    await log.store.command("DEL", name, key=name)
    assert await page(log, state.sid, top_seq=176, count=1) == ([176], False)
    with pytest.raises(CorruptLedger, match="rebuild --session"):
        await walk(log.store, PARTITION, state.sid, top_seq=100)
    await archived(log, (await ids_of(log, state.sid))[180])
    assert await page(log, state.sid, top_seq=100) == ([], True), "it is not trimmed yet"


async def archived(log: Log, floor: str) -> None:
    """Record that all up to a stream id is in segments."""
    await log.store.command("HSET", keys.archive(PARTITION), "floor", floor, key=keys.archive(PARTITION))


async def test_a_walk_below_the_archives_floor_says_so(log: Log) -> None:
    state = await log.history(300)
    entries = {e.recorded.seq: e for e in await events_of(log) if e.recorded.sid == state.sid}
    name = keys.stream(PARTITION)
    await archived(log, entries[210].id)
    assert await page(log, state.sid, top_seq=205, count=2) == ([205, 204], False), "it is not trimmed yet"
    await log.store.command("XTRIM", name, "MINID", entries[200].id, key=name)
    assert await page(log, state.sid, count=2) == ([300, 299], False)
    assert await page(log, state.sid, count=1000) == (list(range(300, 199, -1)), True)
    assert await page(log, state.sid, top_seq=201, count=5) == ([201, 200], True)
    assert await page(log, state.sid, top_seq=100) == ([], True)
    assert await page(log, state.sid, top_at_us=NOW + 100) == ([], True)
    await archived(log, entries[300].id)
    await log.store.command("XTRIM", name, "MAXLEN", 0, key=name)
    assert await page(log, state.sid) == ([], True)
    over = await log.append(state, ENDED)
    assert await page(log, over.sid) == ([301], True)


@pytest.mark.parametrize(
    ("lost", "top"), [(300, 300), (200, 210), (224, 200), (128, 127)], ids=["head", "prev", "mark", "mark at the page"]
)
async def test_an_event_that_is_missing_above_the_floor_is_corruption(log: Log, lost: int, top: int) -> None:
    state = await log.history(300)
    entries = {e.recorded.seq: e for e in await events_of(log) if e.recorded.sid == state.sid}
    name = keys.stream(PARTITION)
    for floor in ("", entries[100].id):
        if floor:
            await archived(log, floor)
        await log.store.command("XDEL", name, entries[lost].id, entries[90].id, key=name)
        if lost == 200:
            assert await page(log, state.sid, top_seq=top, count=1000) == (list(range(top, lost, -1)), False)
        with pytest.raises(CorruptLedger, match=f"event {entries[lost].id} is missing") as caught:
            await walk(log.store, PARTITION, state.sid, top_seq=min(top, lost) if lost == 200 else top, count=1000)
        assert caught.value.details == {"sid": state.sid, "id": entries[lost].id}
    await archived(log, entries[lost].id)
    assert (await page(log, state.sid, top_seq=top, count=1000))[1], "it was archived"


@pytest.mark.parametrize("wrong", ["another session's", "another event's"])
async def test_a_mark_that_leads_elsewhere_is_not_followed(log: Log, wrong: str) -> None:
    state = await log.history(300)
    entries = await events_of(log)
    of_this = wrong == "another event's"
    other = next(e.id for e in entries if (e.recorded.sid == state.sid) == of_this and e.recorded.seq > 3)
    name = keys.marks(PARTITION, state.sid)
    for mark in range(4):
        await log.store.command("LSET", name, mark, other, key=name)
    assert await page(log, state.sid, top_seq=100, count=2) == ([100, 99], False)
    assert await page(log, state.sid, top_at_us=NOW + 100, count=2) == ([100, 99], False)


async def test_an_entry_that_is_none_of_an_event_is_corruption(log: Log) -> None:
    state = await log.history(70)
    ids = await ids_of(log, state.sid)
    name, session, marks = keys.stream(PARTITION), keys.session(PARTITION, state.sid), keys.marks(PARTITION, state.sid)
    odd = (await log.store.command("XADD", name, "*", "sid", "x", "seq", "39", key=name)).decode()
    await log.store.command("HSET", session, "head", odd, key=session)
    with pytest.raises(CorruptLedger, match=f"entry {odd} cannot be read") as caught:
        await walk(log.store, PARTITION, state.sid)
    assert caught.value.details == {"sid": state.sid, "id": odd}
    await log.store.command("HSET", session, "head", ids[70], key=session)
    await log.store.command("LSET", marks, 0, odd, key=marks)
    with pytest.raises(CorruptLedger, match=f"entry {odd} cannot be read"):
        await walk(log.store, PARTITION, state.sid, top_seq=10)
