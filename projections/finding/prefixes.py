"""Sessions by the start of their ids, living and ended.

Every partition has its sessions in the order of their ids (`keys.sids`), and is asked once. In one that is not all in
that index yet, the indexes of living and of ended sessions are gone through, a thousand to a command.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from ledger import keys
from ledger.errors import LedgerError, NoSuchSession, Rebuilding
from ledger.log.finding import locate
from ledger.log.order import FILLED
from ledger.log.service import Ledger
from ledger.session_ids import SID_CHARS
from ledger.store.interface import Script, Store
from projections.bounded_tasks import each
from projections.history.user_history import sessions_of

FEWEST_CHARS: Final = 4
PREFIX: Final = re.compile(f"[0-9a-f]{{{FEWEST_CHARS},{SID_CHARS}}}")
NAMED: Final = 10
MOST: Final = 1000
"""How many sessions a search gives at most; a prefix that more have is too short to be of use."""
NOT_WHOLE: Final = "its projections are not whole: syncledger rebuild makes them so"
_SCANNED: Final = 1000
_AT_ONCE: Final = 256
"""Partitions that are asked at one time: commands of one turn leave in one write."""
_NOT_WHOLE: Final = 2  # what prefix.lua says of a partition
_PREFIX: Final = Script.load("projections.finding", "prefix.lua", allow_oom=True)


class Place(NamedTuple):
    """Where a session is found: its id, its partition, and whether it is among the living."""

    sid: str
    partition: int
    lives: bool


class Unread(msgspec.Struct, frozen=True):
    """A partition whose devices are missing in an answer, or some of them, and why."""

    partition: int
    why: str


class Ambiguous(LedgerError):
    """Several sessions begin like that; the message names them."""

    exit_code = 2

    def __init__(self, prefix: str, sids: Iterable[str]) -> None:
        found = sorted(sids)
        more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
        super().__init__(
            f"{len(found):,} sessions begin with {prefix}: {', '.join(found[:NAMED])}{more}. Give more of the id"
        )


class Found(NamedTuple):
    """Sessions in the order of their ids, MOST at most; the partitions that lack some, and what failed."""

    places: list[Place]
    unread: list[Unread]
    failed: Sequence[LedgerError]


async def by_prefix(ledger: Ledger, prefix: str) -> list[Place]:
    """Find the sessions, living and ended, whose ids begin like that, in the order of their ids; MOST at most.

    Raises Rebuilding where a partition is not whole and none was found: it may be there; and LedgerError where one
    cannot be read.
    """
    found = await found_by_prefix(ledger, prefix)
    if found.failed:
        raise found.failed[0]
    if not found.places and found.unread:
        raise Rebuilding
    return found.places


async def found_by_prefix(ledger: Ledger, prefix: str) -> Found:
    """Find the sessions, living and ended, whose ids begin like that; raises LedgerError where nothing can be read."""
    found: dict[str, Place] = {}
    unread: list[Unread] = []
    failed: list[LedgerError] = []

    async def search(partition: int) -> None:
        names = (keys.sids(partition), keys.activity(partition), keys.whole(partition))
        try:
            state, *flat = await ledger.store.script(_PREFIX, names, (f"[{prefix}", f"[{prefix}g", MOST, FILLED))
            if not flat and state:
                flat = await _scanned(ledger.store, partition, prefix, MOST + 1 - len(found))
        except LedgerError as error:
            failed.append(error)
            unread.append(Unread(partition, str(error)))
            return
        for sid, lives in zip(flat[::2], flat[1::2], strict=True):
            found[sid.decode()] = Place(sid.decode(), partition, lives == 1)
        if state == _NOT_WHOLE:
            unread.append(Unread(partition, NOT_WHOLE))

    await each(range(ledger.partitions), search, _AT_ONCE)
    if len(failed) == ledger.partitions:
        raise failed[0]
    return Found(sorted(found.values())[:MOST], sorted(unread, key=lambda one: one.partition), failed)


async def resolved(ledger: Ledger, text: str, user: str | None = None) -> tuple[int, str]:
    """Find the partition and the id of the one session whose id is, or begins like, `text`; of `user` if given.

    Raises NoSuchSession, Ambiguous, Rebuilding.
    """
    if len(text) == SID_CHARS:
        return (ledger.partition_of(user) if user else await locate(ledger.stored, text)), text
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
        among = f" among those of {user}" if user else ": syncledger session find looks for a phone by its user"
        raise NoSuchSession(f"No session begins with {text}{among}")
    if len(places) > 1:
        raise Ambiguous(text, (place.sid for place in places))
    return places[0].partition, places[0].sid


async def _scanned(store: Store, partition: int, prefix: str, most: int) -> list[Any]:
    """Go through a partition's ended and living sessions; gives each id that begins like that, and 1 if it lives."""
    ended: tuple[Literal["HSCAN"], bytes] = ("HSCAN", keys.ended(partition))
    found: dict[bytes, int] = {}
    for command, name in (ended, ("ZSCAN", keys.activity(partition))):  # one that is resumed is in the second
        for sid in await _matching(store, command, name, prefix, most - len(found)):
            found[sid] = int(command == "ZSCAN")
    return [part for pair in found.items() for part in pair]


async def _matching(store: Store, command: str, name: bytes, prefix: str, most: int) -> list[bytes]:
    """Go through an index and list the session ids in it that begin like that, `most` or a few more."""
    found: list[bytes] = []
    cursor = b""
    while cursor != b"0" and len(found) < most:
        cursor, flat = await store.command(
            command, name, cursor or b"0", "MATCH", f"{prefix}*", "COUNT", _SCANNED, key=name
        )
        found += flat[::2]
        await asyncio.sleep(0)
    return found
