"""An archive that is damaged or not all there: verify and rebuild name the partition, and go on with the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ledger import keys
from ledger.log.stored_sessions import Strays
from ledger.log.whole import is_whole
from ledger.store.interface import Store
from projections.archive.catalog import Archive
from projections.archive.errors import ObjectMissing
from projections.archive.fold import Fold
from projections.archive.format import EndedLine
from projections.checking.partition_fold import PartitionFold
from projections.checking.rebuild import Rebuild
from projections.checking.verify import verify
from tests.support.ledger.archives import PHONE, archived, opened, past
from tests.support.ledger.ledgers import PARTITION

PARTITIONS = PARTITION + 2
OTHER = PARTITION + 1


@pytest.fixture
async def archive(valkey_store: Store, tmp_path: Path) -> Archive:
    """The archive of two partitions, each with one segment and nothing behind it."""
    objects = opened(tmp_path / "archive")
    for partition in (PARTITION, OTHER):
        await past(valkey_store, 3, partition)
        await valkey_store.command("SET", name := keys.whole(partition), "1", key=name)
        await archived(valkey_store, objects, partition=partition)
    return Archive(valkey_store, objects)


def segment_of(path: Path, partition: int) -> Path:
    (found,) = (path / "archive" / f"p{partition:03}").iterdir()
    return found


async def test_verify_goes_on_behind_a_segment_that_is_missing_or_cut_off(
    valkey_store: Store, archive: Archive, tmp_path: Path
) -> None:
    await valkey_store.command("HSET", name := keys.session(OTHER, PHONE), "library", "other", key=name)
    segment = segment_of(tmp_path, PARTITION)
    whole = segment.read_bytes()
    for damage in (b"", whole[:-1]):
        segment.write_bytes(damage) if damage else segment.unlink()
        report = await verify(valkey_store, PARTITIONS, sealed=Archive(valkey_store, archive.objects))
        named = {difference.partition: difference for difference in report.differences}
        assert sorted(named) == [PARTITION, OTHER]
        assert segment.name in named[PARTITION].what
        assert (named[OTHER].session, named[OTHER].what.split()[-1]) == (PHONE, "library")
        segment.write_bytes(whole)


async def test_rebuild_goes_on_behind_a_segment_that_is_missing(
    valkey_store: Store, archive: Archive, tmp_path: Path
) -> None:
    for partition in (PARTITION, OTHER):
        await valkey_store.command("DEL", name := keys.session(partition, PHONE), key=name)
        await valkey_store.command("DEL", name := keys.whole(partition), key=name)
    segment = segment_of(tmp_path, PARTITION)
    whole = segment.read_bytes()
    segment.unlink()
    made = Rebuild(valkey_store, "t", sealed=Archive(valkey_store, archive.objects))
    for partition in (PARTITION, OTHER):
        await made.partition(partition, Strays({}, {}))
    assert (made.report.not_whole, made.report.broken) == ([PARTITION], 1)
    assert segment.name in made.report.named[0].what
    assert [await is_whole(valkey_store, partition) for partition in (PARTITION, OTHER)] == [False, True]
    segment.write_bytes(whole)
    again = Rebuild(valkey_store, "u", sealed=Archive(valkey_store, archive.objects))
    await again.partition(PARTITION, Strays({}, {}))
    assert again.report.is_complete
    assert (await verify(valkey_store, PARTITIONS, sealed=archive)).different == 0


class CutMeanwhile:
    """An archive whose oldest segment retention removes while it is read, the first time."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.reads = 0

    async def states(self, partition: int) -> AsyncIterator[list[tuple[str, Fold]]]:
        async for page in self._archive.states(partition):
            yield page

    async def ended(self, partition: int) -> AsyncIterator[list[EndedLine]]:
        self.reads += 1
        if self.reads == 1:
            await self._archive.store.command("HSET", name := keys.archive(partition), "cut", "1-1", key=name)
            raise ObjectMissing("object p000/x is not in the archive")
        async for page in self._archive.ended(partition):
            yield page


async def test_a_segment_that_retention_removes_meanwhile_is_not_missing(valkey_store: Store, archive: Archive) -> None:
    sealed = CutMeanwhile(archive)
    fold = PartitionFold(valkey_store, PARTITION, sealed=sealed)
    await fold.forward()
    assert (sealed.reads, fold.faults) == (2, [])
    assert fold.of(PHONE).seq > 0
