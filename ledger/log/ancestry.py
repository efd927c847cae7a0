"""Whom sessions belong to: those above one, up to the one that somebody signed in."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ledger import keys
from ledger.errors import ParentOver, Refused
from ledger.state import living_parent_of
from ledger.store.interface import Store

DEPTH: Final = 8
"""How many sessions a new one may have above it."""
DEPTH_READ: Final = 64
"""How many are looked at: earlier versions had no bound. What lies deeper is not admitted."""
REMEMBERED: Final = 8192
"""Of how many children the ancestors are remembered."""


class Ancestry:
    """The sessions above others, nearest first; that never changes, so it is remembered."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._above: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def remembered(self, sid: str) -> tuple[str, ...]:
        """Tell the sessions above one as far as this process knows; none of what belongs to nobody."""
        return self._above.get(sid, ())

    def forget(self, sid: str) -> None:
        """Drop what is remembered of one that has ended."""
        self._above.pop(sid, None)

    async def of(self, partition: int, sid: str, parent: str | None) -> tuple[str, ...]:
        """Tell the sessions above one whose parent is known. It ends before one that does not live.

        Raises ParentOver where there are more than DEPTH_READ.
        """
        above = living_parent_of(parent)
        if not above:
            return ()
        known = self._above.get(sid)
        if known is not None:
            self._above.move_to_end(sid)
            return known
        found = [above]
        while True:
            if rest := self._above.get(found[-1]):
                found += rest
                if len(found) > DEPTH_READ:
                    raise ParentOver(ended=False)
                break
            name = keys.session(partition, found[-1])
            user, next_one = await self._store.command("HMGET", name, "user", "parent", key=name)
            if user is None:
                return tuple(found)  # it does not live, or not yet again: another look may tell more
            above = living_parent_of(next_one.decode()) if next_one else ""
            if not above:
                break
            if len(found) >= DEPTH_READ or above in found:
                raise ParentOver(ended=False)
            found.append(above)
        self._above[sid] = tuple(found)
        if len(self._above) > REMEMBERED:
            self._above.popitem(last=False)
        return tuple(found)

    async def of_new(self, partition: int, sid: str, parent: str | None) -> tuple[str, ...]:
        """Tell the sessions above a new one; raises Refused where there are more than DEPTH."""
        found = await self.of(partition, sid, parent)
        if len(found) > DEPTH:
            raise Refused(
                f"At most {DEPTH} sessions may lie above one: let this one be made by one further up, or sign in"
            )
        return found
