"""A history that was rewritten, shortened or lengthened: what is stored of its session is the only trace, and stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ledger import keys
from ledger.chain import GENESIS, link
from ledger.commands import CreateSession, EndSession
from ledger.events import SessionCreated, SessionEnded, encode_event
from ledger.log import whole
from ledger.log.service import Ledger
from ledger.log.stored_sessions import find_strays
from ledger.personal import plain
from ledger.store.interface import Store
from ops.archive.job import archive
from ops.archive.options import ArchiveOptions
from projections.archive.catalog import Archive
from projections.archive.objects import open_objects
from projections.checking.aside import Decision
from projections.checking.rebuild import Rebuild
from projections.checking.verify import verify
from tests.support.ledger.given import NOW, SNAPSHOT, ack, acks, offer
from tests.support.ledger.ledgers import Clock, sid_of
from tests.support.ledger.lives import dump

PARTITIONS = 2
PHONE, TABLET, GONE = map(sid_of, ("phone", "tablet", "gone"))
Rows = list[tuple[bytes, dict[bytes, bytes]]]
FORGERY = encode_event(SessionCreated("ann", "another library"))


@pytest.fixture
async def ledger(valkey_store: Store) -> Ledger:
    await whole.mark_new(valkey_store, PARTITIONS)
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    for sid in (PHONE, TABLET, GONE):
        await ledger.execute("ann", sid, CreateSession("ann", "photos"))
        await ledger.execute("ann", sid, offer("AssetV1"))
        await ledger.execute("ann", sid, acks(ack("AssetV1", SNAPSHOT - 9, "a")))
    await ledger.execute("ann", GONE, EndSession("logout", plain("ann")))
    return ledger


async def rewrite(store: Store, partition: int, change: Callable[[Rows], Rows]) -> None:
    """Write a stream anew under its own ids, every hash of it computed anew: a forger who knows how all is stored."""
    name = keys.stream(partition)
    flat = await store.command("XRANGE", name, "-", "+", key=name)
    rows = change([(row[0], dict(zip(row[1][::2], row[1][1::2], strict=True))) for row in flat])
    await store.command("DEL", name, key=name)
    tips: dict[bytes, bytes] = {}
    for entry_id, fields in rows:
        sid, (seq, at, schema) = fields[b"sid"], (int(fields[name]) for name in (b"seq", b"at", b"schema"))
        fields[b"hash"] = tips[sid] = link(tips.get(sid, GENESIS), sid.hex(), seq, at, schema, fields[b"event"])
        await store.command("XADD", name, entry_id, *(part for pair in fields.items() for part in pair), key=name)


def of(rows: Rows, sid: str) -> Rows:
    return [row for row in rows if row[1][b"sid"].hex() == sid]


def first_event(sid: str) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        of(rows, sid)[0][1][b"event"] = FORGERY
        return rows

    return change


def cut(sid: str, left: int) -> Callable[[Rows], Rows]:
    return lambda rows: [row for row in rows if row not in of(rows, sid)[left:]]


def added(sid: str) -> Callable[[Rows], Rows]:
    """Somebody signs a device out beside the ledger."""

    def change(rows: Rows) -> Rows:
        last_id, last = of(rows, sid)[-1]
        event = encode_event(SessionEnded("revoked", plain("ann")))
        more = {**last, b"seq": b"%d" % (int(last[b"seq"]) + 1), b"event": event, b"prev": last_id}
        return [*rows, (b"%d-0" % (int(rows[-1][0].split(b"-")[0]) + 1), more)]

    return change


FORGED = {
    "rewritten": (first_event(PHONE), PHONE, "its history was rewritten", "its history was rewritten"),
    "rewritten after its end": (first_event(GONE), GONE, "its history was rewritten", "its history was rewritten"),
    "cut": (cut(PHONE, 2), PHONE, "never archived", "stored at seq 3, but its events end at seq 2"),
    "cut whole": (cut(PHONE, 0), PHONE, "never archived", "stored at seq 3, but its events end at seq 0"),
    "its end cut": (cut(GONE, 3), GONE, "never archived", "stored at seq 4, but its events end at seq 3"),
    "its end cut whole": (cut(GONE, 0), GONE, "never archived", "stored at seq 4, but its events end at seq 0"),
    "an end added": (added(PHONE), PHONE, "behind its events at 4", "behind its events at 4"),
}


@pytest.mark.parametrize(("forge", "sid", "found", "refused"), FORGED.values(), ids=FORGED)
async def test_a_head_that_proves_another_history_is_never_written_over(
    ledger: Ledger, forge: Callable[[Rows], Rows], sid: str, found: str, refused: str
) -> None:
    store, partition = ledger.store, ledger.partition_of("ann")
    await rewrite(store, partition, forge)
    before = await dump(store)
    (difference,) = (await verify(store, PARTITIONS)).differences
    assert (difference.session, difference.repairable, found in difference.what) == (sid, False, True)
    strays = await find_strays(store, PARTITIONS)
    for number in range(4):
        made = Rebuild(store, "one")
        if number == 0:
            await made.repair(partition, strays)
        elif number == 1:
            await made.partition(partition, strays)
        elif number == 2:
            await made.session(partition, sid)
        else:
            await made.user(partition, "ann")
        assert await dump(store) == before
        if number < 3 or found != "never archived":  # of a user those sessions that events or devices tell of
            (named,) = (finding for finding in made.report.named if finding.session == sid)
            assert refused in named.what
            assert not made.report.is_complete
    assert (await verify(store, PARTITIONS)).different == 1


async def test_what_else_differs_is_repaired_around_a_rewritten_history(ledger: Ledger) -> None:
    store, partition = ledger.store, ledger.partition_of("ann")
    await rewrite(store, partition, first_event(PHONE))
    before = await dump(store)
    await store.command("HSET", name := keys.session(partition, TABLET), "library", "other", key=name)
    await store.command("HDEL", keys.ended(partition), GONE, key=keys.ended(partition))
    report = await verify(store, PARTITIONS)
    assert (report.different, report.repairable) == (3, 2)
    made = Rebuild(store, "one")
    await made.repair(partition, await find_strays(store, PARTITIONS))
    assert (made.report.written, made.report.broken) == (2, 1)
    assert await dump(store) == before


async def test_a_head_with_a_damaged_seq_proves_as_much(ledger: Ledger) -> None:
    store, partition = ledger.store, ledger.partition_of("ann")
    await rewrite(store, partition, first_event(PHONE))
    await store.command("HSET", name := keys.session(partition, PHONE), "seq", "x", key=name)
    (found,) = (await verify(store, PARTITIONS)).differences
    assert "its history was rewritten" in found.what
    made = Rebuild(store, "one")
    await made.repair(partition, await find_strays(store, PARTITIONS))
    assert (made.report.written, made.report.broken) == (0, 1)


async def test_an_end_that_was_cut_and_a_session_put_back_beside_it(ledger: Ledger) -> None:
    """The forger also makes the session live again; what is kept of its end tells."""
    store, partition = ledger.store, ledger.partition_of("ann")
    held = (await dump(store))[keys.session(partition, PHONE)]
    await ledger.execute("ann", PHONE, EndSession("logout", plain("ann")))
    await rewrite(store, partition, cut(PHONE, 3))
    fields = [part for pair in held.items() for part in pair]
    await store.command("HSET", name := keys.session(partition, PHONE), *fields, key=name)
    (found,) = (await verify(store, PARTITIONS)).differences
    assert (found.session, found.what) == (PHONE, "stored at seq 4, but its events end at seq 3")
    before = await dump(store)
    made = Rebuild(store, "one")
    await made.repair(partition, await find_strays(store, PARTITIONS))
    assert made.report.broken == 1
    assert await dump(store) == before


async def test_an_operator_may_take_the_events_for_the_history_which_is_told_for_good(ledger: Ledger) -> None:
    store, partition = ledger.store, ledger.partition_of("ann")
    stored = await store.command("HGET", name := keys.session(partition, PHONE), "hash", key=name)
    await rewrite(store, partition, first_event(PHONE))
    made = Rebuild(store, "one")
    await made.session(partition, PHONE, Decision("restored by hand from a copy", "olga", NOW))
    assert (made.report.written, made.report.broken) == (1, 0)
    report = await verify(store, PARTITIONS)
    (told,) = report.differences
    assert (report.different, report.aside, told.session) == (1, 1, PHONE)
    assert "its history was rewritten" in told.what
    assert "by olga at 2" in told.what
    assert told.what.endswith("restored by hand from a copy")
    (kept,) = await store.command("HVALS", keys.aside(partition), key=keys.aside(partition))
    assert stored in msgspec.msgpack.decode(kept)[-1]


async def test_rewritten_segments_do_not_come_into_projections(ledger: Ledger, tmp_path: Path) -> None:
    """The newest segment is another one than the ledger noted: nothing is rebuilt from it."""
    store, partition = ledger.store, ledger.partition_of("ann")
    objects = open_objects(f"file://{tmp_path}/archive")
    await archive(store, objects, [partition], ArchiveOptions(hot_events=0), NOW)
    await store.command("HSET", name := keys.archive(partition), "digest", "0" * 64, key=name)
    await store.command("DEL", session := keys.session(partition, PHONE), key=session)
    sealed = Archive(store, objects)
    found = (await verify(store, PARTITIONS, archive=sealed)).differences
    assert any("the ledger has noted" in difference.what and not difference.repairable for difference in found)
    made = Rebuild(store, "one", sealed=sealed)
    await made.repair(partition, await find_strays(store, PARTITIONS))
    assert "is not the one that was noted" in made.report.named[0].what
    assert not await store.command("EXISTS", session, key=session)
