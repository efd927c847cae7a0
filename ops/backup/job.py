"""Backing a ledger up while it is in use: parts first, the manifest last."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ledger.errors import CorruptLedger, StoreReplyError
from ledger.store.interface import Store
from ops.backup.listing import keep_newest, stamp
from projections.archive.catalog import Archive
from projections.archive.objects import Objects
from projections.backup.dump import (
    NAMED,
    CatalogDump,
    PartitionDump,
    identity_lines,
    ledger_lines,
    libraries_of,
    live_lines,
)
from projections.backup.errors import CannotBackUp
from projections.backup.format import (
    FOLDER,
    FORMAT,
    MANIFEST,
    Event,
    Line,
    Manifest,
    Pairs,
    Part,
    PartitionParts,
    backup_name,
    pack_manifest,
)
from projections.backup.parts import PART_BYTES, PartWriter
from projections.bounded_tasks import each

ATTEMPTS: Final = 5
"""How often something is read again that changed while it was read."""
_PAUSE_S: Final = 0.2


class BackupOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds besides the ledger, and how it is written.

    `archive_url`: where the segments are. `keep`: how many backups are kept, all if None. `signing_keys`: encrypted.
    """

    version: str
    archive_url: str = ""
    with_catalog: bool = False
    keep: int | None = None
    signing_keys: bytes | None = None
    spool: Path | None = None
    part_bytes: int = PART_BYTES
    at_once: int = 4


class BackupReport(msgspec.Struct):
    """What was written. `segments`: how many in the archive belong to it. `damage`: what of the ledger is not in it."""

    name: str = ""
    partitions: int = 0
    events: int = 0
    lines: dict[str, int] = {}
    files: int = 0
    bytes: int = 0
    segments: int = 0
    libraries: int = 0
    signing_keys: str = ""
    removed: list[str] = []
    damage: list[str] = []


Progress = Callable[[BackupReport], None]


async def back_up(
    store: Store,
    archive: Archive | None,
    objects: Objects,
    partitions: int,
    options: BackupOptions,
    now_us: int,
    *,
    on_progress: Progress = lambda _: None,
) -> BackupReport:
    """Write a backup of a ledger into object storage, then remove old ones.

    What is damaged, or a library that cannot be read, is named and left out; then no old backup is removed. Raises
    CannotBackUp, ArchiveUnavailable, StoreUnavailable; what was written until then is no backup, and is removed with
    the old ones later. ObjectExists: somebody else began one in the same second.
    """
    return await _Job(store, archive, objects, partitions, options, now_us, on_progress).run()


class _Job:
    def __init__(
        self,
        store: Store,
        archive: Archive | None,
        objects: Objects,
        partitions: int,
        options: BackupOptions,
        now_us: int,
        on_progress: Progress,
    ) -> None:
        self.report = BackupReport(backup_name(stamp(now_us), options.version))
        self._store = store
        self._archive = archive
        self._objects = objects
        self._partitions = partitions
        self._options = options
        self._now_us = now_us
        self._on_progress = on_progress
        self._folder = f"{FOLDER}{self.report.name}/"
        self._held: list[PartitionParts] = []

    async def run(self) -> BackupReport:
        # First what nobody else writes under the same name: of two at the same second only one goes on.
        ledger = await self._write("ledger", self._ledger_lines())
        await each(range(self._partitions), self._partition, self._options.at_once)
        identities = await self._write("identities", identity_lines(self._store, self.report.damage))
        libraries, catalogs = await self._catalogs()
        await self._finish(libraries, [*ledger, *identities, *catalogs])
        if self._options.keep is not None and not self.report.damage:
            self.report.removed = await keep_newest(self._objects, self._options.keep, self._now_us, self.report.name)
        return self.report

    async def _partition(self, partition: int) -> None:
        try:
            await self._dump(partition)
        except (CorruptLedger, StoreReplyError) as error:
            self.report.damage.append(f"partition {partition} cannot be read: {error}")

    async def _dump(self, partition: int) -> None:
        async with self._writer(f"p{partition:03d}") as writer:
            for _ in range(ATTEMPTS):
                dump = await PartitionDump.open(self._store, self._archive, partition)
                count = 0
                async for lines in dump.lines():
                    await writer.add(*lines)
                    more = sum(isinstance(line, Event) for line in lines)
                    count, self.report.events = count + more, self.report.events + more
                    self._on_progress(self.report)
                if await dump.is_still_so():
                    break
                await writer.begin_again()
                self.report.events -= count
            else:
                raise CannotBackUp(f"Partition {partition} is archived again and again meanwhile; run it again")
            parts = await writer.finish()
        self.report.damage += [f"partition {partition}: {what}" for what in dump.damage[:NAMED]]
        if len(dump.damage) > NAMED:
            self.report.damage.append(f"partition {partition}: … and {len(dump.damage) - NAMED:,} more")
        if parts or dump.archived is not None:
            self._held.append(PartitionParts(partition, dump.last, dump.archived, parts))
            self.report.segments += dump.record.segments
        self.report.partitions += 1
        self._count(parts)

    async def _catalogs(self) -> tuple[list[str], list[Part]]:
        """Write the catalogs; one that cannot be read keeps nothing else from being saved."""
        libraries, parts = list[str](), list[Part]()
        for number, library in enumerate(await libraries_of(self._store) if self._options.with_catalog else ()):
            try:
                parts += await self._catalog(library, number)
                libraries.append(library)
            except (CannotBackUp, CorruptLedger, StoreReplyError) as error:
                self.report.damage.append(f"library {library}: {error}")
        return libraries, parts

    async def _catalog(self, library: str, number: int) -> list[Part]:
        """Write a library as it lies, or where it is written to its rows up to an instant."""
        async with self._writer(f"catalog{number:05d}") as writer:
            for _ in range(2):
                dump = await CatalogDump.open(self._store, library)
                async for lines in dump.lines():
                    await writer.add(*lines)
                if await dump.is_still_so():
                    break
                await writer.begin_again()
                await asyncio.sleep(_PAUSE_S)
            else:
                async for lines in live_lines(self._store, library):
                    await writer.add(*lines)
            parts = await writer.finish()
        self.report.libraries += 1
        self._count(parts)
        return parts

    async def _ledger_lines(self) -> AsyncIterator[Sequence[Line]]:
        async for lines in ledger_lines(self._store, self.report.damage):
            yield lines
        if self._options.signing_keys is not None:
            yield [Pairs("signing-keys", "", [(b"", self._options.signing_keys)])]

    async def _write(self, stem: str, pages: AsyncIterator[Sequence[Line]]) -> list[Part]:
        async with self._writer(stem) as writer:
            async for lines in pages:
                await writer.add(*lines)
            parts = await writer.finish()
        self._count(parts)
        return parts

    async def _finish(self, libraries: list[str], others: list[Part]) -> None:
        """Write the manifest, once all files are seen to be there: this is what makes it a backup."""
        manifest = Manifest(
            format=FORMAT,
            version=self._options.version,
            created=stamp(self._now_us),
            partitions=self._partitions,
            archive=self._options.archive_url if self.report.segments else "",
            events=sum(part.lines.get("events", 0) for held in self._held for part in held.parts),
            libraries=libraries,
            signing_keys=self._options.signing_keys is not None,
            held=sorted(self._held, key=lambda held: held.partition),
            others=others,
            damage=self.report.damage,
        )
        there = {info.name: info.size async for page in self._objects.names(self._folder) for info in page}
        for part in manifest.parts:
            if there.get(self._folder + part.name) != part.size:
                raise CannotBackUp(f"{self._folder}{part.name} is not there as it was written: it is no backup")
        packed = pack_manifest(manifest)
        with tempfile.TemporaryFile(dir=self._options.spool) as file:
            file.write(packed)
            await self._objects.create(self._folder + MANIFEST, file)
        self.report.events = manifest.events
        self.report.files += 1
        self.report.bytes += len(packed)

    def _writer(self, stem: str) -> PartWriter:
        return PartWriter(
            self._objects, self._folder, stem, spool=self._options.spool, part_bytes=self._options.part_bytes
        )

    def _count(self, parts: list[Part]) -> None:
        for part in parts:
            self.report.files += 1
            self.report.bytes += part.size
            for kind, count in part.lines.items():
                self.report.lines[kind] = self.report.lines.get(kind, 0) + count
        self._on_progress(self.report)
