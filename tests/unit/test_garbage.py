"""Garbage that refers to itself is collected a little at a time, and all of it where much has stayed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

import ops.server.garbage
from ops.server.garbage import YOUNG, Garbage

MANY = 4 * YOUNG


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.end = self


@pytest.fixture
def garbage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Garbage]:
    """What collects here alone."""
    thresholds = gc.get_threshold()
    monkeypatch.setattr(ops.server.garbage, "MANY", MANY)
    yield Garbage()
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def old_knot(garbage: Garbage) -> weakref.ref[Knot]:
    """Make garbage that was in use when new objects were looked at."""
    knot = Knot()
    garbage.collect()
    return weakref.ref(knot)


def test_what_is_new_is_collected_each_time(garbage: Garbage) -> None:
    ended = weakref.ref(Knot())
    garbage.collect()
    assert ended() is None


def test_what_is_old_is_collected_where_too_much_has_stayed(garbage: Garbage) -> None:
    ended, held = old_knot(garbage), [Knot() for _ in range(MANY // 4)]
    garbage.collect()
    garbage.collect()
    assert ended() is not None, "so few are not worth it"
    held += [Knot() for _ in range(2 * MANY)]
    garbage.collect()
    garbage.collect()
    assert ended() is None


def test_garbage_that_comes_for_ever_never_is_more_than_that(garbage: Garbage) -> None:
    most, knots = 0, list[Knot]()
    for _ in range(200):
        knots = [Knot() for _ in range(1000)]  # those of the last time are old by now, and garbage
        garbage.collect()
        most = max(most, len(gc.get_objects(generation=2)))
    assert most < 3 * MANY
    assert len(knots) == 1000


def test_what_is_in_use_is_not_looked_at_again_before_it_has_doubled(garbage: Garbage) -> None:
    held = [Knot() for _ in range(2 * MANY)]
    garbage.collect()
    full = gc.get_stats()[2]["collections"]
    ended = old_knot(garbage)
    held += [Knot() for _ in range(MANY + YOUNG)]
    garbage.collect()
    assert gc.get_stats()[2]["collections"] == full
    assert ended() is not None
    assert len(held) == 3 * MANY + YOUNG


def test_python_itself_looks_at_new_objects_only(garbage: Garbage) -> None:
    ended = old_knot(garbage)
    full = gc.get_stats()[2]["collections"]
    held = [[] for _ in range(20 * YOUNG)]  # type: ignore[var-annotated]
    assert gc.get_stats()[2]["collections"] == full
    assert ended() is not None
    assert len(held) == 20 * YOUNG
