"""Spans that hold nothing to send: what is asked about next, and when all is looked at anew."""

from __future__ import annotations

from ledger.positions import Position
from projections.entities.postgres.empty_spans import FORGET_S, LIBRARIES, EmptySpans, starts_over


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


AT_5 = Position(5, "x")


def test_what_was_empty_is_not_asked_about_again() -> None:
    quiet = EmptySpans()
    quiet.note("l", "AssetV2", AT_5, 10)
    assert quiet.begin("l", "AssetV2", AT_5) == (Position(9, ""), True)
    assert quiet.begin("l", "AssetV2", Position(7, "y")) == (Position(9, ""), True)
    assert quiet.begin("l", "AssetV2", Position(5, "w")) == (Position(5, "w"), False)  # x is still to be sent
    assert quiet.begin("l", "AssetV2", Position(10, "y")) == (Position(10, "y"), False)
    assert quiet.begin("l", "AssetV2", None) == (None, False)
    assert quiet.begin("l", "StackV1", AT_5) == (AT_5, False)
    assert quiet.begin("m", "AssetV2", AT_5) == (AT_5, False)


def test_spans_that_meet_are_one() -> None:
    quiet = EmptySpans()
    quiet.note("l", "AssetV2", None, 10)
    quiet.note("l", "AssetV2", Position(9, ""), 20)
    assert quiet.begin("l", "AssetV2", None) == (Position(19, ""), True)
    quiet.note("l", "AssetV2", Position(30, "z"), 40)  # rows up to 30 were sent
    assert quiet.begin("l", "AssetV2", None) == (None, False)
    assert quiet.begin("l", "AssetV2", Position(30, "z")) == (Position(39, ""), True)
    quiet.note("l", "AssetV2", Position(1, "a"), 3)  # an older horizon says nothing of now
    assert quiet.begin("l", "AssetV2", Position(30, "z")) == (Position(39, ""), True)


def test_after_an_hour_all_is_looked_at_anew_however_often_it_went_on() -> None:
    clock = Clock()
    quiet = EmptySpans(clock)
    quiet.note("l", "AssetV2", AT_5, 10)
    clock.now_s = FORGET_S - 1
    quiet.note("l", "AssetV2", Position(9, ""), 20)
    assert quiet.begin("l", "AssetV2", AT_5) == (Position(19, ""), True)
    clock.now_s = FORGET_S + 1
    assert quiet.begin("l", "AssetV2", AT_5) == (AT_5, False)
    quiet.note("l", "AssetV2", AT_5, 30)
    assert quiet.begin("l", "AssetV2", AT_5) == (Position(29, ""), True)


def test_what_was_found_all_the_same_is_forgotten() -> None:
    quiet = EmptySpans()
    quiet.note("l", "AssetV2", None, 10)
    quiet.forget("l", "AssetV2")
    quiet.forget("m", "AssetV2")
    assert quiet.begin("l", "AssetV2", None) == (None, False)


def test_it_is_bounded() -> None:
    quiet = EmptySpans()
    for number in range(LIBRARIES + 1):
        quiet.note(str(number), "AssetV2", None, 10)
    assert quiet.begin("0", "AssetV2", None) == (None, False)
    assert quiet.begin(str(LIBRARIES), "AssetV2", None) == (Position(9, ""), True)


def test_who_has_nothing_starts_over() -> None:
    assert starts_over({"AssetV2": None, "StackV1": None})
    assert not starts_over({"AssetV2": None, "StackV1": AT_5})
