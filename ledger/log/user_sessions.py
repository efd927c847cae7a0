"""The sessions of a user: which ones live, in what order they were heard of, and what is stored of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

from ledger import keys
from ledger.errors import CorruptLedger
from ledger.keys import partition_of
from ledger.log.stored import Stored
from ledger.log.whole import read_if_whole
from ledger.state import State
from ledger.store.interface import scan

log = logging.getLogger(__name__)

LOADED_TOGETHER: Final = 100
SCORES_TOGETHER: Final = 1000


class Devices(NamedTuple):
    """The living sessions of a user, in no order; and those whose stored state is damaged, each with how."""

    living: list[State]
    damaged: dict[str, str]


class Heard(NamedTuple):
    """When a session was last heard of (ms, to the hour), and which one: its place in a list of the newest first."""

    seen_ms: int
    sid: str


class UserSessions:
    """Reads what the sessions of users are. Nothing here notes a session as seen."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._store = stored.store

    async def sids_of(self, user: str) -> list[str]:
        """List the ids of a user's living sessions; raises Rebuilding while not all are known."""
        return list(await self.parents(self._partition_of(user), user))

    async def states_of(self, user: str) -> Devices:
        """Load all sessions of a user that are not ended, also expired ones, some at a time."""
        return await self.load_these(self._partition_of(user), await self.sids_of(user))

    async def newest(self, user: str, most: int, after: Heard | None = None) -> tuple[Devices, list[Heard]]:
        """Load those of a user's sessions that were heard of last, at most so many, behind `after`; and tell when.

        Expired ones are among them. Raises Rebuilding while not all are known.
        """
        some = [heard for heard in reversed(await self._heard(user)) if after is None or heard < after][:most]
        return await self.load_these(self._partition_of(user), [sid for _, sid in some]), some

    async def longest_unheard(self, user: str, authenticated_by: str) -> str | None:
        """Find the living session of a user, of those begun by one service, that was not heard of for longest."""
        partition = self._partition_of(user)
        for _, sid in await self._heard(user):
            name = keys.session(partition, sid)
            if await self._store.command("HGET", name, "authenticated_by", key=name) == authenticated_by.encode():
                return sid
        return None

    async def seen_ms(self, user: str, sids: Sequence[str]) -> list[int]:
        """Tell when sessions of a user were last seen, in ms (to the hour); 0 for one that does not live."""
        name, found = keys.activity(self._partition_of(user)), list[int]()
        for start in range(0, len(sids), SCORES_TOGETHER):
            some = sids[start : start + SCORES_TOGETHER]
            scores = await self._store.command("ZMSCORE", name, *some, key=name)
            found += (int(float(ms or 0)) for ms in scores)
        return found

    async def parents(self, partition: int, user: str) -> dict[str, str]:
        """Read to whom each living session of a user belongs, '' for nobody; none that lives throughout is missed.

        Raises Rebuilding while not all are known.
        """
        name = keys.devices(partition, user)
        await read_if_whole(self._store, partition, "HLEN", name)
        found: dict[str, str] = {}
        async for rows in scan(self._store, "HSCAN", name):
            found.update((sid.decode(), parent.decode()) for sid, parent in rows)
        await read_if_whole(self._store, partition, "HLEN", name)  # else it may have been deleted meanwhile
        return found

    async def load_these(self, partition: int, sids: Sequence[str]) -> Devices:
        """Load those of these sessions that live, some at a time: others wait for the same connection."""
        found = Devices([], {})

        async def one(sid: str) -> None:
            try:
                state = await self._stored.look(partition, sid)
            except CorruptLedger as damage:
                log.error("session %s is passed over: %s", sid, damage)
                found.damaged[sid] = str(damage)
            else:
                if state is not None:
                    found.living.append(state)

        for start in range(0, len(sids), LOADED_TOGETHER):
            await asyncio.gather(*map(one, sids[start : start + LOADED_TOGETHER]))
        return found

    async def _heard(self, user: str) -> list[Heard]:
        """Tell when each of a user's living sessions was last heard of, the longest ago first."""
        sids = await self.sids_of(user)
        return sorted(map(Heard, await self.seen_ms(user, sids), sids))

    def _partition_of(self, user: str) -> int:
        return partition_of(user, self._stored.partitions)
