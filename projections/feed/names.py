"""Where readers of the feed stand, kept here by name for those who cannot keep it themselves.

A reader moves it on once it has done with what it got, and no sooner: then whoever goes on under that name repeats what
was not done, and misses nothing. Two who read under one name move it for each other.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ledger import keys
from ledger.errors import Refused
from ledger.keys import check_name
from ledger.store.interface import Script, Store

MOST: Final = 100
"""How many names are kept."""
_KEEP: Final = Script.load("projections.feed", "keep_name.lua")


class Kept(NamedTuple):
    """A name, the position kept of it as text, and when it was moved there, in µs."""

    name: str
    position: str
    at_us: int


class TooManyNames(Refused):
    """As many names as may be are kept."""

    def __init__(self) -> None:
        super().__init__(f"{MOST} names of feed readers are kept, and no more may be: forget one of them first")


class FeedNames:
    """The names of one ledger. Raises StoreUnavailable; InvalidInput for what can be no name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, name: str) -> str | None:
        """Tell the position of a name; None if it is not known."""
        where = keys.feed_names()
        kept = await self._store.command("HGET", where, check_name("name", name), key=where)
        return None if kept is None else _read(name, kept).position

    async def keep(self, name: str, position: str, now_us: int) -> None:
        """Move a name on to a position of this ledger; raises TooManyNames for a new one."""
        told = f"{now_us} {position}"
        if not await self._store.script(_KEEP, [keys.feed_names()], [check_name("name", name), told, MOST]):
            raise TooManyNames

    async def forget(self, name: str) -> bool:
        """Forget a name; False if it was not known."""
        where = keys.feed_names()
        return bool(await self._store.command("HDEL", where, check_name("name", name), key=where))

    async def all(self) -> list[Kept]:
        """List all names in their order."""
        where = keys.feed_names()
        flat = await self._store.command("HGETALL", where, key=where)
        return sorted(_read(name.decode(), kept) for name, kept in zip(flat[::2], flat[1::2], strict=True))


def _read(name: str, kept: bytes) -> Kept:
    at_us, _, position = kept.decode().partition(" ")
    return Kept(name, position, int(at_us))
