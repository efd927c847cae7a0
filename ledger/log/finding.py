"""Finding sessions in all partitions, where the user is not known: for operators and providers' logouts."""

from __future__ import annotations

import asyncio
import logging

from ledger import keys
from ledger.errors import CorruptLedger, LedgerError, NoSuchSession, Rebuilding, StoreReplyError
from ledger.log.append import is_known
from ledger.log.stored import Stored
from ledger.log.whole import read_if_whole

log = logging.getLogger(__name__)


async def locate(stored: Stored, sid: str) -> int:
    """Find the partition of a session, living or ended, by its id alone; raises NoSuchSession.

    Not for the way of a request. Raises what kept a partition from answering where the session may be in that one.
    """
    asked = (is_known(stored.store, partition, sid) for partition in range(stored.partitions))
    unknown: Rebuilding | StoreReplyError | None = None
    for partition, found in enumerate(await asyncio.gather(*asked, return_exceptions=True)):
        if isinstance(found, Rebuilding | StoreReplyError):  # it may be there, or in one that can be read
            unknown = found
        elif isinstance(found, BaseException):
            raise found
        elif found:
            return partition
    raise unknown or NoSuchSession(f"No session {sid}")


async def by_provider_session(
    stored: Stored, provider_session: bytes
) -> tuple[list[tuple[str, str]], LedgerError | None]:
    """Find the living sessions that belong to a provider's session, as (user, session id).

    In all partitions that can be read; beside them, why one could not be.
    """
    low = provider_session.hex().encode()
    found = await asyncio.gather(
        *(
            read_if_whole(stored.store, partition, "ZRANGEBYLEX", name, b"[%b:" % low, b"(%b;" % low)
            for partition, name in enumerate(map(keys.provider_sessions, range(stored.partitions)))
        ),
        return_exceptions=True,
    )
    sids, unread = [], None
    for partition, members in enumerate(found):
        if isinstance(members, LedgerError):
            unread = members
        elif isinstance(members, BaseException):
            raise members
        else:
            sids += [(partition, member.decode().rpartition(":")[2]) for member in members]
    users = await asyncio.gather(*(_user_of(stored, partition, sid) for partition, sid in sids))
    return [(user, sid) for (_, sid), user in zip(sids, users, strict=True) if user is not None], unread


async def _user_of(stored: Stored, partition: int, sid: str) -> str | None:
    """Tell whose session it is; None if it ended meanwhile, or cannot be read, which is logged."""
    name = keys.session(partition, sid)
    try:
        user = await stored.store.command("HGET", name, "user", key=name)
        if user is None and not await is_known(stored.store, partition, sid):
            return None
        if user:
            return str(user, "utf-8")
    except (StoreReplyError, UnicodeDecodeError):
        pass  # a load mends it, or tells what is wrong
    try:
        state = await stored.look(partition, sid)
    except CorruptLedger as damage:
        log.error("session %s is passed over: %s", sid, damage)
        return None
    return None if state is None else state.user
