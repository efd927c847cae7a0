"""Every rule that `decide` keeps: given these events, when this command, then those events."""

from __future__ import annotations

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.acks import RESET_ACK, Ack
from ledger.chain import GENESIS, record
from ledger.commands import (
    EVER,
    AdoptCheckpoints,
    CreateSession,
    DescribeDevice,
    EndSession,
    ExpireSession,
    GoOn,
    OfferStream,
    Origin,
    RequestReset,
    Resend,
    ResumeSession,
    RotateToken,
    UseToken,
)
from ledger.entity_types import COMPLETE, mask_of, types_in
from ledger.errors import AckNotOffered, Refused, SessionEnded
from ledger.events import (
    IMMICH,
    AckRefused,
    AcksRecorded,
    CheckpointsAdopted,
    DeviceDescribed,
    Event,
    HistoryLost,
    Recorded,
    ResetSent,
    SessionCreated,
    SessionResumed,
    StreamOffered,
    SyncResetRequested,
    mask_bytes,
)
from ledger.events import SessionEnded as SessionEndedEvent
from ledger.evolve import fold
from ledger.personal import plain, text_of
from ledger.starting_over import reset_due
from ledger.state import Adopted, State
from tests.support.ledger.given import (
    CREATED,
    NOW,
    SID,
    SNAPSHOT,
    ack,
    acks,
    clear,
    cleared,
    completed,
    few_adopted,
    given,
    histories,
    masks,
    moved,
    offer,
    offered,
    stored,
    then,
    when,
)

HOUR = 3_600_000_000
EARLY, LATE = SNAPSHOT - 200, SNAPSHOT - 100
NEWEST = NOW + HOUR


def refused(state: State, command: object) -> AckNotOffered:
    with pytest.raises(AckNotOffered) as caught:
        when(state, command)  # type: ignore[arg-type]
    return caught.value


# Acks move checkpoints


def test_an_ack_of_what_was_offered_moves_the_checkpoint() -> None:
    session = given(offered("AssetV1"))
    assert when(session, acks(ack("AssetV1", EARLY, "a"))) == (moved(ack("AssetV1", EARLY, "a")),)


def test_the_same_ack_twice_appends_nothing() -> None:
    session = given(offered("AssetV1"), moved(ack("AssetV1", EARLY, "a")))
    assert when(session, acks(ack("AssetV1", EARLY, "a"))) == ()
    assert when(session, acks(ack("AssetV1", EARLY, "a"), ack("AssetV1", EARLY, "a"))) == ()


def test_no_acks_append_nothing() -> None:
    assert when(given(offered("AssetV1")), acks()) == ()


def test_a_request_is_one_event_with_the_last_position_of_each_type() -> None:
    session = given(offered("AssetV1", "AlbumV2"))
    command = acks(ack("AssetV1", EARLY, "a"), ack("AlbumV2", EARLY, "x"), ack("AssetV1", EARLY, "b"))
    assert when(session, command) == (moved(ack("AssetV1", EARLY, "b"), ack("AlbumV2", EARLY, "x")),)


def test_a_lower_ack_is_recorded_once_as_stale() -> None:
    session = given(offered("AssetV1"), moved(ack("AssetV1", LATE, "a")))
    lower = ack("AssetV1", EARLY, "z")
    assert when(session, acks(lower)) == (moved(stale=(lower,)),)
    assert when(then(session, moved(stale=(lower,))), acks(lower)) == ()


def test_a_lower_id_at_the_same_instant_is_stale_and_a_higher_one_moves() -> None:
    session = given(offered("AssetV1"), moved(ack("AssetV1", EARLY, "b")))
    assert when(session, acks(ack("AssetV1", EARLY, "a"))) == (moved(stale=(ack("AssetV1", EARLY, "a"),)),)
    assert when(session, acks(ack("AssetV1", EARLY, "c"))) == (moved(ack("AssetV1", EARLY, "c")),)


def test_stale_acks_are_noted_beside_those_that_move() -> None:
    session = given(offered("AssetV1", "AlbumV2"), moved(ack("AssetV1", LATE, "a")))
    command = acks(ack("AssetV1", EARLY, "a"), ack("AlbumV2", EARLY, "x"))
    assert when(session, command) == (moved(ack("AlbumV2", EARLY, "x"), stale=(ack("AssetV1", EARLY, "a"),)),)


def test_acks_of_one_request_out_of_order_end_at_the_highest() -> None:
    session = given(offered("AssetV1"))
    command = acks(ack("AssetV1", LATE, "a"), ack("AssetV1", EARLY, "a"))
    assert when(session, command) == (moved(ack("AssetV1", LATE, "a"), stale=(ack("AssetV1", EARLY, "a"),)),)


def test_the_seed_form_means_everything_of_its_instant() -> None:
    session = given(offered("AssetV1"), moved(ack("AssetV1", EARLY, "z")))
    assert when(session, acks(ack("AssetV1", EARLY))) == (moved(ack("AssetV1", EARLY)),)
    session = then(session, moved(ack("AssetV1", EARLY)))
    assert when(session, acks(ack("AssetV1", EARLY, "z"))) == (moved(stale=(ack("AssetV1", EARLY, "z"),)),)


def test_stale_acks_of_a_type_are_recorded_once_however_many_and_different_they_are() -> None:
    session = given(offered("AssetV1", "AlbumV2"), moved(ack("AssetV1", LATE), ack("AlbumV2", LATE)))
    many = [ack("AssetV1", EARLY - n, "x" * 250) for n in range(1000)]
    (event,) = when(session, acks(*many, ack("AlbumV2", EARLY)))
    assert event == AcksRecorded((), (stored(many[-1]), stored(ack("AlbumV2", EARLY))), 1001)
    session = then(session, event)
    for n in range(1000, 2000):
        assert when(session, acks(ack("AssetV1", EARLY - n), ack("AlbumV2", EARLY - n))) == ()
    further = ack("AlbumV2", LATE + 1)
    assert when(session, acks(further, ack("AssetV1", EARLY - 1))) == (
        moved(further, stale=(ack("AssetV1", EARLY - 1),)),
    )
    session = then(session, moved(further))
    assert when(session, acks(ack("AssetV1", EARLY - 7))) == ()
    assert when(session, acks(ack("AlbumV2", EARLY - 7))) == (moved(stale=(ack("AlbumV2", EARLY - 7),)),), "it advanced"
    session = then(session, cleared("AssetV1"))
    assert when(session, acks(ack("AssetV1", EARLY - 7))) == (moved(stale=(ack("AssetV1", EARLY - 7),)),)


def test_what_earlier_versions_recorded_folds_as_they_folded_it() -> None:
    session = given(offered("AssetV1"), moved(ack("AssetV1", LATE)))
    of_before = [stored(ack("AssetV1", EARLY - n)) for n in range(12)]
    session = then(session, AcksRecorded((), tuple(of_before)), AckRefused(of_before[0], "no"))
    assert (session.noted, session.stale, session.refused) == ((*of_before[5:], of_before[0]), 0, 0)


# Acks of what was not offered


def test_an_ack_without_a_stream_is_refused_and_recorded_once() -> None:
    session = given()
    early = ack("AssetV1", EARLY, "a")
    error = refused(session, acks(early))
    assert error.record == (
        AckRefused(stored(early), "no stream offered this type; start a sync stream first", first=True),
        SyncResetRequested(True, b"", "ack_ahead", 1),
    )
    assert refused(then(session, *error.record), acks(early)).record == ()
    for n in range(20):
        assert refused(then(session, *error.record), acks(ack("AssetV1", EARLY, f"b{n}"))).record == ()


def test_an_ack_that_only_our_lines_carry_asks_the_device_to_start_over_where_the_log_lost_its_stream() -> None:
    session = given(offered("AssetV1"))
    ahead = (ack("AssetV1", SNAPSHOT, "a"), ack("AlbumV2", EARLY, "x"), ack("AssetV1", EARLY, "a", epoch=3))
    for one in (*ahead, completed("AssetV1", snapshot_us=SNAPSHOT + 1)):
        error = refused(session, acks(one))
        after = then(session, *error.record)
        assert after.pending_reset
        assert "start over" in str(error)
        again = [when(after, offer("AssetV1"))]
        assert again == [(ResetSent("requested"),)]
        wiped = then(after, *again[0], *when(then(after, *again[0]), acks(RESET_ACK)))
        assert not reset_due(wiped, 0)
        begun = then(wiped, offered("AssetV1", "AlbumV2"))
        assert begun.epoch_of(one.type) > one.epoch
        assert then(begun, *when(begun, acks(one))).checkpoints == {}, "what it says is of before, whenever it comes"


def test_a_reset_is_asked_for_once_however_many_acks_are_ahead() -> None:
    session = given(offered("AssetV1"))
    for number in range(30):
        record = refused(session, acks(ack("AssetV1", SNAPSHOT + number, "a", epoch=1 + number))).record
        session = then(session, *record)
        assert sum(isinstance(event, SyncResetRequested) for event in record) == (number == 0)
    sent = then(given(offered("AssetV1")), ResetSent("requested"))
    assert [type(event) for event in refused(sent, acks(ack("AssetV1", SNAPSHOT, "a"))).record] == [AckRefused]


def test_an_ack_that_no_loss_explains_is_refused_and_nothing_else() -> None:
    session = given(offered("AssetV1"))
    for one in (ack("AssetV1", SNAPSHOT), ack("AlbumV2", EARLY), ack("AssetV1", EARLY, "a", epoch=1002)):
        assert [type(event) for event in refused(session, acks(one)).record] == [AckRefused]


def test_an_ack_of_a_type_that_no_stream_offered_is_refused() -> None:
    refused(given(offered("AssetV1")), acks(ack("AlbumV2", EARLY, "x")))


def test_an_ack_at_or_beyond_the_snapshot_is_refused() -> None:
    session = given(offered("AssetV1"))
    assert when(session, acks(ack("AssetV1", SNAPSHOT - 1)))
    for at_us in (SNAPSHOT, SNAPSHOT + 1):
        error = refused(session, acks(ack("AssetV1", at_us, "a")))
        assert [event.ack for event in error.record if isinstance(event, AckRefused)] == [
            stored(ack("AssetV1", at_us, "a"))
        ]


def test_the_completion_stands_at_the_snapshot_itself_and_not_beyond() -> None:
    session = given(offered())
    assert when(session, acks(ack(COMPLETE, SNAPSHOT))) == (moved(ack(COMPLETE, SNAPSHOT)),)
    refused(session, acks(ack(COMPLETE, SNAPSHOT + 1)))


def test_the_newest_snapshot_counts_for_the_types_it_was_offered_for_only() -> None:
    session = given(offered("AssetV1", "AlbumV2", snapshot_us=EARLY), offered("AssetV1"))
    assert when(session, acks(ack("AssetV1", LATE, "a")))
    refused(session, acks(ack("AlbumV2", LATE, "x")))


def test_a_request_with_one_ack_that_was_not_offered_is_refused_whole() -> None:
    session = given(offered("AssetV1"))
    error = refused(session, acks(ack("AssetV1", EARLY, "a"), ack("AlbumV2", EARLY, "x")))
    assert [type(event) for event in error.record] == [AckRefused, SyncResetRequested]
    assert then(session, *error.record).checkpoints == {}


def test_an_epoch_that_has_not_begun_is_refused() -> None:
    refused(given(offered("AssetV1")), acks(ack("AssetV1", EARLY, "a", epoch=2)))


# Clearing


def test_clearing_forgets_what_is_held_and_nothing_else() -> None:
    session = given(offered("AssetV1", "AlbumV2"), moved(ack("AssetV1", EARLY)))
    assert when(session, clear("AssetV1", "PersonV1")) == (cleared("AssetV1"),)
    assert when(session, clear()) == (cleared(),)
    assert when(session, clear("PersonV1")) == ()


def test_clearing_a_new_session_appends_nothing() -> None:
    assert when(given(), clear()) == ()
    assert when(given(), clear("AssetV1")) == ()


def test_clearing_twice_appends_once() -> None:
    session = given(offered("AssetV1"), moved(ack("AssetV1", EARLY)), cleared("AssetV1"))
    assert when(session, clear("AssetV1")) == ()


def test_an_old_streams_ack_is_stale_after_a_clear_also_when_the_next_stream_has_begun() -> None:
    old = ack("AssetV1", LATE, "z")
    for clearing in (cleared(), cleared("AssetV1"), cleared(cause="reset_acked", reset=True)):
        session = given(offered("AssetV1"), moved(ack("AssetV1", EARLY, "a")), clearing)
        assert when(session, acks(old)) == (moved(stale=(old,)),)
        session = then(session, offered("AssetV1", snapshot_us=SNAPSHOT + 5))
        assert when(session, acks(old)) == (moved(stale=(old,)),)
        new = ack("AssetV1", EARLY, "a", epoch=2)
        assert when(session, acks(new)) == (moved(new),)


def test_clearing_a_type_in_flight_makes_its_acks_stale() -> None:
    session = given(offered("AssetV1", "AlbumV2"))
    assert when(session, clear("AssetV1")) == (cleared("AssetV1"),)
    session = then(session, cleared("AssetV1"), offered("AssetV1", "AlbumV2", snapshot_us=SNAPSHOT + 5))
    assert when(session, acks(ack("AssetV1", EARLY))) == (moved(stale=(ack("AssetV1", EARLY),)),)
    assert when(session, acks(ack("AlbumV2", EARLY))) == (moved(ack("AlbumV2", EARLY)),)


def test_epochs_count_on_over_clears_of_one_type_and_of_all() -> None:
    session = given()
    for epoch, clearing in enumerate((cleared("AssetV1"), cleared(), cleared("AssetV1"), cleared()), start=1):
        assert session.epoch_of("AssetV1") == epoch
        session = then(session, offered("AssetV1"), moved(ack("AssetV1", EARLY, epoch=epoch)), clearing)
    assert session.epoch_of("AssetV1") == 5
    assert session.epoch_of("AlbumV2") == 3


# Starting over


def test_the_ack_of_a_reset_clears_everything_and_drops_the_other_acks() -> None:
    session = given(
        offered("AssetV1", "AlbumV2"), moved(ack("AssetV1", EARLY)), SyncResetRequested(True, plain("owner"))
    )
    command = acks(ack("AlbumV2", EARLY), RESET_ACK, ack("PersonV1", NOW))
    assert when(session, command) == (cleared(cause="reset_acked", reset=True),)
    after = then(session, cleared(cause="reset_acked", reset=True))
    assert (after.pending_reset, after.checkpoints, after.offered) == (False, {}, ())


def test_a_reset_line_is_on_record_before_it_leaves_and_once() -> None:
    session = given(offered("AssetV1"), SyncResetRequested(True, plain("owner")))
    newer = offer("AssetV1", snapshot_us=SNAPSHOT + 9)
    assert when(session, newer) == (ResetSent("requested"),), "and no stream is offered"
    assert when(then(session, ResetSent("requested")), newer) == ()
    away = given(offered("AssetV1"))
    assert when(away, OfferStream(SNAPSHOT + 9, mask_of(["AssetV1"]), SNAPSHOT)) == (ResetSent("deletes_purged"),)
    assert when(away, OfferStream(SNAPSHOT + 9, mask_of(["AlbumV2"]), SNAPSHOT)), "of other types nothing was missed"


def test_a_reset_that_was_sent_is_due_until_its_ack_also_when_it_is_taken_back() -> None:
    session = given(offered("AssetV1"), SyncResetRequested(True, plain("owner")), ResetSent("requested"))
    session = then(session, SyncResetRequested(False, plain("owner")))
    assert reset_due(session, 0)
    assert when(session, offer("AssetV1", snapshot_us=SNAPSHOT + 9)) == ()
    answer = when(session, acks(RESET_ACK))
    assert answer == (cleared(cause="reset_acked", reset=True, wiped=True),)
    assert not reset_due(then(session, *answer), 0)
    not_sent = given(
        offered("AssetV1"), SyncResetRequested(True, plain("owner")), SyncResetRequested(False, plain("owner"))
    )
    assert not reset_due(not_sent, 0), "the device never heard of it"


def test_a_reset_can_be_acknowledged_where_nothing_is_held_any_more() -> None:
    session = given(offered("AssetV1"), cleared("AssetV1", COMPLETE))
    assert reset_due(session, SNAPSHOT)
    session = then(session, *when(session, OfferStream(SNAPSHOT + 9, mask_of(["AssetV1"]), SNAPSHOT)))
    session = then(session, *when(session, acks(RESET_ACK)))
    assert not reset_due(session, SNAPSHOT)
    assert when(session, OfferStream(SNAPSHOT + 9, mask_of(["AssetV1"]), SNAPSHOT))[0] == StreamOffered(
        SNAPSHOT + 9, mask_bytes(mask_of(["AssetV1"]))
    )


def test_the_ack_of_a_reset_that_was_not_sent_clears_but_unlearns_nothing() -> None:
    """It is late, or comes a second time: who sends it may hold everything."""
    session = given(offered("AssetV1"), moved(ack("AssetV1", EARLY)))
    session = then(session, *when(session, acks(RESET_ACK)))
    assert session.checkpoints == {}
    assert reset_due(session, SNAPSHOT)


def test_the_ack_of_a_reset_twice_appends_once() -> None:
    session = given(SyncResetRequested(True, plain("owner")))
    assert when(session, acks(RESET_ACK)) == (cleared(cause="reset_acked", reset=True),)
    assert when(then(session, cleared(cause="reset_acked", reset=True)), acks(RESET_ACK)) == ()
    assert when(given(), acks(RESET_ACK)) == ()


def test_clearing_checkpoints_leaves_a_pending_reset_but_a_reset_stream_answers_it() -> None:
    session = given(offered("AssetV1"), SyncResetRequested(True, plain("owner")))
    assert then(session, *when(session, clear())).pending_reset
    assert not then(session, *when(session, clear(cause="reset", reset=True))).pending_reset
    assert when(given(SyncResetRequested(True, plain("owner"))), clear()) == ()
    assert when(given(SyncResetRequested(True, plain("owner"))), clear(cause="reset", reset=True)) == (
        cleared(cause="reset", reset=True, wiped=True),
    )


def test_a_reset_can_be_requested_and_taken_back_once_each() -> None:
    session = given()
    assert when(session, RequestReset(False, plain("owner"))) == ()
    assert when(session, RequestReset(True, plain("owner"))) == (SyncResetRequested(True, plain("owner")),)
    session = then(session, SyncResetRequested(True, plain("owner")))
    assert when(session, RequestReset(True, plain("operator"))) == ()
    assert when(session, RequestReset(False, plain("owner"))) == (SyncResetRequested(False, plain("owner")),)


def test_a_reset_is_due_when_requested_or_when_a_delete_may_have_been_missed() -> None:
    assert not reset_due(given(), NOW), "a new device has nothing to lose"
    assert reset_due(given(SyncResetRequested(True, plain("owner"))), 0)
    first = given(offered("AssetV1"))
    assert not reset_due(first, SNAPSHOT - 1)
    assert reset_due(first, SNAPSHOT), "it never completed, so it knows of deletes below its first stream only"
    later = then(first, offered("AssetV1", snapshot_us=SNAPSHOT + 9))
    assert reset_due(later, SNAPSHOT), "a second stream proves nothing of the first"
    whole = then(later, moved(completed("AssetV1", snapshot_us=SNAPSHOT + 9)))
    assert not reset_due(whole, SNAPSHOT + 8)
    assert reset_due(whole, SNAPSHOT + 9)
    assert reset_due(then(whole, cleared()), SNAPSHOT + 9), "what it forgot to have acknowledged it may hold"
    assert not reset_due(then(whole, cleared(cause="reset", reset=True, wiped=True)), SNAPSHOT + 9)


def test_a_stream_proves_nothing_of_the_types_it_left_out() -> None:
    session = given(
        offered("AssetV1", "AlbumV2", snapshot_us=EARLY), moved(completed("AssetV1", "AlbumV2", snapshot_us=EARLY))
    )
    session = then(session, offered("AssetV1", snapshot_us=LATE), moved(completed("AssetV1", snapshot_us=LATE)))
    assert not reset_due(session, EARLY, mask_of(["AssetV1", "PersonV1"]))
    assert reset_due(session, EARLY, mask_of(["AssetV1", "AlbumV2"]))
    assert not reset_due(session, EARLY - 1, mask_of(["AssetV1", "AlbumV2"]))


def test_a_stream_that_broke_off_is_not_heard_of_when_one_of_other_types_completes() -> None:
    session = given(
        offered("AssetV1", "AlbumV2", snapshot_us=EARLY), moved(completed("AssetV1", "AlbumV2", snapshot_us=EARLY))
    )
    session = then(session, offered("AssetV1", "AlbumV2", snapshot_us=LATE))
    for snapshot_us in (LATE, LATE + 5):  # also where nothing was written in between, so that both have one snapshot
        after = then(session, *when(session, offer("AlbumV2", snapshot_us=snapshot_us)))
        after = then(after, *when(after, acks(completed("AlbumV2", snapshot_us=snapshot_us))))
        assert reset_due(after, EARLY, mask_of(["AssetV1", "AlbumV2"]))
        assert not reset_due(after, EARLY, mask_of(["AlbumV2"]))


def test_completions_of_one_snapshot_are_each_taken_once() -> None:
    session = given(offered("AssetV1", "AlbumV2", "PersonV1"))
    for types in (("AlbumV2",), ("AssetV1",), ("AlbumV2", "PersonV1")):
        done = acks(completed(*types))
        assert when(session, done) == (moved(completed(*types)),)
        session = then(session, *when(session, done))
        assert when(session, done) == ()
    assert when(session, acks(completed("AssetV1", "PersonV1"))) == (), "nothing that it says is new"


def test_a_completion_behind_a_newer_one_is_taken_where_it_says_more_and_is_stale_else() -> None:
    session = given(offered("AssetV1", snapshot_us=EARLY), offered("AlbumV2"), moved(completed("AlbumV2")))
    late = completed("AssetV1", snapshot_us=EARLY)
    assert when(session, acks(late)) == (moved(late),)
    session = then(session, moved(late))
    other = completed("AlbumV2", snapshot_us=EARLY)
    assert when(session, acks(other)) == (moved(stale=(other,)),)


# Streams


def test_a_stream_is_offered_once() -> None:
    assert when(given(), offer("AssetV1")) == (offered("AssetV1"),)
    session = given(offered("AssetV1", "AlbumV2"))
    for _ in range(3):
        assert when(session, offer("AssetV1")) == ()
        assert when(session, offer("AlbumV2", "AssetV1")) == ()


def test_a_newer_snapshot_or_another_type_is_offered_anew() -> None:
    session = given(offered("AssetV1"))
    newer = offer("AssetV1", snapshot_us=SNAPSHOT + 1)
    assert when(session, newer) == (offered("AssetV1", snapshot_us=SNAPSHOT + 1),)
    assert when(session, offer("AssetV1", "AlbumV2")) == (offered("AssetV1", "AlbumV2"),)


def test_an_older_snapshot_takes_nothing_back() -> None:
    session = given(offered("AssetV1"))
    assert when(session, offer("AssetV1", snapshot_us=EARLY)) == ()
    after = then(session, StreamOffered(EARLY, mask_bytes(mask_of(["AssetV1", "AlbumV2"]))))
    assert (after.offered_us("AssetV1"), after.offered_us("AlbumV2")) == (SNAPSHOT, EARLY)


def test_an_offer_of_nothing_appends_nothing() -> None:
    assert when(given(), OfferStream(SNAPSHOT, 0)) == ()


# What a source sends otherwise than before

PARTNERS = Resend(1, mask_of(["PartnerAssetV1", "PartnerAssetV2"]))
ALBUMS = Resend(2, mask_of(["AlbumAssetCreateV2"]))
OURS = ("AssetV2", "PartnerAssetV2", "PartnerAssetDeleteV1", "AlbumAssetCreateV2")


def synced(*events: Event) -> State:
    """Fold a session that acknowledged all of OURS."""
    return given(*events, offered(*OURS), moved(*(ack(name, EARLY) for name in (*OURS, COMPLETE))))


def test_what_is_sent_otherwise_is_cleared_once_in_one_append_with_its_offer() -> None:
    state = synced()
    for command in (offer(*OURS, resends=(PARTNERS,)), offer("AssetV2", resends=(PARTNERS,))):
        events = when(state, command)
        assert events == (
            cleared("PartnerAssetV2", cause="source_revision"),
            StreamOffered(SNAPSHOT, mask_bytes(command.types), 1),
        )
        after = then(state, *events)
        assert after.checkpoints.keys() == state.checkpoints.keys() - {"PartnerAssetV2"}
        assert (after.revision, after.epochs) == (1, {"PartnerAssetV2": 1})
        assert when(after, command) == ()


def test_each_revision_clears_what_came_with_it_and_what_is_between() -> None:
    state = synced()
    both = offer(*OURS, resends=(PARTNERS, ALBUMS))
    types = ("PartnerAssetV2", "AlbumAssetCreateV2")
    assert when(state, both) == (cleared(*types, cause="source_revision"), offered(*OURS, revision=2))
    first = then(state, *when(state, offer(*OURS, resends=(PARTNERS,))))
    assert when(first, both) == (cleared("AlbumAssetCreateV2", cause="source_revision"), offered(*OURS, revision=2))
    last = then(first, *when(first, both))
    assert when(last, both) == when(last, offer(*OURS, resends=(PARTNERS,))) == ()


def test_who_has_nothing_of_it_only_takes_note_of_the_revision() -> None:
    command = offer("AssetV2", resends=(PARTNERS, ALBUMS))
    noted = offered("AssetV2", revision=2)
    finished = given(offered("AssetV2", "PartnerAssetV2"), moved(ack("AssetV2", EARLY), ack(COMPLETE, SNAPSHOT)))
    unasked = given(offered("AssetV2"), moved(ack("AssetV2", EARLY)))
    for state in (given(), finished, unasked, then(synced(), cleared())):
        assert when(state, command) == (noted,)
        assert then(state, noted).checkpoints == state.checkpoints
        assert when(then(state, noted), command) == ()


def test_acks_of_what_was_on_its_way_as_it_was_before_count_for_nothing() -> None:
    state = given(offered(*OURS))
    after = then(state, *when(state, offer(*OURS, resends=(PARTNERS,))))
    late = ack("PartnerAssetV2", EARLY)
    assert when(after, acks(late)) == (moved(stale=(late,)),)
    again = ack("PartnerAssetV2", EARLY, epoch=2)
    assert when(after, acks(again)) == (moved(again),)


def test_a_reset_and_a_source_without_revisions_leave_the_noted_one() -> None:
    state = synced(offered(revision=2))
    assert when(state, offer(*OURS)) == ()
    assert then(state, cleared(cause="reset_acked", reset=True), offered(*OURS)).revision == 2


# Devices


def test_a_device_is_described_by_what_changed_and_never_blanked() -> None:
    session = given(CREATED)
    assert when(session, DescribeDevice()) == ()
    assert when(session, DescribeDevice(plain(""), plain(""), plain(""))) == ()
    assert when(session, DescribeDevice(plain("iPhone"), plain("iOS"))) == ()
    assert when(session, DescribeDevice(plain("iPhone"), plain(""), plain("3.2.0"))) == (
        DeviceDescribed(plain(""), plain(""), plain("3.2.0")),
    )
    after = then(session, DeviceDescribed(plain(""), plain(""), plain("3.2.0")), DeviceDescribed(plain("iPad")))
    assert [text_of(text) for text in (after.device_type, after.device_os, after.app_version)] == [
        "iPad",
        "iOS",
        "3.2.0",
    ]
    assert when(after, DescribeDevice(plain("iPad"), plain("iOS"), plain("3.2.0"))) == ()


# Beginning and ending


def test_a_session_is_created_once() -> None:
    command = CreateSession(
        "ann", "photos", device_type=plain("iPhone"), device_os=plain("iOS"), authenticated_by="password"
    )
    assert when(None, command) == (CREATED,)
    with pytest.raises(Refused, match="has a session already"):
        when(given(), command)


def test_an_ended_or_unknown_session_takes_nothing() -> None:
    over = given(SessionEndedEvent("logout", plain("ann")))
    for command in (
        acks(ack("AssetV1", EARLY)),
        offer("AssetV1"),
        clear(),
        RequestReset(True, plain("owner")),
        DescribeDevice(plain("x")),
        EndSession("logout"),
        ExpireSession(0, 0),
    ):
        for state in (None, over):
            with pytest.raises(SessionEnded, match="Invalid user token"):
                when(state, command)


def test_ending_names_the_reason_and_who_asked() -> None:
    assert when(given(), EndSession("revoked", plain("ann"))) == (SessionEndedEvent("revoked", plain("ann")),)


def test_an_expired_session_admits_nobody_but_can_be_ended() -> None:
    session = given(SessionCreated("ann", "photos", expires_at_us=NOW + HOUR))
    assert when(session, offer("AssetV1"), NOW + HOUR - 1)
    with pytest.raises(SessionEnded):
        when(session, offer("AssetV1"), NOW + HOUR)
    assert when(session, EndSession("logout", plain("ann")), NOW + HOUR) == (SessionEndedEvent("logout", plain("ann")),)


def test_sessions_expire_by_their_time_or_when_nothing_is_heard_of_them() -> None:
    timed = given(SessionCreated("ann", "photos", expires_at_us=NOW + HOUR))
    assert when(timed, ExpireSession(0, 0), NOW + HOUR - 1) == ()
    assert when(timed, ExpireSession(0, 0), NOW + HOUR) == (SessionEndedEvent("expired"),)
    session = given(at_us=NOW)
    assert when(session, ExpireSession(idle_before_us=NOW + 1, seen_us=0)) == (SessionEndedEvent("idle"),)
    assert when(session, ExpireSession(idle_before_us=NOW, seen_us=0)) == (), "an event is a sign of life"
    assert when(session, ExpireSession(idle_before_us=NOW + 1, seen_us=NOW + 1)) == (), "so is a request"


# What the store lost, and what went on elsewhere


def test_behind_a_hole_a_session_goes_on_and_its_device_starts_over() -> None:
    left = given(offered("AssetV1"))
    known = then(left, moved(ack("AssetV1", EARLY)), cleared(), offered("AssetV1"))
    events = when(left, GoOn(known, "remembered"))
    assert events == (
        HistoryLost(3, 5, "remembered", known.hash, left.hash),
        SyncResetRequested(True, b"", "history_lost", 2),
    )
    after = then(left, *events)
    assert (after.seq, after.pending_reset, after.epoch) == (7, True, 2)
    assert when(after, GoOn(known, "remembered")) == (), "once"


def test_where_the_store_went_on_without_what_was_known_only_the_device_starts_over() -> None:
    left = given(offered("AssetV1"))
    known = then(left, moved(ack("AssetV1", EARLY)))
    forked = then(left, moved(ack("AssetV1", LATE)))
    assert when(forked, GoOn(known, "remembered")) == (SyncResetRequested(True, b"", "history_lost", 1),)


def test_a_session_of_which_nothing_is_left_is_created_anew() -> None:
    known = given(CREATED, offered("AssetV1"), moved(ack("AssetV1", EARLY)))
    events = when(None, GoOn(known, "remembered"))
    assert events == (
        HistoryLost(1, 3, "remembered", known.hash),
        CREATED,
        SyncResetRequested(True, b"", "history_lost", 1),
    )


@pytest.mark.parametrize("whole", [False, True], ids=["its newest events", "all of it"])
def test_what_is_known_of_tokens_comes_back(whole: bool) -> None:
    """A phone that refreshed its token must not be signed out by what the store lost."""
    first = given()
    known = then(first, *when(first, RotateToken(bytes.fromhex(SID), b"1" * 32, 1)))
    known = then(known, *when(known, UseToken(b"1" * 32, 60)))
    known = then(known, *when(known, RotateToken(b"1" * 32, b"2" * 32, 2, NOW + HOUR)))
    left = None if whole else first
    seq, digest = (0, b"") if left is None else (left.seq, left.hash)
    after = fold(left, record(when(left, GoOn(known, "remembered")), SID, seq, NOW, digest))
    assert after is not None
    assert (after.token, after.token_number) == (known.token, 2)
    assert after.new_tokens == known.new_tokens
    assert [token.digest for token in after.old_tokens] == [bytes.fromhex(SID)]


def test_a_session_that_was_known_to_have_ended_is_only_told_of() -> None:
    left = given(offered("AssetV1"))
    known = then(left, SessionEndedEvent("logout"))
    assert when(left, GoOn(known, "remembered")) == (HistoryLost(3, 3, "remembered", known.hash, left.hash),)


def test_checkpoints_are_adopted_with_the_session_or_later_in_a_new_epoch() -> None:
    adopt = AdoptCheckpoints((ack("AssetV1", EARLY, "a"), completed("AssetV1")), "immich", since_us=EARLY - HOUR)
    create = CreateSession("ann", "photos", adopted=adopt)
    created, adopted = when(None, create)
    assert created == SessionCreated("ann", "photos")
    assert adopted == CheckpointsAdopted(tuple(map(stored, adopt.positions)), "immich", EARLY - HOUR)
    session = given(created, adopted)
    assert session.checkpoints["AssetV1"].position == adopt.positions[0].position
    assert session.epoch == 1
    assert session.synced_us(mask_of(["AssetV1"])) == SNAPSHOT, "it heard of deletes up to its completion there"
    later = then(session, offered("AssetV1", "AlbumV2"))
    again = then(later, *when(later, AdoptCheckpoints((ack("AlbumV2", LATE, "x"),), "immich", LATE)))
    assert set(again.checkpoints) == {"AlbumV2"}
    assert again.epoch == 2
    assert again.offered_us("AssetV1") == -1
    assert again.synced_us(mask_of(["AlbumV2"])) == LATE, "without a completion it may have missed all since it began"
    with pytest.raises(Refused, match="one position of each"):
        when(later, AdoptCheckpoints((ack("AlbumV2", LATE), ack("AlbumV2", EARLY)), "immich", 0))


def test_what_the_device_holds_of_types_that_begin_anew_is_told_by_the_completion() -> None:
    adopt = AdoptCheckpoints((ack("AlbumV2", EARLY, "x"), completed("AssetV1", snapshot_us=LATE)), "immich", EARLY)
    session = given(*when(None, CreateSession("ann", "photos", adopted=adopt)))
    assert session.synced_us(mask_of(["AssetV1"])) == LATE
    assert session.synced_us(mask_of(["AlbumV2"])) == LATE
    assert reset_due(session, LATE, mask_of(["AssetV1"])), "it may have missed deletes, though it has no checkpoint"
    unread = AdoptCheckpoints((), "immich", EARLY, LATE, mask_of(["AssetV1"]))
    session = then(session, *when(session, unread))
    assert session.synced_us(mask_of(["AssetV1"])) == EARLY, "it holds what could not be placed"


def test_a_source_sends_nothing_again_that_was_adopted_as_it_is_now() -> None:
    resends = (Resend(1, mask_of(["AssetV1"])), Resend(2, mask_of(["AlbumV2"])))
    positions = (ack("AssetV1", EARLY, "a"), ack("AlbumV2", EARLY, "x"))
    for revision, again in ((2, ()), (1, ("AlbumV2",)), (0, ("AlbumV2", "AssetV1"))):
        adopt = AdoptCheckpoints(positions, "immich", EARLY, revision=revision)
        session = given(*when(None, CreateSession("ann", "photos", adopted=adopt)))
        events = when(session, offer("AssetV1", "AlbumV2", resends=resends))
        assert set(events[:-1]) == ({cleared(*again, cause="source_revision")} if again else set())


def test_what_is_gone_where_it_was_adopted_is_cleared_once() -> None:
    types = mask_of(["AssetV1", "AlbumV2"])
    adopt = AdoptCheckpoints((ack("AssetV1", EARLY, "a"),), "immich", EARLY, as_of_us=LATE, types=types)
    session = given(*when(None, CreateSession("ann", "photos", adopted=adopt)))
    assert session.adopted == Adopted(LATE, types)
    events = when(session, clear("AssetV1", "AlbumV2", cause=IMMICH))
    assert events == (cleared("AssetV1", "AlbumV2", cause=IMMICH),), "also of what it has no checkpoint here"
    after = then(session, *events)
    assert (after.adopted, dict(after.checkpoints)) == (Adopted(LATE, 0), {})
    assert when(after, clear("AssetV1", "AlbumV2", cause=IMMICH)) == ()
    whole = then(session, *when(session, clear(cause=IMMICH)))
    assert (whole.adopted, whole.epoch) == (Adopted(LATE, 0), 2)
    by_itself = then(session, cleared("AssetV1")).adopted
    assert by_itself == Adopted(LATE, types, restarted=True), "what the device clears here is still there"
    assert when(session, adopt) == (), "two workers have seen it"
    later = replace(adopt, as_of_us=LATE + 1)
    assert then(session, *when(session, later)).adopted == Adopted(LATE + 1, types)
    again = then(session, cleared("AssetV1"), *when(session, later)).adopted
    assert again == Adopted(LATE + 1, types, restarted=True), "it stays so until Immich starts over too"


@forall(histories, st.lists(few_adopted, max_size=4, unique_by=lambda ack: ack.type), masks)
def test_adopted_positions_take_the_place_of_all_that_was_known(
    steps: list[tuple[Recorded, State]], positions: list[Ack], types: int
) -> None:
    before = steps[-1][1]
    events = when(before, AdoptCheckpoints(tuple(positions), "immich", EARLY, NEWEST, types))
    after = then(before, *events)
    assert {name: held.position for name, held in after.checkpoints.items()} == {a.type: a.position for a in positions}
    restarted = before.adopted is not None and before.adopted.restarted
    assert (after.offered, after.reset_sent, after.adopted) == ((), "", Adopted(NEWEST, types, restarted))
    assert after.pending_reset == before.pending_reset, "a reset that is wanted stays so"
    stale = [ack for ack in few_of(before) if before.epoch_of(ack.type) < after.epoch_of(ack.type)]
    assert len(stale) == len(few_of(before)), "no ack of a line from before counts any more"
    again = CreateSession("ann", "photos", adopted=AdoptCheckpoints(tuple(positions), "immich", EARLY, NEWEST, types))
    assert fold(None, record(when(None, again), SID, 0, NOW, GENESIS)) is not None


def few_of(state: State) -> list[Ack]:
    """Make the acks that a device may still send of what it was offered or acknowledged."""
    names = {name for offer in state.offered for name in types_in(offer.mask)} | set(state.checkpoints)
    return [ack(name, NOW, "a", state.epoch_of(name)) for name in names]


def test_a_session_that_ended_is_resumed_with_a_reset() -> None:
    over = given(offered("AssetV1"), cleared(), SessionEndedEvent("gone"))
    command = ResumeSession("immich", CreateSession("ann", "photos"))
    events = when(over, command)
    assert events == (SessionResumed("immich", 2), SessionCreated("ann", "photos"))
    session = then(over, *events)
    assert (session.seq, session.ended, session.epoch) == (over.seq + 2, None, 2)
    assert when(session, offer("AssetV1")) == (ResetSent("requested"),)
    assert when(session, command) == ()
    with pytest.raises(SessionEnded):
        when(None, command)
    with pytest.raises(Refused, match="another user"):
        when(over, ResumeSession("immich", CreateSession("bob", "photos")))


# What positions were made in


A, B = Origin(1, 100, first=True), Origin(2, 300)


@pytest.mark.parametrize(
    ("was", "now", "again"),
    [
        ((0, 0), Origin(), False),  # no source that tells
        ((2, 7), Origin(), False),
        ((0, 0), A, False),  # from before sources told, when there was only the first
        ((0, 0), B, True),
        ((1, 90), A, False),
        ((1, 100), A, False),
        ((1, 90), B, True),
        ((2, 90), A, True),  # put back to the first: only who synced with the second starts over
        ((1, 90), Origin(2, 300, ((1, 90),)), False),  # promoted, with all that the device saw
        ((1, 91), Origin(2, 300, ((1, 90),)), True),  # but not with this
        ((0, 0), Origin(2, 300, ((1, 90),)), True),  # what it saw is not known
        ((1, 91), Origin(2, 300, ((1, EVER),)), False),
        ((1, 0), Origin(2, 300, ((1, EVER),)), False),
        ((1, 80), Origin(3, 400, ((2, 200), (1, 90))), False),
        ((2, 201), Origin(3, 400, ((2, 200), (1, 90))), True),
        ((4, 10), Origin(3, 400, ((2, 200), (1, 90))), True),
    ],
)
def test_who_has_rows_of_a_source_that_is_another_one_starts_over(
    was: tuple[int, int], now: Origin, again: bool
) -> None:
    state = given(offered("AssetV1", origin=was[0], written=was[1]), moved(ack("AssetV1", EARLY)))
    assert reset_due(state, -1, origin=now) is again
    events = when(state, offer("AssetV1", snapshot_us=SNAPSHOT + 1, origin=now))
    if not again:
        assert events == (offered("AssetV1", snapshot_us=SNAPSHOT + 1, origin=now.number, written=now.written),)
        return
    assert events == (ResetSent("source"),)
    asked = then(state, *events)
    assert when(asked, offer("AssetV1", origin=now)) == (), "once"
    (cleared_,) = when(asked, acks(RESET_ACK))
    emptied = then(asked, cleared_)
    command = offer("AssetV1", origin=now)
    (begun,) = when(emptied, command)
    assert begun == offered("AssetV1", origin=now.number, written=now.written)
    after = then(emptied, begun)
    assert (after.origin, after.written) == (now.number, now.written)
    assert when(after, command) == ()


def test_a_device_that_holds_nothing_has_nothing_to_start_over_with() -> None:
    assert when(given(), offer("AssetV1", origin=B)) == (offered("AssetV1", origin=2, written=300),)


def test_one_that_only_forgot_to_have_acknowledged_still_holds_it() -> None:
    state = given(offered("AssetV1", origin=1, written=9), moved(ack("AssetV1", EARLY)), cleared())
    assert when(state, offer("AssetV1", origin=B)) == (ResetSent("source"),)


def test_how_far_it_was_written_only_grows_within_an_origin() -> None:
    state = given(offered("AssetV1", origin=1, written=9), offered("AlbumV1", origin=1, written=7))
    assert (state.origin, state.written) == (1, 9)
    untold = then(state, offered("AssetV1", snapshot_us=SNAPSHOT + 1))
    assert (untold.origin, untold.written) == (1, 9), "by a version that does not tell"
    other = then(state, offered("AssetV1", snapshot_us=SNAPSHOT + 1, origin=2, written=3))
    assert (other.origin, other.written) == (2, 3)
