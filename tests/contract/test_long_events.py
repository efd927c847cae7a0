"""Events as long as earlier versions made them: every page that is read is bounded in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from ledger.events import AcksRecorded, StoredAck
from ledger.log.reader import MOST_ROWS, PAGE_BYTES, Entry, read_raw, size_of, walk
from ledger.state import State
from ledger.store.interface import Store
from projections.checking.partition_fold import PartitionFold
from projections.checking.verify import verify
from projections.history.event_pages import EventPages
from projections.history.session_history import Wanted
from projections.history.user_history import user_pages
from tests.support.ledger.ledgers import PARTITION, Log

LONG: Final = 120_000
"""How many bytes the longest events here have."""
MOST: Final = PAGE_BYTES + LONG
EVENTS: Final = 14


def long_event(number: int) -> AcksRecorded:
    """Make what one request of stale acks was before."""
    return AcksRecorded((), tuple(StoredAck(3, number * 1000 + n, "x" * 240, 1) for n in range(LONG // 260)))


@pytest.fixture
async def log(valkey_store: Store) -> tuple[Log, State]:
    """A partition with a session of which some events are long, among those of another."""
    log = Log(valkey_store)
    state = await log.history(40)
    for number in range(EVENTS):
        state = await log.append(state, long_event(number))
    return log, await log.append(state, AcksRecorded((StoredAck(3, 5, "a", 1),)))


def seqs(entries: Sequence[Entry]) -> list[int]:
    return [entry.recorded.seq for entry in entries]


async def test_a_partition_is_read_in_pages_of_so_many_bytes(log: tuple[Log, State]) -> None:
    held, state = log
    for number in range(EVENTS, 3 * EVENTS):
        state = await held.append(state, long_event(number))
    sizes, read = list[int](), 0
    async for rows in read_raw(held.store, PARTITION):
        assert len(rows) <= MOST_ROWS
        sizes.append(sum(len(row[1][9]) for row in rows))
        read += len(rows)
    assert read == await held.length()
    first = next(number for number, size in enumerate(sizes) if size > PAGE_BYTES)
    assert max(sizes[first + 1 :]) <= MOST
    assert len(sizes) > first + 8


async def test_a_session_is_walked_and_read_both_ways_in_pages_of_so_many_bytes(log: tuple[Log, State]) -> None:
    held, state = log
    page = await walk(held.store, PARTITION, state.sid)
    assert page is not None
    assert page.full
    assert size_of(page.entries) <= MOST
    past, every = EventPages(held.store), list(range(1, state.seq + 1))
    for forward in (False, True):
        read: list[Entry] = []
        hashes: dict[str, bytes] = {}
        async for run in past.runs(PARTITION, state.sid, forward=forward):
            assert size_of(run.entries) <= MOST
            read += run.entries
            hashes |= run.previous_hashes
        assert seqs(read) == (every if forward else every[::-1])
        assert len(hashes) == len(read), "each is known to follow the one before"


async def test_an_event_longer_than_a_page_is_a_page(log: tuple[Log, State]) -> None:
    held, state = log
    past = EventPages(held.store)
    for forward in (False, True):
        runs = [run async for run in past.runs(PARTITION, state.sid, forward=forward, page_bytes=1000)]
        assert all(len(run.previous_hashes) == len(run.entries) for run in runs)
        assert sorted(seq for run in runs for seq in seqs(run.entries)) == list(range(1, state.seq + 1))


async def test_a_user_is_read_in_pages_of_so_many_bytes(log: tuple[Log, State]) -> None:
    held, state = log
    for forward in (False, True):
        read = 0
        async for page in user_pages(EventPages(held.store), PARTITION, state.user, Wanted(), forward=forward):
            assert sum(len(event.raw) for event in page.events) <= MOST
            read += page.looked_at
        assert read == await held.length()


async def test_what_a_session_did_meanwhile_is_folded_on_though_it_is_long(log: tuple[Log, State]) -> None:
    held, state = log
    fold = PartitionFold(held.store, PARTITION)
    assert await fold.catch_up(state.sid, state.seq) == ""
    assert fold.of(state.sid).hash == state.hash
    assert (await verify(held.store, PARTITION + 1, only=[PARTITION])).different == 0
