"""Archives for tests: partitions with a past, where segments go, and what all of it together holds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from obstore.store import LocalStore

from ledger import keys
from ledger.events import SessionCreated, SessionEnded
from ledger.log.reader import Entry, read_partition
from ledger.personal import plain
from ledger.store.interface import Store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from ops.archive.report import ArchiveReport
from projections.archive.catalog import Archive
from projections.archive.objects import Objects, open_objects
from projections.checking.verify import Report, verify
from projections.history.event_pages import EventPages
from tests.support.ledger.given import NOW, ack, cleared, moved, offered
from tests.support.ledger.ledgers import PARTITION, Log, sid_of

NAMES: Final = ("phone", "tablet", "old", "late")
PHONE, TABLET, OLD, LATE = map(sid_of, NAMES)
ALL: Final = ArchiveOptions(hot_events=0, segment_events=50, lease_s=5.0)
"""Archive everything, in small segments."""


async def past(store: Store, rounds: int = 60, partition: int = PARTITION) -> Log:
    """Make a partition with a past: three sessions' events among each other, one of which ended, and one of late."""
    log = Log(store, partition)
    phone, tablet, old = [await log.create(name) for name in NAMES[:3]]
    for number in range(rounds):
        at_us = NOW + 1000 * number
        if number % 10 == 0:
            await asyncio.sleep(0.002)  # so that segments do not end in the same millisecond
        phone = await log.append(phone, offered("AssetV1", snapshot_us=at_us), at_us=at_us)
        phone = await log.append(phone, moved(ack("AssetV1", at_us - 1, f"a{number}")), at_us=at_us)
        if number % 3 == 0:
            tablet = await log.append(tablet, offered("AlbumV2", "AssetV2", snapshot_us=at_us), at_us=at_us)
        if number == rounds // 2:
            old = await log.append(old, cleared("AssetV1"), SessionEnded("logout", plain("ann")), at_us=at_us)
    await log.create("late", SessionCreated("ann", "photos", parent=PHONE, device_type=plain("Web")), at_us=NOW + 10**9)
    return log


async def archived(
    store: Store, objects: Objects, options: ArchiveOptions = ALL, *, now_us: int = NOW, partition: int = PARTITION
) -> ArchiveReport:
    """Archive one partition."""
    return await archive(store, objects, [partition], options, now_us)


async def stream(store: Store, partition: int = PARTITION) -> list[Entry]:
    """Read what is in the hot stream."""
    return [entry async for page in read_partition(store, partition) for entry in page]


async def sealed(found: Archive, partition: int = PARTITION) -> list[Entry]:
    """Read what is in the segments that count."""
    entries = []
    for name in await found.segments(partition):
        async for page in (await found.open(name)).pages():
            entries += page
    return entries


async def everything(store: Store, found: Archive, partition: int = PARTITION) -> list[Entry]:
    """Read segments and then the stream."""
    return await sealed(found, partition) + await stream(store, partition)


async def histories(
    store: Store, found: Archive | None, sids: Sequence[str] = (PHONE, TABLET, OLD, LATE), page: int = 1000
) -> dict[str, list[Entry]]:
    """Read sessions' histories as their readers do, newest first, in pages."""
    read: dict[str, list[Entry]] = {}
    for sid in sids:
        entries, top = list[Entry](), 2**53
        while top > 0:
            walk = await EventPages(store, found).page(PARTITION, sid, top_seq=top, count=page)
            entries += walk.entries
            top = walk.entries[-1].recorded.seq - 1 if walk.entries else 0
        read[sid] = entries
    return read


async def length(store: Store, partition: int = PARTITION) -> int:
    """Tell how many events are in the hot stream."""
    name = keys.stream(partition)
    return int(await store.command("XLEN", name, key=name))


async def checked(archive: Archive, partition: int = PARTITION) -> Report:
    """Verify a partition with all its segments."""
    return await verify(archive.store, partition + 1, only=[partition], archive=archive)


def opened(path: Path) -> Objects:
    """Open a folder for segments."""
    return open_objects(f"file://{path}")


class Dying(Objects):
    """Object storage whose writer ends right after it wrote the object of that number, as a killed process would."""

    def __init__(self, path: Path, number: int = 1) -> None:
        super().__init__(LocalStore(path, mkdir=True), path)
        self._left = number

    async def create(self, name: str, file: IO[bytes]) -> None:
        await super().create(name, file)
        self._left -= 1
        if self._left == 0:
            raise Killed


class Killed(BaseException):
    """The end of a process."""
