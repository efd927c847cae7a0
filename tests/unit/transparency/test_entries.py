"""The leaves: their layout, and that every event there is has a kind."""

from __future__ import annotations

from typing import get_args

import pytest

from ledger.errors import CorruptLedger
from ledger.events import Event
from ledger.transparency.entries import (
    KINDS,
    MAX_NOTE_BYTES,
    MAX_WHY_BYTES,
    TAGS,
    ClosedLeaf,
    EventLeaf,
    StateLeaf,
    pack_closed,
    pack_event,
    pack_state,
    parse_leaf,
)
from ledger.transparency.tiles import pack_bundle, unpack_bundle

SID, HASH = bytes(range(32)), bytes(range(32, 64))


def test_the_layout_is_fixed() -> None:
    event = pack_event(KINDS["session_ended"], SID, 258, HASH)
    assert event == b"\0\x0e" + SID + b"\0\0\0\0\0\0\1\2" + HASH
    assert parse_leaf(event) == EventLeaf(14, SID, 258, HASH)
    state = pack_state(StateLeaf(259, 3, HASH))
    assert state == b"\1" + b"\0\0\0\0\0\0\1\3" + b"\0\0\0\0\0\0\0\3" + HASH
    assert parse_leaf(state) == StateLeaf(259, 3, HASH)


def test_the_layout_of_what_a_log_follows() -> None:
    closed = ClosedLeaf("a.example/log", 258, "it was lost", "a note\n")
    leaf = b"\2" + b"\0\0\0\0\0\0\1\2" + b"\0\x0da.example/log" + b"\0\x0bit was lost" + b"a note\n"
    assert pack_closed(closed) == leaf
    assert parse_leaf(leaf) == closed
    longest = ClosedLeaf("o" * 255, 2**64 - 1, "w" * MAX_WHY_BYTES, "n" * MAX_NOTE_BYTES)
    assert unpack_bundle(pack_bundle([pack_closed(longest)])) == [pack_closed(longest)], "it has room in a bundle"
    assert parse_leaf(pack_closed(longest)) == longest
    for cut in range(1, len(leaf) - len("a note\n")):
        with pytest.raises(CorruptLedger):
            parse_leaf(leaf[:cut])


@pytest.mark.parametrize("leaf", [b"", bytes(73), b"\1" + bytes(73), b"\2" + bytes(48), b"\3"])
def test_what_is_no_leaf(leaf: bytes) -> None:
    with pytest.raises(CorruptLedger):
        parse_leaf(leaf)


def test_each_event_has_a_kind_of_its_own() -> None:
    assert set(KINDS) == {each.__struct_config__.tag for each in get_args(Event)}
    assert len(TAGS) == len(KINDS)
