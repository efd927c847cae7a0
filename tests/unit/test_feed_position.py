"""Positions of a feed: they read back, fit where they must, and what is no position says so."""

from __future__ import annotations

import base64
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.feed.position import (
    BEGINNING,
    HEADER_CHARS,
    HEADER_PARTITIONS,
    FeedPosition,
    StreamId,
    fits_header,
    longest_text,
    mark_of,
    stream_id,
)

MARK = mark_of("a ledger")
NOW_MS = 1_790_000_000_000
YEAR_MS = 365 * 86_400_000
U64 = st.integers(0, 2**64 - 1)
places = st.one_of(
    st.just(BEGINNING),
    st.builds(StreamId, st.integers(NOW_MS - 3 * YEAR_MS, NOW_MS), st.integers(0, 9)),
    st.builds(StreamId, st.integers(0, 2**63), U64),
)
positions = st.lists(places, min_size=1, max_size=40).map(lambda ids: FeedPosition(tuple(ids)))


def spread(partitions: int, ms: int) -> FeedPosition:
    """A position whose partitions were last written to within so long."""
    dice = random.Random(7)
    return FeedPosition(
        tuple(StreamId(NOW_MS - dice.randrange(ms), dice.choice((0, 0, 0, 1, 4))) for _ in range(partitions))
    )


@given(positions)
def test_a_position_reads_back(position: FeedPosition) -> None:
    text = position.text(MARK)
    assert text.isascii()
    assert text.replace("-", "").replace("_", "").isalnum()
    assert FeedPosition.parse(text, MARK, len(position.ids)) == position


@given(positions, st.data())
def test_a_position_that_was_changed_is_none_or_another_one(position: FeedPosition, data: st.DataObject) -> None:
    text = position.text(MARK)
    at = data.draw(st.integers(0, len(text) - 1))
    other = text[:at] + data.draw(st.sampled_from("AZaz09-_.=é \n")) + text[at + 1 :]
    try:
        found = FeedPosition.parse(other, MARK, len(position.ids))
    except ValueError:
        return
    assert found == position  # the same character, or bits that carry nothing


@given(st.text(max_size=200))
def test_any_text_is_a_position_or_an_error_that_says_why(text: str) -> None:
    with pytest.raises(ValueError, match=r"^it is "):
        FeedPosition.parse(text, MARK, 4)


def test_what_is_wrong_is_said() -> None:
    position = spread(8, YEAR_MS)
    text = position.text(MARK)
    for wrong, why in [
        (position.text(mark_of("another")), "of another ledger"),
        (text[:-6], "damaged or cut off|damaged, cut off"),
        (text + "AAAA", "damaged, cut off"),
        (text + "=", "no base64url"),
        ("", "no position"),
        ("now!", "no base64url"),
        (spread(9, YEAR_MS).text(MARK), "of more partitions"),
        (spread(7, YEAR_MS).text(MARK), "of 7 partitions, and this ledger has 8"),
        ("A" * (longest_text(8) + 1), "longer than any position of 8 partitions"),
    ]:
        with pytest.raises(ValueError, match=why):
            FeedPosition.parse(wrong, MARK, 8)


def test_what_unpacks_to_far_more_is_not_unpacked() -> None:
    bomb = base64.urlsafe_b64encode(b"\1" + MARK + zlib.compress(bytes(10**6), 9)).rstrip(b"=").decode()
    assert len(bomb) < longest_text(256)
    with pytest.raises(ValueError, match="of more partitions"):
        FeedPosition.parse(bomb, MARK, 256)


@pytest.mark.parametrize(("partitions", "most"), [(1, 60), (256, 2000), (HEADER_PARTITIONS, HEADER_CHARS)])
def test_a_position_of_years_fits_into_a_header(partitions: int, most: int) -> None:
    text = spread(partitions, 3 * YEAR_MS).text(MARK)
    assert len(text) <= most
    assert fits_header(text, partitions)


def test_above_that_none_is_sent_in_a_header() -> None:
    assert not fits_header(spread(HEADER_PARTITIONS + 1, 1).text(MARK), HEADER_PARTITIONS + 1)
    assert not fits_header("A" * (HEADER_CHARS + 1), 1)


@given(st.lists(st.builds(StreamId, U64, U64), min_size=1, max_size=5))
def test_none_is_longer_than_the_longest(ids: list[StreamId]) -> None:
    assert len(FeedPosition(tuple(ids)).text(MARK)) <= longest_text(len(ids))


def test_stream_ids_are_ordered_as_numbers() -> None:
    assert stream_id("9-10") > stream_id("9-9") > stream_id("8-99")
    assert str(stream_id("1790000000000-3")) == "1790000000000-3"
