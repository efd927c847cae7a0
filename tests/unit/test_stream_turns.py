"""Whose turn it is: bounds on what the streams of one moment do before everything else."""

from __future__ import annotations

import asyncio

from endpoints.sync.turns import ARRIVALS, CHUNKS_AT_ONCE, Arrivals, Going


async def turn_of_the_loop() -> None:
    """Let everything that is ready now have its step."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done


async def test_a_few_arrivals_are_looked_at_in_each_turn_in_their_order() -> None:
    arrivals, passed = Arrivals(), list[int]()

    async def arrive(number: int) -> None:
        await arrivals.pass_on()
        passed.append(number)

    count = ARRIVALS * 10 + 3
    tasks = [asyncio.ensure_future(arrive(number)) for number in range(count)]
    before = 0
    while len(passed) < count:
        await turn_of_the_loop()
        assert len(passed) - before <= ARRIVALS
        before = len(passed)
    assert passed == list(range(count))
    await asyncio.gather(*tasks)


async def test_who_arrives_alone_waits_for_nothing_and_who_left_takes_no_place() -> None:
    arrivals = Arrivals(1)
    await arrivals.pass_on()
    left, stays = (asyncio.ensure_future(arrivals.pass_on()) for _ in range(2))
    await turn_of_the_loop()
    left.cancel()
    async with asyncio.timeout(10):
        await stays
        for _ in range(5):  # nothing goes on turning behind the last one
            await turn_of_the_loop()
    assert not arrivals._turns


async def test_a_few_streams_make_a_chunk_at_once() -> None:
    going, making, most = Going(), 0, 0

    async def make() -> None:
        nonlocal making, most
        async with going.one():
            making += 1
            most = max(most, making)
            await turn_of_the_loop()
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
            await turn_of_the_loop()
            making -= 1

    await asyncio.gather(*(make() for _ in range(10)))
