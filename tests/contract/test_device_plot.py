"""A device's history as counts over time: what a plain count of its events says, across the archive too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from ledger.commands import Command, CreateSession, DescribeDevice, RequestReset
from ledger.errors import NoSuchSession, Refused
from ledger.events import AckRefused, AcksRecorded, CheckpointsCleared, ResetSent, StreamOffered
from ledger.log.service import Ledger
from ledger.log.whole import mark_new
from ledger.personal import plain
from ledger.positions import us_from_iso
from ledger.store.interface import Store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from projections.archive.catalog import Archive
from projections.archive.objects import open_objects
from projections.devices import plot as plots
from projections.devices.plot import Bucket, Plot, plot
from projections.history.event_pages import EventPages
from projections.sent.record import Sent, SentStream
from tests.support.ledger.given import NOW, SNAPSHOT, ack, acks, clear, offer
from tests.support.ledger.ledgers import Clock, sid_of

PARTITIONS = 1
SID = sid_of("phone")
STREAM = SentStream(NOW, 1, "completed", 3, 900, "", "", NOW, "c")


async def filled(store: Store, clock: Clock, steps: int) -> None:
    """Let one device do all that is counted."""
    await mark_new(store, PARTITIONS)
    ledger, dice = Ledger(store, PARTITIONS, clock), Random(3)
    await ledger.execute("ann", SID, CreateSession("ann", "photos", device_type=plain("Pixel")))
    for step in range(steps):
        clock.now_us += dice.randrange(1, 4_000_000)
        state = await ledger.look(0, SID)
        assert state is not None
        epoch = state.epoch_of("AssetV1")
        commands: list[Command] = [
            offer("AssetV1", snapshot_us=SNAPSHOT + 10 * step),
            acks(ack("AssetV1", state.offered_us("AssetV1") - dice.randrange(300), f"id-{step}", epoch)),
            acks(ack("AssetV1", SNAPSHOT + 10**9, "", epoch)),
            clear("AssetV1"),
            DescribeDevice(plain("Pixel"), plain("Android"), plain(f"3.2.{step}")),
        ]
        try:
            await ledger.execute("ann", SID, dice.choice(commands))
        except Refused:
            continue


async def counted(past: EventPages, since_us: int = 0, until_us: int = 2**53) -> Counter[str]:
    """Count what happened in a span, event by event."""
    found = Counter[str]()
    async for run in past.runs(0, SID, forward=True):
        for entry in run.entries:
            if not since_us <= entry.recorded.at_us <= until_us:
                continue
            match entry.recorded.event:
                case AcksRecorded() as event:
                    found["acks"] += bool(event.moved)
                    found["acked"] += len(event.moved)
                    found["stale"] += event.stale_count or len(event.stale)
                case StreamOffered():
                    found["offers"] += 1
                case AckRefused():
                    found["refused"] += 1
                case ResetSent() | CheckpointsCleared():
                    found["resets"] += 1
                case _:
                    found["others"] += 1
            found["events"] += 1
    return +found


def sums(found: Plot, only: slice = slice(None)) -> Counter[str]:
    names = [name for name in Bucket.__struct_fields__ if name not in ("index", "at", "streams")]
    return +Counter({name: sum(getattr(bucket, name) for bucket in found.buckets[only]) for name in names})


async def test_buckets_hold_what_happened_in_their_span(store: Store) -> None:
    clock = Clock()
    await filled(store, clock, 300)
    past = EventPages(store)
    every = await counted(past)
    assert every.keys() == {"acks", "acked", "stale", "offers", "refused", "resets", "others", "events"}
    for buckets in (1, 7, 400):
        found = await plot(past, 0, SID, [], None, None, buckets)
        assert sums(found) + Counter(events=found.events) == every
        assert len(found.buckets) <= buckets
        assert [bucket.index for bucket in found.buckets] == sorted({bucket.index for bucket in found.buckets})
        for bucket in found.buckets[:: max(len(found.buckets) // 5, 1)]:
            begins_us = us_from_iso(bucket.at)
            length_us = round(found.bucket_s * 1e6)
            own = await counted(past, begins_us, begins_us + length_us - 1)
            own.pop("events")
            assert own == +Counter({name: getattr(bucket, name) for name in own})


async def test_a_span_is_counted_alone_and_streams_by_how_they_ended(valkey_store: Store) -> None:
    clock = Clock()
    await filled(valkey_store, clock, 200)
    past = EventPages(valkey_store)
    since_us, until_us = NOW + 50_000_000, NOW + 200_000_000
    streams = [
        Sent(SentStream(at_us, 1, how, 3, 9, "", "", NOW, "c"), times, at_us)  # type: ignore[arg-type]
        for at_us, how, times in (
            (since_us, "completed", 1),
            (until_us, "refused", 5),
            (until_us + 1, "gone", 1),
            (since_us - 1, "gone", 1),
        )
    ]
    found = await plot(past, 0, SID, streams, since_us, until_us, 20)
    assert sums(found) + Counter(events=found.events) == await counted(past, since_us, until_us)
    ended = Counter[str]()
    for bucket in found.buckets:
        ended += Counter(bucket.streams)
    assert ended == {"completed": 1, "refused": 5}
    empty = await plot(past, 0, SID, [], NOW + 10**15, NOW + 10**15 + 5, 10)
    assert (empty.events, empty.buckets) == (0, [])
    with pytest.raises(NoSuchSession):
        await plot(past, 0, sid_of("nobody"), [], None, None, 10)


async def test_what_is_archived_is_counted_where_it_is_read(valkey_store: Store, tmp_path: Path) -> None:
    clock, objects = Clock(), open_objects(f"file://{tmp_path}/archive")
    await filled(valkey_store, clock, 120)
    every = await counted(EventPages(valkey_store))
    clock.now_us += 10**9
    report = await archive(valkey_store, objects, [0], ArchiveOptions(hot_events=20), clock())
    assert (report.failures, report.events > 0) == ([], True), report
    described = DescribeDevice(plain("Pixel"), plain("Android"), plain("newer"))
    await Ledger(valkey_store, PARTITIONS, clock).execute("ann", SID, described)
    found = await plot(EventPages(valkey_store, Archive(valkey_store, objects)), 0, SID, [], None, None, 50)
    assert found.broken is None
    assert found.events == every["events"] + 1
    assert (found.below_floor, found.cut, found.first_at is not None) == (False, False, True)
    hot = await plot(EventPages(valkey_store), 0, SID, [], None, None, 50)
    assert hot.below_floor
    assert hot.first_at is None
    assert hot.events < found.events


async def test_only_so_many_events_are_counted_the_newest(valkey_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    await filled(valkey_store, clock, 1)
    ledger = Ledger(valkey_store, PARTITIONS, clock)
    for number in range(700):
        clock.now_us += 1000
        await ledger.execute("ann", SID, RequestReset(number % 2 == 0, plain("ann")))
    monkeypatch.setattr(plots, "MOST_EVENTS", 500)
    found = await plot(EventPages(valkey_store), 0, SID, [], None, None, 50)
    assert found.cut
    assert 500 <= found.events < 700
    assert us_from_iso(found.until) == clock()
    assert us_from_iso(found.since) > NOW
