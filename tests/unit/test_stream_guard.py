"""A stream that is over stops what makes it, also in the middle of a chunk."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from endpoints.http.sending import always
from endpoints.sync.stream_guard import Guard


class Making:
    """Makes one chunk at once, and a second one never; tells whether it was stopped at that."""

    def __init__(self) -> None:
        self.at_second = asyncio.Event()
        self.stopped = False

    async def chunks(self) -> AsyncGenerator[bytes]:
        yield b"first"
        self.at_second.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.stopped = True
            raise


async def test_a_client_that_leaves_stops_the_chunk_that_is_being_made() -> None:
    left = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    making = Making()
    made = making.chunks()
    with Guard(receive, None, always, 600) as guard:
        assert await guard.next_of(made) == b"first"
        second = asyncio.ensure_future(guard.next_of(made))
        await making.at_second.wait()
        assert not second.done()
        left.set()
        async with asyncio.timeout(10):
            assert await second is None
        assert guard.over == "gone"
        assert making.stopped
    await made.aclose()


async def test_a_stream_that_is_over_leaves_nothing_to_collect() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    made = Making().chunks()
    guard = Guard(receive, None, always, 600)
    gc.disable()
    try:
        with guard:
            assert await guard.next_of(made) == b"first"
        for _ in range(5):  # what it began ends
            await asyncio.sleep(0)
        is_there = weakref.ref(guard)
        del guard
        assert is_there() is None
    finally:
        gc.enable()
    await made.aclose()


async def test_a_session_that_ends_stops_the_chunk_that_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("endpoints.sync.stream_guard.LOOK_S", 0.01)
    living = True

    async def lives() -> bool:
        return living

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    making = Making()
    made = making.chunks()
    with Guard(receive, None, lives, 600) as guard:
        assert await guard.next_of(made) == b"first"
        second = asyncio.ensure_future(guard.next_of(made))
        await making.at_second.wait()
        living = False
        async with asyncio.timeout(10):
            assert await second is None
        assert guard.over == "ended"
        assert making.stopped
    await made.aclose()


async def test_what_goes_wrong_in_making_a_chunk_is_raised_and_an_end_is_an_end() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def fails() -> AsyncGenerator[bytes]:
        yield b"first"
        raise ValueError("the source")

    async def ends() -> AsyncGenerator[bytes]:
        yield b"only"

    with Guard(receive, None, always, 600) as guard:
        made = fails()
        assert await guard.next_of(made) == b"first"
        with pytest.raises(ValueError, match="the source"):
            await guard.next_of(made)
        made = ends()
        assert [await guard.next_of(made), await guard.next_of(made)] == [b"only", None]
        assert guard.over is None
