"""What one process remembers of sessions: bounded, noted as seen in time, never against what was just found."""

from __future__ import annotations

from msgspec.structs import replace

from ledger.log.append import SEEN_FOR_US
from ledger.log.remembered import RECENT, Recent
from ledger.state import State
from tests.support.ledger.given import CREATED, NOW, given, offered, then


def of(number: int) -> State:
    """Make the state of another session."""
    return replace(given(CREATED), sid=f"{number:064x}")


def test_a_state_is_found_until_its_session_must_be_noted_as_seen_again() -> None:
    recent, state = Recent(), given(CREATED)
    assert recent.find(state.sid, NOW) is None
    assert recent.keep(state, NOW) is state
    assert recent.find(state.sid, NOW + SEEN_FOR_US - 1) is state
    assert recent.find(state.sid, NOW + SEEN_FOR_US) is None
    later = then(state, offered("AssetV1"))
    recent.keep(later)
    assert recent.find(state.sid, NOW + SEEN_FOR_US - 1) is later
    assert recent.find(state.sid, NOW + SEEN_FOR_US) is None, "that it was kept again is no note of it"
    recent.forget(state.sid)
    recent.forget(state.sid)
    assert recent.find(state.sid, NOW) is None


def test_a_state_never_noted_from_here_is_kept_only_to_compare_with() -> None:
    recent, state = Recent(), given(CREATED)
    later = recent.keep(then(state, offered("AssetV1")))
    assert recent.find(state.sid, NOW) is None
    assert recent.last(state.sid) is later


def test_what_the_store_answers_takes_the_place_of_what_is_newer() -> None:
    recent, state = Recent(), given(CREATED)
    recent.keep(then(state, offered("AssetV1")), NOW)
    recent.correct(state.sid, state)
    assert recent.last(state.sid) is state
    assert recent.find(state.sid, NOW) is state, "its activity was noted all the same"
    recent.correct(state.sid, None)
    assert recent.last(state.sid) is None


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    recent = Recent()
    for number in range(RECENT):
        recent.keep(of(number), NOW)
    recent.keep(of(0), NOW)
    recent.keep(of(RECENT), NOW)
    found = [recent.find(of(number).sid, NOW) is not None for number in (0, 1, 2, RECENT)]
    assert found == [True, False, True, True]
