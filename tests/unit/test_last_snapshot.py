"""The snapshot of a stream that has nothing to send: the last one, as long as that serves."""

from __future__ import annotations

from typing import Final

from hypothesis import given as having
from hypothesis import strategies as st

from endpoints.sync.stream import DAY_US, last_snapshot
from ledger.commands import OfferStream
from ledger.entity_types import COMPLETE, mask_of
from ledger.starting_over import reset_due
from tests.support.ledger.given import NOW, acks, clear, completed, given, moved, offered, then, when

HOUR_US: Final = 3_600_000_000
ASKED: Final = mask_of([COMPLETE, "AssetV2", "AlbumV2"])
BOTH: Final = offered("AssetV2", "AlbumV2", snapshot_us=NOW)


def test_it_stays_while_nothing_changes() -> None:
    state = given(BOTH)
    for later_us in (0, 1, HOUR_US, DAY_US - 1):
        assert last_snapshot(state, ASKED, NOW + later_us, 0) == NOW
        assert when(state, OfferStream(NOW, ASKED)) == ()


def test_it_moves_once_a_day() -> None:
    assert last_snapshot(given(BOTH), ASKED, NOW + DAY_US, 0) == NOW + DAY_US


def test_a_type_that_was_not_offered_moves_it() -> None:
    assert last_snapshot(given(offered("AssetV2", snapshot_us=NOW)), ASKED, NOW + 5, 0) == NOW + 5
    assert last_snapshot(given(), ASKED, NOW + 5, 0) == NOW + 5


def test_types_that_were_offered_one_after_the_other_move_it() -> None:
    """The older of both would complete a stream at a time before the last one did."""
    state = given(BOTH, offered("AssetV2", snapshot_us=NOW + 2))
    assert last_snapshot(state, ASKED, NOW + 5, 0) == NOW + 5
    assert last_snapshot(state, mask_of([COMPLETE, "AssetV2"]), NOW + 5, 0) == NOW + 2


def test_a_cleared_type_moves_it() -> None:
    state = given(BOTH)
    state = then(state, *when(state, clear("AssetV2")))
    assert last_snapshot(state, ASKED, NOW + 5, 0) == NOW + 5


def test_a_horizon_that_went_back_is_followed() -> None:
    assert last_snapshot(given(BOTH), ASKED, NOW - 5, 0) == NOW - 5


@having(keeps_us=st.integers(2 * HOUR_US, 4 * DAY_US), poll_us=st.integers(1, HOUR_US))
def test_a_device_that_goes_on_polling_never_starts_over(keeps_us: int, poll_us: int) -> None:
    """However short delete markers are kept: it completes often enough to be known not to have missed one."""
    state = given(BOTH, moved(completed("AssetV2", "AlbumV2", snapshot_us=NOW)))
    horizon_us = NOW
    for _ in range(100):
        horizon_us += poll_us
        floor_us = horizon_us - keeps_us
        assert not reset_due(state, floor_us, ASKED)
        snapshot_us = last_snapshot(state, ASKED, horizon_us, floor_us)
        events = when(state, OfferStream(snapshot_us, ASKED))
        assert bool(events) == (snapshot_us == horizon_us)
        state = then(state, *events)
        state = then(state, *when(state, acks(completed("AssetV2", "AlbumV2", snapshot_us=snapshot_us))))
