"""Sessions by the start of their ids, living and ended.

No index has them in the order of their ids: each partition's activity index and its ended sessions are gone through, a
thousand to a command, with the pattern matched in the server. That costs the store 0.2 s for 1,000,000
living and as many ended sessions (measured), in 2,000 commands of 0.2 ms: it is for operators, one search at a time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from ledger import keys
from ledger.errors import LedgerError, NoSuchSession, Rebuilding
from ledger.log.service import Ledger
from ledger.log.whole import is_whole
from ledger.store.interface import Store
from projections.bounded_tasks import each
from projections.history.user_history import sessions_of

FEWEST_CHARS: Final = 4
PREFIX: Final = re.compile(f"[0-9a-f]{{{FEWEST_CHARS},64}}")
NAMED: Final = 10
MOST: Final = 1000
"""How many sessions a search gives at most; a prefix that more have is too short to be of use."""
ID_CHARS: Final = 64
_SCANNED: Final = 1000
_AT_ONCE: Final = 8


class Place(NamedTuple):
    """Where a session is found: its id, its partition, and whether it is among the living."""

    sid: str
    partition: int
    lives: bool


class Ambiguous(LedgerError):
    """Several sessions begin like that; the message names them."""

    exit_code = 2

    def __init__(self, prefix: str, sids: Iterable[str]) -> None:
        found = sorted(sids)
        more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
        super().__init__(
            f"{len(found):,} sessions begin with {prefix}: {', '.join(found[:NAMED])}{more}. Give more of the id"
        )


async def by_prefix(ledger: Ledger, prefix: str) -> list[Place]:
    """Find the sessions, living and ended, whose ids begin like that, in the order of their ids; MOST at most.

    Raises Rebuilding where a partition is not whole and none was found: it may be there.
    """
    found: dict[str, Place] = {}

    async def search(partition: int) -> None:
        ended: tuple[Literal["HSCAN"], bytes] = ("HSCAN", keys.ended(partition))
        for command, name in (ended, ("ZSCAN", keys.activity(partition))):  # one that is resumed is in the second
            for sid in await _matching(ledger.store, command, name, prefix, MOST + 1 - len(found)):
                found[sid] = Place(sid, partition, command == "ZSCAN")

    await each(range(ledger.partitions), search, _AT_ONCE)
    if not found:
        for partition in range(ledger.partitions):
            if not await is_whole(ledger.store, partition):
                raise Rebuilding
    return sorted(found.values())[:MOST]


async def resolved(ledger: Ledger, text: str, user: str | None = None) -> tuple[int, str]:
    """Find the partition and the id of the one session whose id is, or begins like, `text`; of `user` if given.

    Raises NoSuchSession, Ambiguous, Rebuilding.
    """
    if len(text) == ID_CHARS:
        return (ledger.partition_of(user) if user else await ledger.locate(text)), text
    if user:
        partition = ledger.partition_of(user)
        places = [
            Place(sid, partition, True)
            for sid in await sessions_of(ledger.store, partition, user)
            if sid.startswith(text)
        ]
    else:
        places = await by_prefix(ledger, text)
    if not places:
        raise NoSuchSession(f"No session begins with {text}" + (f" among those of {user}" if user else ""))
    if len(places) > 1:
        raise Ambiguous(text, (place.sid for place in places))
    return places[0].partition, places[0].sid


async def _matching(store: Store, command: str, name: bytes, prefix: str, most: int) -> list[str]:
    """Go through an index and list the session ids in it that begin like that, `most` or a few more."""
    found: list[str] = []
    cursor = b""
    while cursor != b"0" and len(found) < most:
        cursor, flat = await store.command(
            command, name, cursor or b"0", "MATCH", f"{prefix}*", "COUNT", _SCANNED, key=name
        )
        found += [sid.decode() for sid in flat[::2]]
        await asyncio.sleep(0)
    return found
