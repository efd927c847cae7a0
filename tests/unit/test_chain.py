"""The hash chain: what it covers, and that its formula never changes."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given as forall
from msgspec.structs import replace

from ledger.chain import GENESIS, broken_link, link, previous_of, record
from ledger.events import SCHEMA, HistoryLost, Recorded
from ledger.state import State
from tests.support.ledger.given import CREATED, NOW, SID, cleared, given, histories, offered, then


def test_the_formula_is_fixed() -> None:
    raw = bytes.fromhex("99af73657373696f6e5f63726561746564a3616e6ea670686f746f73c0a0a0c0c0a0")
    expected = sha256(bytes.fromhex(SID) + b"1 1790000000000000 1 " + raw).digest()
    assert link(GENESIS, SID, 1, NOW, 1, raw) == expected
    assert expected.hex() == "7471c94c8bcccd9c5af9a4da4752b0bd70fa2cba1dbf3afb20e3c32db9fc8906"
    assert (
        link(expected, SID, 2, NOW, 1, b"x")
        == sha256(expected + bytes.fromhex(SID) + b"2 1790000000000000 1 x").digest()
    )


def test_events_of_one_command_are_chained_in_order() -> None:
    one, two, three = record((CREATED, offered("AssetV1"), cleared()), SID, 0, NOW, GENESIS)
    assert [one.seq, two.seq, three.seq] == [1, 2, 3]
    for before, after in ((one, two), (two, three)):
        assert after.hash == link(before.hash, SID, after.seq, NOW, SCHEMA, after.raw)
    assert record((), SID, 5, NOW, GENESIS) == ()


@pytest.mark.parametrize(
    ("previous", "sid", "seq", "at_us", "schema", "raw"),
    [
        (b"q" * 32, SID, 2, NOW, 1, b"raw"),
        (b"p" * 32, "5f" * 32, 2, NOW, 1, b"raw"),
        (b"p" * 32, SID, 3, NOW, 1, b"raw"),
        (b"p" * 32, SID, 2, NOW + 1, 1, b"raw"),
        (b"p" * 32, SID, 2, NOW, 2, b"raw"),
        (b"p" * 32, SID, 2, NOW, 1, b"rav"),
        (b"p" * 32, SID, 2, NOW, 1, b"raw "),
    ],
)
def test_every_stored_part_of_an_event_is_covered(
    previous: bytes, sid: str, seq: int, at_us: int, schema: int, raw: bytes
) -> None:
    assert link(previous, sid, seq, at_us, schema, raw) != link(b"p" * 32, SID, 2, NOW, 1, b"raw")


@forall(histories)
def test_a_history_proves_itself(history: list[tuple[Recorded, State]]) -> None:
    previous = GENESIS
    for recorded, state in history:
        previous = link(previous, recorded.sid, recorded.seq, recorded.at_us, recorded.schema, recorded.raw)
        assert recorded.hash == state.hash == previous


def lost(known: State, left: State) -> HistoryLost:
    return HistoryLost(left.seq + 1, known.seq, "remembered", known.hash, left.hash)


def test_behind_a_hole_only_the_event_that_tells_of_it_follows() -> None:
    left = given(offered("AssetV1"))
    known = then(left, cleared(), offered("AssetV1"), cleared())
    told, next_one = record((lost(known, left), offered("AlbumV2")), SID, left.seq, NOW, left.hash)
    assert (told.seq, next_one.seq) == (known.seq + 1, known.seq + 2)
    assert told.hash == link(known.hash, SID, told.seq, NOW, SCHEMA, told.raw)
    assert previous_of(told, left.seq, left.hash) == known.hash
    assert previous_of(next_one, told.seq, told.hash) == told.hash
    for seq, digest in ((left.seq - 1, left.hash), (left.seq + 1, left.hash), (known.seq, known.hash), (0, b"")):
        assert previous_of(told, seq, digest) is None
    assert previous_of(told, left.seq, known.hash) is None, "the hole begins behind another event"
    assert previous_of(next_one, left.seq, left.hash) is None, "a hole that nothing tells of"
    for seq in (told.seq - 1, told.seq + 1):
        assert previous_of(replace(told, seq=seq), left.seq, left.hash) is None


def test_no_hole_is_told_of_where_there_is_none() -> None:
    left = given(offered("AssetV1"))
    nothing = HistoryLost(left.seq + 1, left.seq, "remembered", left.hash, left.hash)
    (told,) = record((nothing,), SID, left.seq, NOW, left.hash)
    assert previous_of(told, left.seq, left.hash) is None


def test_each_way_in_which_a_link_is_broken_is_told() -> None:
    first, second = record((CREATED, offered("AssetV1")), SID, 0, NOW, GENESIS)
    assert broken_link(first, "") == ""
    assert broken_link(second, "1-0", 1, first.hash, "1-0") == ""
    assert broken_link(second, "1-0") == "seq 2 follows seq 0"
    assert broken_link(first, "1-0", 1, first.hash, "1-0") == "seq 1 follows seq 1"
    assert broken_link(first, "1-0") == "prev is 1-0, the event before is none"
    assert broken_link(second, "", 1, first.hash, "1-0") == "prev is empty, the event before is 1-0"
    for forged in (replace(second, at_us=NOW + 1), replace(second, raw=first.raw), replace(second, hash=first.hash)):
        assert "the hash does not match" in broken_link(forged, "1-0", 1, first.hash, "1-0")
    assert "the hash does not match" in broken_link(second, "1-0", 1, second.hash, "1-0")
