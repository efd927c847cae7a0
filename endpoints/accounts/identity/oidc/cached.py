"""Something fetched when it is needed, once for all who wait for it, and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

KEEP_S: Final = 3600.0
REST_S: Final = 1.0


class Cached(Generic[T]):
    """A value that is `keep_s` old at most. Whatever `fetch` raises goes to all who wait, and is kept for `failed_s`.

    Between two fetches that `newer` asks for lie `rest_s` at least: what makes it ask comes from anybody.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[T]],
        keep_s: float = KEEP_S,
        rest_s: float = REST_S,
        failed_s: float = 0.0,
    ) -> None:
        self._fetch = fetch
        self._keep_s = keep_s
        self._rest_s = rest_s
        self._failed_s = failed_s
        self._failure: tuple[Exception, float] | None = None
        self._value: T | None = None
        self._fetched_at = float("-inf")
        self._asked_at = float("-inf")
        self._flight: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """Return the value, fetched if there is none or it is too old."""
        if self._value is not None and time.monotonic() < self._fetched_at + self._keep_s:
            return self._value
        if self._failure is not None and time.monotonic() < self._failure[1]:
            raise self._failure[0].with_traceback(None)
        return await self._joined(self._fly)

    async def looked(self) -> T:
        """Return a value fetched now; where that fails the one before stays, whatever is raised."""
        return await self._joined(self._fly)

    async def newer(self, seen: T) -> T:
        """Return a value fetched after `seen` was; waits for the rest to be over."""
        if self._value is not None and self._value is not seen:
            return self._value
        return await self._joined(self._fly_rested)

    async def close(self) -> None:
        """End a fetch that nobody waits for any more."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait([self._flight])

    async def _joined(self, fly: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._flight is None:
            self._flight = asyncio.create_task(fly())
            self._flight.add_done_callback(self._landed)
        return await asyncio.shield(self._flight)  # one who leaves must not take the others' fetch along

    async def _fly(self) -> T:
        try:
            self._value = await self._fetch()
        except Exception as error:
            self._failure = error, time.monotonic() + self._failed_s
            raise
        self._failure, self._fetched_at = None, time.monotonic()
        return self._value

    async def _fly_rested(self) -> T:
        await asyncio.sleep(max(0.0, self._asked_at + self._rest_s - time.monotonic()))
        self._asked_at = time.monotonic()
        return await self._fly()

    def _landed(self, flight: asyncio.Task[T]) -> None:
        self._flight = None
        if not flight.cancelled():
            flight.exception()  # all who waited may have left: asyncio must not log it as never retrieved
