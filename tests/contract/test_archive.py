"""Archiving and reading across: afterwards every history, state and walk is what it was before."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import zstandard
from msgspec.structs import replace
from obstore.store import LocalStore

from ledger import keys
from ledger.errors import CorruptLedger, NoSuchSession, Rebuilding
from ledger.events import SessionEnded, tag_of
from ledger.evolve import fold
from ledger.log.append import read_ended
from ledger.log.stored_sessions import Strays
from ledger.personal import plain
from ledger.state import State
from ledger.store.interface import Store
from ops.archive.job import preview
from projections.archive.catalog import Archive
from projections.archive.errors import BadSegment
from projections.archive.format import place
from projections.archive.lease import _TRIM_MARKS, Lease
from projections.archive.objects import Objects, open_objects
from projections.archive.record import read_record
from projections.checking.rebuild import Rebuild
from projections.checking.verify import verify
from projections.history.event_pages import EventPages
from tests.support.ledger.archives import (
    ALL,
    LATE,
    OLD,
    PHONE,
    TABLET,
    Killed,
    archived,
    checked,
    everything,
    histories,
    length,
    opened,
    past,
    sealed,
    stream,
)
from tests.support.ledger.given import NOW, ack, moved
from tests.support.ledger.ledgers import PARTITION, sid_of
from tests.support.stores.s3_server import ENVIRONMENT, S3Server


@pytest.fixture(params=["file", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """An empty place for segments: a folder, and a bucket of a server."""
    if request.param == "file":
        return opened(tmp_path / "archive")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    server: S3Server = request.getfixturevalue("s3")
    bucket = f"b{random.getrandbits(64):x}"
    server.make_bucket(bucket)
    return open_objects(f"s3://{bucket}/some/prefix", endpoint=server.endpoint, path_style=True)


async def test_all_reads_the_same_after_it_was_archived_and_trimmed(real_store: Store, objects: Objects) -> None:
    store = real_store
    log = await past(store)
    before, read_before = await stream(store), await histories(store, None)
    report = await archived(store, objects, replace(ALL, hot_events=30))
    assert (report.failures, report.busy, report.adopted) == ([], 0, 0)
    assert (report.events, report.trimmed, report.segments) == (len(before) - 30, len(before) - 30, 3)
    assert await length(store) == 30

    found = Archive(store, objects)
    assert await everything(store, found) == before
    for page in (1000, 7):
        assert await histories(store, found, page=page) == read_before
    verified = await checked(found)
    assert (verified.differences, verified.archived, verified.segments) == ([], len(before) - 30, 3)

    # It goes on being written to, and archived.
    state = await log.load(TABLET)
    assert state is not None
    await log.append(state, moved(ack("AssetV2", NOW + 1, "zz")), SessionEnded("logout"), at_us=NOW + 10**9)
    before = await everything(store, found)
    assert (await archived(store, objects)).events == 32
    assert await length(store) == 0
    assert await sealed(found) == before
    assert (await histories(store, found))[TABLET][2:] == read_before[TABLET]
    assert (await checked(found)).differences == []
    assert (await archived(store, objects)).segments == 0, "there is nothing to do"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where an empty archive is made."""
    return tmp_path / "archive"


def files(path: Path) -> list[Path]:
    """List the segments in a folder."""
    return sorted(path.glob("*/*"))


async def test_a_segment_is_json_that_anybody_can_read(valkey_store: Store, path: Path) -> None:
    await past(valkey_store)
    before = await stream(valkey_store)
    ended = await read_ended(valkey_store, PARTITION, OLD)
    assert ended is not None
    await archived(valkey_store, opened(path), replace(ALL, segment_events=1000))
    (file,) = files(path)
    ids = [f"{int(ms):020d}-{int(count):020d}" for ms, count in (before[at].id.split("-") for at in (0, -1))]
    assert file.relative_to(path) == Path("p003", f"{ids[0]}_{ids[1]}.ndjson.zst")

    content = zstandard.ZstdDecompressor().stream_reader(file.read_bytes(), read_across_frames=True).read()
    header, *lines = [json.loads(line) for line in content.splitlines()]
    assert header["first"] == before[0].id
    assert header["last"] == before[-1].id
    assert (header["count"], header["living"], header["ended"], header["previous"]) == (len(before), 3, 1, None)
    for line, entry in zip(lines[: len(before)], before, strict=True):
        assert (line["id"], line["sid"], line["seq"]) == (entry.id, entry.recorded.sid, entry.recorded.seq)
        assert (line["event"], line["prev"]) == (tag_of(entry.recorded.event), entry.prev)
    index, ends, states = lines[len(before) :][:4], lines[len(before) + 4], lines[len(before) + 5 :]
    assert (
        sorted(line["sid"] for line in index) == [line["sid"] for line in index] == sorted([PHONE, TABLET, OLD, LATE])
    )
    assert (ends["sid"], ends["head"], ends["seq"], ends["user"]) == (OLD, ended.head, ended.seq, "ann")
    assert [line["sid"] for line in states] == sorted([PHONE, TABLET, LATE])


async def test_any_page_by_seq_and_time_is_found_across_the_floor(valkey_store: Store, path: Path) -> None:
    await past(valkey_store)
    whole = (await histories(valkey_store, None))[PHONE]
    await archived(valkey_store, opened(path), replace(ALL, hot_events=40))
    found = Archive(valkey_store, opened(path))
    dice = random.Random(4)
    for _ in range(150):
        top, count = dice.randrange(-1, len(whole) + 3), dice.randrange(1, 60)
        page = await EventPages(valkey_store, found).page(PARTITION, PHONE, top_seq=top, count=count)
        expected = [entry for entry in whole if entry.recorded.seq <= top][:count]
        assert (page.entries, page.below_floor) == (expected, False)
        at_us = NOW + dice.randrange(-1000, 61_000)
        page = await EventPages(valkey_store, found).page(PARTITION, PHONE, top_at_us=at_us, count=count)
        assert page.entries == [entry for entry in whole if entry.recorded.at_us <= at_us][:count]
    with pytest.raises(NoSuchSession):
        await EventPages(valkey_store, found).page(PARTITION, sid_of("nobody"))
    without = await EventPages(valkey_store).page(PARTITION, PHONE, count=1000)
    assert without.below_floor
    assert without.entries == whole[: len(without.entries)]


async def marks(store: Store, sid: str) -> list[str]:
    name = keys.marks(PARTITION, sid)
    return [mark.decode() for mark in await store.command("LRANGE", name, 0, -1, key=name)]


async def test_marks_below_the_floor_are_found_in_few_steps_and_go_at_once(valkey_store: Store) -> None:
    name, archive = keys.marks(PARTITION, PHONE), keys.archive(PARTITION)
    await valkey_store.command("HSET", archive, "floor", "4000-1", key=archive)
    for first in range(0, 5000, 1000):
        await valkey_store.command("RPUSH", name, *(f"{ms}-2" for ms in range(first, first + 1000)), key=name)
    before = await calls(valkey_store)
    assert await valkey_store.script(_TRIM_MARKS, (archive, name, keys.marks(PARTITION, TABLET)), ()) == 4000
    assert (await marks(valkey_store, PHONE))[:2] == ["4000-2", "4001-2"]
    asked = await calls(valkey_store) - before
    assert asked["lindex"] + asked["ltrim"] + asked["lpop"] <= 15


async def calls(store: Store) -> Counter[str]:
    """How often the server was asked each command, also by scripts."""
    text = (await store.command("INFO", "commandstats", key=b"{p0}")).decode()
    return Counter({name: int(count) for name, count in re.findall(r"cmdstat_(\w+):calls=(\d+)", text)})


async def test_marks_go_with_the_events_and_pages_stay_the_same(valkey_store: Store, path: Path) -> None:
    log = await past(valkey_store, rounds=200)
    ended, phone = await log.history(140, "gone"), await log.load(PHONE)
    ended = await log.append(ended, SessionEnded("logout", plain("ann")), at_us=NOW + 10**9)
    assert phone is not None
    sids = (PHONE, ended.sid)
    whole = await histories(valkey_store, None, sids)
    at = {sid: {entry.recorded.seq: entry.id for entry in entries} for sid, entries in whole.items()}
    assert await marks(valkey_store, PHONE) == [at[PHONE][seq] for seq in range(32, phone.seq, 32)]
    left = [entry.recorded.seq for entry in (await stream(valkey_store))[-300:] if entry.recorded.sid == PHONE]
    for hot_events in (300, 100, 0):
        await archived(valkey_store, opened(path), replace(ALL, hot_events=hot_events))
        floor, found = (await read_record(valkey_store, PARTITION)).floor, Archive(valkey_store, opened(path))
        for sid in sids:
            hot = [mark for seq, mark in at[sid].items() if seq % 32 == 0 and place(mark) > place(floor)]
            assert await marks(valkey_store, sid) == sorted(hot, key=place)
            for top in range(1, 400, 17):
                expected = [entry for entry in whole[sid] if entry.recorded.seq <= top][:5]
                page = await EventPages(valkey_store, found).page(PARTITION, sid, top_seq=top, count=5)
                assert page.entries == expected
        assert (await verify(valkey_store, PARTITION + 1, only=[PARTITION], sealed=found)).differences == []
    assert left[0] < 384 <= left[-1], "some marks stayed at first"
    phone = await log.append(phone, moved(ack("AssetV1", NOW, "zz")), at_us=NOW + 10**9)
    assert await marks(valkey_store, PHONE) == []


async def test_marks_that_a_killed_archiver_left_are_removed_by_the_next_one(
    valkey_store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await past(valkey_store, rounds=100)

    async def dying(self: Lease, sids: Sequence[str]) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Lease, "trim_marks", dying)
        with pytest.raises(Killed):
            await archived(valkey_store, opened(path), replace(ALL, segment_events=1000))
    assert await length(valkey_store) > 0, "the stream is trimmed behind the marks"
    assert len(await marks(valkey_store, PHONE)) == 6
    found = Archive(valkey_store, opened(path))
    assert (await verify(valkey_store, PARTITION + 1, only=[PARTITION], sealed=found)).differences == []
    await archived(valkey_store, opened(path))
    assert await length(valkey_store) == 0
    assert await marks(valkey_store, PHONE) == []


async def test_the_state_at_any_event_is_told_from_the_segment_before_it(valkey_store: Store, path: Path) -> None:
    await past(valkey_store)
    read = await histories(valkey_store, None)
    await archived(valkey_store, opened(path), replace(ALL, hot_events=40))
    found = Archive(valkey_store, opened(path))
    for sid, entries in read.items():
        expected: State | None = None
        for entry in reversed(entries):
            expected = fold(expected, [entry.recorded])
            base = await EventPages(valkey_store, found).state_before(PARTITION, sid, entry)
            state, behind = base.state, 0 if base.state is None else base.state.seq
            seq = entry.recorded.seq
            assert seq - behind <= 110, "few are left to fold"
            page = await EventPages(valkey_store, found).page(PARTITION, sid, top_seq=seq, count=seq - behind)
            assert fold(state, [each.recorded for each in reversed(page.entries)]) == expected


class Counting(Objects):
    """Objects that tell how often and how much was read."""

    def __init__(self, path: Path) -> None:
        super().__init__(LocalStore(path), path)
        self.reads: list[int] = []

    async def read(self, name: str, start: int, length: int) -> bytes:
        self.reads.append(length)
        return await super().read(name, start, length)

    async def tail(self, name: str, length: int) -> tuple[bytes, int]:
        found, size = await super().tail(name, length)
        self.reads.append(len(found))
        return found, size


async def test_a_page_reads_only_the_frames_it_needs(
    valkey_store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.archive.writer.FRAME_BYTES", 2_000)
    await past(valkey_store)
    whole = (await histories(valkey_store, None))[PHONE]
    await archived(valkey_store, opened(path), replace(ALL, segment_events=1000))
    counting = Counting(path)
    found = Archive(valkey_store, counting)
    (name,) = await found.segments(PARTITION)
    assert len((await found.open(name)).footer.events) > 20
    counting.reads.clear()
    page = await EventPages(valkey_store, found).page(PARTITION, PHONE, top_seq=60, count=10)
    assert page.entries == [entry for entry in whole if entry.recorded.seq <= 60][:10]
    assert len(counting.reads) <= 6
    assert (await histories(valkey_store, found))[PHONE] == whole
    assert (await checked(found)).differences == []


async def test_states_and_ended_sessions_are_told_at_the_floor(valkey_store: Store, path: Path) -> None:
    log = await past(valkey_store)
    ended = await read_ended(valkey_store, PARTITION, OLD)
    states = {sid: await log.load(sid) for sid in (PHONE, TABLET, LATE)}
    await archived(valkey_store, opened(path))
    found = Archive(valkey_store, opened(path))
    told = {sid: fold async for page in found.states(PARTITION) for sid, fold in page}
    assert {sid: fold.state for sid, fold in told.items()} == states
    for sid, fold_ in told.items():
        name = keys.session(PARTITION, sid)
        assert await valkey_store.command("HGET", name, "head", key=name) == fold_.head.encode()
    (line,) = [line async for page in found.ended(PARTITION) for line in page]
    assert ended is not None
    assert (line.sid, line.head, line.seq, line.hash, line.user) == (OLD, *ended[:2], ended.hash.hex(), "ann")
    assert [page async for page in found.ended(PARTITION + 1)] == []
    assert await found.newest(PARTITION + 1) is None


async def test_only_what_is_old_enough_or_too_much_is_sealed(valkey_store: Store, path: Path) -> None:
    await past(valkey_store)
    entries = await stream(valkey_store)
    times = [int(entry.id.partition("-")[0]) for entry in entries]
    middle = times[90]
    old = sum(ms < middle for ms in times)
    by_age = replace(ALL, hot_events=None, hot_s=3600.0)
    now_us = middle * 1000 + 3_600_000_000
    for options, now, sealed_now in (
        (by_age, now_us - 10**9, 0),
        (by_age, now_us, old),
        (by_age, now_us, 0),
        (replace(by_age, hot_events=len(entries)), now_us, 0),
        (replace(by_age, hot_events=20), now_us, len(entries) - old - 20),
    ):
        expected = await preview(valkey_store, [PARTITION], options, now)
        report = await archived(valkey_store, opened(path), options, now_us=now)
        assert (report.events, report.segments) == (sealed_now, -(-sealed_now // 50))
        assert (expected.events, expected.segments) == (report.events, report.segments)
    assert await length(valkey_store) == 20


async def test_an_archive_that_is_another_one_is_not_taken_for_an_empty_one(valkey_store: Store, path: Path) -> None:
    await past(valkey_store)
    await archived(valkey_store, opened(path), replace(ALL, hot_events=40))
    other = Archive(valkey_store, opened(path.with_name("other")))
    hot = await EventPages(valkey_store, other).page(PARTITION, PHONE, count=1000)
    assert (hot.entries[-1].recorded.seq > 1, hot.below_floor) == (True, False)
    with pytest.raises(BadSegment, match="is LEDGER_ARCHIVE another one"):
        await EventPages(valkey_store, other).page(
            PARTITION, PHONE, top_seq=hot.entries[-1].recorded.seq - 1, count=1000
        )
    (difference,) = (await checked(other)).differences
    assert "is LEDGER_ARCHIVE another one" in difference.what
    report = await archived(valkey_store, opened(path.with_name("other")))
    assert "is LEDGER_ARCHIVE another one" in report.failures[0].what
    assert (await length(valkey_store), report.segments) == (40, 0)


async def test_a_session_whose_events_contradict_themselves_is_sealed_as_it_is_and_named(
    valkey_store: Store, path: Path
) -> None:
    log = await past(valkey_store)
    entries = await stream(valkey_store)
    lost = next(entry for entry in entries[60:] if entry.recorded.sid == PHONE)
    name = keys.stream(PARTITION)
    await valkey_store.command("XDEL", name, lost.id, key=name)
    found = Archive(valkey_store, opened(path))
    left = [entry for entry in entries if entry != lost]
    report = await archived(valkey_store, opened(path))
    assert (report.failures, report.events, report.broken) == ([], len(left), 1)
    seq, (named,) = lost.recorded.seq, report.named
    assert (named.session, named.what) == (PHONE, f"seq {seq + 1} follows seq {seq - 1}")
    assert await everything(valkey_store, found) == left, "all bytes are kept"
    marked = keys.broken(PARTITION)
    assert await valkey_store.command("HKEYS", marked, key=marked) == [PHONE.encode()]

    # It goes on, is sealed again, and is named once by each verify; the others are whole.
    phone = await log.load(PHONE)
    assert phone is not None
    await log.append(phone, moved(ack("AssetV1", NOW - 1, "late")))
    for _ in range(2):
        differences = (await checked(found)).differences
        assert [(each.session, each.event) for each in differences] == [(PHONE, named.event)]
        again = await archived(valkey_store, opened(path))
        assert (again.failures, again.broken) == ([], 0)
    assert (await histories(valkey_store, found, [TABLET]))[TABLET][-1].recorded.seq == 1
    walk = await EventPages(valkey_store, found).page(PARTITION, PHONE, count=1000)
    assert walk.entries[-1].recorded.seq == seq + 1
    with pytest.raises(CorruptLedger, match=lost.id):
        await EventPages(valkey_store, found).page(PARTITION, PHONE, top_seq=seq, count=1000)

    # What is lost beside it is rebuilt; it must not be told that it ended.
    for sid in (PHONE, TABLET):
        await valkey_store.command("DEL", session := keys.session(PARTITION, sid), key=session)
    made = Rebuild(valkey_store, "t", sealed=found)
    await made.partition(PARTITION, Strays({}, {}))
    assert ([each.session for each in made.report.named], made.report.not_whole) == ([PHONE], [])
    assert await log.load(TABLET) is not None
    with pytest.raises(Rebuilding):
        await log.load(PHONE)


# Retention


async def test_retention_cuts_histories_and_keeps_every_state_since(valkey_store: Store, path: Path) -> None:
    log = await past(valkey_store)
    whole = await histories(valkey_store, None)
    entries = await stream(valkey_store)
    await archived(valkey_store, opened(path), replace(ALL, hot_events=30))
    found = Archive(valkey_store, opened(path))
    names = await found.segments(PARTITION)
    assert len(names) == 3
    old = int(names[1].last.partition("-")[0]) * 1000 + 1000
    keeping = replace(ALL, hot_events=30, retention_s=100.0)
    assert (await archived(valkey_store, opened(path), keeping, now_us=old - 10**6 + 100 * 10**6)).removed == 0
    removed = await archived(valkey_store, opened(path), keeping, now_us=old + 100 * 10**6)
    assert (removed.removed, removed.failures) == (1, [])
    assert await found.segments(PARTITION) == names[1:]
    assert len(files(path)) == 2
    assert (await read_record(valkey_store, PARTITION)).cut == names[0].last
    assert (await checked(found)).differences == []

    for sid, history in whole.items():
        cut = [entry for entry in history if entry in entries[50:]]
        walk = await EventPages(valkey_store, found).page(PARTITION, sid, count=1000)
        assert (walk.entries, walk.below_floor) == (cut, len(cut) < len(history))
        below = await EventPages(valkey_store, found).page(PARTITION, sid, top_seq=1, count=5)
        assert (below.entries, below.below_floor) == (
            cut[-1:] if len(cut) == len(history) else [],
            len(cut) < len(history),
        )
    state = await log.load(PHONE)
    newest = whole[PHONE][0]
    base = await EventPages(valkey_store, found).state_before(PARTITION, PHONE, newest)
    assert base.state is not None
    later = await EventPages(valkey_store, found).page(PARTITION, PHONE, count=newest.recorded.seq - base.state.seq)
    assert fold(base.state, [entry.recorded for entry in reversed(later.entries)]) == state

    # With all but the last two gone, what is kept of the session that ended there goes too.
    assert await read_ended(valkey_store, PARTITION, OLD) is not None
    await archived(valkey_store, opened(path), replace(ALL, hot_events=30), now_us=old)
    state = await log.load(PHONE)
    assert state is not None
    await log.append(state, moved(ack("AssetV1", NOW + 59_000 - 1, "zz")), at_us=NOW + 10**9)
    assert (await archived(valkey_store, opened(path), replace(keeping, hot_events=0), now_us=2 * old)).removed == 2
    assert await read_ended(valkey_store, PARTITION, OLD) is None
    with pytest.raises(NoSuchSession):
        await EventPages(valkey_store, found).page(PARTITION, OLD)
    assert (await checked(found)).differences == []
    assert (await archived(valkey_store, opened(path), replace(keeping, hot_events=0), now_us=2 * old)).removed == 0


async def test_retention_that_was_interrupted_is_finished_by_the_next_run(valkey_store: Store, path: Path) -> None:
    await past(valkey_store)
    await archived(valkey_store, opened(path))
    found = Archive(valkey_store, opened(path))
    names = await found.segments(PARTITION)
    name = keys.archive(PARTITION)
    await valkey_store.command("HSET", name, "cut", names[1].last, "segments", len(names) - 2, key=name)
    assert await found.segments(PARTITION) == names[2:], "what is below the cut does not count any more"
    assert (await checked(found)).differences == []
    assert (await archived(valkey_store, opened(path))).removed == 2
    assert len(files(path)) == len(names) - 2


class Removing(Objects):
    """Storage in which retention removes what is about to be read."""

    def __init__(self, path: Path, remove: Callable[[], Awaitable[object]]) -> None:
        super().__init__(LocalStore(path), path)
        self._remove: Callable[[], Awaitable[object]] | None = remove
        self._oldest = str(files(path)[0].relative_to(path))

    async def tail(self, name: str, length: int) -> tuple[bytes, int]:
        if name == self._oldest and self._remove is not None:
            remove, self._remove = self._remove, None
            await remove()
        return await super().tail(name, length)


async def test_a_segment_that_is_removed_while_it_is_read_is_not_missed(valkey_store: Store, path: Path) -> None:
    await past(valkey_store)
    whole = (await histories(valkey_store, None))[PHONE]
    await archived(valkey_store, opened(path), replace(ALL, hot_events=30))
    names = await Archive(valkey_store, opened(path)).segments(PARTITION)
    later = int(names[1].last.partition("-")[0]) * 1000 + 1000
    keeping = replace(ALL, hot_events=30, retention_s=0.0)
    found = Archive(valkey_store, Removing(path, lambda: archived(valkey_store, opened(path), keeping, now_us=later)))
    walk = await EventPages(valkey_store, found).page(PARTITION, PHONE, count=1000)
    assert 0 < len(walk.entries) < len(whole)
    assert (walk.entries, walk.below_floor) == (whole[: len(walk.entries)], True)
    assert str(names[0]) not in {str(file.relative_to(path)) for file in files(path)}
    removing = Removing(path, lambda: archived(valkey_store, opened(path), keeping, now_us=2 * later))
    assert (await checked(Archive(valkey_store, removing))).differences == []
