"""`backup`, `restore` and `migrate` killed at random points: nothing half counts as whole, and the next run goes on."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from ledger import keys
from ledger.errors import LayoutError
from ledger.log.store_check import open_layout
from ledger.store.interface import Store, open_store
from ops.backup.listing import list_backups, load_manifest
from ops.opening.ledger import now_us
from ops.settings.places import StoragePlace
from projections.archive.objects import Objects
from projections.backup.format import FOLDER
from projections.backup.origin import FromBackup
from tests.support.ledger.backups import PARTITIONS, assert_restored, everything, full
from tests.support.processes.command_forks import CommandForks
from tests.support.processes.fuse import Fuse
from tests.support.stores.s3_server import ENVIRONMENT, S3Server

several = pytest.mark.parametrize("kills", [4, pytest.param(12, marks=pytest.mark.soak)])


class Scene(NamedTuple):
    """Two servers, a place for backups, and commands."""

    source_url: str
    target_url: str
    place: StoragePlace
    commands: CommandForks
    environ: dict[str, str]

    @property
    def objects(self) -> Objects:
        return self.place.open()


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.soak)])
def scene(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valkey_url: str, redis7_url: str
) -> Iterator[Scene]:
    with ExitStack() as stack:
        place = StoragePlace(url=f"file://{tmp_path / 'archive'}")
        if request.param == "s3":
            s3: S3Server = request.getfixturevalue("s3")
            bucket = f"b{random.getrandbits(64):x}"
            s3.make_bucket(bucket)
            place = StoragePlace(url=f"s3://{bucket}/prefix", endpoint=s3.endpoint, path_style=True)
        environ = {
            **ENVIRONMENT,
            "LEDGER_ARCHIVE": place.url,
            "LEDGER_ARCHIVE_ENDPOINT": place.endpoint or "",
            "LEDGER_ARCHIVE_PATH_STYLE": "true",
            "LEDGER_PARTITIONS": str(PARTITIONS),
            "LEDGER_DATA_DIR": str(tmp_path / "data"),
        }
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        commands = stack.enter_context(CommandForks(environ))
        yield Scene(valkey_url, redis7_url, place, commands, environ)


@pytest.fixture
async def source(scene: Scene) -> AsyncIterator[Store]:
    store = await open_store(scene.source_url)
    await full(store, scene.objects, steps=400)
    yield store
    await store.close()


@pytest.fixture
async def target(scene: Scene) -> AsyncIterator[Store]:
    store = await open_store(scene.target_url)
    yield store
    await store.close()


async def run(scene: Scene, *args: str, fuse: Fuse | None = None, **environ: str) -> int:
    """Run a command to its end; gives its exit code."""
    scene.commands.start(*args, fuse=fuse, **environ)
    return await asyncio.to_thread(scene.commands.wait)


async def uses_of(scene: Scene, *args: str, **environ: str) -> int:
    """Tell how often a command uses its stores when nobody kills it; the first time scripts are loaded besides."""
    assert await run(scene, *args, fuse=None, **environ) == 0
    return scene.commands.uses()


async def kill(scene: Scene, dice: random.Random, below: int, *args: str, **environ: str) -> bool:
    """Run a command and kill it at a use of its stores, any below a number; False if it ended before that."""
    fuse = Fuse(dice.randrange(1, below), dice.uniform(0, 0.02))
    code = await run(scene, *args, fuse=fuse, **environ)
    assert code in (0, -signal.SIGKILL)
    return code != 0


async def is_restoring(store: Store) -> bool:
    return bool(await store.command("HEXISTS", keys.meta(), "restoring", key=keys.meta()))


async def next_second() -> None:
    """Wait until a backup gets another name."""
    await asyncio.sleep(1.01 - time.time() % 1)


@several
async def test_a_killed_backup_is_none_and_a_finished_one_is_whole(scene: Scene, source: Store, kills: int) -> None:
    dice, killed = random.Random(3), 0
    before = await everything(source)
    backup = ("backup", "--with-catalog")
    assert await run(scene, *backup, redis=scene.source_url) == 0
    await next_second()
    uses = await uses_of(scene, *backup, redis=scene.source_url)
    for _ in range(kills):
        await next_second()
        killed += await kill(scene, dice, uses, *backup, redis=scene.source_url)
        assert await everything(source) == before
    listed = await list_backups(scene.objects)
    complete = [each for each in listed if each.complete]
    assert killed > kills * 2 // 3, "what is scanned may come in fewer pages, and end before a late kill"
    assert kills + 2 - killed <= len(complete) < len(listed), "one killed behind its manifest is whole"
    for each in complete:
        folder = f"{FOLDER}{each.name}/"
        origin = FromBackup(scene.objects, folder, await load_manifest(scene.objects, folder), None)
        assert len([part async for part in origin.check()]) == each.files - 1


@several
async def test_a_killed_restore_goes_on_and_nobody_opens_the_ledger_meanwhile(
    scene: Scene, source: Store, target: Store, kills: int
) -> None:
    dice, killed = random.Random(4), 0
    assert await run(scene, "backup", "--with-catalog", redis=scene.source_url) == 0
    before = await everything(source)
    restoring = ("restore", "latest", "--yes")
    assert await run(scene, *restoring, redis=scene.target_url) == 0
    await target.each_primary("FLUSHALL")
    uses = await uses_of(scene, *restoring, redis=scene.target_url)
    for _ in range(kills):
        await target.each_primary("FLUSHALL")
        killed += await kill(scene, dice, uses, *restoring, redis=scene.target_url)
        while await is_restoring(target) or await target.each_primary("DBSIZE") == [0]:
            if await is_restoring(target):
                with pytest.raises(LayoutError):
                    await open_layout(target, PARTITIONS, now_us())
            if not await kill(scene, dice, uses, *restoring, redis=scene.target_url):
                break
            killed += 1
        assert_restored(before, await everything(target), now_us())
        assert await run(scene, "verify", redis=scene.target_url) == 0
        if killed >= kills // 2:
            return
    raise AssertionError(f"only {killed} were killed: what is scanned may come in fewer pages, but not so often")


@several
async def test_a_killed_migration_goes_on(scene: Scene, source: Store, tmp_path: Path, kills: int) -> None:
    dice = random.Random(5)
    assert await run(scene, "backup", "--with-catalog", redis=scene.source_url) == 0
    held = {info.name: info.size async for page in scene.objects.names() for info in page}
    uses = await uses_of(scene, "migrate", "--from", scene.place.url, "--to", f"file://{tmp_path / 'once'}")
    there = StoragePlace(url=f"file://{tmp_path / 'there'}")
    migrating = ("migrate", "--from", scene.place.url, "--to", there.url, "--concurrency", "2")
    for _ in range(kills):
        # Each gets no further than by its share, and what was copied is looked at again: there is work left for all.
        assert await kill(scene, dice, uses // kills, *migrating)
        copied = {info.name: info.size async for page in there.open().names() for info in page}
        assert copied.items() <= held.items(), "whole or not there"
    assert await run(scene, *migrating) == 0
    assert {info.name: info.size async for page in there.open().names() for info in page} == held
    assert await run(scene, *migrating, "--dry-run") == 0


async def test_ctrl_c_ends_a_command_in_order(scene: Scene, source: Store) -> None:
    codes = set()
    uses = await uses_of(scene, "backup", redis=scene.source_url)
    for part in (0.2, 0.4, 0.6, 0.8):
        await next_second()
        fuse = Fuse(int(part * uses), 0.0, signal.SIGINT)
        codes.add(await run(scene, "backup", fuse=fuse, redis=scene.source_url))
    assert codes <= {0, 130}
    assert 130 in codes
