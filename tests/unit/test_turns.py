"""Streams begin and go on some at a time, in order of arrival; the line is bounded, also in time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from endpoints.sync.stream import Waits, WaitsInTurn
from endpoints.sync.turns import CHUNKS_AT_ONCE, LONG_S, Going, StreamsBusy, Turn, Turns


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
    pause = asyncio.create_task(WaitsInTurn(Waits(), turn).pause(0.02))
    other = await turns.take()
    await asyncio.sleep(0.05)
    assert not pause.done(), "the source has it, but another one has the turn"
    other.end()
    assert await pause
    turn.end()
    (await turns.take()).end()


async def test_first_bytes_leave_in_order_of_arrival_whoever_is_done_first() -> None:
    turns, sent = Turns(at_once=4), list[int]()
    numbers = [turns.arrive() for _ in range(40)]
    dice = random.Random(7)

    async def stream(number: int) -> None:
        turn = await turns.take(number)
        for _ in range(dice.randrange(20)):
            await asyncio.sleep(0)
        await turn.comes()
        sent.append(number)
        turn.end()

    await asyncio.gather(*map(stream, numbers))
    assert sent == numbers
    assert not turns.beginning


async def test_who_arrived_first_goes_first_though_it_was_let_in_later() -> None:
    turns = Turns(at_once=1)
    running = await turns.take()
    numbers = [turns.arrive() for _ in range(5)]
    began = list[int]()

    async def stream(number: int) -> None:
        turn = await turns.take(number)
        began.append(number)
        turn.end()

    tasks = [asyncio.create_task(stream(number)) for number in reversed(numbers)]
    await asyncio.sleep(0)
    running.end()
    await asyncio.gather(*tasks)
    assert began == numbers


@pytest.mark.parametrize("leaves", [Turn.end, None], ids=["has ended", "takes too long"])
async def test_nobody_waits_for_one_that_ended_or_takes_too_long(leaves: Callable[[Turn], None] | None) -> None:
    turns = Turns(at_once=2)
    first, second = await turns.take(), await turns.take()
    coming = asyncio.create_task(second.comes())
    await asyncio.sleep(0)
    assert not coming.done()
    await first.comes()  # which waits for nobody
    if leaves is not None:
        leaves(first)
    async with asyncio.timeout(LONG_S * 40):
        await coming


async def test_who_gave_up_in_line_takes_no_place_and_no_room_for_long() -> None:
    turns = Turns(at_once=1, in_line=5)
    running = await turns.take()
    for _ in range(100):
        left = asyncio.create_task(turns.take())
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
    assert len(turns._line) <= 11
    assert turns.waiting == 0
    stays = asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    running.end()
    (await stays).end()


async def test_a_turn_that_came_as_its_stream_left_goes_to_the_next() -> None:
    turns = Turns(at_once=1)
    running = await turns.take()
    leaves, stays = (asyncio.create_task(turns.take()) for _ in range(2))
    await asyncio.sleep(0)
    running.end()
    leaves.cancel()
    async with asyncio.timeout(10):
        (await stays).end()


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
