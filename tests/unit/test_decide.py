"""Every rule that `decide` keeps: given these events, when this command, then those events."""

from __future__ import annotations

import pytest

from ledger.acks import RESET_ACK
from ledger.commands import CreateSession, DescribeDevice, EndSession, ExpireSession, OfferStream, RequestReset, Resend
from ledger.decide import reset_due
from ledger.entity_types import COMPLETE, mask_of
from ledger.errors import AckNotOffered, Refused, SessionEnded
from ledger.events import (
    AckRefused,
    DeviceDescribed,
    Event,
    ResetSent,
    SessionCreated,
    StreamOffered,
    SyncResetRequested,
    mask_bytes,
)
from ledger.events import SessionEnded as SessionEndedEvent
from ledger.personal import plain, text_of
from ledger.state import State
from tests.support.ledger.given import (
    CREATED,
    NOW,
    SNAPSHOT,
    ack,
    acks,
    clear,
    cleared,
    completed,
    given,
    moved,
    offer,
    offered,
    stored,
    then,
    when,
)

HOUR = 3_600_000_000
EARLY, LATE = SNAPSHOT - 200, SNAPSHOT - 100


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


# Acks of what was not offered


def test_an_ack_without_a_stream_is_refused_and_recorded_once() -> None:
    session = given()
    early = ack("AssetV1", EARLY, "a")
    error = refused(session, acks(early))
    assert error.record == (AckRefused(stored(early), "no stream offered this type; start a sync stream first"),)
    assert refused(then(session, *error.record), acks(early)).record == ()


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
    assert [type(event) for event in error.record] == [AckRefused]
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
