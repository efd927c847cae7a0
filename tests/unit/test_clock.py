"""The time by two clocks of which one may be wrong, and what of it passed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.clocks.passed import Jump, Passed
from ledger.clocks.steady import SteadyClock, choose
from tests.support.stores.fake_store import FakeStore

NOW = 1_790_000_000_000_000
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US
JUMPS = [HOUR_US, -HOUR_US, 100 * DAY_US, -100 * DAY_US]


class Server(FakeStore):
    """A store whose clock the test sets, and a machine beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.store_us = self.local_us = NOW
        self.steady_us = 7 * DAY_US
        self.noted_us: int | None = NOW - 60 * SECOND_US
        self.clock = SteadyClock(self, lambda: self.local_us, lambda: self.steady_us * 1000)

    async def command(self, *args: Any, key: bytes) -> Any:
        if args[0] == "TIME":
            return [b"%d" % (self.store_us // SECOND_US), b"%d" % (self.store_us % SECOND_US)]
        assert args[0] == "HGET"
        return None if self.noted_us is None else b"%d" % (self.noted_us // 1000)

    def go_on(self, us: int) -> None:
        self.store_us += us
        self.local_us += us
        self.steady_us += us


@pytest.mark.parametrize("jump_us", JUMPS)
@pytest.mark.parametrize("whose", ["local_us", "store_us"])
@pytest.mark.parametrize("when", ["before it starts", "while it runs"])
async def test_a_clock_that_is_wrong_is_not_gone_by_and_told(
    jump_us: int, whose: str, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    if when == "while it runs":
        await server.clock.look()
        assert (server.clock(), server.clock.trouble) == (NOW, "")
    setattr(server, whose, NOW + jump_us)
    if when == "while it runs":
        assert server.clock() == NOW, "not even before the next look"
    with caplog.at_level(logging.INFO, "ledger.clocks.steady"):
        for number in range(5):
            await server.clock.look()
            assert server.clock() == NOW + number * 10 * SECOND_US
            server.go_on(10 * SECOND_US)
        assert ("store's server" in server.clock.trouble) == (whose == "store_us")
        setattr(server, whose, NOW + 50 * SECOND_US)
        await server.clock.look()
        assert (server.clock(), server.clock.trouble) == (NOW + 50 * SECOND_US, "")
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_where_nothing_was_noted_the_earlier_clock_ends_nobody() -> None:
    server = Server()
    server.noted_us, server.local_us = None, NOW + 100 * DAY_US
    await server.clock.look()
    assert server.clock() == NOW


async def test_both_may_jump_which_is_told_for_a_day(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    await server.clock.look()
    server.local_us += 100 * DAY_US
    server.store_us += 100 * DAY_US
    with caplog.at_level(logging.INFO, "ledger.clocks.steady"):
        await server.clock.look()
    assert server.clock() == NOW + 100 * DAY_US
    assert "+100 days" in server.clock.trouble
    assert len(caplog.records) == 1
    server.go_on(DAY_US)
    await server.clock.look()
    assert server.clock.trouble == ""


def test_small_differences_are_none() -> None:
    assert choose(NOW, NOW - 30 * SECOND_US, NOW) == NOW - 30 * SECOND_US


@pytest.mark.parametrize(
    ("jumps", "age_us", "before_us"),
    [
        ((), 5, 95),
        ((Jump(40, 50),), 5, 95),
        ((Jump(40, 50),), 10, 90),
        ((Jump(40, 50),), 11, 39),
        ((Jump(40, 60),), 10, 30),
        ((Jump(10, 20), Jump(40, 50)), 25, 5),
        ((Jump(10, 20), Jump(40, 50)), 15, 35),
    ],
)
def test_age_does_not_count_what_was_jumped(jumps: tuple[Jump, ...], age_us: int, before_us: int) -> None:
    assert Passed(100, jumps).before(age_us) == before_us


@pytest.mark.parametrize(
    ("at_us", "reached"), [(39, True), (40, True), (41, True), (50, True), (51, False), (100, False)]
)
def test_an_instant_in_a_jump_is_not_reached_by_it(at_us: int, reached: bool) -> None:
    """The clock was at 40, is at 100, and 10 passed."""
    assert Passed(100, (Jump(40, 50),)).reached(at_us) is reached
    assert Passed(at_us + 50, (Jump(40, 50),)).reached(at_us), "once so much has passed"


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 500)), max_size=5),
    st.integers(0, 3000),
    st.integers(0, 3000),
)
def test_lived_time_adds_up(steps: list[tuple[int, int]], last: int, age: int) -> None:
    """An oracle that walks: each unit of time is lived or jumped."""
    now, jumps, lived = 0, [], list[int]()
    for step, far in steps:
        lived += range(now, now + step)
        now += step
        jumps.append(Jump(now, far))
        now += far
    lived += range(now, now + last)
    found = Passed(now + last, tuple(jumps)).before(age)
    assert sum(found <= unit for unit in lived) == min(age, len(lived))
