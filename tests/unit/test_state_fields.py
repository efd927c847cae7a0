"""How a state lies in its two hashes: it reads back, and changes lead from one state to the next."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from ledger.errors import CorruptLedger
from ledger.events import Recorded, SessionCreated, SessionEnded
from ledger.log.state_fields import Changes, Fields, changes, checkpoint_fields, read_state, session_fields
from ledger.personal import plain
from ledger.positions import Position
from ledger.state import Checkpoint, State
from tests.support.ledger.given import (
    NOW,
    SID,
    SNAPSHOT,
    ack,
    cleared,
    commands,
    given,
    histories,
    history,
    moved,
    offered,
    then,
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
created = st.builds(
    SessionCreated,
    user=names,
    library=names,
    parent=st.none() | st.just("a" * 64),
    device_type=(st.just("") | names).map(plain),
    device_os=(st.just("") | names).map(plain),
    app_version=(st.just("") | names).map(plain),
    expires_at_us=st.none() | st.integers(NOW + 100, 2**53),
    authenticated_by=st.just("") | names,
    token_expires_at_us=st.none() | st.integers(NOW + 100, 2**53),
    provider_session=st.binary(max_size=16),
)


def apply(fields: Fields, to_set: Fields, remove: list[bytes]) -> Fields:
    """Do what the append script does to a hash."""
    return {name: value for name, value in (fields | to_set).items() if name not in remove}


def assert_leads(change: Changes, before: State | None, after: State) -> None:
    session = {} if before is None else session_fields(before)
    checkpoints = {} if before is None else checkpoint_fields(before)
    of_event = {b"seq": b"%d" % after.seq, b"at_us": b"%d" % after.at_us, b"hash": after.hash}
    assert apply(session, change.set | of_event, change.remove) == session_fields(after)
    assert apply(checkpoints, change.set_checkpoints, change.remove_checkpoints) == checkpoint_fields(after)


@forall(created, st.lists(commands, max_size=15))
def test_every_state_reads_back_as_it_was_laid_out(first: SessionCreated, sent: list[object]) -> None:
    for _, state in history(sent, first):  # type: ignore[arg-type]
        chain = {b"head": b"1-1"}
        assert read_state(state.sid, session_fields(state) | chain, checkpoint_fields(state)) == state


@forall(histories)
def test_changes_lead_from_each_state_to_the_next(steps: list[tuple[Recorded, State]]) -> None:
    assert_leads(changes(None, steps[0][1]), None, steps[0][1])
    for (_, before), (_, after) in pairwise(steps):
        assert_leads(changes(before, after), before, after)


@forall(histories, st.data())
def test_changes_lead_over_several_events_at_once(steps: list[tuple[Recorded, State]], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(steps) - 1))
    end = data.draw(st.integers(start, len(steps) - 1))
    assert_leads(changes(steps[start][1], steps[end][1]), steps[start][1], steps[end][1])


def test_an_ack_changes_few_fields() -> None:
    before = given(offered("AssetV1", "AlbumV2"), moved(ack("AlbumV2", 5, "x")))
    change = changes(before, then(before, moved(ack("AssetV1", 9, "a"))))
    assert (change.set, change.remove) == ({}, [])
    assert (list(change.set_checkpoints), change.remove_checkpoints) == ([b"AssetV1"], [])


def test_a_checkpoint_is_readable_in_a_console() -> None:
    state = given(offered("AssetV1"), moved(ack("AssetV1", 1234567, "é b")), at_us=SNAPSHOT)
    assert checkpoint_fields(state) == {b"AssetV1": b"1234567|" + "é b".encode() + b"|%d" % SNAPSHOT}
    assert state.checkpoints == {"AssetV1": Checkpoint(Position(1234567, "é b"), SNAPSHOT)}


def test_facts_with_their_default_have_no_field() -> None:
    assert set(session_fields(given(SessionCreated("ann", "photos")))) == {
        b"user", b"library", b"created_at_us", b"authenticated_by", b"seq", b"at_us", b"hash",
    }  # fmt: skip
    emptied = given(offered("AssetV1"), moved(ack("AssetV1", 5)), cleared(cause="reset", reset=True, wiped=True))
    assert checkpoint_fields(emptied) == {}
    assert not {b"offered", b"started", b"heard", b"reset_sent"} & set(session_fields(emptied))


@pytest.mark.parametrize("field", [b"user", b"library", b"seq", b"at_us", b"hash", b"created_at_us"])
def test_half_a_session_is_corrupt_and_named(field: bytes) -> None:
    fields = session_fields(given())
    del fields[field]
    with pytest.raises(CorruptLedger, match=field.decode()) as caught:
        read_state(SID, fields, {})
    assert caught.value.details == {"sid": SID}


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"seq", b"x"), (b"offered", b"12"), (b"epochs", b"AssetV1"), (b"noted", b"\x91"), (b"user", b"\xff")],
)
def test_an_unreadable_field_is_corrupt(field: bytes, value: bytes) -> None:
    with pytest.raises(CorruptLedger, match="cannot be read"):
        read_state(SID, session_fields(given()) | {field: value}, {})


@pytest.mark.parametrize("value", [b"", b"5", b"5|a", b"x|a|5", b"5|a|5|5"])
def test_an_unreadable_checkpoint_is_corrupt(value: bytes) -> None:
    with pytest.raises(CorruptLedger, match="cannot be read"):
        read_state(SID, session_fields(given()), {b"AssetV1": value})


def test_that_a_session_ended_is_no_field() -> None:
    over = given(SessionEnded("logout"))
    assert session_fields(over).keys() == session_fields(given()).keys()
