"""What is kept of a session's last streams: bounded, only of sessions that are there, gone with their history."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ledger import keys
from ledger.commands import CreateSession, EndSession
from ledger.log.service import Ledger
from ledger.personal import plain
from ledger.store.interface import Store
from projections.archive.lease import Lease
from projections.archive.record import read_record
from projections.checking.verify import verify
from projections.sent.record import KEPT, SentStream, is_worth_noting, newest, note
from tests.contract.test_rebuild import rebuild
from tests.support.ledger.given import NOW
from tests.support.ledger.ledgers import Clock, sid_of

PARTITIONS = 2
SID = sid_of("phone")
STREAM = SentStream(NOW, 1_500_000, "gone", 3, 900, "AssetV1|t|a", "AssetV1|t|c", NOW, "corr-1")


@pytest.fixture
async def ledger(store: Store) -> Ledger:
    for partition in range(PARTITIONS):
        await store.command("SET", keys.whole(partition), "1", key=keys.whole(partition))
    ledger = Ledger(store, PARTITIONS, Clock())
    await ledger.execute("ann", SID, CreateSession("ann", "lib", device_type=plain("Pixel")))
    return ledger


def changed(**fields: Any) -> SentStream:
    return msgspec.structs.replace(STREAM, **fields)


async def kept(ledger: Ledger) -> list[SentStream]:
    return [sent.stream for sent in await newest(ledger, ledger.partition_of("ann"), SID)]


async def test_the_newest_come_first_and_only_the_last_are_kept(ledger: Ledger) -> None:
    for number in range(KEPT + 5):
        assert await note(ledger, "ann", SID, changed(at_us=NOW + number))
    assert [stream.at_us for stream in await kept(ledger)] == [NOW + KEPT + 4 - number for number in range(KEPT)]


async def test_a_record_is_small_whatever_is_in_it(ledger: Ledger) -> None:
    long = "ü" * 100_000
    await note(ledger, "ann", SID, changed(first=long, last=long, why=long))
    name = keys.sent(ledger.partition_of("ann"), SID)
    (entry,) = await ledger.store.command("LRANGE", name, 0, -1, key=name)
    assert len(entry) < 2048


async def test_failures_alike_before_the_first_row_count_as_one(ledger: Ledger) -> None:
    await note(ledger, "ann", SID, STREAM)
    for number in range(50):
        down = changed(at_us=NOW + number, how="refused", rows=0, first="", last="", why="the source is down")
        await note(ledger, "ann", SID, down)
    await note(ledger, "ann", SID, changed(how="refused", rows=0, first="", last="", why="another reason"))
    found = await newest(ledger, ledger.partition_of("ann"), SID)
    assert [(sent.stream.why, sent.times) for sent in found] == [
        ("another reason", 1), ("the source is down", 50), ("", 1),
    ]  # fmt: skip
    assert (found[1].since_us, found[1].stream.at_us) == (NOW, NOW + 49)


async def test_nothing_is_kept_of_a_session_that_is_nowhere(ledger: Ledger) -> None:
    other = sid_of("nobody's")
    assert not await note(ledger, "ann", other, STREAM)
    assert await newest(ledger, ledger.partition_of("ann"), other) == []


async def test_it_stays_when_the_session_ends_and_goes_with_its_history(ledger: Ledger) -> None:
    partition = ledger.partition_of("ann")
    living = sid_of("living")
    await ledger.execute("ann", living, CreateSession("ann", "lib"))
    for sid in (SID, living):
        await note(ledger, "ann", sid, STREAM)
    await ledger.execute("ann", SID, EndSession("logout", plain("ann")))
    assert await note(ledger, "ann", SID, changed(how="ended")), "it ends after its session"
    assert [stream.how for stream in await kept(ledger)] == ["ended", "gone"]
    async with Lease(ledger.store, partition) as lease:
        await lease.advance(await read_record(ledger.store, partition), [SID, living])
    assert await kept(ledger) == []
    assert len(await newest(ledger, partition, living)) == 1, "one that lives, because it was resumed"


async def test_verify_and_rebuild_leave_it_alone(ledger: Ledger) -> None:
    await note(ledger, "ann", SID, STREAM)
    report = await verify(ledger.store, PARTITIONS)
    assert (report.sessions, report.different) == (1, 0)
    await rebuild(ledger.store, everything=True)
    assert await kept(ledger) == [STREAM]


async def test_what_a_later_version_wrote_is_passed_over(ledger: Ledger) -> None:
    name = keys.sent(ledger.partition_of("ann"), SID)
    await note(ledger, "ann", SID, STREAM)
    await ledger.store.command("LPUSH", name, b"1 0  \x81\xa1a\x01", key=name)
    assert await kept(ledger) == [STREAM]


@pytest.mark.parametrize(
    ("how", "rows", "wanted"),
    [
        ("gone", 1, True), ("completed", 1, True), ("completed", 0, False), ("gone", 0, False), ("ended", 0, False),
        ("refused", 0, True), ("broken", 0, True), ("stalled", 0, True),
    ],
)  # fmt: skip
def test_a_poll_that_finds_nothing_is_not_kept(how: str, rows: int, wanted: bool) -> None:
    assert is_worth_noting(how, rows) is wanted
