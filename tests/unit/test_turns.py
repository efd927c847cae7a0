"""Streams begin some at a time, in order of arrival; the line is bounded in number and time."""

from __future__ import annotations

import asyncio

import pytest

from endpoints.sync.stream import Waits, WaitsInTurn
from endpoints.sync.turns import StreamsBusy, Turns


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
