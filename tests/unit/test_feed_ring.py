"""The ring of the newest blocks: bounded in bytes, read by number."""

from __future__ import annotations

from ledger.events import SessionEnded
from projections.feed.position import StreamId
from projections.feed.ring import Ring
from projections.feed.told import Block
from tests.support.ledger.feeds import seen


def block(number: int, reason: str = "logout") -> Block:
    return Block(0, (seen(SessionEnded(reason)),), StreamId(number, 0))


def test_blocks_are_given_by_number_until_others_take_their_place() -> None:
    ring = Ring([StreamId(0, 0)], 20_000)
    for number in range(100):
        assert ring.end == number
        ring.add(block(number))
        assert ring.kept_bytes <= 20_000
    kept = [number for number in range(100) if (found := ring.get(number)) is not None and found.last.ms == number]
    assert kept == list(range(kept[0], 100))
    assert 2 <= len(kept) <= 8
    assert ring.first == kept[0]
    assert ring.base == [StreamId(kept[0] - 1, 0)]
    assert len(ring.ids()) == 1  # the samples are of one place


def test_the_newest_block_is_kept_however_long() -> None:
    ring = Ring([StreamId(0, 0)], 1000)
    ring.add(block(0, "r" * 50_000))
    assert ring.get(0) is not None
    ring.add(block(1))
    assert ring.get(0) is None
    assert ring.get(1) is not None
