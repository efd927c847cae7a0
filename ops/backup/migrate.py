"""Copying everything from one object storage to another.

An object that is already there counts as copied only if all of it is the same: both are read and compared by SHA-256,
which costs reading, but no writing. What is copied is hashed while it is read, written as a new object, and read back.
Nothing is ever written over, and an object appears whole or not at all, a backup's manifest behind all else: so a run
may be stopped anywhere, and the next one goes on.

A run that is killed leaves what it was writing in a local folder, as `<name>#<number>`: no listing has it, and it is
never gone on with. The next run removes it, if the object itself is there by then and nobody has written to the file
for an hour. Others are told of: they are a running writer's, or of something that is not at the source.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import IO, Final

import msgspec

from ops.backup.listing import HALF_KEPT_S
from ops.settings.proof import FOLDER as LOG_FOLDER
from projections.archive.errors import ObjectExists, ObjectMissing
from projections.archive.objects import Info, Objects
from projections.backup.format import FOLDER, MANIFEST
from projections.bounded_tasks import each

NAMED: Final = 1000
"""How many objects that differ a report names; all are counted."""


class MigrateReport(msgspec.Struct):
    """What was done; in a dry run `copied` is what would be.

    `same`: already there. `different`: there with another content, and left alone. `damaged`: read back otherwise than
    written. `gone`: removed at the source meanwhile. `empty`: without content, which is nothing of a ledger's. `swept`:
    files of killed runs that were removed, in a dry run that would be; `unfinished`: those that were left alone.
    `of_log`: objects of the transparency log, which stays where it is: a copy of it would soon be an older one.
    """

    looked: int = 0
    copied: int = 0
    bytes: int = 0
    same: int = 0
    different: int = 0
    damaged: int = 0
    gone: int = 0
    empty: int = 0
    swept: int = 0
    unfinished: int = 0
    of_log: int = 0
    named: list[str] = []

    @property
    def is_complete(self) -> bool:
        """Tell whether all that is at the source is at the target."""
        return not (self.different or self.damaged)


async def migrate(
    source: Objects,
    target: Objects,
    *,
    dry_run: bool = False,
    concurrency: int = 4,
    spool: Path | None = None,
    now_s: Callable[[], float] = time.time,
    on_progress: Callable[[MigrateReport], None] = lambda _: None,
) -> MigrateReport:
    """Copy all objects, `concurrency` of them at a time, each through a file in `spool` (the system's folder if None).

    Then remove what killed runs left of them at the target; `now_s` is the clock of its files, in seconds since 1970.
    Raises ArchiveUnavailable: then it may be run again.
    """
    report = MigrateReport()

    async def one(info: Info) -> None:
        if info.name.startswith(f"{LOG_FOLDER}/"):
            report.of_log += 1
            return
        await _one(source, target, info, report, dry_run, spool)
        report.looked += 1
        on_progress(report)

    for last in (False, True):  # a backup is one by its manifest, so that comes behind its parts
        async for page in source.names(FOLDER if last else ""):
            await each([info for info in page if _is_manifest(info.name) is last], one, concurrency)
    for path, name in await asyncio.to_thread(target.leftovers_of_all):
        done = await source.size(name) is not None and await target.size(name) is not None
        if done and await asyncio.to_thread(target.remove_leftover, path, now_s() - HALF_KEPT_S, dry_run=dry_run):
            report.swept += 1
        else:
            report.unfinished += 1
    return report


def _is_manifest(name: str) -> bool:
    return name.startswith(FOLDER) and name.endswith(f"/{MANIFEST}")


async def _one(
    source: Objects, target: Objects, info: Info, report: MigrateReport, dry_run: bool, spool: Path | None
) -> None:
    if info.size == 0:
        report.empty += 1
        return
    try:
        size = await target.size(info.name)
        if size is None and dry_run:
            report.copied += 1
            report.bytes += info.size
        elif size is None:
            await _copy(source, target, info.name, report, spool)
        else:
            await _compare(source, target, info, size, report)
    except ObjectMissing:
        report.gone += 1


async def _copy(source: Objects, target: Objects, name: str, report: MigrateReport, spool: Path | None) -> None:
    with tempfile.TemporaryFile(dir=spool) as file:
        read = await _fetch(source, name, file)
        size = file.tell()
        try:
            await target.create(name, file)
        except ObjectExists:  # somebody else copies too
            await _compare(source, target, Info(name, size), await target.size(name) or 0, report)
            return
    if await _digest(target, name) != read:
        report.damaged += 1
        _name(report, f"{name} reads back otherwise than it was written")
        return
    report.copied += 1
    report.bytes += size


async def _compare(source: Objects, target: Objects, info: Info, size: int, report: MigrateReport) -> None:
    if size != info.size:
        what = f"{info.name} is there with {size:,} bytes, not {info.size:,}"
    else:
        ours, theirs = await asyncio.gather(_digest(source, info.name), _digest(target, info.name))
        if ours == theirs:
            report.same += 1
            return
        what = f"{info.name} is there with another content"
    report.different += 1
    _name(report, what)


async def _fetch(source: Objects, name: str, file: IO[bytes]) -> bytes:
    digest = sha256()
    async for chunk in source.chunks(name):
        digest.update(chunk)
        file.write(chunk)
    return digest.digest()


async def _digest(objects: Objects, name: str) -> bytes:
    digest = sha256()
    async for chunk in objects.chunks(name):
        digest.update(chunk)
    return digest.digest()


def _name(report: MigrateReport, what: str) -> None:
    if len(report.named) < NAMED:
        report.named.append(what)
