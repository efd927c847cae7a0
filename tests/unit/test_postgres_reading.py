"""How much statements bring, and how what they brought becomes pages."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ledger.positions import iso_from_us
from projections.entities.lines import CLOSED, JoinedLines, joined, last_of
from projections.entities.postgres.reading import (
    FETCH_BYTES,
    MOST_FETCH_BYTES,
    PAGE_BYTES,
    STEADY,
    WIDE_PAGE_BYTES,
    Batch,
    Fetched,
    Pace,
    Room,
    Stands,
    place_of,
)

LIMIT = 1000


def line(number: int, size: int) -> bytes:
    iso = iso_from_us(1_700_000_000_000_000 + number)
    return b'{"type":"T","data":{"text":"%b"},"ack":"T|%b|%d' % (b"x" * size, iso.encode(), number)


def stands_of(instants_ms: Sequence[int]) -> Stands:
    return Stands(b"".join(ms.to_bytes(6, "big") + bytes(10) for ms in instants_ms), is_uuid=True)


def brought(entries: Sequence[bytes], *, plain: bool = True) -> Fetched:
    return Fetched(joined(entries, CLOSED), plain, (("asset", stands_of(range(len(entries)))),))


def batch(entries: Sequence[bytes], read: int | None = None, *, more_shares: bool = False) -> Batch:
    return Batch(brought(entries), len(entries) if read is None else read, len(entries), more_shares)


@given(
    st.lists(st.sampled_from([0, 1, 300, 5000, PAGE_BYTES - 100, PAGE_BYTES, 3 * PAGE_BYTES]), min_size=1, max_size=60),
    st.sampled_from([1, 2, 7, LIMIT]),
    st.sampled_from([PAGE_BYTES, WIDE_PAGE_BYTES]),
    st.booleans(),
)
def test_pages_hold_each_entry_once_with_where_its_parent_stands(
    sizes: list[int], limit: int, most_bytes: int, plain: bool
) -> None:
    entries = [line(at, size) for at, size in enumerate(sizes)]
    pages = list(brought(entries, plain=plain).cut(limit, most_bytes))
    assert [entry for page in pages for entry in page.entries] == entries
    for page in pages:
        first = int(place_of(page.entries[0]).id)
        ((_, stands),) = page.parents
        assert stands.latest_us == int(page.last.id) * 1000
        assert [stands.first_at(at * 1000) for at in (first, first + len(page.entries))] == [0, None]
        assert len(page.entries) <= limit
        assert len(page.text) <= most_bytes or len(page.entries) == 1


def test_a_page_of_the_shortest_entries_holds_no_more_than_the_limit() -> None:
    waiting = b"|2025-01-20T10:30:45.123456Z|1"
    pages = list(brought([waiting] * 5000, plain=False).cut(LIMIT))
    assert [len(page.entries) for page in pages] == [LIMIT] * 5


@given(st.lists(st.binary(max_size=20).map(lambda raw: raw.hex().encode()), max_size=8), st.sampled_from([1, 2, 12]))
def test_joined_lines_are_those_that_were_joined(lines: list[bytes], epoch: int) -> None:
    end = CLOSED if epoch == 1 else b'|%d"}\n' % epoch
    made = JoinedLines(joined(lines, CLOSED))
    assert made == lines
    assert joined(made, end) == joined(lines, end)
    assert bool(made) == bool(lines)
    if lines:
        assert last_of(made) == last_of(lines) == lines[-1]


def test_statements_grow_for_a_reader_that_waits_and_shrink_for_one_that_is_waited_for() -> None:
    room = Room(10 * MOST_FETCH_BYTES)
    pace = Pace(LIMIT, 100.0, room)
    sizes = [pace.size]
    for keeps_up in (*[True] * (STEADY + 3), False, False, False):
        assert pace.learn(batch([line(0, 60)] * 2000, read=pace.rows), keeps_up=keeps_up)
        sizes.append(pace.size)
        assert pace.rows * 100 <= pace.size
    first, most = FETCH_BYTES, MOST_FETCH_BYTES
    assert sizes == [*[first] * STEADY, 2 * first, 4 * first, most, most, most // 2, most // 4, first]
    assert room.left == 10 * most


def test_pages_are_wide_only_for_a_reader_that_keeps_up_and_never_wider_than_a_source_may_make_them() -> None:
    pace = Pace(LIMIT, 100.0, Room())
    assert pace.page_bytes == PAGE_BYTES
    for _ in range(STEADY + 3):
        pace.learn(batch([line(0, 60)] * 2000), keeps_up=True)
    assert PAGE_BYTES < pace.page_bytes <= 128 * 1024
    while pace.size > FETCH_BYTES:
        pace.learn(batch([line(0, 60)] * 2000), keeps_up=False)
    assert pace.page_bytes == PAGE_BYTES


def test_a_parent_is_found_that_only_one_of_several_pages_has() -> None:
    late = [stands_of([1, 2, 3, 9, 4, 5]).cut(start, start + 2) for start in (0, 2, 4)]
    assert [one.first_at(9000) for one in late] == [None, 1, None]
    assert [one.only([1]).first_at(9000) for one in late] == [None, 0, None]


def test_all_statements_of_a_process_grow_no_further_than_their_room() -> None:
    room = Room(MOST_FETCH_BYTES)
    paces = [Pace(LIMIT, 100.0, room) for _ in range(50)]
    for _ in range(STEADY + 5):
        for pace in paces:
            pace.learn(batch([line(0, 60)] * 2000), keeps_up=True)
            assert room.left >= 0
    assert sum(pace.size - FETCH_BYTES for pace in paces) <= MOST_FETCH_BYTES
    for pace in paces:
        pace.give_back()
    assert room.left == MOST_FETCH_BYTES
