"""The hash chain: what it covers, and that its formula never changes."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given as forall

from ledger.chain import GENESIS, link, record
from ledger.events import SCHEMA, Recorded
from ledger.state import State
from tests.support.ledger.given import CREATED, NOW, SID, cleared, histories, offered


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
