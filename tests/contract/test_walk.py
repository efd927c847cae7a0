"""What a walk along a session's events promises on every backend: pages, pointers, and an end that is told."""

from __future__ import annotations

import pytest

from ledger import keys
from ledger.errors import CorruptLedger
from ledger.events import SessionEnded
from ledger.log.reader import Entry, read_partition, read_raw, walk
from ledger.log.skips import Marks
from ledger.log.store import Store
from tests.given import NOW, offered
from tests.ledgers import PARTITION, Log, contents, sid_of

ENDED = SessionEnded("logout", "ann")


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


@pytest.mark.each_store
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


async def test_events_carry_the_skip_pointers_that_are_told_of_them(log: Log) -> None:
    state = await log.history(2200)
    marks = Marks()
    for entry in (e for e in await events_of(log) if e.recorded.sid == state.sid):
        assert entry.skip == marks.carried(entry.recorded.seq), entry.recorded.seq
        marks = marks.moved(entry.recorded.seq, entry.id)
    found = await contents(log.store, PARTITION, [state.sid])
    assert found[keys.session(PARTITION, state.sid)][b"skip"] == marks.kept.encode()


@pytest.mark.each_store
async def test_marks_that_are_away_lead_no_further(log: Log) -> None:
    """Where a stream is trimmed, or the session keeps no marks as in the oldest ledgers."""
    state = await log.history(383)
    ids = {e.recorded.seq: e.id for e in await events_of(log) if e.recorded.sid == state.sid}
    name, session = keys.stream(PARTITION), keys.session(PARTITION, state.sid)
    await log.store.command("XTRIM", name, "MINID", ids[260], key=name)
    state = await log.append(state, offered("AssetV1", snapshot_us=384))
    assert (await events_of(log))[-1].skip == f"{ids[368]} {ids[256]}"
    await log.store.command("HDEL", session, "skip", key=session)
    for seq in range(385, 513):
        state = await log.append(state, offered("AssetV1", snapshot_us=seq))
    entries = {e.recorded.seq: e for e in await events_of(log) if e.recorded.sid == state.sid}
    assert [entries[seq].skip for seq in (400, 416)] == ["", entries[400].id]
    assert entries[512].skip == f"{entries[496].id} {entries[400].id}"


async def test_a_walk_finds_what_events_of_older_ledgers_lead_to(log: Log) -> None:
    """They had one pointer of each span, and before that one in each 128th event only."""
    state = await log.history(1300)
    entries = [e for e in await events_of(log) if e.recorded.sid == state.sid]
    session = keys.session(PARTITION, state.sid)
    for kept in ("one of each span", "one of 128", "none"):
        await rewritten(log, entries, kept)
        if kept != "one of each span":
            mark = entries[1279].id if kept == "one of 128" else ""
            await log.store.command("HSET", session, "skip", mark, key=session)
        for top in (*range(1, 1300, 97), 1300, 1281, 1280, 1279, 1025, 1024, 1023, 129, 128, 127):
            wanted = (list(range(top, max(0, top - 3), -1)), False)
            assert await page(log, state.sid, top_seq=top, count=3) == wanted
            assert await page(log, state.sid, top_at_us=NOW + top, count=3) == wanted
            assert await page(log, state.sid, top_seq=top + 100, top_at_us=NOW + top, count=3) == wanted
            assert await page(log, state.sid, top_seq=top, top_at_us=NOW + top + 100, count=3) == wanted


async def rewritten(log: Log, entries: list[Entry], kept: str) -> None:
    """Write a session's events again as they lie, each 128th, 16th or none with the pointers of an older ledger."""
    name = keys.stream(PARTITION)
    rows = [row async for some in read_raw(log.store, PARTITION) for row in some]
    await log.store.command("DEL", name, key=name)
    own = {entry.id: entry for entry in entries}
    for stream_id, fields in rows:
        entry = own.get(stream_id.decode())
        flat = fields[:14]
        if entry is not None:
            seq = entry.recorded.seq
            spans = {"one of each span": (16, 128, 1024), "one of 128": (128,), "none": ()}[kept]
            if found := [entries[max(1, seq - span) - 1].id for span in spans if seq % span == 0]:
                flat += [b"skip", " ".join(found).encode()]
        await log.store.command("XADD", name, stream_id, *flat, key=name)


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
    ("lost", "top"), [(300, 300), (200, 210), (256, 200), (128, 127)], ids=["head", "prev", "mark", "mark at the page"]
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


@pytest.mark.each_store
async def test_a_pointer_into_another_session_is_not_followed(log: Log) -> None:
    state = await log.history(300)
    entries = await events_of(log)
    other = next(e.id for e in entries if e.recorded.sid != state.sid and e.recorded.seq > 3)
    session = keys.session(PARTITION, state.sid)
    await log.store.command("HSET", session, "skip", f"{other} {other} {other}", key=session)
    assert await page(log, state.sid, top_seq=100, count=2) == ([100, 99], False)


@pytest.mark.each_store
async def test_an_entry_that_is_none_of_an_event_is_corruption(log: Log) -> None:
    state = await log.history(40)
    entries = {e.recorded.seq: e for e in await events_of(log) if e.recorded.sid == state.sid}
    name, session = keys.stream(PARTITION), keys.session(PARTITION, state.sid)
    odd = (await log.store.command("XADD", name, "*", "sid", "x", "seq", "39", key=name)).decode()
    for field, top in (("head", 100), ("skip", 10)):
        await log.store.command("HSET", session, field, odd, key=session)
        with pytest.raises(CorruptLedger, match=f"entry {odd} cannot be read") as caught:
            await walk(log.store, PARTITION, state.sid, top_seq=top)
        assert caught.value.details == {"sid": state.sid, "id": odd}
        await log.store.command("HSET", session, field, entries[40].id, key=session)
