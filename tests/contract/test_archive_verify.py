"""What verify names in segments: a flipped byte, a dropped event, reordered ones, and all they say of sessions."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

import projections.checking.verify
from ledger import keys
from ledger.errors import CorruptLedger
from ledger.events import HistoryLost
from ledger.log.reader import Entry
from ledger.store.interface import Store
from projections.archive.catalog import Archive
from projections.archive.errors import BadSegment
from projections.archive.format import EndedLine, Previous, StateLine
from projections.archive.record import read_record
from projections.archive.segment import Segment
from projections.archive.writer import SegmentWriter
from projections.backup.dump import PartitionDump
from projections.checking.findings import Finding
from projections.history.event_pages import EventPages
from projections.history.state_at import fold_at
from tests.support.ledger.archives import ALL, OLD, PHONE, archived, checked, opened, past, stream
from tests.support.ledger.given import CREATED, NOW, given, offered
from tests.support.ledger.ledgers import PARTITION, Log, section, sid_of


@pytest.fixture
async def path(valkey_store: Store, tmp_path: Path) -> Path:
    """An archive of three segments, with 30 events left in the stream."""
    await past(valkey_store)
    await archived(valkey_store, opened(tmp_path / "archive"), replace(ALL, hot_events=30))
    return tmp_path / "archive"


async def differences(store: Store, path: Path) -> list[Finding]:
    """Verify, also with an archive object that has read it before."""
    return (await checked(Archive(store, opened(path)))).differences


def files(path: Path) -> list[Path]:
    return sorted(path.glob("*/*"))


async def test_one_flipped_byte_is_named_wherever_it_is(valkey_store: Store, path: Path) -> None:
    dice = random.Random(7)
    for file in files(path):
        whole = file.read_bytes()
        places = {0, 5, len(whole) - 1, len(whole) - 9, len(whole) - 30, len(whole) - 60}
        for at in sorted(places | {dice.randrange(len(whole)) for _ in range(25)}):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << dice.randrange(8))]) + whole[at + 1 :])
            found = await differences(valkey_store, path)
            assert found, f"byte {at} of {len(whole)}"
            assert found[0].segment == str(file.relative_to(path)), f"byte {at} of {len(whole)}"
        file.write_bytes(whole)
    assert await differences(valkey_store, path) == []


async def test_a_cut_off_or_missing_segment_is_named(valkey_store: Store, path: Path) -> None:
    oldest, middle, newest = files(path)
    for file in (oldest, middle, newest):
        name, whole = str(file.relative_to(path)), file.read_bytes()
        for left in (0, 10, 50, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:left])
            found = await differences(valkey_store, path)
            assert name in {difference.segment for difference in found} | {d.what.split()[1] for d in found}
        file.unlink()
        found = await differences(valkey_store, path)
        assert any(name in (difference.segment, *difference.what.split()) for difference in found), found
        file.write_bytes(whole)
    assert await differences(valkey_store, path) == []


Change = Callable[[list[Entry]], None]


async def rewrite(
    store: Store,
    path: Path,
    change: Change = lambda _: None,
    *,
    states: Callable[[StateLine], StateLine | None] = lambda line: line,
    ended: Callable[[EndedLine], EndedLine | None] = lambda line: line,
) -> str:
    """Write the middle segment anew with other content, whose digests all fit, and note it where it is noted."""
    archive = Archive(store, opened(path))
    names = await archive.segments(PARTITION)
    segment = await archive.open(names[1])
    events = [entry async for page in segment.pages() for entry in page]
    change(events)
    kept = [line async for page in segment.states() for each in page if (line := states(each))]
    ends = [end async for page in segment.ended() for each in page if (end := ended(each))]
    header = await segment.header()
    with SegmentWriter(PARTITION, header.previous, path) as writer:
        for entry in events:
            writer.add(entry)
        built = writer.finish(ends, kept, header.created)
        (path / str(names[1])).unlink()
        built.file.seek(0)
        (path / str(names[1])).write_bytes(built.file.read())
    follows = Previous(str(names[1]), built.digest.hex())
    await forge_newest(store, path, follows)
    return str(names[1])


async def forge_newest(store: Store, path: Path, previous: Previous) -> None:
    """Have the newest segment follow another one, and the ledger know its new digest: a forger with all rights."""
    archive = Archive(store, opened(path))
    name = (await archive.segments(PARTITION))[2]
    segment = await archive.open(name)
    with SegmentWriter(PARTITION, previous, path) as writer:
        async for page in segment.pages():
            for entry in page:
                writer.add(entry)
        ends = [line async for lines in segment.ended() for line in lines]
        built = writer.finish(ends, [line async for lines in segment.states() for line in lines], "")
        built.file.seek(0)
        (path / str(name)).write_bytes(built.file.read())
    key = keys.archive(PARTITION)
    await store.command("HSET", key, "digest", built.digest.hex(), key=key)


def of(events: list[Entry], sid: str) -> list[int]:
    """Tell where a session's events are."""
    return [at for at, entry in enumerate(events) if entry.recorded.sid == sid]


def drop(events: list[Entry]) -> None:
    del events[of(events, PHONE)[5]]


def swap(events: list[Entry]) -> None:
    one, other = of(events, PHONE)[5:7]
    events[one], events[other] = events[other], events[one]


def swap_places_only(events: list[Entry]) -> None:
    """Two events change places but keep the stream ids of these."""
    one, other = of(events, PHONE)[5:7]
    events[one], events[other] = (
        replace(events[other], id=events[one].id),
        replace(events[one], id=events[other].id),
    )


def tamper(events: list[Entry]) -> None:
    at = of(events, PHONE)[5]
    recorded = events[at].recorded
    events[at] = replace(events[at], recorded=replace(recorded, at_us=recorded.at_us + 1))


def repoint(events: list[Entry]) -> None:
    at = of(events, PHONE)[5]
    events[at] = replace(events[at], prev="1-1")


CHANGES = {
    "dropped": (drop, "follows seq"),
    "swapped": (swap, "follows seq"),
    "swapped places": (swap_places_only, "follows seq"),
    "tampered": (tamper, "the hash does not match"),
    "another prev": (repoint, "prev is 1-1"),
}


@pytest.mark.parametrize(("change", "what"), CHANGES.values(), ids=CHANGES)
async def test_changed_events_are_named_though_all_digests_fit(
    valkey_store: Store, path: Path, change: Change, what: str
) -> None:
    name = await rewrite(valkey_store, path)
    assert await differences(valkey_store, path) == [], "the forger's tool by itself changes nothing"
    name = await rewrite(valkey_store, path, change)
    found = await differences(valkey_store, path)
    (named,) = [difference for difference in found if what in difference.what]
    assert (named.partition, named.segment, named.session) == (PARTITION, name, PHONE)
    assert named.event
    assert {difference.session for difference in found} <= {PHONE, ""}


def another(line: StateLine) -> StateLine:
    return replace(line, session={**line.session, "device_os": b"Symbian"}) if line.sid == PHONE else line


STATES: dict[str, tuple[Callable[[StateLine], StateLine | None], str]] = {
    "a field": (another, "the state it keeps differs"),
    "a head": (lambda line: replace(line, head="1-1") if line.sid == PHONE else line, "the state it keeps differs"),
    "none": (lambda line: None if line.sid == PHONE else line, "by its events there are"),
}


@pytest.mark.parametrize(("states", "what"), STATES.values(), ids=STATES)
async def test_states_that_are_not_the_fold_are_named(
    valkey_store: Store, path: Path, states: Callable[[StateLine], StateLine | None], what: str
) -> None:
    name = await rewrite(valkey_store, path, states=states)
    found = await differences(valkey_store, path)
    assert [d for d in found if what in d.what and d.segment == name]


async def test_ended_sessions_that_are_not_those_of_the_events_are_named(valkey_store: Store, path: Path) -> None:
    name = await rewrite(valkey_store, path, ended=lambda line: replace(line, head="1-1"))
    found = await differences(valkey_store, path)
    assert [(each.segment, each.session) for each in found] == [(name, OLD), ("", OLD)], "and so is what is stored"
    await rewrite(valkey_store, path, ended=lambda line: None)
    assert any("ended" in difference.what for difference in await differences(valkey_store, path))


async def test_a_segment_put_in_anothers_place_is_named(valkey_store: Store, path: Path) -> None:
    oldest, middle, _ = files(path)
    name, whole = str(middle.relative_to(path)), middle.read_bytes()
    middle.write_bytes(oldest.read_bytes())
    found = await differences(valkey_store, path)
    assert [difference for difference in found if difference.segment == name and "another segment's" in difference.what]
    middle.write_bytes(whole)
    await rewrite(valkey_store, path)
    key = keys.archive(PARTITION)
    await valkey_store.command("HSET", key, "digest", "0" * 64, key=key)
    (found_one,) = await differences(valkey_store, path)
    assert "the ledger has noted" in found_one.what


async def test_a_stream_that_does_not_go_on_as_the_newest_segment_ends_is_named(
    valkey_store: Store, path: Path
) -> None:
    hot = await stream(valkey_store)
    name = keys.stream(PARTITION)
    first = hot[of(hot, PHONE)[0]]
    await valkey_store.command("XDEL", name, first.id, key=name)
    (found,) = await differences(valkey_store, path)
    assert (found.session, found.event) == (PHONE, hot[of(hot, PHONE)[1]].id)
    assert "follows seq" in found.what


async def test_all_that_differs_is_counted_and_so_many_named(
    valkey_store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = keys.stream(PARTITION)
    later = ("seq", 2, "at", 1, "schema", 1, "event", "?", "hash", "?", "prev", "0-1")
    for number in range(6):  # each is of a session that never began
        await valkey_store.command("XADD", name, "*", "sid", bytes([number]) * 32, *later, key=name)
    record = keys.archive(PARTITION)
    await valkey_store.command("HSET", record, "segments", 9, key=record)
    whole = await checked(Archive(valkey_store, opened(path)))
    assert whole.different == len(whole.differences) == 7
    for named in (1, 3, whole.different):
        monkeypatch.setattr(projections.checking.verify, "REPORTED", named)
        report = await checked(Archive(valkey_store, opened(path)))
        assert report.different == whole.different
        assert report.differences == whole.differences[:named]
        assert report.differing_partitions == {PARTITION}


async def test_a_walk_into_a_damaged_segment_says_so(valkey_store: Store, path: Path) -> None:
    file = files(path)[1]
    whole = file.read_bytes()
    segment = await Segment.open(opened(path), str(file.relative_to(path)))
    frame = segment.footer.events[0]
    at = frame.offset + frame.length // 2
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    found = Archive(valkey_store, opened(path))
    readable = await EventPages(valkey_store, found).page(PARTITION, PHONE, count=1000)
    assert not readable.below_floor
    seqs = [entry.recorded.seq for entry in readable.entries]
    assert seqs == list(range(seqs[0], seqs[-1] - 1, -1)), "what is behind the damage is told of first"
    with pytest.raises(BadSegment, match="does not match its digest"):
        await EventPages(valkey_store, found).page(PARTITION, PHONE, top_seq=seqs[-1] - 1, count=1000)
    file.unlink()
    again = Archive(valkey_store, opened(path))
    hot = await EventPages(valkey_store, again).page(PARTITION, PHONE, count=1000)
    assert hot.entries == readable.entries[: len(hot.entries)]
    with pytest.raises(CorruptLedger, match=r"neither in the stream nor in a segment|not in the archive"):
        await EventPages(valkey_store, again).page(
            PARTITION, PHONE, top_seq=hot.entries[-1].recorded.seq - 1, count=1000
        )


async def test_a_sessions_states_follow_a_damaged_segment(valkey_store: Store, path: Path) -> None:
    """A frame of events is damaged; the other segments are checked on, from the states it keeps."""
    file = files(path)[0]
    whole = file.read_bytes()
    segment = await Segment.open(opened(path), str(file.relative_to(path)))
    frame = segment.footer.events[0]
    at = frame.offset + frame.length // 2
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    report = await checked(Archive(valkey_store, opened(path)))
    (found,) = report.differences
    assert found.segment == str(file.relative_to(path))
    record = await read_record(valkey_store, PARTITION)
    assert report.segments == record.segments == 3
    assert report.archived > 100 - 50


@pytest.mark.parametrize("hot", [0, 99, 100, 101, 120])
async def test_a_hole_that_is_told_of_is_no_difference_wherever_the_archive_ends(
    valkey_store: Store, tmp_path: Path, hot: int
) -> None:
    log, known = Log(valkey_store), given(*(offered("AlbumV2", snapshot_us=n) for n in range(300)))
    anew, phone = sid_of("anew"), await log.create()
    for number in range(70):
        phone = await log.append(phone, offered("AssetV1", snapshot_us=number))
    whole = HistoryLost(1, 200, "remembered", known.hash)
    assert await log.try_append(section(None, whole, CREATED, sid=anew)) is None
    phone = await log.append(phone, HistoryLost(phone.seq + 1, known.seq, "remembered", known.hash, phone.hash))
    for number in range(99):
        phone = await log.append(phone, offered("AssetV1", snapshot_us=100 + number))
    await archived(valkey_store, opened(tmp_path), replace(ALL, hot_events=hot))
    archive = Archive(valkey_store, opened(tmp_path))
    assert (await checked(archive)).differences == []
    for sid, count in ((phone.sid, 171), (anew, 2)):
        for forward in (True, False):
            runs = EventPages(valkey_store, archive).runs(PARTITION, sid, forward=forward, size=60)
            assert len([entry async for run in runs for entry in run.entries]) == count
    dump = await PartitionDump.open(valkey_store, archive, PARTITION)
    async for _ in dump.lines():
        pass
    assert dump.damage == []
    moment = await fold_at(EventPages(valkey_store, archive), PARTITION, phone.sid, NOW)
    assert moment.state.hash == phone.hash
