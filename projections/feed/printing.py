"""Printing what a feed tells for one reader, with or without what is personal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ledger.personal import UserKey, has_sealed
from projections.feed.forms import Form
from projections.feed.told import Notice, Seen, Told

NO_EVENT = "no event carries the position"


class Printer:
    """Makes lines of JSON, without line ends."""

    def __init__(
        self,
        form: Form,
        clock: Callable[[], int],
        key_of: Callable[[str], Awaitable[UserKey | None]] | None = None,
    ) -> None:
        """`key_of` finds the key of a user's personal texts; without it these are not shown."""
        self._form = form
        self._clock = clock
        self._key_of = key_of

    async def lines(self, told: Sequence[Told], position: str | None = None) -> list[bytes]:
        """Print what is told; the last line has the position, and is a notice of it where nothing is told."""
        if not told and position is not None:
            told = (Notice("position", None, "", NO_EVENT, self._clock()),)
        last = len(told) - 1
        return [await self._line(one, position if number == last else None) for number, one in enumerate(told)]

    async def _line(self, one: Told, position: str | None) -> bytes:
        if isinstance(one, Notice):
            return self._form.notice(one, position)
        if self._key_of is None:
            return self._form.event(one, position)
        return self._form.event_opened(one, await self._key(one), position)

    async def _key(self, one: Seen) -> UserKey | None:
        assert self._key_of is not None
        if one.user is None or not has_sealed(one.entry.recorded.event):
            return None
        return await self._key_of(one.user)
