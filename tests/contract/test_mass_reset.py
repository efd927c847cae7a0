"""Asking many sessions to start over: whoever may have spoken, each once, whatever is wrong with another."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ledger import keys
from ledger.commands import CreateSession, EndSession, RotateToken
from ledger.events import SyncResetRequested
from ledger.log.reader import read_partition
from ledger.log.service import Ledger
from ledger.log.whole import mark_new
from ledger.personal import plain
from ledger.store.interface import Store
from projections import mass_reset
from projections.mass_reset import MassReset, NotAsked, ask_to_reset, spoken_since
from tests.support.ledger.given import NOW
from tests.support.ledger.ledgers import Clock, sid_of

PARTITIONS = 4
HOUR_US = 3_600_000_000
BY = plain("operator")


@pytest.fixture
async def ledger(store: Store) -> Ledger:
    await mark_new(store, PARTITIONS)
    return Ledger(store, PARTITIONS, Clock(NOW - 30 * HOUR_US))


async def sign_in(ledger: Ledger, *names: str) -> None:
    for name in names:
        await ledger.execute(name, sid_of(name), CreateSession(name, "photos"))


async def fence(ledger: Ledger, since_us: int, *, dry_run: bool = False) -> MassReset:
    report = MassReset()
    who = spoken_since(ledger, since_us, report)
    return await ask_to_reset(ledger, who, cause="fence", by=BY, dry_run=dry_run, report=report)


async def asked(ledger: Ledger) -> dict[str, SyncResetRequested]:
    """Tell who was asked, by the events."""
    return {
        entry.recorded.sid: entry.recorded.event
        for partition in range(PARTITIONS)
        async for page in read_partition(ledger.store, partition)
        for entry in page
        if isinstance(entry.recorded.event, SyncResetRequested)
    }


@pytest.mark.each_store
async def test_who_may_have_spoken_is_asked_once_with_the_cause_and_by_whom(ledger: Ledger) -> None:
    await sign_in(ledger, "silent")
    ledger.clock = Clock(NOW - 2 * HOUR_US)
    await sign_in(ledger, "noted before", "gone")
    ledger.clock = Clock(NOW)
    await sign_in(ledger, "spoke")
    await ledger.execute("gone", sid_of("gone"), EndSession("logout"))
    assert await fence(ledger, NOW, dry_run=True) == MassReset(sessions=2, asked=2)
    assert await asked(ledger) == {}
    assert await fence(ledger, NOW) == MassReset(sessions=2, asked=2)
    event = SyncResetRequested(True, BY, "fence")
    assert await asked(ledger) == {sid_of("spoke"): event, sid_of("noted before"): event}
    assert await fence(ledger, NOW) == MassReset(sessions=2, before=2)
    assert await fence(ledger, 0) == MassReset(sessions=3, asked=1, before=2)


async def test_who_spoke_without_a_new_note_is_asked_too(ledger: Ledger) -> None:
    """A worker that found a note of an hour ago relies on it for an hour more."""
    await sign_in(ledger, "ann")
    other = Ledger(ledger.store, PARTITIONS, Clock(NOW - 29 * HOUR_US - 1))
    await other.load("ann", sid_of("ann"))
    last = NOW - 28 * HOUR_US - 2
    other.clock = Clock(last)
    await other.execute("ann", sid_of("ann"), RotateToken(bytes.fromhex(sid_of("ann")), b"1" * 32, 1))
    assert (await ledger.sessions.seen_ms("ann", [sid_of("ann")]))[0] < (last - HOUR_US) // 1000
    assert (await fence(ledger, last)).asked == 1


async def test_who_cannot_be_asked_is_named_and_all_others_are(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mass_reset, "_AT_ONCE", 2)
    names = [f"user{number}" for number in range(12)]
    await sign_in(ledger, *names)
    store, partition = ledger.store, ledger.partition_of("user3")
    broken, typed, lost = (keys.session(ledger.partition_of(name), sid_of(name)) for name in names[:3])
    await store.command("HSET", broken, "seq", "x", key=broken)
    await store.command("DEL", typed, key=typed)
    await store.command("SET", typed, "x", key=typed)
    await store.command("DEL", lost, key=lost)
    whole = keys.whole(partition)
    await store.command("DEL", whole, key=whole)
    report = await fence(ledger, NOW - 30 * HOUR_US)
    left = {name for name in names[3:] if ledger.partition_of(name) != partition}
    assert (await asked(ledger)).keys() == {sid_of(name) for name in left}
    assert report.asked == len(left) > 0
    named = {each.session for each in report.not_asked}
    assert named - {""} == {sid_of(name) for name in names[:3] if ledger.partition_of(name) != partition}
    assert NotAsked(partition, "", "is not whole: run syncledger rebuild, and this again") in report.not_asked
    assert report.failed == len(report.not_asked)


async def test_an_index_of_another_type_keeps_no_other_partition_from_being_asked(ledger: Ledger) -> None:
    await sign_in(ledger, *(f"user{number}" for number in range(8)))
    name = keys.activity(0)
    await ledger.store.command("DEL", name, key=name)
    await ledger.store.command("SET", name, "x", key=name)
    report = await fence(ledger, 0)
    assert (report.failed, report.not_asked[0].partition) == (1, 0)
    assert report.asked == sum(ledger.partition_of(f"user{number}") != 0 for number in range(8)) > 0


async def test_no_more_are_named_than_a_report_has_room_for(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mass_reset, "REPORTED", 3)
    for number in range(5):
        name = keys.activity(0)
        await ledger.store.command("ZADD", name, NOW // 1000, sid_of(f"nobody {number}"), key=name)
    report = await fence(ledger, NOW)
    assert (report.failed, len(report.not_asked)) == (5, 3)


async def test_any_sessions_can_be_asked_for_any_cause(ledger: Ledger) -> None:
    await sign_in(ledger, "ann")

    async def who() -> AsyncIterator[tuple[str, str]]:
        yield "ann", sid_of("ann")
        yield "bob", sid_of("ann")
        yield "ann", sid_of("nobody")

    assert await ask_to_reset(ledger, who(), cause="source") == MassReset(sessions=3, asked=1, ended=2)
    assert await asked(ledger) == {sid_of("ann"): SyncResetRequested(True, b"", "source")}
