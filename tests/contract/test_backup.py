"""Backup and restore: everything comes back under its own ids, on servers of any kind; damage is named before."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.commands import CreateSession
from ledger.errors import LayoutError, LedgerError
from ledger.log import whole
from ledger.log.service import Ledger
from ledger.log.store_check import open_layout
from ledger.personal import plain
from ledger.store.interface import Store, open_store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from ops.backup import fill
from ops.backup.listing import find_backup, keep_newest, list_backups, load_manifest
from ops.backup.restore import restore
from ops.settings.places import StoragePlace
from projections.accounts.credentials import Credentials
from projections.accounts.identities import Identities
from projections.archive.errors import ObjectExists
from projections.archive.objects import Objects, open_objects
from projections.archive.record import Record
from projections.backup.errors import BadBackup, CannotBackUp, CannotRestore, NoSuchBackup
from projections.backup.format import FOLDER, MANIFEST
from projections.backup.origin import FromSegments, find_records
from projections.checking.verify import verify
from tests.support.ledger.backups import (
    CIPHER,
    ISSUER,
    LATER,
    OPTIONS,
    PARTITIONS,
    archive_all,
    assert_restored,
    everything,
    files_of,
    full,
    restored,
    saved,
)
from tests.support.ledger.given import NOW, offer
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.ledger.lives import live
from tests.support.stores.s3_server import ENVIRONMENT, S3Server

SECOND_US = 10**6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def folder(path: Path) -> Objects:
    return open_objects(f"file://{path}")


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Objects:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    name = f"b{random.getrandbits(64):x}"
    s3.make_bucket(name)
    return StoragePlace(url=f"s3://{name}/ledger", endpoint=s3.endpoint, path_style=True).open()


@pytest.fixture(params=["file", "s3"])
def objects(request: pytest.FixtureRequest) -> Objects:
    found: Objects = request.getfixturevalue({"file": "folder", "s3": "bucket"}[request.param])
    return found


@pytest.fixture
async def redis7(redis7_url: str) -> AsyncIterator[Store]:
    store = await open_store(redis7_url)
    yield store
    await store.close()


@pytest.fixture
async def slots(cluster_url: str) -> AsyncIterator[Store]:
    store = await open_store(cluster_url)
    yield store
    await store.close()


async def flush(store: Store) -> None:
    await store.each_primary("FLUSHALL")


# There and back


@pytest.mark.parametrize("archived", [False, True], ids=["hot", "archived"])
async def test_a_ledger_comes_back_on_another_kind_of_server_and_from_there(
    valkey_store: Store, redis7: Store, objects: Objects, archived: bool
) -> None:
    await full(valkey_store, objects if archived else None)
    before = await everything(valkey_store)
    assert sum(b":session:" in name for name in before) > 5
    assert sum(b"credentials" in name for name in before) > 0
    report = await saved(valkey_store, objects)
    assert await everything(valkey_store) == before, "a backup writes nothing"
    assert (report.partitions, report.libraries, report.segments > 0) == (PARTITIONS, 1, archived)
    assert report.events == sum(len(held) for name, held in before.items() if name.endswith(b":stream"))

    there = await restored(redis7, objects)
    assert there.is_complete
    assert (there.events, there.resumed) == (report.events, False)
    assert there.sessions == there.verified.sessions == sum(b":session:" in name for name in before)
    assert 0 < there.resets <= there.sessions
    middle = await everything(redis7)
    assert_restored(before, middle)
    assert await open_layout(redis7, PARTITIONS, LATER) == PARTITIONS

    await flush(valkey_store)
    await saved(redis7, objects, at_us=LATER + 10 * SECOND_US)
    back = await restored(valkey_store, objects)
    assert (back.is_complete, back.resets) == (True, 0), "all were asked already"
    assert await everything(valkey_store) == middle


async def test_a_cluster_is_backed_up_and_filled(slots: Store, valkey_store: Store, folder: Objects) -> None:
    await full(slots, folder)
    before = await everything(slots)
    await saved(slots, folder)
    await flush(valkey_store)
    assert (await restored(valkey_store, folder)).is_complete
    middle = await everything(valkey_store)
    assert_restored(before, middle)
    await flush(slots)
    await saved(valkey_store, folder, at_us=LATER + 10 * SECOND_US)
    assert (await restored(slots, folder)).is_complete
    assert await everything(slots) == middle


async def test_a_backup_is_enough_where_the_archive_is_lost(
    valkey_store: Store, redis7: Store, folder: Objects
) -> None:
    await full(valkey_store, folder)
    before = await everything(valkey_store)
    await saved(valkey_store, folder)
    report = await restored(redis7, folder, archived=False)
    assert report.is_complete
    assert_restored(before, await everything(redis7))


async def test_segments_alone_bring_back_what_was_archived(valkey_store: Store, redis7: Store, folder: Objects) -> None:
    await full(valkey_store, folder)
    before = await everything(valkey_store)
    records = {number: record async for number, record in find_records(redis7, folder, PARTITIONS) if record.floor}
    assert records
    report = await restore(redis7, FromSegments(redis7, folder, PARTITIONS, records), lambda: LATER)
    assert report.is_complete
    assert 0 < report.sessions == report.verified.sessions
    after = await everything(redis7)
    for partition in range(PARTITIONS):
        name = keys.archive(partition)
        assert after.get(name) == before.get(name)
    assert not any(name.startswith(b"{l") or b"credentials" in name or b"identity" in name for name in after)
    with pytest.raises(CannotRestore, match="LEDGER_PARTITIONS"):
        [each async for each in find_records(redis7, folder, PARTITIONS + 3)]
    with pytest.raises(CannotRestore, match="LEDGER_PARTITIONS"):
        [each async for each in find_records(redis7, folder, 1)]


async def test_new_events_lie_behind_what_is_archived_whatever_the_clock_says(
    redis7: Store, valkey_store: Store
) -> None:
    far = (LATER + 10**14) // 1000
    for store in (redis7, valkey_store):
        await fill.put_record(store, 3, Record(f"{far}-7", "segment", "digest", 1))
        added = await store.command("XADD", keys.stream(3), "*", "field", "value", key=keys.stream(3))
        assert added.decode() == f"{far}-8"


# While it is written to


async def test_a_backup_under_writes_is_each_partition_at_one_instant(
    valkey_store: Store, redis7: Store, folder: Objects
) -> None:
    ledger = await full(valkey_store)
    clock = Clock(NOW + 10**9)
    ledger.clock = clock
    done = False

    async def write(seed: int) -> None:
        while not done:
            await live(Ledger(valkey_store, PARTITIONS, clock), clock, Random(seed), 20)
            seed += 10

    writers = [asyncio.create_task(write(seed)) for seed in (100, 101)]
    for number in range(4):
        await asyncio.sleep(0.1)
        await saved(valkey_store, folder, replace(OPTIONS, part_bytes=1000), at_us=LATER + number * SECOND_US)
    done = True
    await asyncio.gather(*writers)
    last = await everything(valkey_store)
    events = 0
    for listed in await list_backups(folder):
        await flush(redis7)
        report = await restored(redis7, folder, listed.name)
        assert report.is_complete, report
        assert report.events > events
        events = report.events
        after = await everything(redis7)
        for partition in range(PARTITIONS):
            held, written = after[keys.stream(partition)], last[keys.stream(partition)]
            same = next((n for n, pair in enumerate(zip(held, written, strict=False)) if pair[0] != pair[1]), len(held))
            # Behind what was saved are the resets, and who was to end with a parent that the backup saw end.
            behind = [entry[1][9] for entry in held[same:]]
            assert [
                e for e in behind if not ((b"sync_reset_requested" in e and b"restore" in e) or b"parent_ended" in e)
            ] == []
            assert same > 0


async def test_a_backup_while_others_archive_is_whole(valkey_store: Store, redis7: Store, folder: Objects) -> None:
    await full(valkey_store, steps=300)
    before = await everything(valkey_store)

    async def archiving() -> None:
        for hot in range(60, -1, -5):
            options = ArchiveOptions(hot_events=hot, segment_events=7)
            await archive(valkey_store, folder, range(PARTITIONS), options, LATER)

    task = asyncio.create_task(archiving())
    number = 0
    while not task.done():
        with suppress(CannotBackUp):
            await saved(valkey_store, folder, at_us=LATER + number * SECOND_US)
        number += 1
    await task
    assert number > 2
    report = await restored(redis7, folder)
    assert report.is_complete
    after = await everything(redis7)
    for name, held in before.items():
        if b":marks:" in name:  # those of the events that were archived are gone
            left = after.get(name, [])
            assert left == held[len(held) - len(left) :]
        elif not name.endswith((b":stream", b":archive")) and b":session:" not in name:
            assert after[name] == held


async def test_of_a_partition_that_is_not_whole_the_events_are_saved(
    valkey_store: Store, redis7: Store, folder: Objects
) -> None:
    await full(valkey_store)
    before = await everything(valkey_store)
    await valkey_store.command("DEL", keys.whole(2), key=keys.whole(2))
    report = await saved(valkey_store, folder)
    assert report.damage == ["partition 2: it is not whole: run syncledger rebuild"]
    assert (await restored(redis7, folder)).is_complete
    assert_restored(before, await everything(redis7))


async def test_archived_events_need_the_archive(valkey_store: Store, folder: Objects) -> None:
    await full(valkey_store, folder)
    with pytest.raises(CannotBackUp, match="LEDGER_ARCHIVE"):
        await saved(valkey_store, folder, archived=False)


# What is refused


async def test_a_store_that_is_not_empty_is_refused(valkey_store: Store, redis7: Store, folder: Objects) -> None:
    await full(valkey_store)
    await saved(valkey_store, folder)
    before = await everything(valkey_store)
    with pytest.raises(CannotRestore, match="not empty"):
        await restored(valkey_store, folder)
    assert await everything(valkey_store) == before
    await redis7.command("SET", "other", "1", key=b"other")
    with pytest.raises(CannotRestore, match="not empty"):
        await restored(redis7, folder)
    assert await redis7.each_primary("DBSIZE") == [1]


async def test_every_damaged_file_is_named_and_nothing_is_restored(
    valkey_store: Store, redis7: Store, path: Path, folder: Objects
) -> None:
    await full(valkey_store, folder)
    report = await saved(valkey_store, folder, replace(OPTIONS, part_bytes=4000))
    dice = Random(5)
    files = files_of(path / FOLDER)
    assert len(files) == report.files >= 8
    for file in files:
        content = file.read_bytes()
        place = dice.randrange(len(content))
        flipped = content[:place] + bytes([content[place] ^ 1 << dice.randrange(8)]) + content[place + 1 :]
        for damaged in (flipped, content[: dice.randrange(len(content))], content + b"x", None):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            with pytest.raises((BadBackup, NoSuchBackup)) as caught:
                await restored(redis7, folder, report.name)
            assert file.name in str(caught.value) or (damaged is None and file.name == MANIFEST)
            assert await redis7.each_primary("DBSIZE") == [0]
            file.write_bytes(content)
    assert (await restored(redis7, folder)).is_complete


async def test_a_damaged_segment_is_named_and_nothing_is_restored_from_segments(
    valkey_store: Store, redis7: Store, path: Path, folder: Objects
) -> None:
    await full(valkey_store, folder)
    segments = files_of(path)
    dice = Random(6)
    for file in dice.sample(segments, 4):
        content = file.read_bytes()
        place = dice.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(LedgerError, match=file.name):
            [each async for each in find_records(redis7, folder, PARTITIONS)]
        file.write_bytes(content)
    assert await redis7.each_primary("DBSIZE") == [0]


async def test_segments_with_events_beyond_the_backup_are_named(
    valkey_store: Store, redis7: Store, folder: Objects
) -> None:
    ledger = await full(valkey_store, folder)
    report = await saved(valkey_store, folder)
    await ledger.execute(
        "user-0", sid_of("new"), CreateSession("user-0", "photos", None, plain("Web"), plain(""), plain(""))
    )
    await archive_all(valkey_store, folder)
    with pytest.raises(CannotRestore, match="came after this backup"):
        await restored(redis7, folder, report.name)
    assert await redis7.each_primary("DBSIZE") == [0]


async def test_a_backup_of_a_newer_format_is_refused(
    valkey_store: Store, path: Path, folder: Objects, redis7: Store
) -> None:
    await full(valkey_store)
    report = await saved(valkey_store, folder)
    manifest = path / FOLDER / report.name / MANIFEST
    content = manifest.read_bytes()
    assert content.startswith(b'{"format":1,')
    manifest.write_bytes(content.replace(b'{"format":1,', b'{"format":2,', 1))
    with pytest.raises(CannotRestore, match="upgrade"):
        await restored(redis7, folder)


# Interruptions and leftovers


class Ending:
    """A store whose process ends before its n-th command or script."""

    def __init__(self, store: Store, left: int) -> None:
        self._store = store
        self.left = left

    def __getattr__(self, name: str) -> object:
        found = getattr(self._store, name)

        async def run(*args: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Ended
            return await found(*args, **named)

        return run if name in ("command", "script") else found


class Ended(Exception):
    """The process ended here."""


async def test_a_restore_that_ends_anywhere_goes_on_and_nobody_opens_the_ledger_meanwhile(
    valkey_store: Store, redis7: Store, folder: Objects
) -> None:
    await full(valkey_store, folder, steps=60)
    before = await everything(valkey_store)
    await saved(valkey_store, folder)
    other = await saved(valkey_store, folder, at_us=LATER + SECOND_US)
    first = (await list_backups(folder))[0].name
    dice, ended = Random(7), 0
    for _ in range(6):
        await flush(redis7)
        while True:
            ending = Ending(redis7, dice.randrange(1, 500))
            try:
                report = await restored(ending, folder, first)  # type: ignore[arg-type]
            except (Ended, BaseExceptionGroup):
                ended += 1
            else:
                break
            if await redis7.each_primary("DBSIZE") != [0]:
                with pytest.raises(LayoutError):
                    await open_layout(redis7, PARTITIONS, LATER)
                with pytest.raises(CannotRestore, match="interrupted"):
                    await restored(redis7, folder, other.name)
        assert report.is_complete
        assert_restored(before, await everything(redis7))
    assert ended > 6


async def test_backups_that_were_never_finished_are_told_apart_and_go_with_the_old_ones(
    valkey_store: Store, folder: Objects, path: Path
) -> None:
    await full(valkey_store, steps=30)
    names = [(await saved(valkey_store, folder, at_us=LATER + n * SECOND_US)).name for n in range(4)]
    with pytest.raises(ObjectExists):
        await saved(valkey_store, folder, at_us=LATER)
    (path / FOLDER / names[1] / MANIFEST).unlink()
    assert [(listed.name, listed.complete) for listed in await list_backups(folder)] == [
        (name, number != 1) for number, name in enumerate(names)
    ]
    assert await find_backup(folder, "latest") == f"{FOLDER}{names[3]}/"
    for name, what in ((names[1], "never finished"), ("ledger-x", "no backup"), ("../x", "no backup")):
        with pytest.raises(NoSuchBackup, match=what):
            await find_backup(folder, name)
    with pytest.raises(NoSuchBackup):
        await load_manifest(folder, f"{FOLDER}{names[1]}/")
    for number, name in enumerate(names):
        for file in (path / FOLDER / name).iterdir():
            os.utime(file, times=(0, LATER / SECOND_US + (5400 if number == 1 else 0)))
    part = next((path / FOLDER / names[1]).iterdir())
    killed, writing = part.with_name(f"{part.name}#1"), part.with_name(f"{part.name}#2")
    for file, age_s in ((killed, 3600), (writing, 1800)):
        file.write_bytes(b"half")
        os.utime(file, times=(0, LATER / SECOND_US + 7200 - age_s - 1))
    assert await keep_newest(folder, 2, LATER + 60 * SECOND_US) == [names[0]]
    assert await keep_newest(folder, 2, LATER + 7200 * SECOND_US) == [], "somebody wrote to it half an hour ago"
    assert (killed.exists(), writing.exists()) == (False, True)
    assert await keep_newest(folder, 2, LATER + 9001 * SECOND_US) == [names[1]]
    assert not writing.exists()
    report = await saved(valkey_store, folder, replace(OPTIONS, keep=1), at_us=LATER + 9 * SECOND_US)
    assert report.removed == names[2:]
    assert {file.parent.name for file in files_of(path)} == {report.name}


async def test_a_backup_of_a_clock_that_was_ahead_is_not_the_newest_for_ever(
    valkey_store: Store, folder: Objects
) -> None:
    """Nor does one of a clock that is behind remove itself."""
    await full(valkey_store, steps=10)
    now_us = time.time_ns() // 1000
    days_us = 86_400 * SECOND_US
    ahead = await saved(valkey_store, folder, at_us=now_us + 100 * days_us)
    await asyncio.sleep(1.1)  # the storage tells seconds
    right = await saved(valkey_store, folder, replace(OPTIONS, keep=1), at_us=now_us + 2 * SECOND_US)
    assert right.removed == [ahead.name]
    assert await find_backup(folder, "latest") == f"{FOLDER}{right.name}/"
    behind = await saved(valkey_store, folder, replace(OPTIONS, keep=1), at_us=now_us - 100 * days_us)
    assert behind.name in {listed.name for listed in await list_backups(folder)}


async def test_credentials_come_back_for_sessions_that_live(
    valkey_store: Store, redis7: Store, folder: Objects
) -> None:
    await full(valkey_store)
    sid = sid_of("1 signed in 2")
    name = keys.credentials(keys.partition_of("user-2", PARTITIONS))
    await valkey_store.command("HSET", name, sid_of("nobody"), "stray", key=name)
    await saved(valkey_store, folder)
    report = await restored(redis7, folder)
    assert report.is_complete
    assert await Credentials(redis7, PARTITIONS, CIPHER).read("user-2", sid) == "secret 2"
    assert await redis7.command("HGET", name, sid_of("nobody"), key=name) is None
    assert await whole.read_marks(redis7, PARTITIONS) == [whole.WHOLE] * PARTITIONS
    assert (await verify(redis7, PARTITIONS)).differences == []
    state = await Ledger(redis7, PARTITIONS, lambda: LATER).execute("user-2", sid, offer("AssetV1"))
    assert state.pending_reset


async def test_damage_in_the_ledger_is_carried_along_and_named(
    valkey_store: Store, redis7: Store, folder: Objects
) -> None:
    await full(valkey_store)
    name = keys.stream(1)
    (lost,) = await valkey_store.command("XRANGE", name, "-", "+", "COUNT", 1, key=name)
    await valkey_store.command("XDEL", name, lost[0], key=name)
    sid = lost[1][1].hex()
    before = await everything(valkey_store)
    await saved(valkey_store, folder)
    report = await restored(redis7, folder)
    assert not report.is_complete
    assert {broken.session for broken in report.broken} == {sid}
    assert sid in {difference.session for difference in report.verified.differences}
    after = await everything(redis7)
    assert after[name][: len(before[name])] == before[name]
    lives = {name for name in before if b":session:" in name and sid.encode() not in name}
    assert lives == {name for name in after if b":session:" in name}
    assert await open_layout(redis7, PARTITIONS, LATER) == PARTITIONS, "the others may go on"


async def test_identities_and_addresses_come_back_as_their_records_say(
    valkey_store: Store, redis7: Store, folder: Objects
) -> None:
    await full(valkey_store)
    before = await everything(valkey_store)
    strays = [keys.email(sid_of("a")), keys.identity_link(sid_of("b"))]
    for name in strays:
        await valkey_store.command("SET", name, "user-1 0123456789abcdef", key=name)
    await saved(valkey_store, folder)
    assert (await restored(redis7, folder)).is_complete
    assert_restored(before, await everything(redis7))
    profile = await Identities(redis7, PARTITIONS).sign_in(
        ISSUER, "subject 2", email="2@example.test", register=False, now_us=LATER
    )
    assert (profile.user, profile.name) == ("user-2", "N 2")
