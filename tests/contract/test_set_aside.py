"""A stream entry that is no event: it is named and kept, and all that is not its own goes on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import projections.checking.aside
from ledger import keys
from ledger.commands import CreateSession, EndSession
from ledger.errors import Rebuilding
from ledger.log import whole
from ledger.log.service import Ledger
from ledger.log.stored_sessions import find_strays
from ledger.personal import plain
from ledger.store.interface import Store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from ops.archive.report import ArchiveReport
from projections.archive.catalog import Archive
from projections.archive.objects import open_objects
from projections.checking.aside import CannotSetAside, Decision, find_entry, read_asides, set_aside
from projections.checking.rebuild import Rebuild, RebuildReport
from projections.checking.verify import verify
from projections.history.event_pages import EventPages
from projections.history.session_history import Wanted
from projections.history.user_history import user_pages
from tests.contract.test_rebuild import damage
from tests.support.ledger import backups
from tests.support.ledger.given import NOW, offer
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.ledger.lives import delete_projections, dump

PARTITIONS = 2
PHONE, TABLET = map(sid_of, ("phone", "tablet"))
OLGA = Decision("of a test of another service", "olga", NOW)
EVERYTHING = ArchiveOptions(hot_events=0, segment_events=50, lease_s=5.0)


@pytest.fixture
async def ledger(valkey_store: Store) -> Ledger:
    await whole.mark_new(valkey_store, PARTITIONS)
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    for sid in (PHONE, TABLET):
        await ledger.execute("ann", sid, CreateSession("ann", "photos"))
        await ledger.execute("ann", sid, offer("AssetV1"))
    return ledger


async def foreign(ledger: Ledger) -> str:
    """Have somebody else add an entry of theirs to the stream."""
    name = keys.stream(ledger.partition_of("ann"))
    return str((await ledger.store.command("XADD", name, "*", "foo", "bar", key=name)).decode())


async def rebuilt(ledger: Ledger, sealed: Archive | None = None) -> RebuildReport:
    made = Rebuild(ledger.store, "one", sealed=sealed)
    await made.partitions(range(PARTITIONS), await find_strays(ledger.store, PARTITIONS))
    return made.report


async def aside(ledger: Ledger, entry_id: str, decision: Decision = OLGA) -> None:
    partition = ledger.partition_of("ann")
    await set_aside(ledger.store, partition, await find_entry(ledger.store, partition, entry_id), decision)


async def archived(ledger: Ledger, tmp_path: Path) -> tuple[ArchiveReport, Archive]:
    objects = open_objects(f"file://{tmp_path}/archive")
    report = await archive(ledger.store, objects, range(PARTITIONS), EVERYTHING, NOW + 5)
    return report, Archive(ledger.store, objects)


async def test_a_foreign_entry_is_named_and_all_else_is_rebuilt(ledger: Ledger) -> None:
    partition, entry_id = ledger.partition_of("ann"), await foreign(ledger)
    (found,) = (await verify(ledger.store, PARTITIONS)).differences
    assert (found.session, found.event, found.repairable) == ("", entry_id, False)
    assert f"syncledger set-aside {partition} {entry_id}" in found.what
    before = await dump(ledger.store)
    await delete_projections(ledger.store, PARTITIONS)
    report = await rebuilt(ledger)
    assert ([each.event for each in report.named], report.not_whole, report.written) == ([entry_id], [], 2)
    assert await dump(ledger.store) == before
    pages = user_pages(EventPages(ledger.store), partition, "ann", Wanted())
    assert sum([len(page.events) async for page in pages]) == 4


async def test_what_is_set_aside_is_kept_and_named_for_good(ledger: Ledger) -> None:
    partition, entry_id = ledger.partition_of("ann"), await foreign(ledger)
    await aside(ledger, entry_id)
    for _ in range(2):
        report = await verify(ledger.store, PARTITIONS)
        (found,) = report.differences
        assert (report.different, report.aside, found.event, found.session) == (1, 1, entry_id, "")
        assert "set aside by olga at 2" in found.what
        assert found.what.endswith(OLGA.why)
        assert (await rebuilt(ledger)).is_complete
    (kept,) = (await read_asides(ledger.store, partition)).values()
    assert (kept.held, kept.by, kept.why, kept.at_us) == ([b"foo", b"bar"], "olga", OLGA.why, NOW)
    with pytest.raises(CannotSetAside, match="has no stream entry"):
        await aside(ledger, entry_id)


async def test_an_event_is_never_set_aside(ledger: Ledger) -> None:
    partition = ledger.partition_of("ann")
    before = await dump(ledger.store)
    head = before[keys.session(partition, PHONE)][b"head"].decode()
    with pytest.raises(CannotSetAside, match="is an event"):
        await aside(ledger, head)
    assert await dump(ledger.store) == before
    await damage(ledger.store, partition, PHONE, 2, event=msgspec.msgpack.encode(["from_the_future", 1]))
    with pytest.raises(CannotSetAside, match="may be an event"):
        await aside(ledger, head)


@pytest.mark.parametrize("values", [{"sid": b"x"}, {"event": b"\xc1"}], ids=["of whom is not known", "of a session"])
async def test_a_sessions_last_event_that_is_set_aside_leaves_it_broken(
    ledger: Ledger, tmp_path: Path, values: dict[str, bytes]
) -> None:
    """It was the session's end: without it the session would come back to life."""
    partition = ledger.partition_of("ann")
    await ledger.execute("ann", PHONE, EndSession("logout", plain("ann")))
    entry_id = await damage(ledger.store, partition, PHONE, 3, **values)
    await aside(ledger, entry_id)
    await delete_projections(ledger.store, PARTITIONS)
    report = await rebuilt(ledger)
    assert ([each.session for each in report.named], report.not_whole, report.written) == ([PHONE], [], 1)
    with pytest.raises(Rebuilding):
        await Ledger(ledger.store, PARTITIONS, Clock()).load("ann", PHONE)
    # So it is when its events are in a segment, from which nothing else is known.
    await ledger.execute("ann", TABLET, offer("AlbumV2"))
    sealed, found = await archived(ledger, tmp_path)
    assert (sealed.failures, [each.session for each in sealed.named]) == ([], [PHONE])
    await delete_projections(ledger.store, PARTITIONS)
    report = await rebuilt(ledger, found)
    assert ([each.session for each in report.named], report.written) == ([PHONE], 1)


async def test_an_entry_beside_a_session_that_goes_on_does_not_break_it(ledger: Ledger, tmp_path: Path) -> None:
    """Somebody copied an event badly: the session itself knows its own last event."""
    name = keys.stream(ledger.partition_of("ann"))
    bad = ("sid", bytes.fromhex(PHONE), "seq", "9", "event", b"\xc1")
    entry_id = (await ledger.store.command("XADD", name, "*", *bad, key=name)).decode()
    failed, _ = await archived(ledger, tmp_path)
    (failure,) = failed.failures
    assert f"syncledger set-aside {ledger.partition_of('ann')} {entry_id}" in failure.what
    assert failed.events == 4, "what is before it is sealed"
    await aside(ledger, entry_id)
    report, found = await archived(ledger, tmp_path)
    assert (report.failures, report.broken) == ([], 0)
    assert [each.event for each in (await verify(ledger.store, PARTITIONS, archive=found)).differences] == [entry_id]
    assert [each.session for each in (await rebuilt(ledger, found)).named] == []


async def test_archiving_goes_on_past_a_foreign_entry_and_keeps_it(ledger: Ledger, tmp_path: Path) -> None:
    entry_id = await foreign(ledger)
    await ledger.execute("ann", PHONE, EndSession("logout", plain("ann")))
    report, found = await archived(ledger, tmp_path)
    assert (report.failures, report.events, report.aside) == ([], 5, 1)
    partition = ledger.partition_of("ann")
    assert await ledger.store.command("XLEN", name := keys.stream(partition), key=name) == 0
    (kept,) = (await read_asides(ledger.store, partition)).values()
    assert (kept.by, kept.held) == ("archive", [b"foo", b"bar"])
    (named,) = (await verify(ledger.store, PARTITIONS, archive=found)).differences
    assert named.event == entry_id
    again, _ = await archived(ledger, tmp_path)
    assert (again.failures, again.broken) == ([], 0)


async def test_so_many_entries_are_set_aside_and_no_more(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections.checking.aside, "MOST", 3)
    for _ in range(5):
        await foreign(ledger)
    report, _ = await archived(ledger, tmp_path)
    (failure,) = report.failures
    assert "find who writes to its stream" in failure.what
    partition = ledger.partition_of("ann")
    assert len(await read_asides(ledger.store, partition)) == 3
    assert await ledger.store.command("XLEN", name := keys.stream(partition), key=name) == 2


async def test_an_entry_of_whom_is_not_known_leaves_a_whole_partition_whole(ledger: Ledger) -> None:
    partition = ledger.partition_of("ann")
    bad = ("sid", b"x", "seq", "1", "prev", "")
    await ledger.store.command("XADD", name := keys.stream(partition), "*", *bad, key=name)
    before = await dump(ledger.store)
    report = await rebuilt(ledger)
    assert (report.not_whole, report.broken, report.is_complete) == ([], 1, False)
    assert await dump(ledger.store) == before
    await delete_projections(ledger.store, PARTITIONS)
    assert (await rebuilt(ledger)).not_whole == [partition], "it may be any session's end"


async def test_what_is_set_aside_is_in_a_backup(valkey_store: Store, tmp_path: Path) -> None:
    objects = open_objects(f"file://{tmp_path}/archive")
    ledger = await backups.full(valkey_store, objects)
    partition = ledger.partition_of("user-0")
    name = keys.stream(partition)
    entry_id = (await valkey_store.command("XADD", name, "*", "foo", "bar", key=name)).decode()
    await set_aside(valkey_store, partition, await find_entry(valkey_store, partition, entry_id), OLGA)
    await backups.saved(valkey_store, objects)
    before = await read_asides(valkey_store, partition)
    await valkey_store.each_primary("FLUSHALL")
    report = await backups.restored(valkey_store, objects)
    assert await read_asides(valkey_store, partition) == before
    assert (report.broken, report.verified.aside) == ([], 1)
