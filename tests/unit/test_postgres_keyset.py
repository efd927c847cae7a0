"""Bounds of keysets: what comes after a position by its parameters is just what comes after it by its order."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from ledger.positions import MAX_US, Position
from projections.entities.postgres.statements.keyset import (
    MAX_BIGINT,
    read_id,
    share_after,
    stamp,
    stamped_after,
    uuid7_after,
    uuid_text,
)

# Few instants and few ids, so that they meet.
ms = st.integers(1_700_000_000_000, 1_700_000_000_003)
tails = st.integers(0, 3) | st.integers(2**80 - 4, 2**80 - 1)
uuids = st.builds(lambda at, tail: (at << 80) + tail, ms, tails)
shared = st.builds(lambda share, row: f"{uuid_text(share)}:{uuid_text(row)}", uuids, uuids)
positions = st.none() | st.builds(
    Position,
    st.builds(lambda at, more: at * 1000 + more, ms, st.sampled_from((0, 1, 999))),
    st.just("") | st.builds(uuid_text, uuids) | shared,
)


def comes_after(position: Position, after: Position | None) -> bool:
    return after is None or position.key > after.key


def stands_at(uuid: int) -> int:
    return (uuid >> 80) * 1000


@given(uuids, positions)
def test_rows_ordered_by_a_uuid(row: int, after: Position | None) -> None:
    position = Position(stands_at(row), uuid_text(row))
    assert (row > uuid7_after(after)) == comes_after(position, after)


@given(uuids, uuids, positions)
def test_rows_in_shares(share: int, row: int, after: Position | None) -> None:
    position = Position(stands_at(share), f"{uuid_text(share)}:{uuid_text(row)}")
    first, done = share_after(after)
    assert (share > first or (share == first and row > done)) == comes_after(position, after)


@given(ms, uuids, positions)
def test_rows_ordered_by_a_stamp_and_a_uuid(at_ms: int, row: int, after: Position | None) -> None:
    position = Position(at_ms * 1000, uuid_text(row))
    at_us, entity_id = stamped_after(after, "uuid")
    assert ((position.at_us, uuid_text(row)) > (at_us, entity_id)) == comes_after(position, after)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


@given(st.integers(0, 2), texts.filter(bool), st.integers(0, 2), texts)
def test_rows_ordered_by_a_stamp_and_a_text(at_us: int, row: str, after_us: int, after_id: str) -> None:
    after = Position(after_us, after_id)
    bound_us, bound_id = stamped_after(after, "text")
    is_behind = (at_us, row.encode()) > (bound_us, bound_id.encode())
    assert is_behind == comes_after(Position(at_us, row), after)


def printed(number: int) -> str:
    """An integer as the database prints it for a position."""
    return f"{number:020}" if number >= 0 else f"-{number + MAX_BIGINT + 1:020}"


bigints = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1)


@given(bigints, bigints)
@example(-(2**63), 2**63 - 1)
@example(-1, 0)
def test_integers_order_as_their_texts(one: int, other: int) -> None:
    assert read_id(printed(one), "bigint") == one
    assert (one < other) == (printed(one).encode() < printed(other).encode())


def test_an_id_of_another_kind_sends_its_instant_again() -> None:
    at_us = 1_700_000_000_000_000
    assert stamped_after(Position(at_us, "IMG_1.jpg"), "uuid")[0] == at_us - 1
    assert stamped_after(Position(at_us, "IMG_1.jpg"), "bigint") == (at_us - 1, MAX_BIGINT)
    assert uuid7_after(Position(at_us, "IMG_1.jpg")) == (at_us // 1000 << 80) - 1
    assert share_after(Position(at_us, "IMG_1.jpg")) == (at_us // 1000 << 80, 0)


def test_what_comes_after_a_whole_instant_needs_no_text_that_an_encoding_may_lack() -> None:
    at_us = 1_700_000_000_000_000
    assert stamped_after(None, "text") == (0, "")
    assert stamped_after(Position(at_us, ""), "text") == (at_us + 1, "")
    assert stamped_after(Position(MAX_US, ""), "text") == (MAX_US, "")


@given(st.integers(0, MAX_US))
def test_instants_are_exact(us: int) -> None:
    moment = stamp(us, "timestamptz")
    assert moment.tzinfo is UTC
    assert stamp(us, "timestamp") == moment.replace(tzinfo=None)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    assert (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds == us
