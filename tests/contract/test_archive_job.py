"""Archivers that end anywhere, meet each other, or lose their lease: nothing is lost and nothing is there twice."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import IO

import pytest
from msgspec.structs import replace
from obstore.store import LocalStore

from ledger import keys
from ledger.log.reader import Entry
from ledger.store.interface import Store
from ops.archive.job import archive
from ops.archive.report import ArchiveReport
from ops.archive.seal import Sealer
from projections.archive.catalog import Archive
from projections.archive.errors import ArchiveUnavailable, Fenced, PartitionBusy
from projections.archive.fold import Fold
from projections.archive.lease import Lease
from projections.archive.objects import Objects
from projections.archive.record import Record, read_record
from tests.support.ledger.archives import (
    ALL,
    PHONE,
    Dying,
    Killed,
    archived,
    checked,
    everything,
    histories,
    length,
    opened,
    past,
    stream,
)
from tests.support.ledger.given import NOW, offered
from tests.support.ledger.ledgers import PARTITION


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
async def before(real_store: Store) -> list[Entry]:
    """What a partition holds before it is archived."""
    await past(real_store)
    return await stream(real_store)


async def whole(store: Store, path: Path, before: list[Entry]) -> ArchiveReport:
    """Check that all is there once, run an archiver to the end, and check again."""
    found = Archive(store, opened(path))
    held = await everything(store, found)
    assert sorted({entry.id: entry for entry in held}) == sorted(entry.id for entry in before)
    report = await archived(store, opened(path))
    assert report.failures == []
    assert await length(store) == 0
    assert await everything(store, found) == before
    assert (await checked(found)).differences == []
    assert len(files(path)) == len(await found.segments(PARTITION)), "nothing else is left"
    return report


def files(path: Path) -> list[Path]:
    return sorted(path.glob("*/*"))


async def forget_lease(store: Store) -> None:
    """Let the lease of a killed archiver have run out."""
    name = keys.archive(PARTITION)
    await store.command("HSET", name, "leased_until", 0, key=name)


# Ending anywhere


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_segment_that_was_written_and_not_noted_is_adopted(
    real_store: Store, path: Path, before: list[Entry], number: int
) -> None:
    with pytest.raises(Killed):
        await archived(real_store, Dying(path, number))
    assert len(files(path)) == number
    assert (await read_record(real_store, PARTITION)).segments == number - 1
    await forget_lease(real_store)
    assert (await whole(real_store, path, before)).adopted == 1


async def test_what_was_noted_and_not_trimmed_is_trimmed(
    real_store: Store, path: Path, before: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(lease: Lease) -> int:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Lease, "trim", killed)
        with pytest.raises(Killed):
            await archived(real_store, opened(path))
    assert len(files(path)) == 1
    assert (await read_record(real_store, PARTITION)).segments == 1
    assert await length(real_store) == len(before)
    assert await histories(real_store, Archive(real_store, opened(path))) == await histories(real_store, None)
    assert (await archived(real_store, opened(path))).trimmed == len(before)
    await whole(real_store, path, before)


async def test_an_unnoted_segment_that_is_not_what_the_stream_holds_stops_the_partition(
    valkey_store: Store, path: Path
) -> None:
    await past(valkey_store)
    with pytest.raises(Killed):
        await archived(valkey_store, Dying(path))
    (file,) = files(path)
    content = file.read_bytes()
    name = keys.stream(PARTITION)
    entries = await stream(valkey_store)
    await valkey_store.command("XDEL", name, entries[49].id, key=name)
    await forget_lease(valkey_store)
    (failure,) = (await archived(valkey_store, opened(path))).failures
    assert "lies beyond what is archived and is not what the stream holds" in failure.what
    assert "is not the stream's" in failure.what
    assert (await read_record(valkey_store, PARTITION)).floor == ""
    assert file.read_bytes() == content


class Corrupting(Objects):
    """Storage that keeps another byte than it was given."""

    def __init__(self, path: Path) -> None:
        super().__init__(LocalStore(path, mkdir=True), path)
        self._path = path

    async def create(self, name: str, file: IO[bytes]) -> None:
        await super().create(name, file)
        content = bytearray((self._path / name).read_bytes())
        content[len(content) // 3] ^= 4
        (self._path / name).write_bytes(content)


async def test_nothing_is_noted_or_trimmed_when_a_segment_reads_back_otherwise(valkey_store: Store, path: Path) -> None:
    await past(valkey_store)
    before = await stream(valkey_store)
    for _ in range(2):
        (failure,) = (await archived(valkey_store, Corrupting(path))).failures
        assert "does not match its digest" in failure.what
        assert await read_record(valkey_store, PARTITION) == Record()
        assert await stream(valkey_store) == before
    files(path)[0].unlink()
    await whole(valkey_store, path, before)


async def test_an_upload_that_fails_reaches_the_caller_and_changes_nothing(valkey_store: Store, path: Path) -> None:
    await past(valkey_store)
    before = await stream(valkey_store)
    files = opened(path)
    (path / "p003").write_bytes(b"in the way")
    with pytest.raises(ArchiveUnavailable):
        await archived(valkey_store, files)
    assert await read_record(valkey_store, PARTITION) == Record()
    (path / "p003").unlink()
    await whole(valkey_store, path, before)


# Several archivers


@pytest.mark.each_store
async def test_two_archivers_at_once_seal_everything_once(real_store: Store, path: Path, before: list[Entry]) -> None:
    runs = [archive(real_store, opened(path), [PARTITION, 5], ALL, NOW) for _ in range(4)]
    reports = await asyncio.gather(*runs)
    assert [report.failures for report in reports] == [[]] * 4
    assert sum(report.busy for report in reports) >= 3
    assert sum(report.events for report in reports) == len(before)
    await whole(real_store, path, before)


@pytest.mark.each_store
async def test_a_partition_is_one_archivers_until_its_lease_is_over(real_store: Store) -> None:
    async with Lease(real_store, PARTITION, 0.6) as first:
        await asyncio.sleep(1)  # it is renewed meanwhile
        with pytest.raises(PartitionBusy):
            async with Lease(real_store, PARTITION):
                raise AssertionError
        async with Lease(real_store, PARTITION + 1):
            pass
        await first.advance(Record(floor="5-0"))
    async with Lease(real_store, PARTITION) as second:
        assert int(second.token) == int(first.token) + 1
        assert second.record == Record(floor="5-0")


async def paused(store: Store, partition: int = PARTITION) -> Lease:
    """Take a lease and stop renewing it, as a stopped process would."""
    lease = Lease(store, partition, 0.05)
    await lease.__aenter__()
    assert lease._renewing is not None
    lease._renewing.cancel()
    await asyncio.sleep(0.1)
    return lease


async def test_whoever_lost_the_lease_can_neither_note_nor_trim_anything(
    real_store: Store, path: Path, before: list[Entry]
) -> None:
    late = await paused(real_store)
    await archived(real_store, opened(path), replace(ALL, hot_events=60))
    record, held = await read_record(real_store, PARTITION), await length(real_store)
    with pytest.raises(Fenced):
        await late.advance(Record(floor=before[-1].id, segment="x", digest="y", segments=9))
    late.record = Record(floor=record.floor)
    with pytest.raises(Fenced):
        await late.trim()
    late.record = Record(floor=before[-1].id)
    with pytest.raises(Fenced):
        await late.trim()
    await late.__aexit__(None, None, None)
    assert (await read_record(real_store, PARTITION), await length(real_store)) == (record, held)
    await whole(real_store, path, before)


@pytest.mark.each_store
async def test_a_trim_goes_no_further_than_what_is_noted(real_store: Store, before: list[Entry]) -> None:
    async with Lease(real_store, PARTITION) as lease:
        assert await lease.trim() == 0
        await lease.advance(Record(floor=before[9].id))
        lease.record = Record(floor=before[20].id)
        with pytest.raises(Fenced):
            await lease.trim()
        assert await length(real_store) == len(before)
        lease.record = Record(floor=before[9].id)
        assert await lease.trim() == 10
        assert await stream(real_store) == before[10:]


class Slow(Objects):
    """Storage whose writer is stopped before it writes, until somebody else has gone on."""

    def __init__(self, path: Path, stopped: asyncio.Event, go_on: asyncio.Event) -> None:
        super().__init__(LocalStore(path, mkdir=True), path)
        self._stopped = stopped
        self._go_on = go_on

    async def create(self, name: str, file: IO[bytes]) -> None:
        self._stopped.set()
        await self._go_on.wait()
        await super().create(name, file)


@pytest.mark.parametrize("same", [True, False], ids=["the same events", "other events"])
async def test_a_late_segment_of_an_archiver_that_was_overtaken_does_not_count(
    real_store: Store, path: Path, before: list[Entry], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, go_on = asyncio.Event(), asyncio.Event()
    late_options = replace(ALL, segment_events=50 if same else 70)
    late = asyncio.create_task(archived(real_store, Slow(path, stopped, go_on), late_options))
    await stopped.wait()
    await forget_lease(real_store)
    first = await archived(real_store, opened(path), replace(ALL, hot_events=60))
    assert first.events == len(before) - 60
    go_on.set()
    report = await late
    assert (report.events, report.trimmed, report.adopted) == (0, 0, 0)
    assert (report.busy, report.failures) == (1, [])
    found = Archive(real_store, opened(path))
    assert await everything(real_store, found) == before
    assert (await checked(found)).differences == []
    assert (await whole(real_store, path, before)).swept == (not same)


@pytest.fixture
def stops_before_it_reads(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Stop the first archiver before it reads anything to seal; gives when it has stopped, and what lets it go on."""
    stopped, go_on, base = asyncio.Event(), asyncio.Event(), Sealer._base

    async def stops(self: Sealer) -> dict[str, Fold]:
        if not stopped.is_set():
            stopped.set()
            await go_on.wait()
        return await base(self)

    monkeypatch.setattr(Sealer, "_base", stops)
    return stopped, go_on


async def overtaken(store: Store, path: Path, events: tuple[asyncio.Event, asyncio.Event]) -> ArchiveReport:
    """Let an archiver go on, with nothing noted yet, when another one has archived all but 60 events."""
    stopped, go_on = events
    late = asyncio.create_task(archived(store, opened(path), replace(ALL, segment_events=50)))
    await stopped.wait()
    await forget_lease(store)
    await archived(store, opened(path), replace(ALL, hot_events=60))
    go_on.set()
    return await late


@pytest.mark.each_store
async def test_an_archiver_that_reads_on_when_it_was_overtaken_writes_nothing(
    real_store: Store, path: Path, before: list[Entry], stops_before_it_reads: tuple[asyncio.Event, asyncio.Event]
) -> None:
    """It would take sessions for broken whose earlier events are archived."""
    report = await overtaken(real_store, path, stops_before_it_reads)
    assert (report.busy, report.failures, report.named, report.segments) == (1, [], [], 0)
    assert await real_store.command("HLEN", keys.broken(PARTITION), key=keys.broken(PARTITION)) == 0
    assert len(files(path)) == len(await Archive(real_store, opened(path)).segments(PARTITION))
    await whole(real_store, path, before)


@pytest.mark.parametrize("more", [0, 1], ids=["of what is sealed next", "of other events"])
async def test_who_comes_later_passes_by_what_an_overtaken_archiver_wrote(
    valkey_store: Store,
    path: Path,
    stops_before_it_reads: tuple[asyncio.Event, asyncio.Event],
    monkeypatch: pytest.MonkeyPatch,
    more: int,
) -> None:
    """As one of an earlier version did, which did not ask whether it still held the lease."""
    await past(valkey_store)
    before = await stream(valkey_store)
    with monkeypatch.context() as earlier:

        async def asks_nobody(*_: object) -> None:
            pass

        earlier.setattr(Lease, "hold", asks_nobody)
        earlier.setattr("ops.archive.seal.mark_broken", asks_nobody)
        assert (await overtaken(valkey_store, path, stops_before_it_reads)).busy == 1
    late = [file for file in files(path) if str(file.relative_to(path)) not in await counted(valkey_store, path)]
    assert len(late) == 1, "it lies beyond what is archived"
    report = await archived(valkey_store, opened(path), replace(ALL, segment_events=50 + more))
    assert (report.failures, report.swept) == ([], 1)
    await whole(valkey_store, path, before)


async def counted(store: Store, path: Path) -> list[str]:
    return list(map(str, await Archive(store, opened(path)).segments(PARTITION)))


async def test_a_session_that_acts_while_it_is_archived_loses_nothing(real_store: Store, path: Path) -> None:
    log = await past(real_store, rounds=10)

    async def write() -> None:
        state = await log.load(PHONE)
        assert state is not None
        for number in range(300):
            state = await log.append(state, offered("AssetV1", snapshot_us=NOW + 10**6 + number), at_us=NOW + 10**6)

    held = await length(real_store)
    writing = asyncio.create_task(write())
    sealed = 0
    while not writing.done():
        report = await archived(real_store, opened(path), replace(ALL, segment_events=20))
        assert report.failures == []
        sealed += report.events
    await writing
    assert sealed > held, "also what was written meanwhile"
    found = Archive(real_store, opened(path))
    entries = (await histories(real_store, found, [PHONE]))[PHONE]
    assert [entry.recorded.seq for entry in entries] == list(range(321, 0, -1))
    await whole(real_store, path, await everything(real_store, found))


async def test_a_lease_of_a_store_whose_clock_was_ahead_holds_nobody_up(valkey_store: Store) -> None:
    name = keys.archive(PARTITION)
    ahead_ms = time.time_ns() // 1_000_000 + 100 * 86_400_000
    await valkey_store.command("HSET", name, "token", 7, "leased_until", ahead_ms, key=name)
    async with Lease(valkey_store, PARTITION) as lease:
        assert lease.token == "8"
        with pytest.raises(PartitionBusy):
            async with Lease(valkey_store, PARTITION):
                pass
