"""A log that is pruned: what is below its minimum index is gone, and all above is proved as before."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.store.interface import Store
from ledger.transparency.merkle import check_consistency
from ledger.transparency.session_proof import check, words
from ledger.transparency.tiles import tile_of, unpack_bundle
from ops.proof import check as auditors
from ops.witness.client import post
from ops.witness.state import WitnessState
from projections.archive.catalog import Archive
from projections.archive.objects import open_objects
from projections.history.event_pages import EventPages
from projections.transparency.job import logged_by
from projections.transparency.monitor import log_check
from projections.transparency.monitor.monitor import monitor
from projections.transparency.place import LogPlace
from projections.transparency.proving import prove
from projections.transparency.pruning import prune
from projections.transparency.published import PublishedLog
from projections.transparency.tree import TreeReader
from projections.transparency.witnesses import Witness, Witnesses
from tests.contract.test_notary import PARTITIONS, Writer
from tests.contract.test_witness import NAME, serving
from tests.support.ledger import second_verifier as second
from tests.support.ledger.archives import ALL, archived
from tests.support.ledger.given import NOW, offered
from tests.support.ledger.ledgers import Log, sid_of
from tests.support.ledger.logs import (
    KEY,
    LEDGER,
    ORIGIN,
    Audit,
    FailingObjects,
    Killed,
    forget_lease,
    log_of,
    place_at,
    run,
)  # fmt: skip

LONG_AGO_S = 1_000_000_000.0


@pytest.fixture
async def store(valkey_store: Store) -> Store:
    """A store that holds a ledger."""
    await valkey_store.command("HSET", keys.meta(), "partitions", PARTITIONS, "id", LEDGER, key=keys.meta())
    return valkey_store


@pytest.fixture
async def writer(store: Store, tmp_path: Path) -> Writer:
    """A log of three runs, of which two were signed long ago; one of its sessions was silent since the first."""
    writer = Writer(store)
    await Log(store, 5).create("silent")
    for n in range(3):
        await writer.act(260)
        await run(log_of(store, place_at((tmp_path / "log").as_uri())))
        if n < 2:
            for path in (tmp_path / "log" / "checkpoints").iterdir():
                os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return writer


@pytest.fixture
def place(tmp_path: Path) -> LogPlace:
    return place_at((tmp_path / "log").as_uri())


async def test_what_is_above_is_proved_as_before(
    store: Store, place: LogPlace, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await Audit.of(place)
    assert (await prune(place, LONG_AGO_S)).minimum == 0, "nothing is as old"
    planned = await prune(place, LONG_AGO_S + 1, dry_run=True)
    pruned = await prune(place, LONG_AGO_S + 1)
    assert (pruned.minimum, pruned.entries, pruned.objects > 3) == (planned.minimum, 512, True)
    assert (await prune(place, LONG_AGO_S + 1)).objects == 0
    published = PublishedLog(place)
    assert await published.tile("tile/entries/001") is None
    assert await published.tile("tile/entries/002") is not None
    size, root = before.checkpoint.size, before.checkpoint.root
    tree = TreeReader(place, size)
    assert await tree.root() == root
    for index in (512, 600, size - 1):
        await tree.leaf(index, root)
    await writer.act(20)
    await run(log_of(store, place))
    grown = TreeReader(place, size + 21)
    check_consistency(size, root, grown.size, await grown.root(), await grown.consistency(size))
    assert await logged_by(store, log_of(store, place)) is not None
    verified = await monitor(log_of(store, place), [KEY.public], PARTITIONS)
    assert verified is not None
    assert (verified.compared, verified.differences, verified.minimum) == (True, [], 512)
    # What is above must be there all the same.
    monkeypatch.setattr(log_check, "LOOKED_BACK", 1)
    (tmp_path / "log" / "tile" / "entries" / "002").unlink()
    report = await monitor(log_of(store, place), [KEY.public], PARTITIONS)
    assert report is not None
    assert [finding.object for finding in report.differences] == ["tile/entries/002"]


async def test_a_proof_says_that_the_entry_is_pruned(store: Store, place: LogPlace, writer: Writer) -> None:
    await prune(place, LONG_AGO_S + 1)
    proof = await prove(place, EventPages(store), 5, sid_of("silent"))
    assert proof is not None
    assert (len(proof.events), proof.newest) == (1, "")
    said = words(proof, check(proof, [KEY.public]))
    assert "not proved: which entry its newest event is, for the log is pruned there; its hash is in the state" in said
    assert said[:3] == auditors.check(json.loads(msgspec.json.encode(proof)), [str(KEY.public)], [])
    proof = await prove(place, EventPages(store), 0, sid_of("s0"))
    assert proof is not None
    assert proof.newest


async def test_pruning_is_completed_wherever_it_broke_off(store: Store, place: LogPlace, writer: Writer) -> None:
    for writes in range(3):
        with pytest.raises(Killed):
            await prune(LogPlace(FailingObjects(place.objects, writes, behind=False), "x"), LONG_AGO_S + 1)
    report = await prune(place, LONG_AGO_S + 1)
    assert (report.entries, report.objects > 0) == (0, True)
    assert (await place.pruned()).swept == 512
    await writer.act(20)
    await run(log_of(store, place))
    verified = await monitor(log_of(store, place), [KEY.public], PARTITIONS)
    assert verified is not None
    assert verified.differences == []


async def test_a_session_that_ended_was_archived_and_pruned(store: Store, place: LogPlace, tmp_path: Path) -> None:
    """Nothing is kept of it, neither of its events nor its entries: how far it was logged stays proved."""
    log = Log(store, 3)
    for name in ("old", "new"):
        state = await log.create(name)
        for n in range(300):
            state = await log.append(state, offered("AssetV1", snapshot_us=n), at_us=NOW + n)
        if name == "old":
            await end(log, state.sid)
        await run(log_of(store, place))
        for path in (tmp_path / "log" / "checkpoints").iterdir():
            os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    objects = open_objects((tmp_path / "archive").as_uri())
    await archived(store, objects, replace(ALL, hot_events=5, segment_events=100))
    await archived(store, objects, replace(ALL, hot_events=5, retention_s=0.0), now_us=NOW + 10**15)
    await run(log_of(store, place, archive=Archive(store, objects)))
    await prune(place, LONG_AGO_S + 1)
    archive = Archive(store, objects)
    proof = await prove(place, EventPages(store, archive), None, sid_of("old"))
    assert proof is not None
    said = words(proof, check(proof, [KEY.public]))
    assert said[0].startswith(f"proved: events up to seq 302 of session {sid_of('old')} were logged, and nothing more")
    report = await monitor(log_of(store, place, archive=archive), [KEY.public], PARTITIONS)
    assert report is not None
    assert (report.differences, report.unkept) == ([], 1)


async def end(log: Log, sid: str) -> None:
    """End a session as the service does."""
    from ledger.commands import EndSession
    from ledger.decide import decide
    from ledger.log.append import place as placed

    state = await log.load(sid)
    assert state is not None
    assert await log.try_append(placed(state, sid, decide(state, EndSession("logout"), NOW + 999), NOW + 999)) is None


@pytest.mark.parametrize("bundles", [1, 2])
async def test_a_log_whose_newest_bundle_is_full_goes_on_when_all_is_old(
    store: Store, place: LogPlace, tmp_path: Path, bundles: int
) -> None:
    """Its newest entry, the root of the state tree, is what the next run and each proof begin with."""
    writer = Writer(store)
    for _ in range(bundles):
        await writer.act(255)
        await run(log_of(store, place))
    audit = await Audit.of(place)
    assert audit.checkpoint.size == 256 * bundles
    make_old(tmp_path)
    report = await prune(place, LONG_AGO_S + 1)
    assert report.minimum == 256 * (bundles - 1), "what holds the newest entry stays"
    sid = writer.states[0, "s0"].sid
    proof = await prove(place, EventPages(store), 0, sid)
    assert proof is not None
    assert check(proof, [KEY.public]).seq == writer.states[0, "s0"].seq
    await goes_on(store, place, writer)


def make_old(tmp_path: Path) -> None:
    """Have all checkpoints so far be signed long ago."""
    for path in (tmp_path / "log" / "checkpoints").iterdir():
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))


async def goes_on(store: Store, place: LogPlace, writer: Writer) -> None:
    """Log more, twice, the second time as a job that knows nothing; then the log has all that the store has."""
    size = (await Audit.of(place)).checkpoint.size if (await place.pruned()).minimum == 0 else None
    for _ in range(2):
        await writer.act(20)
        report = await run(log_of(store, place))
        assert (report.refused, report.stopped) == (0, {})
        assert size is None or report.size > size
    verified = await monitor(log_of(store, place), [KEY.public], PARTITIONS)
    assert verified is not None
    assert (verified.compared, verified.differences) == (True, [])


@pytest.mark.parametrize("ends_at", ["the settling", "the hint"])
async def test_a_log_of_which_batches_are_not_settled_is_pruned_and_goes_on(
    store: Store, place: LogPlace, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_at: str
) -> None:
    """As where jobs end each time behind the checkpoint that they sign, before they settle what it covers."""

    async def ends(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as ending:
        where = "batches.settle_before" if ends_at == "the settling" else "notary.remove_partials"
        ending.setattr(f"projections.transparency.{where}", ends)
        for _ in range(3):
            await writer.act(300)
            with pytest.raises(Killed):
                await run(log_of(store, place))
            await forget_lease(store)
            make_old(tmp_path)
    assert (await prune(place, LONG_AGO_S + 1)).minimum > 1024
    await goes_on(store, place, writer)


async def test_a_witness_that_was_away_longer_than_is_kept_holds_nothing_up(
    store: Store, place: LogPlace, tmp_path: Path
) -> None:
    """That what it signed is in the log cannot be proved any more: it is named, and the log goes on."""
    writer, state = Writer(store), WitnessState(tmp_path / "w", NAME)
    async with serving(state) as url:
        of = log_of(store, place)
        witnessed = of._replace(witnesses=Witnesses([Witness(state.key.public, url)], post))
        await writer.act(299)
        await run(witnessed)
        assert state.newest(ORIGIN) is not None
        for _ in range(3):
            await writer.act(260)
            await run(of)
            make_old(tmp_path)
        assert (await prune(place, LONG_AGO_S + 1)).minimum == 1024
        for _ in range(2):
            await writer.act(5)
            of = log_of(store, place)._replace(witnesses=Witnesses([Witness(state.key.public, url)], post))
            report = await run(of)
            assert list(report.unwitnessed) == [NAME]
            assert "300 entries" in report.unwitnessed[NAME]
            assert "pruned" in report.unwitnessed[NAME]
    verified = await monitor(log_of(store, place), [KEY.public], PARTITIONS)
    assert verified is not None
    assert verified.differences == []


async def test_proofs_and_bundles_of_before_hold_as_they_did(store: Store, place: LogPlace, writer: Writer) -> None:
    """What somebody kept of the log is proved against the newest checkpoint as well as against its own."""
    proof = await prove(place, EventPages(store), 5, sid_of("silent"))
    assert proof is not None
    said = words(proof, check(proof, [KEY.public]))
    published = PublishedLog(place)
    bundle, tile = await published.tile("tile/entries/001"), await published.tile("tile/0/001")
    assert bundle is not None
    assert tile is not None
    before = await Audit.of(place)
    await prune(place, LONG_AGO_S + 1)
    await goes_on(store, place, writer)
    assert words(proof, check(proof, [KEY.public])) == said
    assert auditors.read(msgspec.json.encode(proof), [str(KEY.public)], []) == said
    text = await published.checkpoint()
    assert text is not None
    now = second.read_head(text.decode())
    tree = TreeReader(place, now.size)
    consistent = await tree.consistency(before.checkpoint.size)
    second.check_consistency(before.checkpoint.size, before.checkpoint.root, now.size, now.root, consistent)
    # Level 1 holds the hash of each tile below it, and a kept bundle is of one of them.
    above = await tree.read(tile_of(1, 0, now.size))
    assert second.tree_hash([tile[at : at + 32] for at in range(0, len(tile), 32)]) == above[32:64]
    assert second.tree_hash([second.hash_leaf(leaf) for leaf in unpack_bundle(bundle)]) == above[32:64]
