"""Working on several things at once, but never on too many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]], at_once: int) -> None:
    """Do `work` on each item in order, `at_once` of them interleaved; the first error ends all, and is raised."""
    rest = iter(items)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(_take(rest, work))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _take(rest: Iterator[T], work: Callable[[T], Awaitable[None]]) -> None:
    for item in rest:
        await work(item)
