"""Which backups there are, finding one, and removing old ones."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

import msgspec

from projections.archive.objects import Objects
from projections.backup.errors import BadBackup, NoSuchBackup
from projections.backup.format import FOLDER, MANIFEST, MAX_MANIFEST_BYTES, Manifest, created_of, read_manifest

LATEST: Final = "latest"
HALF_KEPT_S: Final = 3600.0
"""An unfinished backup to which nothing was written for so long is nobody's, and is removed with the old ones."""
_SHOWS: Final = ": syncledger backup --list shows those that there are"
_CREATED: Final = "%Y%m%dT%H%M%SZ"


class Listed(msgspec.Struct):
    """A backup as its files tell: `complete` once its manifest is there. `written`: when the newest of them was."""

    name: str
    complete: bool = False
    files: int = 0
    bytes: int = 0
    written: str = ""

    @property
    def created(self) -> str:
        """When it was begun, like 20260102T030405Z."""
        return created_of(self.name) or ""

    @property
    def order(self) -> tuple[str, str, str]:
        """Where it stands among others: of one whose clock was ahead the storage knows better when it was written."""
        return min(self.created, self.written), self.created, self.name


def stamp(now_us: int) -> str:
    """Write an instant as backups are named by it."""
    return datetime.fromtimestamp(now_us // 1_000_000, UTC).strftime(_CREATED)


async def list_backups(objects: Objects) -> list[Listed]:
    """List all backups, oldest first, those that were never finished among them."""
    found: dict[str, Listed] = {}
    async for page in objects.names(FOLDER):
        for info in page:
            name, _, file = info.name.removeprefix(FOLDER).partition("/")
            if created_of(name) is None or not file:
                continue
            listed = found.setdefault(name, Listed(name))
            listed.files += 1
            listed.bytes += info.size
            listed.complete = listed.complete or file == MANIFEST
            listed.written = max(listed.written, stamp(int(info.written_s * 1_000_000)))
    return sorted(found.values(), key=lambda listed: listed.order)


async def find_backup(objects: Objects, name: str) -> str:
    """Tell the folder of a backup, or of the newest one (`latest`), ending with a slash; raises NoSuchBackup."""
    listed = await list_backups(objects)
    complete = [each.name for each in listed if each.complete]
    if name == LATEST:
        if not complete:
            raise NoSuchBackup("There is no backup" + (", only unfinished ones" if listed else "") + _SHOWS)
        return f"{FOLDER}{complete[-1]}/"
    if name not in complete:
        half = any(each.name == name for each in listed)
        raise NoSuchBackup((f"{name} was never finished" if half else f"There is no backup {name}") + _SHOWS)
    return f"{FOLDER}{name}/"


async def load_manifest(objects: Objects, folder: str) -> Manifest:
    """Read the manifest of the backup in a folder; raises NoSuchBackup, BadBackup, CannotRestore."""
    name = folder + MANIFEST
    size = await objects.size(name)
    if size is None:
        raise NoSuchBackup(f"There is no {name}: it is no backup, or was never finished")
    if size > MAX_MANIFEST_BYTES:
        raise BadBackup(name, f"it has {size:,} bytes, which is more than a manifest can have")
    return read_manifest(name, await objects.read(name, 0, size))


async def keep_newest(objects: Objects, keep: int, now_us: int, made: str = "") -> list[str]:
    """Remove all backups but the newest `keep`, and unfinished ones that nobody can be writing; names those removed.

    The one just `made` always stays, and says how late it is at the storage, in case the clock here is ahead.
    """
    listed = await list_backups(objects)
    complete = [each for each in listed if each.complete]
    for each in listed:
        if each.name == made:
            written = datetime.strptime(each.written, _CREATED).replace(tzinfo=UTC)
            now_us = min(now_us, int(written.timestamp()) * 1_000_000)
    old_us = now_us - int(HALF_KEPT_S * 1_000_000)
    leaving = [each for each in complete[:-keep] if each.name != made] + [
        each for each in listed if not each.complete and each.written < stamp(old_us)
    ]
    for each in leaving:
        await _remove(objects, each.name)
    await asyncio.to_thread(_sweep, objects, old_us / 1_000_000)
    return [each.name for each in leaving]


def _sweep(objects: Objects, before_s: float) -> None:
    """Remove what killed backups left of parts that they were writing, in a local folder."""
    for path in objects.leftovers(f"{FOLDER}*/"):
        objects.remove_leftover(path, before_s)


async def _remove(objects: Objects, name: str) -> None:
    """Remove a backup, its manifest first: if that breaks off, what is left counts as no backup."""
    folder = f"{FOLDER}{name}/"
    await objects.delete([folder + MANIFEST])
    names = [info.name async for page in objects.names(folder) for info in page]
    await objects.delete(names)
