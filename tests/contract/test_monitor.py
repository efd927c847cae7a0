"""What `verify` names where somebody who can write to the store, or to the log's place, changed what was logged."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from msgspec.structs import replace

from ledger import keys
from ledger.chain import GENESIS, link, record
from ledger.events import HistoryLost
from ledger.log.stored_sessions import find_strays
from ledger.store.interface import Store
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.notes import sign
from ledger.transparency.session_proof import NotProved, check
from projections.archive.catalog import Archive
from projections.checking.rebuild import Rebuild
from projections.history.event_pages import EventPages
from projections.transparency import batches
from projections.transparency.monitor import log_check
from projections.transparency.monitor.findings import LogReport
from projections.transparency.monitor.monitor import monitor
from projections.transparency.place import CHECKPOINT, LogPlace, checkpoint_name
from projections.transparency.proving import NotLogged, prove
from projections.transparency.reading import Behind
from tests.support.ledger.archives import ALL, OLD, PHONE, archived, opened, past
from tests.support.ledger.given import NOW, offered
from tests.support.ledger.ledgers import PARTITION, Log, sid_of
from tests.support.ledger.logs import KEY, LEDGER, ORIGIN, Audit, log_of, place_at, run

ANN, BEN = sid_of("ann"), sid_of("ben")
EVENTS = 5


@pytest.fixture
async def store(valkey_store: Store) -> Store:
    """A store that holds a ledger."""
    await valkey_store.command("HSET", keys.meta(), "partitions", 8, "id", LEDGER, key=keys.meta())
    return valkey_store


@pytest.fixture
async def place(store: Store, tmp_path: Path) -> LogPlace:
    """The log of two sessions with as many events each, one after the other."""
    place = place_at((tmp_path / "log").as_uri())
    log = Log(store)
    for name in ("ann", "ben"):
        state = await log.create(name)
        for n in range(1, EVENTS):
            state = await log.append(state, offered("AssetV1", snapshot_us=n))
    await run(log_of(store, place))
    return place


async def compared(
    store: Store, place: LogPlace, since: bytes | None = None, archive: Archive | None = None
) -> LogReport:
    report = await monitor(log_of(store, place, archive=archive), [KEY.public], 8, since=since)
    assert report is not None
    return report


async def entry_of(place: LogPlace, sid: str, seq: int) -> int:
    """Find an event's entry as an auditor does."""
    audit = await Audit.of(place)
    return next(
        at
        for at, leaf in enumerate(audit.leaves)
        if (getattr(leaf, "sid", b"").hex(), getattr(leaf, "seq", 0)) == (sid, seq)
    )


async def rows_of(store: Store, sid: str | None = None) -> list[tuple[bytes, dict[bytes, bytes]]]:
    name = keys.stream(PARTITION)
    rows = [(at, dict(zip(row[::2], row[1::2], strict=True))) for at, row in await store.command(
        "XRANGE", name, "-", "+", key=name
    )]  # fmt: skip
    return [row for row in rows if sid is None or row[1][b"sid"].hex() == sid]


async def write_stream(store: Store, rows: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
    """Put these in the place of all events of the partition."""
    name = keys.stream(PARTITION)
    await store.command("DEL", name, key=name)
    for at, fields in rows:
        flat = [part for pair in fields.items() for part in pair]
        await store.command("XADD", name, at, *flat, key=name)


async def set_head(store: Store, sid: str, row: tuple[bytes, dict[bytes, bytes]]) -> None:
    name = keys.session(PARTITION, sid)
    head, fields = row
    values = ("seq", fields[b"seq"], "hash", fields[b"hash"], "head", head)
    await store.command("HSET", name, *values, key=name)


async def hashed_anew(store: Store, changed: dict[tuple[str, int], bytes]) -> None:
    """Give events other bytes, and their sessions the chains and heads that follow from these."""
    rows, tips = await rows_of(store), dict[bytes, bytes]()
    for _, fields in rows:
        sid, seq = fields[b"sid"], int(fields[b"seq"])
        fields[b"event"] = changed.get((sid.hex(), seq), fields[b"event"])
        at, schema = int(fields[b"at"]), int(fields[b"schema"])
        fields[b"hash"] = link(tips.get(sid, GENESIS), sid.hex(), seq, at, schema, fields[b"event"])
        tips[sid] = fields[b"hash"]
    await write_stream(store, rows)
    for whose in (ANN, BEN):
        await set_head(store, whose, [row for row in rows if row[1][b"sid"].hex() == whose][-1])


async def removed_whole(store: Store) -> None:
    await write_stream(store, await rows_of(store, BEN))
    for name in (keys.session(PARTITION, ANN), keys.checkpoints(PARTITION, ANN)):
        await store.command("DEL", name, key=name)


async def cut(store: Store) -> None:
    mine = await rows_of(store, ANN)
    await write_stream(store, [row for row in await rows_of(store) if row[0] != mine[-1][0]])
    await set_head(store, ANN, mine[-2])


async def rewritten(store: Store) -> None:
    mine = await rows_of(store, ANN)
    created = msgspec.msgpack.decode(mine[0][1][b"event"])
    assert created[0] == "session_created"
    created[2] = "another library" if isinstance(created[2], str) else created[2]
    await hashed_anew(store, {(ANN, 1): msgspec.msgpack.encode(created)})


async def exchanged(store: Store) -> None:
    mine, theirs = await rows_of(store, ANN), await rows_of(store, BEN)
    await hashed_anew(store, {(ANN, 2): theirs[4][1][b"event"], (BEN, 5): mine[1][1][b"event"]})


async def older_copy(store: Store) -> None:
    rows = await rows_of(store)
    await write_stream(store, rows[:3])
    await set_head(store, ANN, rows[2])
    await store.command("DEL", keys.session(PARTITION, BEN), key=keys.session(PARTITION, BEN))


Tamper = Callable[[Store], Awaitable[None]]


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (removed_whole, [(ANN, 1, "removed whole")]),
        (cut, [(ANN, EVENTS, "was cut")]),
        (rewritten, [(ANN, 1, "rewritten")]),
        (exchanged, [(ANN, 2, "rewritten"), (BEN, 5, "rewritten")]),
        (older_copy, [(ANN, 4, "was cut"), (BEN, 1, "removed whole")]),
    ],
)
async def test_events_that_were_tampered_with_are_named_with_their_entry(
    store: Store, place: LogPlace, tamper: Tamper, named: list[tuple[str, int, str]]
) -> None:
    assert (await compared(store, place)).differences == []
    await tamper(store)
    report = await compared(store, place)
    found = {finding.session: finding for finding in report.differences}
    assert len(found) == report.different == len(named)
    for sid, seq, what in named:
        assert (found[sid].entry, what in found[sid].what) == (await entry_of(place, sid, seq), True), found[sid]
        assert f"entry {found[sid].entry}" in found[sid].text
        assert sid in report.contradicted
    pages = EventPages(store)
    for sid, _, what in named:
        if what == "removed whole":  # nothing is left to be proved but that it was
            proof = await prove(place, pages, PARTITION, sid)
            assert proof is not None
            assert (check(proof, [KEY.public]).events, check(proof, [KEY.public]).seq) == (0, EVENTS)
        else:
            with pytest.raises(NotLogged):
                await prove(place, pages, PARTITION, sid)


async def test_a_proof_made_of_tampered_events_is_refused(store: Store, place: LogPlace) -> None:
    proof = await prove(place, EventPages(store), PARTITION, ANN)
    assert proof is not None
    check(proof, [KEY.public])
    for tamper in (cut, rewritten, exchanged):
        before = await rows_of(store)
        await tamper(store)
        events = [
            replace(each, raw=row[b"event"], hash=row[b"hash"].hex())
            for each, (_, row) in zip(proof.events, await rows_of(store, ANN), strict=False)
        ]
        with pytest.raises(NotProved, match=r"seq|entry|newest"):
            check(replace(proof, events=events), [KEY.public])
        await write_stream(store, before)


async def test_an_event_that_was_put_there_is_named(store: Store, place: LogPlace) -> None:
    rows = await rows_of(store)
    stranger = dict(rows[0][1]) | {b"sid": bytes.fromhex(sid_of("stranger"))}
    first = f"{int(rows[0][0].partition(b'-')[0]) - 1}-0".encode()
    await write_stream(store, [(first, stranger), *rows])
    (found,) = (await compared(store, place)).differences
    assert (found.session, found.event, "never logged" in found.what) == (sid_of("stranger"), first.decode(), True)


async def test_what_is_not_logged_yet_is_no_difference(store: Store, place: LogPlace) -> None:
    log = Log(store)
    state = await log.load(ANN)
    assert state is not None
    await log.append(state, offered("AlbumV2"))
    await log.create("carl")
    report = await compared(store, place)
    assert (report.different, report.behind, report.sessions) == (0, 2, 2)


@pytest.mark.parametrize("told", [True, False])
async def test_a_hole_is_named_unless_an_event_tells_of_it(store: Store, place: LogPlace, told: bool) -> None:
    rows = await rows_of(store)
    mine = [row for row in rows if row[1][b"sid"].hex() == ANN]
    left = [row for row in rows if row[0] != mine[-1][0]]
    second, last = mine[-2][1], mine[-1][1]
    lost = HistoryLost(EVENTS, EVENTS, "remembered", last[b"hash"], second[b"hash"])
    event = lost if told else offered("AlbumV2")
    (made,) = record((event,), ANN, EVENTS - 1 if told else EVENTS, NOW, second[b"hash"])
    newer = f"{int(rows[-1][0].partition(b'-')[0]) + 1}-0".encode()
    fields = {b"sid": bytes.fromhex(ANN), b"seq": b"%d" % made.seq, b"at": b"%d" % made.at_us}
    fields |= {b"schema": b"%d" % made.schema, b"event": made.raw, b"hash": made.hash, b"prev": mine[-2][0]}
    await write_stream(store, [*left, (newer, fields)])
    found = (await compared(store, place)).differences
    if told:
        assert found == []
    else:
        assert (found[0].entry, "no history_lost" in found[0].what) == (await entry_of(place, ANN, EVENTS), True)


async def test_a_history_that_was_rewritten_in_front_of_a_hole_is_named(store: Store, place: LogPlace) -> None:
    """Who has the store rewrites events, and has one that tells of a hole join them to what is logged."""
    mine = await rows_of(store, ANN)
    last = mine[-1][1]
    await hashed_anew(store, {(ANN, 2): mine[2][1][b"event"]})
    rewritten_rows = await rows_of(store, ANN)
    others = await rows_of(store, BEN)
    await write_stream(store, sorted([*rewritten_rows[:4], *others]))
    after = rewritten_rows[3][1][b"hash"]
    lost = HistoryLost(5, EVENTS, "remembered", last[b"hash"], after)
    (told, *_) = record((lost,), ANN, 4, NOW, after)
    fields = ("sid", bytes.fromhex(ANN), "seq", told.seq, "at", told.at_us, "schema", told.schema)
    rest = ("event", told.raw, "hash", told.hash, "prev", rewritten_rows[3][0])
    name = keys.stream(PARTITION)
    await store.command("XADD", name, "*", *fields, *rest, key=name)
    assert (await run(log_of(store, place))).refusals == [], "the log takes it for a loss"
    (finding,) = [each for each in (await compared(store, place)).differences if each.session == ANN]
    assert finding.entry == await entry_of(place, ANN, 2)
    assert "event 2 is kept otherwise than it was logged there, in front of a hole that is told" in finding.text


async def test_repair_leaves_what_the_log_contradicts(store: Store, place: LogPlace) -> None:
    await rewritten(store)
    name = keys.session(PARTITION, ANN)
    await store.command("HSET", name, "user", "mallory", key=name)
    other = keys.session(PARTITION, BEN)
    await store.command("HSET", other, "user", "mallory", key=other)
    report = await compared(store, place)
    made = Rebuild(store, uuid4().hex, leave=report.contradicted)
    await made.repair(PARTITION, await find_strays(store, 8))
    assert await store.command("HGET", name, "user", key=name) == b"mallory", "evidence is left as it is"
    assert await store.command("HGET", other, "user", key=other) != b"mallory"
    assert [(each.session, "contradicts" in each.what) for each in made.report.named] == [(ANN, True)]


async def test_archived_and_pruned_histories_are_compared(store: Store, tmp_path: Path) -> None:
    place, objects = place_at(), opened(tmp_path / "archive")
    await past(store)
    await run(log_of(store, place))
    archive = Archive(store, objects)
    await archived(store, objects, replace(ALL, hot_events=30))
    assert (await compared(store, place, archive=archive)).differences == []
    without = await compared(store, place)
    assert any("set LEDGER_ARCHIVE" in finding.what for finding in without.differences)
    await archived(store, objects, replace(ALL, hot_events=5, retention_s=0.0), now_us=NOW + 10**15)
    report = await compared(store, place, archive=archive)
    assert (report.differences, report.unkept > 0) == ([], True)
    # Who removes a session that lives, and says retention did, is found out.
    name = keys.archive(PARTITION)
    rows = [row for row in await rows_of(store) if row[1][b"sid"].hex() != PHONE]
    await write_stream(store, rows)
    await store.command("DEL", name, key=name)
    await store.command("HSET", name, "cut", rows[0][0] if rows else "9999999999999-0", key=name)
    found = {finding.session for finding in (await compared(store, place)).differences}
    assert PHONE in found
    assert OLD not in found


async def test_what_is_archived_and_trimmed_meanwhile_is_not_taken_for_cut(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.transparency.reading.PAGE", 10)
    place, objects = place_at(), opened(tmp_path / "archive")
    await past(store)
    await run(log_of(store, place))
    read, trimmed = Behind.first_page, list[int]()

    async def first_page(self: Behind, partition: int, cursor: str) -> Any:
        page = await read(self, partition, cursor)
        if partition == PARTITION and not trimmed:
            trimmed.append(partition)
            await archived(store, objects, replace(ALL, hot_events=5))
        return page

    monkeypatch.setattr(Behind, "first_page", first_page)
    report = await compared(store, place, archive=Archive(store, objects))
    assert (trimmed, report.differences) == ([PARTITION], [])


def objects_of(tmp_path: Path, pattern: str) -> list[Path]:
    return sorted(path for path in (tmp_path / "log").glob(pattern) if path.is_file())


async def grown(store: Store, place: LogPlace, events: int = 700) -> None:
    """Make a log of several tiles."""
    log, dice = Log(store), random.Random(3)
    states = [await log.create(f"more {n}") for n in range(4)]
    for n in range(events):
        at = dice.randrange(4)
        states[at] = await log.append(states[at], offered("AssetV1", snapshot_us=n))
        if n in (100, 400):
            await run(log_of(store, place))
    await run(log_of(store, place))


async def test_a_tile_that_was_altered_or_removed_is_named(store: Store, place: LogPlace, tmp_path: Path) -> None:
    await grown(store, place)
    for pattern in ("tile/0/000", "tile/0/002.p/*", "tile/1/*.p/*", "tile/entries/001", "tile/entries/002.p/*"):
        assert (await compared(store, place)).differences == []
        file = objects_of(tmp_path, pattern)[-1]
        whole, name = file.read_bytes(), str(file.relative_to(tmp_path / "log"))
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        found = (await compared(store, place)).differences
        assert any(name == each.object or "right edge" in each.what for each in found), found
        file.unlink()
        assert name in {each.object for each in (await compared(store, place)).differences}
        file.write_bytes(whole)


async def test_a_batch_that_was_replaced_or_removed_is_named(store: Store, place: LogPlace, tmp_path: Path) -> None:
    await grown(store, place)
    first, *_, newest = objects_of(tmp_path, "batch/*")
    for file in (first, newest):
        whole = file.read_bytes()
        batch = msgspec.msgpack.decode(whole, type=batches.Batch)
        for other in (
            replace(batch, root=bytes(32)),
            replace(batch, count=batch.count + 1),
            replace(batch, previous=batch.previous + 1),
        ):
            file.write_bytes(msgspec.msgpack.encode(other))
            assert (await compared(store, place)).different, other
        file.unlink()
        assert (await compared(store, place)).different
        file.write_bytes(whole)
    assert (await compared(store, place)).differences == []


async def test_a_checkpoint_that_was_forked_is_named(store: Store, place: LogPlace, tmp_path: Path) -> None:
    kept = (tmp_path / "log" / CHECKPOINT).read_bytes()
    size = 2 * EVENTS + 1
    fork = str(sign(Checkpoint(ORIGIN, size, bytes(32)).text, [KEY])).encode()
    await grown(store, place, 30)
    assert (await compared(store, place, kept)).differences == []
    (found,) = (await compared(store, place, fork)).differences
    assert ("forked" in found.what, found.entry) == (True, size - 1)
    ahead = str(sign(Checkpoint(ORIGIN, 10_000, bytes(32)).text, [KEY])).encode()
    assert "went back" in (await compared(store, place, ahead)).differences[0].what
    stranger = str(sign(Checkpoint("x.example", size, bytes(32)).text, [KEY])).encode()
    for bad in (b"nothing", stranger, kept.replace(b"\n11\n", b"\n12\n")):
        (found,) = (await compared(store, place, bad)).differences
        assert "checkpoint that was given" in found.what
    (tmp_path / "log" / checkpoint_name(size)).write_bytes(fork)
    (found,) = (await compared(store, place)).differences
    assert (found.object, "forked" in found.what) == (checkpoint_name(size), True)


async def test_a_place_that_is_empty_older_or_another_ones_is_named(
    store: Store, place: LogPlace, tmp_path: Path
) -> None:
    empty = await compared(store, place_at())
    assert (empty.compared, "holds nothing" in empty.differences[0].what) == (False, True)
    older = {path: path.read_bytes() for path in objects_of(tmp_path, "**/*")}
    await grown(store, place, 30)
    for path in objects_of(tmp_path, "**/*"):
        path.unlink()
    for path, content in older.items():
        path.write_bytes(content)
    assert any("older copy" in each.what for each in (await compared(store, place)).differences)
    assert await monitor(log_of(store, place_at(), ledger="6" * 32), [KEY.public], 8) is not None


async def test_how_far_back_batches_are_read_is_bounded(
    store: Store, place: LogPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_check, "LOOKED_BACK", 3)
    await grown(store, place)
    report = await compared(store, place)
    assert (report.different, report.batches, report.checkpoints) == (0, 3, 3)
