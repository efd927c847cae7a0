"""Garbage that refers to itself is collected a little at a time, and all of it where much stays."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

import ops.server.garbage
from ops.server.garbage import Garbage


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.end = self


@pytest.fixture
def garbage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Garbage]:
    """What collects here alone, for whom a thousand objects are many."""
    thresholds = gc.get_threshold()
    monkeypatch.setattr(ops.server.garbage, "FEW", 1000)
    yield Garbage()
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_what_is_new_is_collected_each_time(garbage: Garbage) -> None:
    ended = weakref.ref(Knot())
    garbage.collect_new()
    assert ended() is None


def test_what_is_old_is_looked_at_only_where_it_has_doubled_twice_in_a_row(garbage: Garbage) -> None:
    knot = Knot()
    garbage.collect_new()  # from now on it is old
    ended, few = weakref.ref(knot), [Knot() for _ in range(100)]
    del knot
    garbage.collect_new()
    garbage.collect_all()
    garbage.collect_all()
    assert ended() is not None, "so few are not worth it"
    many = [Knot() for _ in range(1000)]
    garbage.collect_new()
    garbage.collect_all()
    assert ended() is not None, "they may be gone in a moment"
    garbage.collect_all()
    assert ended() is None
    again = weakref.ref(many.pop())
    few.clear()
    garbage.collect_all()
    garbage.collect_all()
    assert again() is not None, "the rest has stayed, and may be twice as much"


def test_python_itself_looks_at_new_objects_only(garbage: Garbage) -> None:
    knot = Knot()
    garbage.collect_new()
    ended = weakref.ref(knot)
    del knot
    full = gc.get_stats()[2]["collections"]
    held = [[] for _ in range(200_000)]  # type: ignore[var-annotated]
    assert gc.get_stats()[2]["collections"] == full
    assert ended() is not None
    assert len(held) == 200_000
