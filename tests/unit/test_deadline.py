"""A connection's deadline: the last one that was set is the one that counts, by as few timers as may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from ops.server.deadline import Deadline


class Timer:
    """A timer of the loop below."""

    def __init__(self, at_s: float, act: Callable[[], object]) -> None:
        self.at_s, self.act, self.cancelled = at_s, act, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop whose time the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.timers: list[Timer] = []
        self.made = 0

    def time(self) -> float:
        return self.now_s

    def call_at(self, at_s: float, act: Callable[[], object]) -> Timer:
        self.made += 1
        self.timers.append(Timer(at_s, act))
        return self.timers[-1]

    def go_on(self, seconds: float) -> None:
        """Let time pass, and timers run out in it."""
        until_s = self.now_s + seconds
        while due := [timer for timer in self.timers if not timer.cancelled and timer.at_s <= until_s]:
            first = min(due, key=lambda timer: timer.at_s)
            self.timers.remove(first)
            self.now_s = first.at_s
            first.act()
        self.now_s = until_s


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def deadline(loop: Loop) -> Deadline:
    return Deadline(cast(Any, loop))


def noting(done: list[tuple[str, float]], loop: Loop, name: str) -> Callable[[], None]:
    return lambda: done.append((name, loop.now_s))


@pytest.mark.parametrize(("first_s", "then_s"), [(10, 30), (30, 10), (10, 10)])
def test_the_last_one_counts_whether_sooner_or_later(
    loop: Loop, deadline: Deadline, first_s: float, then_s: float
) -> None:
    done: list[tuple[str, float]] = []
    deadline.set(first_s, noting(done, loop, "first"))
    loop.go_on(5)
    deadline.set(then_s, noting(done, loop, "then"))
    loop.go_on(100)
    assert done == [("then", 1005 + then_s)]


def test_nothing_is_done_once_it_is_cleared_and_then_what_is_set_behind_that(loop: Loop, deadline: Deadline) -> None:
    done: list[tuple[str, float]] = []
    deadline.set(10, noting(done, loop, "first"))
    deadline.clear()
    loop.go_on(5)
    deadline.set(20, noting(done, loop, "then"))
    loop.go_on(15)
    deadline.clear()
    loop.go_on(100)
    assert done == []
    deadline.set(1, noting(done, loop, "last"))
    loop.go_on(1)
    assert done == [("last", 1121)]


def test_its_end_leaves_no_timer(loop: Loop, deadline: Deadline) -> None:
    deadline.set(10, lambda: None)
    deadline.end()
    assert all(timer.cancelled for timer in loop.timers)


def test_a_busy_connection_takes_few_timers(loop: Loop, deadline: Deadline) -> None:
    """75 s without a request end it; of a thousand requests in a hundred seconds none makes a timer of its own."""
    for _ in range(1000):
        loop.go_on(0.1)
        deadline.clear()
        deadline.set(75, lambda: None)
    assert loop.made <= 3
