"""Streams are looked at, begin and go on some at a time, in order of arrival; the line is bounded, also in time."""

from __future__ import annotations

import asyncio

import pytest

from endpoints.sync.stream import Waits, WaitsInTurn
from endpoints.sync.turns import ARRIVALS, CHUNKS_AT_ONCE, Arrivals, Going, StreamsBusy, Turns


async def test_so_many_at_once_and_the_others_in_order_of_arrival() -> None:
    turns, began = Turns(at_once=2), list[int]()

    async def stream(number: int) -> None:
        turn = await turns.take()
        began.append(number)
        await asyncio.sleep(0)
        assert len(began) - ended[0] <= 2
        ended[0] += 1
        turn.end()

    ended = [0]
    await asyncio.gather(*map(stream, range(20)))
    assert began == list(range(20))
    assert turns.waiting == 0


async def test_the_line_has_an_end_and_so_has_waiting() -> None:
    turns = Turns(at_once=1, in_line=2, wait_s=0.05)
    turn = await turns.take()
    waiting = [asyncio.create_task(turns.take()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(StreamsBusy, match="2 streams wait"):
        await turns.take()
    for task in waiting:
        with pytest.raises(StreamsBusy, match="did not come"):
            await task
    turn.end()
    turn.end()
    (await turns.take()).end()
    assert StreamsBusy("").retry_after_s > 0


async def test_who_waits_for_the_source_leaves_the_turn_to_others() -> None:
    turns = Turns(at_once=1, wait_s=5)
    turn = await turns.take()
    pause = asyncio.create_task(WaitsInTurn(Waits(), turns, turn).pause(0.02))
    other = await turns.take()
    await asyncio.sleep(0.05)
    assert not pause.done(), "the source has it, but another one has the turn"
    other.end()
    assert await pause
    turn.end()
    (await turns.take()).end()


async def test_a_few_arrivals_are_looked_at_in_each_turn_in_their_order() -> None:
    arrivals, passed = Arrivals(), list[int]()

    async def arrive(number: int) -> None:
        await arrivals.pass_on()
        passed.append(number)

    count = ARRIVALS * 10 + 3
    tasks = [asyncio.ensure_future(arrive(number)) for number in range(count)]
    before = 0
    while len(passed) < count:
        await asyncio.sleep(0)
        assert len(passed) - before <= ARRIVALS
        before = len(passed)
    assert passed == list(range(count))
    await asyncio.gather(*tasks)


async def test_who_arrives_alone_waits_for_nothing_and_who_left_takes_no_place() -> None:
    arrivals = Arrivals(1)
    await arrivals.pass_on()
    left, stays = (asyncio.ensure_future(arrivals.pass_on()) for _ in range(2))
    await asyncio.sleep(0)
    left.cancel()
    async with asyncio.timeout(10):
        await stays
        for _ in range(5):  # nothing goes on turning behind the last one
            await asyncio.sleep(0)
    assert not arrivals._turns


async def test_a_few_streams_make_a_chunk_at_once() -> None:
    going, making, most = Going(), 0, 0

    async def make() -> None:
        nonlocal making, most
        async with going.one():
            making += 1
            most = max(most, making)
            await asyncio.sleep(0)
            making -= 1

    await asyncio.gather(*(make() for _ in range(50)))
    assert most == CHUNKS_AT_ONCE


async def test_streams_that_wait_for_a_slow_source_hold_up_no_other() -> None:
    going, never = Going(at_once=2, long_s=0.01), asyncio.get_running_loop().create_future()

    async def stuck() -> None:
        async with going.one():
            await never

    tasks = [asyncio.ensure_future(stuck()) for _ in range(4)]
    async with asyncio.timeout(10), going.one():
        assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    making = 0

    async def make() -> None:
        nonlocal making
        async with going.one():
            making += 1
            assert making <= 2  # what was given back early is not given back again
            await asyncio.sleep(0)
            making -= 1

    await asyncio.gather(*(make() for _ in range(10)))
