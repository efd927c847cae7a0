"""The job that writes the log: what an auditor makes of it, whatever happens to the job, the store and the place."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from ledger import keys
from ledger.chain import record
from ledger.events import HistoryLost, Recorded, SessionEnded
from ledger.log.reader import read_partition
from ledger.state import State
from ledger.store.interface import Store
from ledger.transparency.entries import KINDS, EventLeaf, StateLeaf
from ledger.transparency.merkle import check_consistency
from ledger.transparency.notes import ED25519, SignerKey, parse_note, verified
from ledger.transparency.state_tree import Node, root_by_path
from projections.archive.objects import Objects
from projections.transparency import batches, notary
from projections.transparency.errors import LogContradicts, LogRefused, Overtaken
from projections.transparency.job import logged_by, notarize
from projections.transparency.notary import Notary
from projections.transparency.noted import LogLease, note, read_noted
from projections.transparency.place import CHECKPOINT, Identity, LogPlace, batch_name, checkpoint_name
from projections.transparency.reading import Behind
from projections.transparency.states import KeptStates, StateTree
from projections.transparency.tree import TreeReader
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

PARTITIONS = 8


@pytest.fixture
async def store(valkey_store: Store) -> Store:
    """A store that holds a ledger."""
    await valkey_store.command("HSET", keys.meta(), "partitions", PARTITIONS, "id", LEDGER, key=keys.meta())
    return valkey_store


class Writer:
    """Sessions in some partitions, of which each acts now and then."""

    def __init__(self, store: Store, seed: int = 1) -> None:
        self.states: dict[tuple[int, str], State] = {}
        self._random = random.Random(seed)
        self._store = store
        self._n = 0

    async def act(self, events: int, sessions: int = 12) -> None:
        """Append so many events."""
        for _ in range(events):
            self._n += 1
            name = f"s{self._random.randrange(sessions)}"
            partition = int(name[1:]) % PARTITIONS
            log = Log(self._store, partition)
            state = self.states.get((partition, name))
            self.states[partition, name] = (
                await log.create(name)
                if state is None
                else await log.append(state, offered("AssetV1", snapshot_us=self._n), at_us=NOW + self._n)
            )


def files_of(folder: Path) -> dict[Path, bytes]:
    """Read all files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def stored(store: Store) -> list[tuple[int, str, int, bytes]]:
    """List all events of the store in the order of the log: partition after partition."""
    return [
        (partition, entry.recorded.sid, entry.recorded.seq, entry.recorded.hash)
        for partition in range(PARTITIONS)
        async for page in read_partition(store, partition)
        for entry in page
    ]


async def is_all_of(audit: Audit, store: Store) -> bool:
    """Tell whether a log has each event of a store once, and each partition's in its order."""
    there = [(leaf.sid.hex(), leaf.seq, leaf.hash) for leaf in audit.events]
    wanted = await stored(store)
    of = {sid: partition for partition, sid, *_ in wanted}
    by_partition = [[each for each in there if of[each[0]] == partition] for partition in range(PARTITIONS)]
    return [each for one in by_partition for each in one] == [each[1:] for each in wanted]


async def test_an_auditor_finds_each_event_and_no_other(store: Store, tmp_path: Path) -> None:
    place, writer = place_at(tmp_path.as_uri()), Writer(store)
    await writer.act(300)
    report = await run(log_of(store, place))
    audit = await Audit.of(place)
    assert (report.events, report.size, audit.checkpoint.origin) == (300, 301, ORIGIN)
    assert [(leaf.sid.hex(), leaf.seq, leaf.hash) for leaf in audit.events] == [
        each[1:] for each in await stored(store)
    ]
    assert {leaf.kind for leaf in audit.events} == {KINDS["session_created"], KINDS["stream_offered"]}
    noted = await read_noted(store)
    assert (noted.origin, noted.size, noted.at_ms, noted.wrong) == (ORIGIN, 301, NOW // 1000, "")


async def test_nothing_is_written_when_nothing_is_new(store: Store, tmp_path: Path) -> None:
    place, writer = place_at(tmp_path.as_uri()), Writer(store)
    await run(log_of(store, place))
    assert [path.name for path in files_of(tmp_path)] == ["log.json"], "of an empty ledger"
    await writer.act(20)
    await run(log_of(store, place))
    before = {path: path.stat().st_mtime_ns for path in files_of(tmp_path)}
    assert (await run(log_of(store, place))).events == 0
    assert {path: path.stat().st_mtime_ns for path in files_of(tmp_path)} == before


async def test_every_checkpoint_grows_from_every_one_before(store: Store, tmp_path: Path) -> None:
    place, writer, found = place_at(tmp_path.as_uri()), Writer(store), []
    for events in (1, 2, 250, 3, 260, 1, 40):
        await writer.act(events)
        await run(log_of(store, place))
        audit = await Audit.of(place)
        assert await is_all_of(audit, store)
        found.append(audit.checkpoint)
    size = found[-1].size
    reader = TreeReader(place, size)
    for old in found:
        assert (tmp_path / checkpoint_name(old.size)).exists()
        check_consistency(old.size, old.root, size, found[-1].root, await reader.consistency(old.size))
    partial = [str(path.relative_to(tmp_path)) for path in files_of(tmp_path) if path.parent.suffix == ".p"]
    assert {path.split(".p/")[0] for path in partial} == {"tile/0/002", "tile/1/000", "tile/entries/002"}, (
        "partial tiles go when they are full"
    )
    batches = sorted(path for path in files_of(tmp_path) if path.parent.name == "batch")
    assert max(path.stat().st_size for path in batches[:-1]) < 200, "what is in bundles is not kept twice"


async def test_the_state_tree_shows_each_session_and_no_other(store: Store) -> None:
    place, writer = place_at(), Writer(store)
    for _ in range(3):
        await writer.act(60, sessions=30)
        await run(log_of(store, place))
    audit = await Audit.of(place)
    leaf = audit.leaves[-1]
    assert isinstance(leaf, StateLeaf)
    tree = await StateTree.open(place, leaf.size, Node(leaf.root, leaf.sessions))
    for (_, name), state in writer.states.items():
        sid = bytes.fromhex(sid_of(name))
        path = await tree.path(sid)
        assert root_by_path(sid, path) == leaf.root
        assert path.end is not None
        assert (path.end.sid, path.end.seq, path.end.hash) == (sid, state.seq, state.hash)
        entry = audit.leaves[path.end.entry]
        assert isinstance(entry, EventLeaf)
        assert entry.hash == state.hash
    for stranger in (bytes(32), b"\xff" * 32, bytes.fromhex(sid_of("nobody"))):
        path = await tree.path(stranger)
        assert root_by_path(stranger, path) == leaf.root
        assert path.end is None or path.end.sid != stranger


async def test_the_state_tree_is_written_anew_when_most_of_it_is_superseded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.transparency.states.SLACK_BYTES", 0)
    place, writer = place_at(), Writer(store)
    for _ in range(12):
        await writer.act(3)
        await run(log_of(store, place))
    await Audit.of(place)
    packs = [info async for page in place.objects.names("state/") for info in page]
    assert len(packs) < 8, "superseded ones are removed"


class CountedObjects(Objects):
    """Objects that count what is read of them by pieces."""

    reads = 0

    async def read(self, name: str, start: int, length: int) -> bytes:
        self.reads += 1
        return await super().read(name, start, length)


async def test_what_a_run_knew_of_the_state_tree_the_next_one_need_not_read(store: Store) -> None:
    writer, memory = Writer(store), place_at()
    objects = CountedObjects(memory.objects._store)
    place = LogPlace(objects)
    of, bounded = (log_of(store, place)._replace(kept=kept) for kept in (KeptStates(), KeptStates(1)))
    reads = []
    for each in (of, of, of, bounded, bounded):
        await writer.act(80, sessions=40)
        objects.reads = 0
        await run(each)
        reads.append(objects.reads)
        await Audit.of(memory)
    assert reads[1] == reads[2] == 0
    assert min(reads[3:]) > 20, "what is kept is bounded"


async def test_a_large_log_is_written_in_batches_and_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notary, "BATCH_LEAVES", 40)
    monkeypatch.setattr(notary, "RUN_EVENTS", 100)
    monkeypatch.setattr("projections.transparency.reading.PAGE", 7)
    place, writer, shown = place_at(), Writer(store), []
    await writer.act(350)
    report = await run(log_of(store, place), on_progress=lambda report: shown.append(report.events))
    assert (report.events, report.more) == (350, False)
    audit = await Audit.of(place)
    assert await is_all_of(audit, store)
    assert sum(isinstance(leaf, StateLeaf) for leaf in audit.leaves) > 2
    assert len(shown) > 20
    # Of many sessions a run takes more, for it writes the tree of all of them.
    monkeypatch.setattr(notary, "RUN_EVENTS", 1)
    monkeypatch.setattr(notary, "RUN_SHARE", 1)
    await writer.act(30)
    before = (await Audit.of(place)).checkpoint.size
    await run(log_of(store, place))
    after = (await Audit.of(place)).leaves[before:]
    assert (len(after), sum(isinstance(leaf, StateLeaf) for leaf in after)) == (33, 3), "12 sessions, 14 events a run"


SOAK = pytest.mark.soak


@pytest.mark.parametrize(("seed", "kills"), [(1, 20), *(pytest.param(seed, 50, marks=SOAK) for seed in (2, 3, 4))])
async def test_a_job_that_is_killed_anywhere_loses_and_repeats_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, kills: int
) -> None:
    monkeypatch.setattr(notary, "BATCH_LEAVES", 64)
    monkeypatch.setattr("projections.transparency.states.SLACK_BYTES", 0)
    place, writer, dice = place_at(tmp_path.as_uri()), Writer(store, seed), random.Random(seed)
    signed = [(0, b"")]
    for _ in range(kills):
        await writer.act(dice.choice((1, 5, 30)))
        failing = FailingObjects(place.objects, dice.randrange(14), behind=dice.random() < 0.5)
        try:
            await run(log_of(store, LogPlace(failing, "failing")))
        except Killed:
            await forget_lease(store)
        if (tmp_path / CHECKPOINT).exists():
            audit = await Audit.of(place)
            size, root = audit.checkpoint.size, audit.checkpoint.root
            assert size >= signed[-1][0]
            if size > signed[-1][0] > 0:
                proof = await TreeReader(place, size).consistency(signed[-1][0])
                check_consistency(*signed[-1], size, root, proof)
            if size > signed[-1][0]:
                signed.append((size, root))
    await run(log_of(store, place))
    assert await is_all_of(await Audit.of(place), store)


async def test_a_job_that_was_paused_cannot_write_over_who_took_over(store: Store) -> None:
    place, writer = place_at(), Writer(store)
    await writer.act(20)
    paused = [await taken(store, place) for _ in range(3)]
    await writer.act(20)
    await run(log_of(store, place))
    await writer.act(20)
    for each in paused:
        with pytest.raises(Overtaken):
            await each.finish(noting)
    await run(log_of(store, place))
    late = await taken(store, place)
    await writer.act(5)
    await run(log_of(store, place))
    await late.finish(noting)  # it had nothing to write
    audit = await Audit.of(place)
    assert await is_all_of(audit, store)


async def taken(store: Store, place: LogPlace) -> Notary:
    """Let a job read all that is new, and pause there."""
    job = Notary(place, ORIGIN, [KEY], Behind(store, None))
    await job.open()
    await job.take(range(PARTITIONS))
    return job


async def noting(size: int) -> None:
    """Note nothing."""


async def test_nothing_is_written_where_there_is_no_ledger(store: Store) -> None:
    await store.command("DEL", keys.meta(), key=keys.meta())
    assert await notarize(log_of(store, place_at()), PARTITIONS, ORIGIN, lambda: 1) is None
    await note(store, ORIGIN, "", 1, 1, "")
    assert not await store.command("EXISTS", keys.meta(), key=keys.meta())


async def test_only_one_job_works_at_a_time(store: Store) -> None:
    place = place_at()
    async with LogLease(store) as lease:
        assert lease.held
        async with LogLease(store) as other:
            assert not other.held
    async with LogLease(store) as lease:
        assert lease.held, "it was given back"
    await run(log_of(store, place))


async def test_what_contradicts_the_log_is_not_logged_and_named(store: Store) -> None:
    place, log = place_at(), Log(store)
    first, other = await log.create(), await log.create("other")
    for n in range(3):
        before = first
        first = await log.append(first, offered("AssetV1", snapshot_us=n))
    await run(log_of(store, place))
    # The newest event is cut, and the session goes on in another way, as if it had never been.
    (newest, _) = (await events_of(store, log.partition))[-1]
    await store.command("XDEL", keys.stream(log.partition), newest, key=keys.stream(log.partition))
    (instead,) = record((offered("AlbumV2"),), first.sid, 3, NOW, before.hash)
    await put(store, log.partition, instead)
    other = await log.append(other, offered("AssetV1"))
    report = await run(log_of(store, place))
    assert (report.refused, [each.sid.hex() for each in report.refusals]) == (1, [first.sid])
    assert "seq 4 does not follow seq 4" in report.refusals[0].what
    audit = await Audit.of(place)
    assert audit.of_session(first.sid) == [1, 2, 3, 4]
    assert audit.of_session(other.sid) == [1, 2], "all others go on"
    assert first.sid in (await read_noted(store)).wrong
    assert (await run(log_of(store, place))).refused == 1, "it is told until it is mended"


async def test_a_session_whose_events_were_lost_goes_on_behind_a_hole(store: Store) -> None:
    place, log = place_at(), Log(store)
    first = await log.create()
    kept = first = await log.append(first, offered("AssetV1", snapshot_us=1))
    for n in range(2, 4):
        first = await log.append(first, offered("AssetV1", snapshot_us=n))
    await run(log_of(store, place))
    rows = await events_of(store, log.partition)
    for stream_id, fields in rows:  # the store went back to event 2, and learns of it
        if fields[3] in (b"3", b"4"):
            await store.command("XDEL", keys.stream(log.partition), stream_id, key=keys.stream(log.partition))
    lost = HistoryLost(3, 4, "remembered", first.hash, kept.hash)
    recorded = record((lost, offered("AssetV1", snapshot_us=9)), first.sid, kept.seq, NOW, kept.hash)
    for each in recorded:
        await put(store, log.partition, each)
    report = await run(log_of(store, place))
    assert report.refused == 0
    audit = await Audit.of(place)
    assert audit.of_session(first.sid) == [1, 2, 3, 4, 5, 6]
    assert audit.events[-2].kind == KINDS["history_lost"]


async def events_of(store: Store, partition: int) -> list[tuple[bytes, list[bytes]]]:
    """Read a stream as it lies there."""
    name = keys.stream(partition)
    return [(row[0], row[1]) for row in await store.command("XRANGE", name, "-", "+", key=name)]


async def put(store: Store, partition: int, event: Recorded, stream_id: str = "*") -> None:
    """Put an event into a stream, as somebody does who has the whole store."""
    fields = ("sid", bytes.fromhex(event.sid), "seq", event.seq, "at", event.at_us, "schema", event.schema)
    rest = ("event", event.raw, "hash", event.hash, "prev", "")
    await store.command("XADD", keys.stream(partition), stream_id, *fields, *rest, key=keys.stream(partition))


async def test_an_event_whose_hash_was_not_made_of_it_is_refused(store: Store) -> None:
    place, log = place_at(), Log(store)
    state = await log.create()
    await log.append(state, SessionEnded("logout"))
    name = keys.stream(log.partition)
    rows = await store.command("XRANGE", name, "-", "+", key=name)
    await store.command("DEL", name, key=name)
    for stream_id, fields in rows:
        changed = [b"1790000000000001" if value == str(NOW).encode() else value for value in fields]
        await store.command("XADD", name, stream_id, *changed, key=name)
    report = await run(log_of(store, place))
    assert (report.events, report.refused) == (0, 2)
    assert "hash" in report.refusals[0].what


async def test_entries_that_are_no_events_stop_nothing(store: Store) -> None:
    place, log = place_at(), Log(store)
    state = await log.create()
    await store.command("XADD", keys.stream(log.partition), "*", "x", "y", key=keys.stream(log.partition))
    await log.append(state, offered("AssetV1"))
    report = await run(log_of(store, place))
    assert (report.events, report.foreign, report.refused, report.stopped) == (2, 1, 0, {})
    assert "1 stream entries are not events" in (await read_noted(store)).wrong


async def test_what_a_newer_version_wrote_holds_its_partition_up_and_no_other(store: Store) -> None:
    place, log = place_at(), Log(store)
    state = await log.create()
    name = keys.stream(log.partition)
    await put(store, log.partition, Recorded(state.sid, 2, NOW, 99, offered("AssetV1"), b"\x91\xa1x", bytes(32)))
    await Log(store, 5).create("other")
    report = await run(log_of(store, place))
    assert (report.events, list(report.stopped)) == (2, [log.partition])
    assert "upgrade" in report.stopped[log.partition]
    logged = await logged_by(store, log_of(store, place))
    assert logged is not None
    assert logged[log.partition] < (await store.command("XRANGE", name, "-", "+", key=name))[-1][0].decode()


async def test_a_place_that_is_not_the_logs_is_refused(store: Store, tmp_path: Path) -> None:
    place = place_at(tmp_path.as_uri())
    await Log(store).create()
    await run(log_of(store, place))
    with pytest.raises(LogRefused, match=f"{ORIGIN}, had 2 entries in {tmp_path.as_uri()}"):
        await run(log_of(store, place_at()))
    other = place_at()
    await run_elsewhere(other)
    with pytest.raises(LogRefused, match=r"log of ledger other"):
        await run(log_of(store, other))
    with pytest.raises(LogRefused, match="keeps its origin"):
        await run(log_of(store, place, wanted="ledger.example/another"))
    stranger = SignerKey(ORIGIN, ED25519, bytes(32))
    with pytest.raises(LogRefused, match="bring back the file of the log's keys"):
        await run(log_of(store, place, signers=[stranger]))
    assert LogRefused.exit_code == 2
    assert (await run(log_of(store, place))).size == 2


async def run_elsewhere(place: LogPlace) -> None:
    """Make a place that of another ledger's log."""
    await place.begin(Identity(origin=ORIGIN, ledger="other"))


async def test_an_older_copy_of_the_place_is_refused(store: Store, tmp_path: Path) -> None:
    place, log = place_at(tmp_path.as_uri()), Log(store)
    state = await log.create()
    await run(log_of(store, place))
    copy = files_of(tmp_path)
    await log.append(state, offered("AssetV1"))
    await run(log_of(store, place))
    newest = files_of(tmp_path)
    for path in newest:
        path.unlink()
    for path, content in copy.items():
        path.write_bytes(content)
    with pytest.raises(LogRefused, match="has 2 entries, 4 were written"):
        await run(log_of(store, place))
    with pytest.raises(LogRefused):
        await logged_by(store, log_of(store, place))


async def test_a_store_that_went_back_logs_nothing_twice(store: Store) -> None:
    place, writer = place_at(), Writer(store)
    await writer.act(40)
    dump = {p: await store.command("XRANGE", keys.stream(p), "-", "+", key=keys.stream(p)) for p in range(PARTITIONS)}
    await writer.act(40)
    await run(log_of(store, place))
    before = await Audit.of(place)
    for partition, rows in dump.items():
        name = keys.stream(partition)
        await store.command("DEL", name, key=name)
        for stream_id, fields in rows:
            await store.command("XADD", name, stream_id, *fields, key=name)
    await store.command("HDEL", keys.meta(), "proof_origin", "proof_size", key=keys.meta())  # as it was yesterday
    report = await run(log_of(store, place))
    assert (report.events, report.size) == (0, before.checkpoint.size)


@pytest.mark.parametrize(
    "what", ["tile/0/000", "tile/1/000.p/1", "tile/entries/001.p/45", "batch", "state", "checkpoint"]
)
async def test_what_was_altered_in_the_place_is_named_and_nothing_signed(
    store: Store, tmp_path: Path, what: str
) -> None:
    place, writer = place_at(tmp_path.as_uri()), Writer(store)
    await writer.act(300)
    await run(log_of(store, place))
    before = await Audit.of(place)
    await writer.act(60)
    if what == "batch":  # one that is not settled yet, of a job that was killed behind it
        with pytest.raises(Killed):
            await run(log_of(store, LogPlace(FailingObjects(place.objects, 1, behind=False), "x")))
        await forget_lease(store)
    (path,) = {
        "batch": lambda: [tmp_path / batch_name(before.checkpoint.size)],
        "state": lambda: [path for path in files_of(tmp_path) if path.parent.name == "state"],
        "checkpoint": lambda: [tmp_path / checkpoint_name(before.checkpoint.size)],
    }.get(what, lambda: [tmp_path / what])()
    content = bytearray(path.read_bytes())
    content[40 if what == "state" else len(content) // 2] ^= 1
    path.write_bytes(content)
    if what == "tile/0/000":  # which is not needed to go on; who proves something with it finds out
        reader = TreeReader(place, before.checkpoint.size)
        with pytest.raises(LogContradicts, match="tile/entries/000"):
            await reader.leaf(3, before.checkpoint.root)
        return
    with pytest.raises((LogContradicts, LogRefused)):
        await run(log_of(store, place))
    assert "nothing is logged: " in (await read_noted(store)).wrong, "which /readyz tells"
    published = parse_note((tmp_path / CHECKPOINT).read_text())
    assert verified(published, [KEY.public])
    assert published.text == before.checkpoint.text


async def test_a_batch_whose_text_is_none_is_named_as_any_other_damage(store: Store, tmp_path: Path) -> None:
    place = place_at(tmp_path.as_uri())
    await Writer(store).act(5)
    await run(log_of(store, place))
    newest = await batches.newest(place)
    assert newest is not None
    path = tmp_path / batch_name(newest.first)
    content = bytearray(path.read_bytes())
    cursor = re.search(rb"\d{10,}-\d", content)
    assert cursor is not None
    content[cursor.start()] = 0xFF
    path.write_bytes(content)
    with pytest.raises(LogContradicts, match="it cannot be read"):
        await batches.read(place, newest.first)


async def test_a_new_key_signs_beside_the_old_one(store: Store) -> None:
    place, log = place_at(), Log(store)
    state = await log.create()
    await run(log_of(store, place))
    newer = SignerKey(ORIGIN, ED25519, bytes(32))
    await log.append(state, offered("AssetV1"))
    await run(log_of(store, place, signers=[newer, KEY]))
    await Audit.of(place, KEY)
    await Audit.of(place, newer)
    await run(log_of(store, place, signers=[newer]))
    await Audit.of(place, newer)
