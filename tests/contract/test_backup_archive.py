"""Backups beside an archive that goes on, and of catalogs that are written to: as they were at one instant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from ledger.store.interface import Store, open_store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from ops.backup import job
from ops.backup.listing import list_backups
from projections.archive.catalog import Archive
from projections.archive.objects import Objects, open_objects
from projections.archive.record import read_record
from projections.backup.errors import CannotBackUp
from projections.checking.verify import verify
from projections.entities.catalog.catalog import Catalog
from projections.entities.entity import Entity, read_line
from tests.support.ledger.archives import checked
from tests.support.ledger.backups import LATER, PARTITIONS, archive_all, everything, files_of, full, restored, saved
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


def asset(number: int) -> Entity:
    data = sample("AssetV2", id=f"0d2c8a4e-1111-4a6b-8f6e-{number:012x}")
    return read_line(json.dumps({"type": "AssetV2", "data": data}).encode())


async def test_a_catalog_that_is_written_to_all_the_time_is_not_half_in_a_backup(
    valkey_store: Store, folder: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full(valkey_store)
    monkeypatch.setattr(job, "_PAUSE_S", 0.001)
    catalog = Catalog(valkey_store)
    await catalog.put("busy", [asset(number) for number in range(3000)])

    async def write() -> None:
        for number in range(3000, 10**6):
            await catalog.put("busy", [asset(number)])

    writing = asyncio.create_task(write())
    try:
        with pytest.raises(CannotBackUp, match="Library busy"):
            await saved(valkey_store, folder)
    finally:
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
    assert [listed.complete for listed in await list_backups(folder)] == [False]


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
