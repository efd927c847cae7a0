"""Who has sessions, living or ended: in pages, a partition's users in the order of their ids.

There is no index of users. A page reads whole partitions until it is full or has read many sessions: of 1,000,000 in
256 partitions 4,000 each, with as many questions for whose they are. The next page reads the last of these again.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from ledger import keys
from ledger.errors import CorruptLedger, StoreReplyError
from ledger.log.append import parse_ended
from ledger.log.service import Ledger
from ledger.log.stored_sessions import text_of
from ledger.store.interface import scan

READ: Final = 20_000
"""After so many sessions a page is over, however few users they have."""
_PLACE: Final = re.compile(r"(\d{1,9})\.(.*)", re.DOTALL)


class UserFound(NamedTuple):
    """A user, and how many of their sessions live and have ended."""

    user: str
    living: int
    ended: int


class UsersPage(NamedTuple):
    """Some users; the next page holds those beyond `next_place`, None at the end."""

    users: list[UserFound]
    next_place: str | None


async def users_page(ledger: Ledger, beyond: str | None, size: int) -> UsersPage:
    """Read the users beyond a place; raises ValueError for what is no `next_place`."""
    partition, after = 0, ""
    if beyond is not None:
        place = _PLACE.fullmatch(beyond)
        if place is None:
            raise ValueError("it is not the `next` of a page")
        partition, after = int(place[1]), place[2]
    found: list[UserFound] = []
    read = 0
    while partition < ledger.partitions:
        if read >= READ:
            return UsersPage(found, f"{partition}.")
        for one in await _of_partition(ledger, partition):
            read += one.living + one.ended
            if one.user <= after:
                continue
            if len(found) == size:
                return UsersPage(found, f"{partition}.{after}")
            found.append(one)
            after = one.user
        partition, after = partition + 1, ""
    return UsersPage(found, None)


async def each_user(ledger: Ledger) -> AsyncGenerator[UserFound, None]:
    """Give all users in the order of the pages; each partition is read once, and not before it is asked for."""
    for partition in range(ledger.partitions):
        for one in await _of_partition(ledger, partition):
            yield one


async def _of_partition(ledger: Ledger, partition: int) -> list[UserFound]:
    """List the users of a partition by their ids; sessions whose stored state is damaged are passed over."""
    users: dict[bytes, tuple[str, bool]] = {}  # of each session once, which a scan may give twice
    async for rows in scan(ledger.store, "HSCAN", keys.ended(partition)):
        for sid, kept in rows:
            try:
                users[sid] = parse_ended(kept).user, False
            except CorruptLedger:
                continue
    async for rows in scan(ledger.store, "ZSCAN", keys.activity(partition)):
        names = [keys.session(partition, text_of(sid)) for sid, _ in rows]
        asked = (ledger.store.command("HGET", name, "user", key=name) for name in names)
        for (sid, _), user in zip(rows, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(user, bytes):
                users[sid] = text_of(user), True
            elif isinstance(user, BaseException) and not isinstance(user, StoreReplyError):
                raise user
    counted = Counter(users.values())
    return [
        UserFound(user, counted[user, True], counted[user, False]) for user in sorted({user for user, _ in counted})
    ]
