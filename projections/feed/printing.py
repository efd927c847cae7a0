"""Printing what a feed tells for one reader, with or without what is personal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ledger.personal import UserKey, has_plain, has_sealed
from projections.feed.forms import Form
from projections.feed.told import Notice, Seen, Told

NO_EVENT = "no event carries the position"


class Printer:
    """Makes lines of JSON, without line ends."""

    def __init__(
        self,
        form: Form,
        clock: Callable[[], int],
        key_now: Callable[[str], Awaitable[UserKey | None]] | None = None,
    ) -> None:
        """`key_now` finds the key of a user's personal texts as it is now; without it these are not shown."""
        self._form = form
        self._clock = clock
        self._key_now = key_now

    async def lines(self, told: Sequence[Told], position: str | None = None) -> list[bytes]:
        """Print what is told; the last line has the position, and is a notice of it where nothing is told.

        What is personal is shown of users who have a key: also what is plain, from before it was sealed, since whoever
        was erased has none.
        """
        if not told and position is not None:
            told = (Notice("position", None, "", NO_EVENT, self._clock()),)
        found, last = await self._keys(told), len(told) - 1
        return [self._line(one, found, position if number == last else None) for number, one in enumerate(told)]

    def _line(self, one: Told, found: dict[str, UserKey], position: str | None) -> bytes:
        if isinstance(one, Notice):
            return self._form.notice(one, position)
        key = found.get(one.user or "")
        if key is None or not _is_personal(one):
            return self._form.event(one, position)
        return self._form.event_opened(one, key, position)

    async def _keys(self, told: Sequence[Told]) -> dict[str, UserKey]:
        """Read the keys of the users about whom something personal is told."""
        if self._key_now is None:
            return {}
        users = {one.user for one in told if isinstance(one, Seen) and one.user is not None and _is_personal(one)}
        found = await asyncio.gather(*(self._key_now(user) for user in users))
        return {user: key for user, key in zip(users, found, strict=True) if key is not None}


def _is_personal(seen: Seen) -> bool:
    event = seen.entry.recorded.event
    return has_sealed(event) or has_plain(event)
