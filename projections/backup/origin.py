"""What a ledger is restored from: a backup, or an archive's segments and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Final, Protocol

import msgspec

from ledger import keys
from ledger.log.append import parse_ended
from ledger.store.interface import Store
from projections.archive.catalog import Archive
from projections.archive.errors import BadSegment
from projections.archive.fold import Fold, read_fold
from projections.archive.format import EndedLine, Name, StateLine, parse_name, place
from projections.archive.objects import Objects
from projections.archive.record import Record
from projections.archive.segment import Segment
from projections.backup.errors import BadBackup, CannotRestore
from projections.backup.format import Event, Key, Line, Manifest, Pairs, Part, State
from projections.backup.parts import check_part, read_lines
from projections.checking.partition_fold import Sealed

_EVENTS_OF: Final = "events"


class Origin(Protocol):
    """What a ledger is restored from. `mark` names it, so that an interrupted restore goes on with the same only."""

    mark: str
    partitions: int
    sealed: Sealed

    def record(self, partition: int) -> Record:
        """Tell how far a partition was archived."""
        ...

    def events(self, partition: int) -> AsyncIterator[list[Event]]:
        """Read the events behind the archive's floor."""
        ...

    def beside(self, partition: int) -> AsyncIterator[list[Pairs]]:
        """Read what is beside a partition's events."""
        ...

    def others(self) -> AsyncIterator[list[Pairs]]:
        """Read what belongs to no partition."""
        ...


class FromBackup:
    """A backup in a folder of some storage; `archive`: where the segments are that it names, None without any there."""

    def __init__(self, objects: Objects, folder: str, manifest: Manifest, archive: Archive | None) -> None:
        self.mark = "backup " + sha256(msgspec.json.encode(manifest)).hexdigest()
        self.partitions = manifest.partitions
        self.manifest = manifest
        self.sealed: Sealed = SealedInBackup(self) if archive is None else archive
        self._objects = objects
        self._folder = folder
        self._archive = archive
        self._held = {held.partition: held for held in manifest.held}
        self._records = {held.partition: held.record for held in manifest.held}

    async def check(self) -> AsyncIterator[Part]:
        """Read every file and compare it with its digest, and see that segments go on as the backup; yields each.

        Raises BadBackup, BadSegment, CannotRestore.
        """
        for held in self.manifest.held:
            if self._archive is not None and held.archived is not None:
                await self._check_archive(self._archive, held.partition)
        for part in self.manifest.parts:
            await check_part(self._objects, self._folder, part)
            yield part

    def record(self, partition: int) -> Record:
        """Tell how far a partition was archived."""
        return self._records.get(partition, Record())

    async def events(self, partition: int) -> AsyncIterator[list[Event]]:
        """Read the events behind the archive's floor."""
        async for lines in self.lines(partition, [_EVENTS_OF]):
            yield [line for line in lines if isinstance(line, Event)]

    async def beside(self, partition: int) -> AsyncIterator[list[Pairs]]:
        """Read what is beside a partition's events."""
        wanted: list[Key] = ["activity", "credentials", "aside"]
        async for lines in self.lines(partition, wanted):
            yield [line for line in lines if isinstance(line, Pairs) and line.key in wanted]

    async def others(self) -> AsyncIterator[list[Pairs]]:
        """Read what belongs to no partition."""
        for part in self.manifest.others:
            async for lines in read_lines(self._objects, self._folder, part):
                yield [line for line in lines if isinstance(line, Pairs)]

    async def lines(self, partition: int, kinds: Sequence[str]) -> AsyncIterator[list[Line]]:
        """Read the parts of a partition that hold any of these."""
        held = self._held.get(partition)
        for part in held.parts if held is not None else ():
            if any(kind in part.lines for kind in kinds):
                async for lines in read_lines(self._objects, self._folder, part):
                    yield lines

    def place_of(self, partition: int) -> str:
        """Name where a partition's parts are."""
        return f"{self._folder}p{partition:03d}"

    async def _check_archive(self, archive: Archive, partition: int) -> None:
        """See that the segments are those the backup names, and that none holds events it does not know of."""
        held, record = self._held[partition], self._held[partition].record
        await archive.newest_of(record)
        names = await archive.objects_of(partition)
        counted = [name for name in names if place(name.last) <= place(record.floor)]
        if len(counted) != record.segments:  # retention may have removed some since
            found = await _record(archive, counted, self.partitions)
            self._records[partition] = record._replace(segments=found.segments, cut=found.cut)
        for name in names:
            if place(name.last) > place(held.last):
                raise CannotRestore(
                    f"Segment {name} holds events that came after this backup. Restore a later one, or "
                    "--from-segments; or move it out of the archive: then these events are given up"
                )


class SealedInBackup:
    """What a backup itself knows of the sessions up to the archive's floor, where the archive is not at hand."""

    def __init__(self, backup: FromBackup) -> None:
        self._backup = backup

    async def states(self, partition: int) -> AsyncIterator[list[tuple[str, Fold]]]:
        """Read the sessions alive at the floor, some at a time."""
        async for lines in self._backup.lines(partition, ["states"]):
            yield [(line.sid, self._fold(partition, line)) for line in lines if isinstance(line, State)]

    async def ended(self, partition: int) -> AsyncIterator[list[EndedLine]]:
        """Read the sessions that ended at or below it, some at a time."""
        async for lines in self._backup.lines(partition, ["ended"]):
            for line in lines:
                if isinstance(line, Pairs) and line.key == "ended":
                    yield [_ended(sid, kept) for sid, kept in line.pairs]

    def _fold(self, partition: int, line: State) -> Fold:
        name = self._backup.place_of(partition)
        try:
            return read_fold(name, StateLine(line.sid, line.session, line.checkpoints, line.head, line.broken))
        except BadSegment as error:
            raise BadBackup(name, f"the state of session {line.sid} cannot be read") from error


class FromSegments:
    """An archive alone: what lay in the streams behind its newest segments is lost, and all that was beside them."""

    def __init__(self, store: Store, objects: Objects, partitions: int, records: dict[int, Record]) -> None:
        self.partitions = partitions
        self.sealed: Sealed = Archive(store, objects)
        self.mark = "segments " + sha256(msgspec.json.encode(sorted(records.items()))).hexdigest()
        self._records = records

    def record(self, partition: int) -> Record:
        """Tell how far a partition is archived."""
        return self._records.get(partition, Record())

    async def events(self, partition: int) -> AsyncIterator[list[Event]]:
        """Read nothing: no events are behind the newest segment."""
        for nothing in list[list[Event]]():
            yield nothing

    async def beside(self, partition: int) -> AsyncIterator[list[Pairs]]:
        """Read nothing: segments hold nothing but events."""
        for nothing in list[list[Pairs]]():
            yield nothing

    async def others(self) -> AsyncIterator[list[Pairs]]:
        """Read nothing: segments hold nothing but events."""
        for nothing in list[list[Pairs]]():
            yield nothing


async def find_records(store: Store, objects: Objects, partitions: int) -> AsyncIterator[tuple[int, Record]]:
    """Find how far each partition is archived, from nothing but its segments, each of which is read and checked.

    Yields partitions without segments too. Raises BadSegment, ObjectMissing; CannotRestore if users are in other
    partitions than they would be.
    """
    archive = Archive(store, objects)
    await _check_count(objects, partitions)
    for partition in range(partitions):
        names = await archive.objects_of(partition)
        yield partition, await _record(archive, names, partitions) if names else Record()


async def _record(archive: Archive, names: list[Name], partitions: int) -> Record:
    """Follow a partition's segments from its newest one back; where they begin is where retention cut, or the past."""
    there = {str(name) for name in names}
    newest = max(names, key=lambda name: place(name.last))
    segment = await Segment.open(archive.objects, str(newest))
    digest, count, cut = segment.digest.hex(), 0, ""
    while True:
        await segment.check_frames()
        async for lines in segment.states():
            for line in lines:
                _check_partition(line, newest.partition, partitions)
        count += 1
        previous = (await segment.header()).previous
        if previous is None:
            break
        if previous.name not in there:
            name = parse_name(previous.name)
            if name is None or any(place(other.last) <= place(name.last) for other in names):
                raise BadSegment(segment.text, f"it follows {previous.name}, which is not in the archive")
            cut = name.last  # as retention leaves it: nothing older is there
            break
        segment = await Segment.open(archive.objects, previous.name)
        if segment.digest.hex() != previous.digest:
            raise BadSegment(previous.name, "its digest is not the one that the segment behind it names")
    return Record(newest.last, str(newest), digest, count, cut)


async def _check_count(objects: Objects, partitions: int) -> None:
    """See that no segment is of a partition beyond the last one."""
    async for page in objects.names():
        for info in page:
            name = parse_name(info.name)
            if name is not None and name.partition >= partitions:
                raise CannotRestore(
                    f"{info.name} is of a partition beyond the last of {partitions}: set LEDGER_PARTITIONS to the "
                    "count that the ledger was created with"
                )


def _check_partition(line: StateLine, partition: int, partitions: int) -> None:
    user = line.session.get("user", b"").decode(errors="replace")
    if not line.broken and keys.partition_of(user, partitions) != partition:
        raise CannotRestore(
            f"A user of partition {partition} would not be there with {partitions} partitions: set LEDGER_PARTITIONS "
            "to the count that the ledger was created with"
        )


def _ended(sid: bytes, kept: bytes) -> EndedLine:
    ended = parse_ended(kept)
    return EndedLine(sid.decode(), ended.head, ended.seq, ended.hash.hex(), ended.user)
