"""The log beside the archive: what is sealed already is logged too, and nothing leaves before it is logged."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.store.interface import Store
from ops.archive.job import preview
from projections.archive.catalog import Archive
from projections.archive.objects import open_objects
from projections.archive.record import read_record
from projections.transparency.errors import LogRefused
from projections.transparency.job import logged_by
from tests.support.ledger.archives import ALL, OLD, archived, past, sealed, stream
from tests.support.ledger.given import NOW, offered
from tests.support.ledger.ledgers import PARTITION, Log, sid_of
from tests.support.ledger.logs import LEDGER, Audit, log_of, place_at, run


@pytest.fixture
async def store(valkey_store: Store) -> Store:
    """A store that holds a ledger."""
    await valkey_store.command("HSET", keys.meta(), "partitions", 8, "id", LEDGER, key=keys.meta())
    return valkey_store


async def test_what_was_archived_before_the_log_began_is_logged_from_segments(store: Store, tmp_path: Path) -> None:
    log, objects = await past(store), open_objects((tmp_path / "archive").as_uri())
    found, place = Archive(store, objects), place_at()
    await archived(store, objects, replace(ALL, hot_events=30))
    before = [entry.recorded for entry in [*await sealed(found), *await stream(store)]]
    assert len(await stream(store)) == 30
    blind = await run(log_of(store, place))
    assert list(blind.stopped) == [PARTITION]
    assert "LEDGER_ARCHIVE" in blind.stopped[PARTITION]
    report = await run(log_of(store, place, archive=found))
    assert (report.events, report.stopped, report.refused) == (len(before), {}, 0)
    audit = await Audit.of(place)
    assert [leaf[1:] for leaf in audit.events] == [(bytes.fromhex(e.sid), e.seq, e.hash) for e in before]
    await log.create("new")
    assert (await run(log_of(store, place, archive=found))).events == 1


async def test_where_retention_cut_a_history_the_log_begins_there(store: Store, tmp_path: Path) -> None:
    log, objects = await past(store), open_objects((tmp_path / "archive").as_uri())
    found, place = Archive(store, objects), place_at()
    await archived(store, objects, replace(ALL, hot_events=30, retention_s=0.0), now_us=NOW + 10**15)
    assert (await read_record(store, PARTITION)).cut
    kept = [entry.recorded for entry in [*await sealed(found), *await stream(store)]]
    report = await run(log_of(store, place, archive=found))
    assert (report.events, report.refused, report.stopped) == (len(kept), 0, {})
    phone = await log.load(sid_of("phone"))
    assert phone is not None
    await log.append(phone, offered("AssetV1"))
    assert (await run(log_of(store, place, archive=found))).refused == 0
    await Audit.of(place)


async def test_nothing_is_sealed_or_removed_before_it_is_logged(store: Store, tmp_path: Path) -> None:
    log, objects, place = await past(store), open_objects((tmp_path / "archive").as_uri()), place_at()
    found = Archive(store, objects)
    await run(log_of(store, place))
    phone = await log.load(sid_of("phone"))
    assert phone is not None
    for number in range(20):
        phone = await log.append(phone, offered("AssetV1", snapshot_us=number))
    logged = await logged_by(store, log_of(store, place))
    assert logged is not None
    whole = await stream(store)
    options = replace(ALL, logged=logged)
    planned = await preview(store, [PARTITION], options, NOW)
    assert (planned.events, planned.held_up) == (len(whole) - 20, 1)
    report = await archived(store, objects, options)
    assert (report.events, report.held_up, report.failures) == (len(whole) - 20, 1, [])
    assert [entry.id for entry in await stream(store)] == [entry.id for entry in whole[-20:]]
    await run(log_of(store, place, archive=found))
    options = replace(ALL, logged=await logged_by(store, log_of(store, place)), retention_s=0.0)
    report = await archived(store, objects, options, now_us=NOW + 10**15)
    assert (report.events, report.held_up) == (20, 0)
    await Audit.of(place)


async def test_what_ended_is_not_forgotten_before_it_is_logged(store: Store, tmp_path: Path) -> None:
    await past(store)
    objects = open_objects((tmp_path / "archive").as_uri())
    await archived(store, objects, replace(ALL, hot_events=0))  # before there was a log
    behind = {PARTITION: (await Archive(store, objects).segments(PARTITION))[0].first}
    later = NOW + 10**15
    report = await archived(store, objects, replace(ALL, retention_s=0.0, logged=behind), now_us=later)
    assert (report.removed, report.failures) == (0, [])
    assert await store.command("HEXISTS", keys.ended(PARTITION), OLD, key=keys.ended(PARTITION))
    report = await archived(store, objects, replace(ALL, retention_s=0.0), now_us=later)
    assert report.removed > 0, "as it is without a log"


async def test_without_its_log_at_hand_nothing_leaves_the_store(store: Store) -> None:
    assert await logged_by(store, None) is None, "a ledger without a log"
    assert await logged_by(store, log_of(store, place_at())) is None
    await Log(store).create()
    await run(log_of(store, place_at()))
    with pytest.raises(LogRefused, match="LEDGER_PROOF"):
        await logged_by(store, None)
