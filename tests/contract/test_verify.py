"""Verify: a ledger in use is clean, and each kind of damage is named with its session, and its event if it has one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest

from ledger import keys
from ledger.commands import CreateSession, EndSession, RequestReset
from ledger.errors import SessionEnded
from ledger.events import SCHEMA, encode_event
from ledger.events import SessionEnded as SessionEndedEvent
from ledger.log.service import Ledger
from ledger.log.whole import mark_new
from ledger.personal import plain
from ledger.store.interface import Store, open_store
from projections.checking.findings import Finding
from projections.checking.verify import Report, verify
from tests.support.ledger.given import NOW, SNAPSHOT, ack, acks, clear, offer
from tests.support.ledger.ledgers import Clock, sid_of

PARTITIONS = 2
PHONE, TABLET, GONE, NOBODY = map(sid_of, ("phone", "tablet", "gone", "nobody"))
CREATE = CreateSession("ann", "photos")
Rows = list[tuple[bytes, dict[bytes, bytes]]]


async def fill(ledger: Ledger) -> None:
    """Make a user with two living sessions, one of them with a long history, and one that has ended."""
    for sid in (PHONE, TABLET, GONE):
        await ledger.execute("ann", sid, CREATE)
        await ledger.execute("ann", sid, offer("AssetV1", "AlbumV2"))
        await ledger.execute("ann", sid, acks(ack("AssetV1", SNAPSHOT - 9, "a"), ack("AlbumV2", SNAPSHOT - 9, "x")))
    for number in range(260):
        await ledger.execute("ann", TABLET, RequestReset(number % 2 == 0, plain("ann")))
    await ledger.execute("ann", GONE, EndSession("logout", plain("ann")))


@pytest.fixture
async def ledger(valkey_store: Store) -> Ledger:
    ledger = Ledger(valkey_store, PARTITIONS, Clock())
    await fill(ledger)
    return ledger


@pytest.mark.each_store
async def test_a_whole_ledger_is_clean_on_every_backend(store: Store) -> None:
    ledger = Ledger(store, PARTITIONS, Clock())
    assert await verify(store, PARTITIONS) == Report(partitions=PARTITIONS)
    await fill(ledger)
    await ledger.execute("bob", NOBODY, CreateSession("bob", "photos"))
    seen: list[int] = []
    report = await verify(store, PARTITIONS, on_progress=lambda so_far: seen.append(so_far.events))
    assert report == Report(partitions=PARTITIONS, events=3 * 3 + 260 + 1 + 1, sessions=3, ended=1)
    assert seen == sorted(seen)
    assert seen[-1] == report.events


async def test_verifying_writes_nothing(ledger: Ledger) -> None:
    before = await ledger.store.each_primary("INFO", "persistence")
    await verify(ledger.store, PARTITIONS)
    after = await ledger.store.each_primary("INFO", "persistence")
    changes = [
        next(line for line in info.splitlines() if line.startswith(b"rdb_changes_since_last_save"))
        for info in (before[0], after[0])
    ]
    assert changes[0] == changes[1]


# Damage


@dataclass
class Damaged:
    """A ledger to damage: one user's partition."""

    store: Store
    partition: int

    async def run(self, *args: str | bytes | int) -> object:
        return await self.store.command(*args, key=keys.stream(self.partition))

    async def rewrite(self, change: Callable[[Rows], Rows]) -> None:
        """Write the stream anew with changed rows under their own ids."""
        name = keys.stream(self.partition)
        rows = await self.store.command("XRANGE", name, "-", "+", key=name)
        changed = change([(row[0], dict(zip(row[1][::2], row[1][1::2], strict=True))) for row in rows])
        await self.run("DEL", name)
        for entry_id, fields in changed:
            await self.run("XADD", name, entry_id, *(part for pair in fields.items() for part in pair))

    async def edit(self, of: str, number: int, **values: bytes) -> None:
        """Change values of one event of a session."""

        def change(rows: Rows) -> Rows:
            for _, fields in rows:
                if (fields[b"sid"].hex(), fields[b"seq"]) == (of, b"%d" % number):
                    fields.update({name.encode(): value for name, value in values.items()})
            return rows

        await self.rewrite(change)

    async def drop(self, sid: str, *seqs: int) -> None:
        """Take events out of the stream."""
        gone = {(sid, b"%d" % seq) for seq in seqs}
        await self.rewrite(lambda rows: [row for row in rows if (row[1][b"sid"].hex(), row[1][b"seq"]) not in gone])

    async def found(self) -> list[Finding]:
        report = await verify(self.store, PARTITIONS)
        assert report.different == len(report.differences)
        assert {difference.partition for difference in report.differences} <= {self.partition}
        return report.differences


@pytest.fixture
def damaged(ledger: Ledger) -> Damaged:
    return Damaged(ledger.store, ledger.partition_of("ann"))


def session(sid: str) -> Callable[[int], bytes]:
    return lambda partition: keys.session(partition, sid)


def checkpoints(sid: str) -> Callable[[int], bytes]:
    return lambda partition: keys.checkpoints(partition, sid)


def marks(sid: str) -> Callable[[int], bytes]:
    return lambda partition: keys.marks(partition, sid)


def devices(partition: int) -> bytes:
    return keys.devices(partition, "ann")


FLIPPED = bytearray(encode_event(SessionEndedEvent("logout", plain("ann"))))
FLIPPED[-1] ^= 1

EVENT_DAMAGE = {
    "a byte of an event": (GONE, 4, {"event": bytes(FLIPPED)}, "the hash does not match"),
    "a byte of a hash": (PHONE, 2, {"hash": b"\x00" * 32}, "the hash does not match"),
    "a time": (PHONE, 3, {"at": b"%d" % (NOW + 1)}, "the hash does not match"),
    "the last event's hash": (PHONE, 3, {"hash": b"\x00" * 32}, "the hash does not match"),
    "a seq": (PHONE, 2, {"seq": b"7"}, "seq 7 follows seq 1"),
    "prev": (PHONE, 3, {"prev": b"1-1"}, "prev is 1-1, the event before is"),
    "no prev": (PHONE, 3, {"prev": b""}, "prev is empty"),
}


@pytest.mark.parametrize(("sid", "seq", "values", "what"), EVENT_DAMAGE.values(), ids=EVENT_DAMAGE)
async def test_a_changed_event_is_named_once(
    damaged: Damaged, sid: str, seq: int, values: dict[str, bytes], what: str
) -> None:
    await damaged.edit(sid, seq, **values)
    (difference,) = await damaged.found()
    assert difference.session == sid
    assert what in difference.what
    assert difference.event, "the stream id of the event"


UNREADABLE = {
    "bytes that are no event": ({"event": b"\xc1"}, "cannot be read"),
    "an unknown event": ({"event": msgspec.msgpack.encode(["from_the_future", 1])}, "unknown type 'from_the_future'"),
    "a newer schema": ({"schema": b"%d" % (SCHEMA + 1)}, f"schema {SCHEMA + 1}"),
    "a seq that is no number": ({"seq": b"x"}, "cannot be read"),
    "a prev that is no text": ({"prev": b"\xff"}, "cannot be read"),
}


@pytest.mark.parametrize(("values", "what"), UNREADABLE.values(), ids=UNREADABLE)
async def test_an_event_that_cannot_be_read_is_named_with_its_session(
    damaged: Damaged, values: dict[str, bytes], what: str
) -> None:
    await damaged.edit(PHONE, 2, **values)
    (unread,) = await damaged.found()
    assert what in unread.what
    assert unread.event
    assert unread.session == PHONE


async def test_an_event_given_to_another_session_is_named_in_both(damaged: Damaged) -> None:
    await damaged.edit(PHONE, 2, sid=bytes.fromhex(TABLET))
    assert {difference.session for difference in await damaged.found()} == {PHONE, TABLET}


@pytest.mark.parametrize(
    ("sid", "seqs", "what"),
    [
        (PHONE, (1,), "seq 2 follows seq 0"),
        (PHONE, (2,), "seq 3 follows seq 1"),
        (PHONE, (3,), "is missing, though it was never archived"),
        (PHONE, (1, 2, 3), "is missing, though it was never archived"),
        (TABLET, (129,), "seq 130 follows seq 128"),
        (GONE, (4,), "is missing, though it was never archived"),
        (GONE, (1, 2, 3, 4), "is missing, though it was never archived"),
    ],
)
async def test_dropped_events_are_named(damaged: Damaged, sid: str, seqs: tuple[int, ...], what: str) -> None:
    await damaged.drop(sid, *seqs)
    (difference,) = await damaged.found()
    assert difference.session == sid
    assert what in difference.what


STORED = {
    "a session field": (
        PHONE,
        ["HSET", session(PHONE), "pending_reset", "1"],
        "session differs from the fold in pending",
    ),
    "a field too many": (PHONE, ["HSET", session(PHONE), "x", "1"], "session differs from the fold in x"),
    "a field too few": (PHONE, ["HDEL", session(PHONE), "offered"], "session differs from the fold in offered"),
    "a session without seq": (PHONE, ["HDEL", session(PHONE), "seq"], "a session at seq b'nothing'"),
    "a seq that is no number": (PHONE, ["HSET", session(PHONE), "seq", "x"], "a session at seq b'x'"),
    "a session at seq 0": (PHONE, ["HSET", session(PHONE), "seq", "0"], "a session at seq b'0'"),
    "a seq behind": (PHONE, ["HSET", session(PHONE), "seq", "2"], "stored at seq 2, behind its events at 3"),
    "a seq ahead": (PHONE, ["HSET", session(PHONE), "seq", "9"], "events 4 to 9 cannot be reached"),
    "the head": (PHONE, ["HSET", session(PHONE), "head", "1-1"], "session differs from the fold in head"),
    "a mark": (TABLET, ["LSET", marks(TABLET), 1, "1-1"], "its marks are not where its events are"),
    "a mark that is no stream id": (TABLET, ["LSET", marks(TABLET), 1, "x"], "its marks are not where its events are"),
    "a mark too many": (TABLET, ["RPUSH", marks(TABLET), "1-1"], "its marks are not where its events are"),
    "a mark too few": (TABLET, ["LPOP", marks(TABLET)], "its marks are not where its events are"),
    "lost marks": (TABLET, ["DEL", marks(TABLET)], "its marks are not where its events are"),
    "marks of a short session": (PHONE, ["RPUSH", marks(PHONE), "1-1"], "its marks are not where its events are"),
    "marks of a short session that ended": (GONE, ["RPUSH", marks(GONE), "1-1"], "its marks are not where"),
    "marks of an unknown session": (NOBODY, ["RPUSH", marks(NOBODY), "1-1"], "is in an index only"),
    "a checkpoint": (
        PHONE,
        ["HSET", checkpoints(PHONE), "AssetV1", f"{SNAPSHOT - 8}|a|{NOW}"],
        "checkpoints differ from the fold in AssetV1",
    ),
    "a lost checkpoint": (
        PHONE,
        ["HDEL", checkpoints(PHONE), "AssetV1"],
        "checkpoints differ from the fold in AssetV1",
    ),
    "a checkpoint too many": (PHONE, ["HSET", checkpoints(PHONE), "UserV1", "1||1"], "differ from the fold in UserV1"),
    "lost checkpoints": (PHONE, ["DEL", checkpoints(PHONE)], "checkpoints differ from the fold in AlbumV2, AssetV1"),
    "a lost session": (PHONE, ["DEL", session(PHONE)], "no session, though its events do not end"),
    "an ended session's hash": (GONE, ["HSET", session(GONE), "seq", "4"], "ended, but still has session"),
    "an older hash of an ended session": (GONE, ["HSET", session(GONE), "seq", "2"], "stored at seq 2, behind"),
    "an ended session's checkpoints": (GONE, ["HSET", checkpoints(GONE), "UserV1", "1||1"], "still has checkpoints"),
    "an ended session in the activity index": (GONE, ["ZADD", keys.activity, 1, GONE], "still has activity"),
    "an ended session among the devices": (GONE, ["HSET", devices, GONE, ""], "ended, but still has devices"),
    "an ended session not kept": (GONE, ["HDEL", keys.ended, GONE], "ended, but not kept as ended"),
    "an ended session kept wrongly": (
        GONE,
        ["HSET", keys.ended, GONE, b"1-1 \x93\x04\xc4\x00\xa0"],
        "kept of the ended",
    ),
    "an ended session kept unreadably": (GONE, ["HSET", keys.ended, GONE, "x"], "cannot be read"),
    "a living session kept as ended": (PHONE, ["HSET", keys.ended, PHONE, "x"], "lives, and is kept as ended too"),
    "a session not in the activity index": (PHONE, ["ZREM", keys.activity, PHONE], "is not in the activity index"),
    "a session not among the devices": (PHONE, ["HDEL", devices, PHONE], "is not among its user's devices"),
    "a session with another parent": (PHONE, ["HSET", devices, PHONE, TABLET], "is not among its user's devices"),
    "an unknown session in the activity index": (NOBODY, ["ZADD", keys.activity, 1, NOBODY], "is in an index only"),
    "an unknown session among the devices": (NOBODY, ["HSET", devices, NOBODY, ""], "is in an index only"),
    "an unknown session kept as ended": (NOBODY, ["HSET", keys.ended, NOBODY, b"1-1 \x93\x04\xc4\x00\xa0"], "missing"),
    "an unknown session kept at seq 0": (
        NOBODY,
        ["HSET", keys.ended, NOBODY, b"1-1 \x93\x00\xc4\x00\xa0"],
        "at seq b'0'",
    ),
    "an index entry that is no session": ("\\xff", ["ZADD", keys.activity, 1, b"\xff"], "is in an index only"),
}


@pytest.mark.parametrize(("sid", "command", "what"), STORED.values(), ids=STORED)
async def test_what_is_stored_beside_the_events_is_compared(
    damaged: Damaged, sid: str, command: list[str | bytes | int | Callable[[int], bytes]], what: str
) -> None:
    await damaged.run(*(arg(damaged.partition) if callable(arg) else arg for arg in command))
    (difference,) = await damaged.found()
    assert difference.session == sid
    assert what in difference.what


@pytest.mark.parametrize(
    "key", [session(PHONE), checkpoints(PHONE), marks(PHONE)], ids=["session", "checkpoints", "marks"]
)
@pytest.mark.each_store
async def test_a_key_of_another_type_is_named(damaged: Damaged, key: Callable[[int], bytes]) -> None:
    await damaged.run("SET", key(damaged.partition), "x")
    (difference,) = await damaged.found()
    assert difference.session == PHONE
    assert f"{key(damaged.partition).decode()} is a string, where a " in difference.what


async def test_every_difference_is_named_not_only_the_first(damaged: Damaged) -> None:
    await damaged.edit(GONE, 2, hash=b"\x00" * 32)
    await damaged.run("HSET", keys.session(damaged.partition, PHONE), "library", "other")
    await damaged.run("HSET", keys.checkpoints(damaged.partition, PHONE), "AssetV1", "1||1")
    await damaged.run("ZREM", keys.activity(damaged.partition), TABLET)
    assert sorted((difference.session, difference.what.split()[0]) for difference in await damaged.found()) == sorted(
        [(GONE, "the"), (PHONE, "session"), (PHONE, "checkpoints"), (TABLET, "is")]
    )


# In use


async def test_a_ledger_in_use_is_clean(valkey_url: str) -> None:
    mine, theirs = await open_store(valkey_url), await open_store(valkey_url)
    await mark_new(mine, PARTITIONS)
    ledger = Ledger(theirs, PARTITIONS, Clock())
    over = asyncio.Event()
    rounds = 0

    async def device(number: int) -> None:
        nonlocal rounds
        user = f"user-{number % 4}"
        snapshot_us = SNAPSHOT
        for life in range(1000):
            sid = sid_of(f"{number} {life}")
            await ledger.execute(user, sid, CreateSession(user, "photos"))
            for step in range(40):
                snapshot_us += 10
                await ledger.execute(user, sid, offer("AssetV1", snapshot_us=snapshot_us))
                epoch = (await ledger.load(user, sid)).epoch_of("AssetV1")
                await ledger.execute(user, sid, acks(ack("AssetV1", snapshot_us - 1, "a", epoch=epoch)))
                if step % 9 == number:
                    await ledger.execute(user, sid, clear())
                rounds += 1
                if over.is_set():
                    return
            await ledger.execute(user, sid, EndSession("logout", plain(user)))

    devices = [asyncio.create_task(device(number)) for number in range(8)]
    try:
        reports = [await verify(mine, PARTITIONS) for _ in range(8)]
    finally:
        over.set()
        await asyncio.gather(*devices)
    assert [report.differences for report in reports] == [[]] * len(reports)
    assert reports[-1].events > reports[0].events, "it went on meanwhile"
    assert (await verify(mine, PARTITIONS)).differences == []
    for store in (mine, theirs):
        await store.close()


async def test_a_session_that_moves_while_it_is_read_is_folded_on(ledger: Ledger) -> None:
    """Between the look at the stream and the look at a session it acts, ends, or signs in."""
    store = ledger.store
    acted = False

    class Meanwhile:
        """The store, with things happening behind the reading of the stream."""

        async def script(self, *args: object) -> object:
            nonlocal acted
            if not acted:
                acted = True
                for number in range(250):
                    await ledger.execute("ann", PHONE, RequestReset(number % 2 == 0, plain("ann")))
                await ledger.execute("ann", TABLET, EndSession("logout", plain("ann")))
                await ledger.execute("ann", NOBODY, CREATE)
            return await store.script(*args)  # type: ignore[arg-type]

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

    report = await verify(Meanwhile(), PARTITIONS)  # type: ignore[arg-type]
    assert report.differences == []
    assert report.sessions + report.ended == 4
    with pytest.raises(SessionEnded):
        await ledger.load("ann", TABLET)
