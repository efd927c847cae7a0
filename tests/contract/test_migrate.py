"""Migrating an archive between storages: nothing is copied twice, written over or half, and what differs is named."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import IO

import pytest
from obstore.store import LocalStore

from ledger.store.interface import Store
from ops.backup.migrate import MigrateReport, migrate
from ops.settings.places import StoragePlace
from projections.archive.errors import ArchiveUnavailable
from projections.archive.objects import Info, Objects, open_objects
from projections.backup.format import FOLDER, MANIFEST
from tests.support.ledger.backups import full, restored, saved
from tests.support.stores.s3_server import ENVIRONMENT, S3Server

MB = 1024 * 1024
COUNT = 30


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Objects:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    name = f"b{random.getrandbits(64):x}"
    s3.make_bucket(name)
    return StoragePlace(url=f"s3://{name}/ledger", endpoint=s3.endpoint, path_style=True).open()


def folder(path: Path) -> Objects:
    return open_objects(f"file://{path}")


async def put(objects: Objects, name: str, content: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        await objects.create(name, file)


async def content(objects: Objects) -> dict[str, bytes]:
    names = [info.name async for page in objects.names() for info in page]
    return {name: b"".join([chunk async for chunk in objects.chunks(name)]) for name in names}


async def filled(objects: Objects) -> dict[str, bytes]:
    dice = Random(1)
    held = {f"p{number % 3:03d}/{number}.zst": dice.randbytes(dice.randrange(1, 40_000)) for number in range(COUNT - 1)}
    held["backups/large"] = dice.randbytes(8 * MB)
    for name, what in held.items():
        await put(objects, name, what)
    return held


def done(copied: int = 0, same: int = 0) -> tuple[int, int, int, int]:
    return copied, same, 0, 0


def counts(report: MigrateReport) -> tuple[int, int, int, int]:
    return report.copied, report.same, report.different, report.damaged


async def test_local_to_s3_and_back(bucket: Objects, tmp_path: Path) -> None:
    here, back = folder(tmp_path / "here"), folder(tmp_path / "back")
    held = await filled(here)
    dry = await migrate(here, bucket, dry_run=True)
    assert (counts(dry), dry.bytes) == (done(COUNT), sum(map(len, held.values())))
    assert await content(bucket) == {}
    assert counts(await migrate(here, bucket)) == done(COUNT)
    assert await content(bucket) == held
    assert counts(await migrate(here, bucket)) == done(0, COUNT)
    assert counts(await migrate(here, bucket, dry_run=True)) == done(0, COUNT)
    assert counts(await migrate(bucket, back, concurrency=1)) == done(COUNT)
    assert counts(await migrate(bucket, back, concurrency=20)) == done(0, COUNT)
    assert await content(back) == held


async def test_what_differs_is_named_and_left_alone(bucket: Objects, tmp_path: Path) -> None:
    here = folder(tmp_path)
    held = await filled(here)
    same_size, other_size = "p001/1.zst", "p002/2.zst"
    flipped = bytes([held[same_size][0] ^ 1]) + held[same_size][1:]
    await put(bucket, same_size, flipped)
    await put(bucket, other_size, b"other")
    await put(bucket, "only/there", b"stays")
    report = await migrate(here, bucket)
    assert counts(report) == (COUNT - 2, 0, 2, 0)
    assert not report.is_complete
    assert sorted(what.split()[0] for what in report.named) == [same_size, other_size]
    assert await content(bucket) == {**held, same_size: flipped, other_size: b"other", "only/there": b"stays"}


class Cut(Objects):
    """Storage that is gone after so many writes."""

    def __init__(self, path: Path, left: int) -> None:
        super().__init__(LocalStore(path, mkdir=True), path)
        self._left = left

    async def create(self, name: str, file: IO[bytes]) -> None:
        self._left -= 1
        if self._left < 0:
            raise ArchiveUnavailable("gone")
        await super().create(name, file)


HOUR_S = 3600.0


async def test_what_a_killed_run_left_half_written_is_removed_when_nobody_can_be_writing_it(tmp_path: Path) -> None:
    here, there = folder(tmp_path / "here"), folder(tmp_path / "there")
    held = await filled(here)
    names = (
        "p001/1.zst#1",
        "p001/1.zst#2",
        "backups/large#1",
        "p009/only-there#1",
        "p001/1.zst#x",
        "p001/#3",
        "notes#1",
    )
    old = [tmp_path / "there" / name for name in names]
    young = tmp_path / "there" / "p002" / "2.zst#12"
    for path in (*old, young):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    now_s = young.stat().st_mtime + HOUR_S - 1
    for path in old:
        os.utime(path, (0, now_s - HOUR_S - 1))

    def left() -> set[str]:
        return {name for name in (*names, "p002/2.zst#12") if (tmp_path / "there" / name).exists()}

    every = left()
    dry = await migrate(here, there, dry_run=True, now_s=lambda: now_s)
    assert (counts(dry), dry.swept, left()) == (done(COUNT), 0, every), "the objects themselves are not there yet"
    report = await migrate(here, there, now_s=lambda: now_s)
    assert (counts(report), report.swept, report.unfinished) == (done(COUNT), 3, 3)
    assert left() == every - {"p001/1.zst#1", "p001/1.zst#2", "backups/large#1"}
    assert report.is_complete
    dry = await migrate(here, there, dry_run=True, now_s=lambda: now_s + 2)
    assert (dry.swept, dry.unfinished, young.exists()) == (1, 2, True)
    report = await migrate(here, there, now_s=lambda: now_s + 2)
    assert (counts(report), report.swept, report.unfinished) == (done(0, COUNT), 1, 2)
    assert left() == {"p009/only-there#1", "p001/1.zst#x", "p001/#3", "notes#1"}
    names_there = await content(there)
    assert {name: names_there[name] for name in held} == held


async def test_what_a_killed_writer_leaves_is_what_is_looked_for(tmp_path: Path) -> None:
    """The storage library names it; should it do so otherwise, this shows it."""
    objects, seen = folder(tmp_path), set[str]()
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 256 * MB)
        writing = asyncio.create_task(objects.create("p000/large", file))
        while not writing.done():
            seen |= {name for _, name in objects.leftovers_of_all()}
            await asyncio.sleep(0)
        await writing
    assert seen == {"p000/large"}
    assert objects.leftovers_of_all() == []


class Forgetful(Objects):
    """Storage that keeps something else than it was given."""

    def __init__(self, path: Path) -> None:
        super().__init__(LocalStore(path, mkdir=True), path)

    async def create(self, name: str, file: IO[bytes]) -> None:
        with tempfile.TemporaryFile() as other:
            file.seek(0)
            other.write(file.read()[:-1] + b"?")
            await super().create(name, other)


async def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    here, there = folder(tmp_path / "here"), tmp_path / "there"
    held = await filled(here)
    copied = 0
    for left in (5, 0, 17):
        with pytest.raises(ArchiveUnavailable):
            await migrate(here, Cut(there, left), concurrency=1)
        copied += left
        assert len(await content(folder(there))) == copied
    assert counts(await migrate(here, folder(there))) == done(COUNT - copied, copied)
    assert await content(folder(there)) == held


async def test_a_backup_is_none_at_the_target_before_all_its_parts_are_there(tmp_path: Path) -> None:
    here, there = folder(tmp_path / "here"), tmp_path / "there"
    parts = [f"{FOLDER}ledger-1/{name}" for name in ("identities", "ledger", "p000", "p001")]
    for name in (f"{FOLDER}ledger-1/{MANIFEST}", *parts, "p000/segment"):
        await put(here, name, name.encode())
    with pytest.raises(ArchiveUnavailable):
        await migrate(here, Cut(there, 5), concurrency=1)
    assert sorted(await content(folder(there))) == [*parts, "p000/segment"]
    assert counts(await migrate(here, folder(there), dry_run=True)) == done(1, 5)
    assert counts(await migrate(here, folder(there))) == done(1, 5)


async def test_what_is_not_kept_as_written_is_found(tmp_path: Path) -> None:
    here = folder(tmp_path / "here")
    await put(here, "one", b"1")
    report = await migrate(here, Forgetful(tmp_path / "there"))
    assert (counts(report), report.is_complete) == ((0, 0, 0, 1), False)
    assert "one" in report.named[0]


class Losing(Objects):
    """Storage that loses what it has just listed, but for one object."""

    def __init__(self, path: Path) -> None:
        super().__init__(LocalStore(path, mkdir=True), path)

    async def names(self, prefix: str = "") -> AsyncIterator[list[Info]]:
        async for page in super().names(prefix):
            await self.delete([info.name for info in page if info.name != "backups/large"])
            yield page


async def test_what_goes_meanwhile_is_not_missed(tmp_path: Path) -> None:
    here, there = Losing(tmp_path / "here"), folder(tmp_path / "there")
    held = await filled(here)
    (tmp_path / "here" / "empty").touch()
    report = await migrate(here, there)
    assert report.gone + report.empty == len(held)
    assert (report.copied, report.is_complete) == (1, True)
    assert await content(there) == {"backups/large": held["backups/large"]}


async def test_a_ledgers_archive_and_backups_are_good_where_they_come_to(
    bucket: Objects, tmp_path: Path, valkey_store: Store
) -> None:
    here = folder(tmp_path / "here")
    await full(valkey_store, here)
    await saved(valkey_store, here)
    assert (await migrate(here, bucket)).is_complete
    await valkey_store.each_primary("FLUSHALL")
    assert (await restored(valkey_store, bucket)).is_complete


async def test_the_transparency_log_stays_where_it_is(tmp_path: Path) -> None:
    here, there = folder(tmp_path / "here"), folder(tmp_path / "there")
    await put(here, "p000/1.zst", b"segment")
    for name in ("proof/checkpoint", "proof/tile/0/000.p/2"):
        await put(here, name, b"of the log")
    report = await migrate(here, there)
    assert (report.copied, report.of_log, report.is_complete) == (1, 2, True)
    assert set(await content(there)) == {"p000/1.zst"}, "a copy of a log is soon an older one, which is refused"
