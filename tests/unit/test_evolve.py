"""The fold: what an event means for the state, and what it refuses to follow."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.chain import GENESIS, link, record
from ledger.commands import OfferStream, Resend
from ledger.decide import decide
from ledger.entity_types import CODES, COMPLETE, mask_of
from ledger.errors import CorruptLedger, UnknownEvent
from ledger.events import (
    AckRefused,
    AcksRecorded,
    CheckpointsAdopted,
    HistoryLost,
    Recorded,
    ResetSent,
    SessionCreated,
    SessionEnded,
    SessionResumed,
    StoredAck,
    StreamOffered,
    SyncResetRequested,
    decode_event,
)
from ledger.evolve import NOTED, evolve, fold, left_of
from ledger.personal import plain
from ledger.positions import Position
from ledger.state import Checkpoint, Offer, State
from tests.support.ledger.given import (
    CREATED,
    NOW,
    SID,
    SNAPSHOT,
    TYPES,
    ack,
    cleared,
    completed,
    given,
    histories,
    moved,
    offered,
    stored,
    then,
)


def test_a_session_begins_with_what_its_creation_says() -> None:
    created = SessionCreated(
        "ann", "photos", "a" * 64, plain("iPhone"), plain("iOS"), plain("3.2.0"), NOW + 9, "password"
    )
    state = given(created)
    assert state == State(
        sid=SID,
        user="ann",
        library="photos",
        seq=1,
        at_us=NOW,
        hash=state.hash,
        created_at_us=NOW,
        parent="a" * 64,
        device_type=plain("iPhone"),
        device_os=plain("iOS"),
        app_version=plain("3.2.0"),
        expires_at_us=NOW + 9,
        authenticated_by="password",
    )
    assert len(state.hash) == 32


def test_no_events_make_no_state() -> None:
    assert fold(None, []) is None


def test_an_ack_is_kept_with_the_time_it_was_acknowledged() -> None:
    state = then(given(offered("AssetV1")), moved(ack("AssetV1", SNAPSHOT - 5, "a")), at_us=NOW + 7)
    assert state.checkpoints == {"AssetV1": Checkpoint(Position(SNAPSHOT - 5, "a"), NOW + 7)}
    assert (state.seq, state.at_us) == (3, NOW + 7)


def test_a_session_from_before_sources_had_revisions_is_of_none() -> None:
    """Its offers were stored without one; what it holds is sent again by the first source that has a revision."""
    raw = bytes.fromhex("93ae73747265616d5f6f666665726564cf00062c20c0c74180c40108")
    offer_us, before = 1_737_369_045_123_456, given()
    hashed = link(before.hash, SID, 2, NOW, 1, raw)
    state = evolve(before, Recorded(SID, 2, NOW, 1, decode_event(raw, 1), raw, hashed))
    assert (state.revision, state.offered_us("AssetV1"), state.hash) == (0, offer_us, hashed)
    state = then(state, moved(ack("AssetV1", offer_us - 1)))
    events = decide(state, OfferStream(offer_us, mask_of(["AssetV1"]), resends=(Resend(1, mask_of(["AssetV1"])),)), NOW)
    assert events == (cleared("AssetV1", cause="source_revision"), StreamOffered(offer_us, b"\x08", 1))


def test_a_type_starts_with_its_first_stream_since_the_device_held_nothing() -> None:
    state = given(offered("AssetV1", snapshot_us=100), offered("AssetV1", "AlbumV2", snapshot_us=200))
    assert (state.synced_us(ASSETS), state.synced_us(ALBUMS), state.synced_us()) == (100, 200, 100)
    for clearing in (cleared("AssetV1"), cleared(), cleared(cause="reset_acked", reset=True)):
        state = then(state, clearing)
        assert state.synced_us() == 100, "clearing unlearns nothing"
    state = then(state, cleared(cause="reset_acked", reset=True, wiped=True))
    assert state.synced_us() is None
    assert then(state, offered("AssetV1", snapshot_us=300)).synced_us() == 300


def test_a_completed_stream_tells_of_the_types_it_carried_and_of_no_others() -> None:
    state = given(offered("AssetV1", "AlbumV2", snapshot_us=100), offered("AssetV1", "AlbumV2", snapshot_us=200))
    state = then(state, moved(completed("AssetV1", snapshot_us=200)))
    assert (state.synced_us(ASSETS), state.synced_us(ALBUMS), state.synced_us()) == (200, 100, 100)
    state = then(state, moved(completed("AlbumV2", snapshot_us=200)))
    assert state.synced_us() == 200
    assert state.heard == (Offer(200, ASSETS | ALBUMS),)


def test_a_completion_that_comes_behind_a_newer_one_tells_of_its_own_types_and_moves_no_checkpoint() -> None:
    state = given(offered("AssetV1", "AlbumV2", snapshot_us=100), offered("AlbumV2", snapshot_us=200))
    state = then(state, moved(completed("AlbumV2", snapshot_us=200)), moved(completed("AssetV1", snapshot_us=100)))
    assert (state.synced_us(ASSETS), state.synced_us(ALBUMS)) == (100, 200)
    assert state.checkpoints[COMPLETE].position.at_us == 200


@pytest.mark.parametrize("entity_id", ["", "no mask", "-8", "F" * 16, "f" * 200])
def test_a_completion_that_does_not_name_its_types_tells_of_none(entity_id: str) -> None:
    state = given(offered("AssetV1", snapshot_us=100), offered("AssetV1", snapshot_us=200))
    state = then(state, moved(ack(COMPLETE, 200, entity_id)))
    assert (state.synced_us(), state.heard) == (100, ())


def test_a_completion_that_names_more_than_its_stream_can_have_carried_tells_nothing_of_that() -> None:
    """PersonV1 was never offered, AlbumV2 only later, and AssetV1 only up to before; of UserV1 it may be true."""
    state = given(
        offered("AssetV1", "UserV1", snapshot_us=100),
        offered("UserV1", snapshot_us=200),
        offered("AlbumV2", snapshot_us=300),
    )
    state = then(state, moved(ack(COMPLETE, 200, "f" * 15)))
    assert state.heard == (Offer(200, mask_of(["UserV1"])),)


def test_a_stream_that_ends_behind_a_clear_by_list_is_heard_of() -> None:
    state = given(offered("AssetV1", snapshot_us=100), offered("AssetV1", snapshot_us=200), cleared("AssetV1"))
    assert then(state, moved(completed("AssetV1", snapshot_us=200))).synced_us() == 200


def test_that_a_reset_line_was_sent_stays_until_everything_is_cleared() -> None:
    state = given(offered("AssetV1"), SyncResetRequested(True, plain("owner")), ResetSent("requested"))
    state = then(state, SyncResetRequested(False, plain("owner")), cleared("AssetV1"))
    assert (state.pending_reset, state.reset_sent) == (False, "requested")
    assert then(state, cleared()).reset_sent == ""


def test_clearing_one_type_leaves_the_offers_of_the_others() -> None:
    state = given(offered("AssetV1", "AlbumV2", snapshot_us=100), offered("AssetV1", snapshot_us=200))
    state = then(state, cleared("AssetV1"))
    assert (state.offered_us("AssetV1"), state.offered_us("AlbumV2")) == (-1, 100)
    assert (state.epoch_of("AssetV1"), state.epoch_of("AlbumV2")) == (2, 1)


def test_only_the_latest_notes_are_remembered() -> None:
    refused = [stored(ack("AssetV1", us)) for us in range(NOTED + 3)]
    state = given(*(AckRefused(each, "no") for each in refused))
    assert state.noted == tuple(refused[3:])


def test_an_ended_session_is_ended_and_takes_no_event() -> None:
    state = given(SessionEnded("logout", plain("ann")))
    assert (state.ended, state.lives_at(NOW)) == ("logout", False)
    with pytest.raises(CorruptLedger, match="does not follow"):
        then(state, offered("AssetV1"))


def test_an_event_out_of_its_place_is_refused() -> None:
    state = given(offered("AssetV1"))
    for seq in (0, 1, 2, 4):
        with pytest.raises(CorruptLedger, match="does not follow") as refused:
            evolve(state, record((cleared(),), SID, seq - 1, NOW, state.hash)[0])
        assert refused.value.details == {"sid": SID, "seq": seq, "after": 2}
    with pytest.raises(CorruptLedger, match="created twice"):
        then(state, CREATED)
    with pytest.raises(CorruptLedger, match="does not follow"):
        fold(None, record((cleared(),), SID, 0, NOW, GENESIS))
    with pytest.raises(CorruptLedger, match="not its first"):
        fold(None, record((CREATED,), SID, 3, NOW, GENESIS))


@pytest.mark.parametrize("code", [len(CODES), 9999, -1])
def test_an_entity_type_of_a_newer_version_is_an_explicit_error(code: int) -> None:
    event = AcksRecorded((StoredAck(code, 1, "", 1),))
    with pytest.raises(UnknownEvent, match=f"entity type {code}"):
        then(given(), event)


ASSETS, ALBUMS = mask_of(["AssetV1"]), mask_of(["AlbumV2"])


@dataclass
class Step:
    """One event and the states around it."""

    before: State
    recorded: Recorded
    after: State


def steps(history: list[tuple[Recorded, State]]) -> list[Step]:
    return [Step(before, recorded, after) for (_, before), (recorded, after) in pairwise(history)]


@forall(histories)
def test_folding_all_at_once_and_one_by_one_agree(history: list[tuple[Recorded, State]]) -> None:
    assert fold(None, [recorded for recorded, _ in history]) == history[-1][1]
    assert [state.seq for _, state in history] == list(range(1, len(history) + 1))


@forall(histories)
def test_inside_an_epoch_no_checkpoint_moves_back_and_no_epoch_ever_does(
    history: list[tuple[Recorded, State]],
) -> None:
    for step in steps(history):
        for name in TYPES:
            assert step.after.epoch_of(name) >= step.before.epoch_of(name)
            held = step.before.checkpoints.get(name)
            if held is not None and step.after.epoch_of(name) == step.before.epoch_of(name):
                now = step.after.checkpoints[name].position
                assert now.key >= held.position.key or (name == COMPLETE and now.at_us == held.position.at_us)


@forall(histories)
def test_what_is_gone_has_a_new_epoch(history: list[tuple[Recorded, State]]) -> None:
    for step in steps(history):
        gone = [name for name in TYPES if step.before.offered_us(name) > step.after.offered_us(name)]
        gone += [name for name in step.before.checkpoints if name not in step.after.checkpoints]
        assert all(step.after.epoch_of(name) > step.before.epoch_of(name) for name in gone)


@forall(histories)
def test_every_checkpoint_was_offered_or_adopted(history: list[tuple[Recorded, State]]) -> None:
    adopted: tuple[StoredAck, ...] = ()
    for recorded, state in history:
        adopted = recorded.event.positions if isinstance(recorded.event, CheckpointsAdopted) else adopted
        for name, checkpoint in state.checkpoints.items():
            at_us, entity_id = checkpoint.position.at_us, checkpoint.position.id
            stored = StoredAck(CODES[name], at_us, entity_id, state.epoch_of(name))
            assert at_us <= state.offered_us(name) or stored in adopted


@forall(histories)
def test_what_was_heard_only_grows_until_the_device_holds_nothing(history: list[tuple[Recorded, State]]) -> None:
    for step in steps(history):
        if isinstance(step.recorded.event, CheckpointsAdopted):
            continue  # it was somewhere else meanwhile, and says anew where it stands
        if step.after.started:
            for name in TYPES[:-1]:
                before, after = step.before.synced_us(mask_of([name])), step.after.synced_us(mask_of([name]))
                assert before is None or (after is not None and after >= before)
        else:
            assert step.after.heard == ()


@forall(histories, st.data())
def test_each_type_is_in_one_offer_newest_first(history: list[tuple[Recorded, State]], data: st.DataObject) -> None:
    _, state = data.draw(st.sampled_from(history))
    for offers in (state.offered, state.started, state.heard):
        snapshots = [offer.snapshot_us for offer in offers]
        assert snapshots == sorted(set(snapshots), reverse=True)
        together = 0
        for offer in offers:
            assert offer.mask
            assert not offer.mask & together
            together |= offer.mask


# Holes, and ends that were none


def hole(known: State, left: State | None, **changes: Any) -> Recorded:
    """Make the event that tells of a hole."""
    seq, after = (0, b"") if left is None else (left.seq, left.hash)
    event = replace(HistoryLost(seq + 1, known.seq, "remembered", known.hash, after), **changes)
    return record((event,), SID, seq, NOW, after)[0]


def test_behind_a_hole_nothing_is_changed_but_the_place() -> None:
    left = given(offered("AssetV1"))
    known = then(left, moved(ack("AssetV1", SNAPSHOT - 9)), cleared())
    told = hole(known, left)
    assert evolve(left, told) == replace(left, seq=known.seq + 1, hash=told.hash)


def test_a_session_begins_anew_behind_all_that_was_lost() -> None:
    known = given(offered("AssetV1"))
    state = fold(None, record((hole(known, None).event, CREATED, cleared()), SID, 0, NOW, GENESIS))
    assert state is not None
    assert (state.user, state.library, state.seq, state.ended) == ("ann", "photos", known.seq + 3, None)


def test_what_does_not_lead_over_a_hole_is_refused() -> None:
    left = given(offered("AssetV1"))
    known = then(left, cleared(), offered("AssetV1"))
    for wrong in (
        hole(known, left, from_seq=left.seq),
        hole(known, left, after=known.hash),
        replace(hole(known, left), seq=known.seq + 2),
        hole(known, left, to_seq=left.seq),
        record((offered("AlbumV2"),), SID, known.seq, NOW, known.hash)[0],
    ):
        with pytest.raises(CorruptLedger):
            evolve(left, wrong)
    over = then(left, SessionEnded("logout"))
    with pytest.raises(CorruptLedger):
        evolve(over, hole(then(left, cleared(), cleared()), over))


def test_only_a_session_that_ended_is_resumed_and_only_its_user_has_it_again() -> None:
    over = given(offered("AssetV1"), SessionEnded("gone"))
    resumed, created = record((SessionResumed("immich", 3), CREATED), SID, over.seq, NOW, over.hash)
    for before in (over, left_of(SID, "ann", over.seq, over.hash)):
        state = evolve(evolve(before, resumed), created)
        assert (state.pending_reset, state.epoch, state.checkpoints, state.ended) == (True, 3, {}, None)
    living = given(offered("AssetV1"), cleared())
    with pytest.raises(CorruptLedger):
        evolve(living, replace(resumed, seq=living.seq + 1))
    with pytest.raises(CorruptLedger):
        evolve(evolve(over, resumed), replace(created, event=replace(CREATED, user="bob")))
    with pytest.raises(CorruptLedger):
        evolve(evolve(evolve(over, resumed), created), replace(created, seq=created.seq + 1))
