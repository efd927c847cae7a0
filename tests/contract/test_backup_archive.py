"""Backups beside an archive that goes on, and of catalogs that are written to: as they were at one instant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.log.append import pairs
from ledger.store.interface import Store, open_store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from ops.backup import job
from projections.archive.catalog import Archive
from projections.archive.objects import Objects, open_objects
from projections.archive.record import read_record
from projections.checking.verify import verify
from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import Entity, read_line
from tests.support.ledger.archives import checked
from tests.support.ledger.backups import (
    LATER,
    LONG,
    OPTIONS,
    PARTITIONS,
    archive_all,
    everything,
    files_of,
    full,
    restored,
    saved,
)
from tests.support.sources.owners import let_owners_be_there
from tests.support.sources.samples import sample

SECOND_US = 10**6


@pytest.fixture
def folder(tmp_path: Path) -> Objects:
    return open_objects(f"file://{tmp_path / 'archive'}")


@pytest.fixture
async def redis7(redis7_url: str) -> AsyncIterator[Store]:
    store = await open_store(redis7_url)
    yield store
    await store.close()


async def assert_clean(store: Store, objects: Objects) -> None:
    found = Archive(store, objects)
    assert (await verify(store, PARTITIONS, sealed=found)).differences == []
    for partition in range(PARTITIONS):
        assert (await checked(found, partition)).differences == []


async def test_archiving_goes_on_behind_a_restore(valkey_store: Store, redis7: Store, folder: Objects) -> None:
    await full(valkey_store, folder)
    await saved(valkey_store, folder)
    assert (await restored(redis7, folder)).is_complete
    await assert_clean(redis7, folder)
    await archive_all(redis7, folder)
    await assert_clean(redis7, folder)


async def test_segments_written_since_the_backup_are_adopted(
    valkey_store: Store, redis7: Store, folder: Objects
) -> None:
    await full(valkey_store, folder)
    report = await saved(valkey_store, folder)
    options = ArchiveOptions(hot_events=2, segment_events=7)
    made = await archive(valkey_store, folder, range(PARTITIONS), options, LATER)
    assert made.segments > 0
    assert (await restored(redis7, folder, report.name)).is_complete
    after = await archive(redis7, folder, range(PARTITIONS), options, LATER)
    assert (after.adopted, after.failures) == (made.segments, [])
    await assert_clean(redis7, folder)


async def test_segments_that_retention_removed_since_the_backup_are_not_missed(
    valkey_store: Store, redis7: Store, folder: Objects, tmp_path: Path
) -> None:
    await full(valkey_store, folder)
    await saved(valkey_store, folder)
    held = len(files_of(tmp_path / "archive"))
    options = ArchiveOptions(hot_s=10.0**10, retention_s=0)
    cut = await archive(valkey_store, folder, range(PARTITIONS), options, 2 * LATER)
    assert 0 < cut.removed == held - len(files_of(tmp_path / "archive"))
    assert (await restored(redis7, folder)).is_complete
    for partition in range(PARTITIONS):
        assert await read_record(redis7, partition) == await read_record(valkey_store, partition)
    await assert_clean(redis7, folder)


def asset(number: int, name: str = "IMG_1.jpg") -> Entity:
    data = sample("AssetV2", id=f"0d2c8a4e-1111-4a6b-8f6e-{number:012x}", originalFileName=name)
    return read_line(json.dumps({"type": "AssetV2", "data": data}).encode())


ALBUM = "0d2c8a4e-2222-4a6b-8f6e-000000000000"
Rows = dict[tuple[str, str], str]


class Busy:
    """Writes one entity after the other into a library, and tells what it holds after each."""

    def __init__(self, catalog: Catalog) -> None:
        self.states: list[Rows] = [{}]
        self._catalog = catalog
        self._dice = Random(3)

    async def begin(self) -> None:
        """Have many rows there before anybody writes."""
        entities = [asset(number) for number in range(600)]
        await let_owners_be_there(self._catalog, "busy", entities)
        await self._catalog.put("busy", entities)
        self.states[-1] = await held(self._catalog)

    async def write(self) -> None:
        """Write until cancelled: new and changed assets, deletes, what hangs on an album, and the album's end."""
        while True:
            for entity, rows in self._next():
                await self._catalog.put("busy", [entity])
                self.states.append(rows)

    def _next(self) -> Iterator[tuple[Entity, Rows]]:
        number, rows = self._dice.randrange(900), dict(self.states[-1])
        one = asset(number, f"{len(self.states)}.jpg")
        if self._dice.random() < 0.3:
            rows.pop(("AssetV2", one.id), None)
            for place in [place for place, name in rows.items() if place[0] == "AlbumToAssetV1" and name == one.id]:
                del rows[place]
            yield read_line(json.dumps({"type": "AssetDeleteV1", "data": {"assetId": one.id}}).encode()), rows
            return
        rows["AssetV2", one.id] = f"{len(self.states)}.jpg"
        yield one, rows
        album = read_line(json.dumps({"type": "AlbumV2", "data": sample("AlbumV2", id=ALBUM)}).encode())
        if self._dice.random() < 0.1:
            rows = {place: name for place, name in rows.items() if not place[0].startswith("Album")}
            yield read_line(json.dumps({"type": "AlbumDeleteV1", "data": {"albumId": ALBUM}}).encode()), rows
            return
        rows = rows | {("AlbumV2", ALBUM): ALBUM}
        yield album, rows
        data = sample("AlbumToAssetV1", albumId=ALBUM, assetId=one.id)
        pair = read_line(json.dumps({"type": "AlbumToAssetV1", "data": data}).encode())
        yield pair, rows | {("AlbumToAssetV1", pair.id): one.id}


async def held(catalog: Catalog) -> Rows:
    """Tell the assets and albums of the library, and what of them changes."""
    rows: Rows = {}
    async for lines in catalog.entities("busy", ("AssetV2", "AlbumV2", "AlbumToAssetV1"), waiting=False):
        for each in map(json.loads, lines):
            data = each["data"]
            rows[each["type"], each["id"]] = data.get("originalFileName") or data.get("assetId") or data["id"]
    return rows


async def test_a_catalog_that_is_written_to_all_the_time_is_as_it_was_at_one_instant(
    valkey_store: Store, redis7: Store, folder: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full(valkey_store)
    monkeypatch.setattr(job, "_PAUSE_S", 0.001)
    busy = Busy(Catalog(valkey_store))
    await busy.begin()
    writing = asyncio.create_task(busy.write())
    try:
        await asyncio.sleep(0.02)
        before = len(busy.states)
        report = await saved(valkey_store, folder)
        after = len(busy.states) + 1
    finally:
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
    assert (report.libraries, report.damage) == (2, [])
    assert report.lines["lines"] >= 500
    assert after - before > 20, "it was written to meanwhile"
    assert (await restored(redis7, folder)).is_complete
    found = await held(Catalog(redis7))
    assert found in busy.states[before - 1 : after], min(
        len(found.items() ^ state.items()) for state in busy.states[before - 1 : after]
    )


async def test_a_catalog_that_cannot_be_read_keeps_nothing_else_from_being_saved(
    valkey_store: Store, redis7: Store, folder: Objects
) -> None:
    await full(valkey_store)
    await saved(valkey_store, folder)
    await Catalog(valkey_store).put("broken", [asset(1)])
    name = keys.catalog_edges("broken")
    await valkey_store.command("DEL", name, key=name)
    await valkey_store.command("SET", name, "no edges", key=name)
    report = await saved(valkey_store, folder, replace(OPTIONS, keep=1), at_us=LATER + SECOND_US)
    assert report.libraries == 1
    (what,) = report.damage
    assert "library broken" in what
    assert report.removed == [], "what is damaged replaces nothing"
    assert (await restored(redis7, folder)).is_complete


async def test_events_that_do_not_prove_themselves_are_named_and_all_are_saved(
    valkey_store: Store, redis7: Store, folder: Objects
) -> None:
    await full(valkey_store)
    name, damaged = keys.stream(keys.partition_of("user-0", PARTITIONS)), LONG
    entries = await valkey_store.command("XRANGE", name, "-", "+", key=name)
    of_long = [entry for entry in entries if dict(pairs(entry[1]))[b"sid"] == bytes.fromhex(damaged)]
    await valkey_store.command("XDEL", name, of_long[50][0], key=name)
    report = await saved(valkey_store, folder)
    assert [damaged in what for what in report.damage] == [True]
    assert report.events == sum(
        [await valkey_store.command("XLEN", keys.stream(p), key=keys.stream(p)) for p in range(PARTITIONS)]
    )
    there = await restored(redis7, folder)
    assert [broken.session for broken in there.broken] == [damaged]
    assert there.sessions > 5


@pytest.mark.parametrize("lost", ["the last", "all behind the first"])
async def test_events_that_are_missing_at_the_end_are_named(valkey_store: Store, folder: Objects, lost: str) -> None:
    await full(valkey_store)
    name = keys.stream(keys.partition_of("user-0", PARTITIONS))
    entries = await valkey_store.command("XRANGE", name, "-", "+", key=name)
    of_long = [entry[0] for entry in entries if dict(pairs(entry[1]))[b"sid"] == bytes.fromhex(LONG)]
    await valkey_store.command("XDEL", name, *of_long[-1 if lost == "the last" else 1 :], key=name)
    assert [LONG in what for what in (await saved(valkey_store, folder)).damage] == [True]


async def test_keys_of_another_type_are_named_and_all_else_is_saved(valkey_store: Store, folder: Objects) -> None:
    await full(valkey_store)
    before = await saved(valkey_store, folder)
    for name in (keys.api_keys(), keys.activity(1), keys.identity(keys.partition_of("user-1", PARTITIONS), "user-1")):
        await valkey_store.command("DEL", name, key=name)
        await valkey_store.command("SET", name, "spoilt", key=name)
    report = await saved(valkey_store, folder, at_us=LATER + SECOND_US)
    assert len(report.damage) == 3
    assert ("api-keys" in report.damage[0], "activity" in "".join(report.damage)) == (True, True)
    assert report.lines["identity"] * 4 == before.lines["identity"] * 3, "of one of four"
    assert report.libraries == 1


async def test_a_catalog_that_rests_in_between_is_in_it_as_it_was_then(
    valkey_store: Store, redis7: Store, folder: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full(valkey_store)
    monkeypatch.setattr(job, "_PAUSE_S", 0.05)
    catalog = Catalog(valkey_store)

    async def write() -> None:
        for number in range(60):
            await catalog.put("busy", [asset(number)])

    await let_owners_be_there(catalog, "busy", [asset(0)])
    await catalog.put("busy", [asset(number) for number in range(1000, 4000)])
    writing = asyncio.create_task(write())
    await asyncio.sleep(0.005)
    report = await saved(valkey_store, folder)
    await writing
    assert report.libraries == 2
    assert (await restored(redis7, folder)).is_complete
    before, after = await everything(valkey_store), await everything(redis7)
    last = int(after[b"{lbusy}:meta"][b"last"])
    for name, held in after.items():
        if name.startswith(b"{lbusy}:rows:"):
            scores = list(map(int, held[1::2]))
            assert held == before[name][: len(held)]
            assert all(score <= last for score in scores)
    count = sum(len(held) for name, held in after.items() if b"}:ids:" in name)
    assert report.lines["ids"] == count
