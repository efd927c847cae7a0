"""Requests that arrive in one moment are looked at a few in each turn of the loop, in their order."""

from __future__ import annotations

import asyncio

from ops.server.arrivals import A_TURN, Arrivals


class Requests:
    """Requests that note in which order they were looked at."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self.seen = list[int]()
        self.left = set[int]()

    def arrive(self, number: int) -> None:
        """Have one arrive, which is looked at now or later."""
        if self.arrivals.pass_one():
            self.seen.append(number)
        else:
            self.arrivals.wait(lambda: self._look(number))

    def _look(self, number: int) -> bool:
        if number in self.left:
            return False
        self.seen.append(number)
        return True


async def test_a_few_are_looked_at_in_each_turn_in_their_order() -> None:
    requests, count = Requests(Arrivals()), A_TURN * 10 + 3
    for number in range(count):
        requests.arrive(number)
    before = 0
    while len(requests.seen) < count:
        assert len(requests.seen) - before <= A_TURN
        assert len(requests.seen) > before, "and each turn some"
        before = len(requests.seen)
        await asyncio.sleep(0)
    assert requests.seen == list(range(count))


async def test_who_comes_later_does_not_go_before_those_in_line() -> None:
    requests = Requests(Arrivals(2))
    for number in range(5):
        requests.arrive(number)
    await asyncio.sleep(0)
    requests.arrive(5)
    for _ in range(5):
        await asyncio.sleep(0)
    assert requests.seen == list(range(6))


async def test_who_arrives_alone_waits_for_nothing_and_who_left_takes_no_place() -> None:
    requests = Requests(Arrivals(1))
    requests.arrive(0)
    assert requests.seen == [0]
    for number in range(1, 100):
        requests.arrive(number)
    requests.left.update(range(1, 99))
    for _ in range(3):
        await asyncio.sleep(0)
    assert requests.seen == [0, 99]


async def test_nothing_turns_behind_the_last_one() -> None:
    arrivals = Arrivals()
    assert arrivals.pass_one()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not arrivals._turning
