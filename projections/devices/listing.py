"""Devices across all users: who needs help first, or those that were asked for; a page at a time.

All devices are merged of the partitions' indexes. A user's living devices lie in one hash, the ended ones are found by
going through what ended in the user's partition. Ids are looked up in an index by how they begin.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from ledger import keys
from ledger.errors import InvalidInput, LedgerError
from ledger.log.service import Ledger
from projections.devices.behind import Behind
from projections.devices.merged import merged
from projections.devices.rows import Rows
from projections.devices.told import DevicesPage, Order, Unread
from projections.entities.source import EntitySource
from projections.finding.prefixes import PREFIX, Place, found_by_prefix
from projections.history.event_pages import EventPages
from projections.history.user_history import ended_of

MAX_LIMIT: Final = 200
_ALL: Final = re.compile(r"([hs])\.(\d{1,17})\.([0-9a-f]{64})", re.ASCII)
_OF_USER: Final = re.compile(r"u\.([01])\.(-?\d{1,17})\.([0-9a-f]{64})", re.ASCII)
_BY_ID: Final = re.compile(r"i\.([0-9a-f]{64})", re.ASCII)


class Asked(msgspec.Struct, frozen=True):
    """Which devices: all, those of one `user`, or those whose ids begin like `session` (4 hex digits or more).

    `ended`: those too that have ended; of all devices only where `user` or `session` is given. `order` is that of
    all devices, and of a user's; those found by their ids come in the order of these.
    """

    order: Order = "help"
    user: str | None = None
    session: str | None = None
    ended: bool = False


class Devices:
    """What lists devices."""

    def __init__(self, ledger: Ledger, past: EventPages, source: EntitySource) -> None:
        """`source` counts how far devices are behind."""
        self._ledger = ledger
        self._rows = Rows(ledger, past, Behind(source))

    async def page(self, asked: Asked, cursor: str | None = None, limit: int = 50) -> DevicesPage:
        """Read up to `limit` devices beyond `cursor`, the `next` of the page before.

        Raises InvalidInput for a cursor of no such page and a `session` that is no start of an id, and LedgerError
        where nothing can be read.
        """
        limit = max(1, min(limit, MAX_LIMIT))
        if asked.session is not None:
            if not PREFIX.fullmatch(asked.session):
                raise InvalidInput([(("session",), "Expected 4 to 64 hexadecimal digits in lower case")])
            return await self._by_id(asked, asked.session, cursor, limit)
        if asked.user is not None:
            return await self._of_user(asked, keys.check_name("user", asked.user), cursor, limit)
        return await self._all(asked.order, cursor, limit)

    async def _all(self, order: Order, cursor: str | None, limit: int) -> DevicesPage:
        beyond = None
        if cursor is not None:
            letter, score, sid = _read(_ALL, cursor)
            if letter != order[0]:
                raise _no_cursor()
            beyond = int(score), sid
        found = await merged(self._ledger.store, self._ledger.partitions, order, beyond, limit)
        last = found.devices[-1] if found.more and found.devices else None
        following = None if last is None else f"{order[0]}.{last.score}.{last.sid}"
        places = [Place(one.sid, one.partition, True) for one in found.devices]
        return DevicesPage(await self._rows.told(places), following, found.unread)

    async def _of_user(self, asked: Asked, user: str, cursor: str | None, limit: int) -> DevicesPage:
        """The living ones in the order asked for, then the ended ones, the last one first."""
        beyond = None
        if cursor is not None:
            group, rank, sid = _read(_OF_USER, cursor)
            beyond = int(group), int(rank), sid
        partition = self._ledger.partition_of(user)
        try:
            ranked = await self._ranked_of(asked, partition, user)
        except LedgerError as error:
            return DevicesPage([], None, [Unread(partition, str(error))])
        rest = [one for one in ranked if beyond is None or one > beyond]
        page = rest[:limit]
        following = "u.{}.{}.{}".format(*page[-1]) if len(rest) > len(page) else None
        places = [Place(sid, partition, group == 0) for group, _, sid in page]
        return DevicesPage(await self._rows.told(places), following, [])

    async def _ranked_of(self, asked: Asked, partition: int, user: str) -> list[tuple[int, int, str]]:
        store = self._ledger.store
        living = await self._ledger.sessions.sids_of(user)
        ranked: list[tuple[int, int, str]] = []
        if living:
            index = keys.activity(partition) if asked.order == "seen" else keys.order(partition)
            scores = await store.command("ZMSCORE", index, *living, key=index)
            sign = -1 if asked.order == "seen" else 1
            ranked = [(0, sign * int(float(score or 0)), sid) for sid, score in zip(living, scores, strict=True)]
        if asked.ended:
            lives = set(living)
            async for sid, kept in ended_of(store, partition, user):
                if sid not in lives:
                    ranked.append((1, -int(kept.head.partition("-")[0]), sid))
        if asked.session is not None:
            ranked = [one for one in ranked if one[2].startswith(asked.session)]
        return sorted(ranked)

    async def _by_id(self, asked: Asked, prefix: str, cursor: str | None, limit: int) -> DevicesPage:
        beyond = "" if cursor is None else _read(_BY_ID, cursor)[0]
        found = await found_by_prefix(self._ledger, prefix)
        places: Sequence[Place] = [place for place in found.places if asked.ended or place.lives]
        if asked.user is not None:
            theirs = {
                sid for _, _, sid in await self._ranked_of(asked, self._ledger.partition_of(asked.user), asked.user)
            }
            places = [place for place in places if place.sid in theirs]
        rest = [place for place in places if place.sid > beyond]
        page = rest[:limit]
        following = f"i.{page[-1].sid}" if len(rest) > len(page) else None
        return DevicesPage(await self._rows.told(page), following, found.unread)


def _read(form: re.Pattern[str], cursor: str) -> tuple[str, ...]:
    found = form.fullmatch(cursor)
    if found is None:
        raise _no_cursor()
    return tuple(found.groups())


def _no_cursor() -> InvalidInput:
    return InvalidInput([(("cursor",), "it is not the `next` of a page of the same question")])
