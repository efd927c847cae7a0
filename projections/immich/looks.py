"""Looking things up by their digest for many who ask at once: one question a second at most, answers kept for a while.

What is asked for again is looked up anew in the background before its answer is too old, so a phone that is in use
never waits. Those that were known go before those that were not: a flood of guesses holds up nobody but
others who come for the first time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from msgspec import Struct

from projections.entities.source import SourceUnavailable

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
AT_ONCE: Final = 4096
"""How many digests one question is about, at most."""
WAITING: Final = 4 * AT_ONCE
"""How many may wait for an answer; who comes beyond them is answered 503."""
KNOWN: Final = 16_384
"""How many that were found are kept, about 1 KB each."""
UNKNOWN: Final = 8192
"""How many that were not found are kept."""

T = TypeVar("T")
Ask = Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, T]]]


class _Answer(Struct, Generic[T]):
    """What was found (None: nothing), until when that is good, and from when on it is asked for again.

    `before` is what was found last, if that was not nothing.
    """

    found: T | None
    until_s: float
    again_s: float
    before: T | None


class Looks(Generic[T]):
    """Answers of one worker. `ask` is never asked twice at a time."""

    def __init__(
        self,
        ask: Ask[T],
        good_for_s: float,
        *,
        ends_in_s: Callable[[T], float | None] = lambda _: None,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        at_once: int = AT_ONCE,
        waiting: int = WAITING,
        known: int = KNOWN,
        unknown: int = UNKNOWN,
    ) -> None:
        """An answer is good for `good_for_s`, or as long as what was found says that it lasts (`ends_in_s`)."""
        self._ask = ask
        self._good_for_s = good_for_s
        self._ends_in_s = ends_in_s
        self._every_s = every_s
        self._clock = clock
        self._at_once = at_once
        self._most_waiting = waiting
        self._most_known = known
        self._most_unknown = unknown
        self._known: OrderedDict[bytes, _Answer[T]] = OrderedDict()
        self._unknown: OrderedDict[bytes, _Answer[T]] = OrderedDict()
        self._again: dict[bytes, None] = {}
        self._waiting: dict[bytes, asyncio.Future[T | None]] = {}
        self._next_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def fresh(self, digest: bytes) -> T | None:
        """Return what was found, if that is good still; None where `find` has to tell."""
        answer = self._known.get(digest)  # PERF: the way of every ack, without a coroutine
        if answer is None:
            return None
        now_s = self._clock()
        if now_s >= answer.until_s:
            return None
        if now_s >= answer.again_s and digest not in self._waiting:
            self._again[digest] = None
            self._begin()
        return answer.found

    async def find(self, digest: bytes) -> T | None:
        """Find what has this digest; None if nothing has. Raises what `ask` raises, and SourceUnavailable when crowded.

        An answer is at most `good_for_s` old, counted from when its question was asked.
        """
        found = self.fresh(digest)
        if found is not None:
            return found
        answer = self._unknown.get(digest)
        if answer is not None and self._clock() < answer.until_s:
            return answer.found
        asked = self._waiting.get(digest)
        if asked is None:
            if len(self._waiting) >= self._most_waiting:
                raise SourceUnavailable(f"{self._most_waiting:,} others wait to be looked up")
            asked = self._waiting[digest] = asyncio.get_running_loop().create_future()
            self._begin()
        return await asyncio.shield(asked)

    def last(self, digest: bytes) -> T | None:
        """Return what was found last, however long ago, and though it may be gone; None if that is not kept."""
        answer = self._known.get(digest) or self._unknown.get(digest)
        return None if answer is None else answer.before

    async def close(self) -> None:
        """Ask no more; who waits gets SourceUnavailable."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Ask for what is waited for, and for what is to be asked again, until there is none."""
        try:
            while self._waiting or self._again:
                if (wait_s := self._next_s - self._clock()) > 0:
                    await asyncio.sleep(wait_s)
                self._next_s = self._clock() + self._every_s
                await self._turn()
        finally:
            self._fail(list(self._waiting), SourceUnavailable("The service is shutting down"))

    async def _turn(self) -> None:
        digests = self._chosen()
        asked_s = self._clock()
        try:
            found = await self._ask(digests)
        except Exception as error:
            if not isinstance(error, SourceUnavailable):
                log.exception("a look failed")
            self._fail(digests, error)
            return
        for digest in digests:
            one = found.get(digest)
            self._keep(digest, one, asked_s)
            if (asked := self._waiting.pop(digest, None)) is not None and not asked.done():
                asked.set_result(one)

    def _chosen(self) -> list[bytes]:
        """Choose whom to ask for now: first who was known."""
        chosen = list(self._again)[: self._at_once]
        for digest in chosen:
            del self._again[digest]
        waiting = [digest for digest in self._waiting if digest in self._known]
        waiting += [digest for digest in self._waiting if digest not in self._known]
        taken = set(chosen)
        return chosen + [digest for digest in waiting if digest not in taken][: self._at_once - len(chosen)]

    def _fail(self, digests: Sequence[bytes], error: Exception) -> None:
        for digest in digests:
            if (asked := self._waiting.pop(digest, None)) is not None and not asked.done():
                asked.set_exception(error)
                asked.exception()  # who waited may have left

    def _keep(self, digest: bytes, found: T | None, asked_s: float) -> None:
        ends_s = None if found is None else self._ends_in_s(found)
        until_s = asked_s + (self._good_for_s if ends_s is None else min(ends_s, self._good_for_s))
        kept, most, other = (
            (self._unknown, self._most_unknown, self._known)
            if found is None
            else (self._known, self._most_known, self._unknown)
        )
        before = found if found is not None else self.last(digest)
        other.pop(digest, None)
        kept[digest] = _Answer(found, until_s, asked_s + self._good_for_s / 2, before)
        kept.move_to_end(digest)
        if len(kept) > most:
            kept.popitem(last=False)
