"""Erasing users: who they are, and what their devices said of themselves, wherever a copy of it lies."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import NamedTuple

from ledger.commands import EndSession
from ledger.errors import NAMED, CorruptLedger, NoSuchSession, NotAllEnded, Rebuilding, StoreReplyError
from ledger.events import DeviceDescribed, Personal, SessionCreated
from ledger.log.service import Ledger
from ledger.personal import has_plain
from projections.accounts.identities import Identities
from projections.accounts.user_keys import Erased, UserKeys
from projections.history.event_pages import EventPages
from projections.history.user_history import sessions_of

REASON = "erased"
_OF_DEVICES = (SessionCreated, DeviceDescribed)


class Erasure(NamedTuple):
    """What was erased: sessions ended, whether there was an identity record, and a key of personal texts.

    `damaged` are the sessions that could not end, because what is stored of them is damaged.
    """

    sessions: int
    identity: bool
    key: bool
    damaged: tuple[str, ...] = ()


async def erase_user(ledger: Ledger, identities: Identities, user_keys: UserKeys, user: str, by: Personal) -> Erasure:
    """End all sessions of a user, remove who they are, and destroy the key of their personal texts.

    Their events stay, with what they hold of a person unreadable; earlier backups are restored without this user.
    What broke off is completed by the same done again. A session that cannot end keeps nothing else from it.
    """
    ended, _ = await _end_all(ledger, user, EndSession(REASON, by))
    identity = await identities.erase(user)
    key = await user_keys.erase(user, ledger.clock())
    meanwhile, damaged = await _end_all(ledger, user, EndSession(REASON))  # sealing would make a key
    return Erasure(ended + meanwhile, identity or await identities.erase(user), key, damaged)


class Unlinked(NamedTuple):
    """What ended with the identities of a user: sessions, whether there was an identity record, damaged sessions."""

    sessions: int
    identity: bool
    damaged: tuple[str, ...] = ()


async def unlink_user(ledger: Ledger, identities: Identities, user: str, by: Personal) -> Unlinked:
    """Let all identities and the e-mail address of a user go, and end all their sessions; nothing else is erased.

    The next sign-in of each identity finds a user anew, as its claim says. What broke off is completed by the same done
    again.
    """
    identity = await identities.erase(user)
    ended, damaged = await _end_all(ledger, user, EndSession("revoked", by))
    return Unlinked(ended, identity, damaged)


async def _end_all(ledger: Ledger, user: str, command: EndSession) -> tuple[int, tuple[str, ...]]:
    """End all sessions of a user; returns how many ended, and which could not."""
    try:
        return await ledger.end_others(user, "", command), ()  # no session has an empty id: none is kept
    except NotAllEnded as left:
        return left.ended, left.sids


class NotAllErased(CorruptLedger):
    """What of those who are to be erased again is damaged, and why: sessions or a record of a user, or the note of one.

    All else of them, and all others, are erased.
    """

    def __init__(self, left: Mapping[str, str]) -> None:
        self.left = dict(left)
        named = "; ".join(f"{what}: {why}" for what, why in list(self.left.items())[:NAMED])
        more = f"; and {len(left) - NAMED:,} more" if len(left) > NAMED else ""
        super().__init__(f"Not all who had been erased since could be erased again. {named}{more}")


async def erase_again(ledger: Ledger, identities: Identities, user_keys: UserKeys) -> int:
    """Erase from what was restored whoever was erased after that was written; returns how many were in it.

    A user who came back since is left alone: only sessions and records from before the erasure go. Raises NotAllErased
    behind the last user, where something stored is damaged.
    """
    users = 0
    left: dict[str, str] = {}

    async def tried(step: Awaitable[bool], what: str) -> bool:
        try:
            return await step
        except (CorruptLedger, Rebuilding, StoreReplyError) as damage:
            left[what] = str(damage)
            return False

    try:
        async for erased in user_keys.all_erased():
            ended = await tried(_end_older(ledger, erased), f"sessions of {erased.user}")
            known = await tried(_forget_older(identities, erased), f"the record of {erased.user}")
            users += ended or known
    except CorruptLedger as unreadable:
        left["notes"] = str(unreadable)
    if left:
        raise NotAllErased(left)
    return users


async def _end_older(ledger: Ledger, erased: Erased) -> bool:
    """End the sessions of a user from before an erasure; tells whether there were any. Raises NotAllEnded."""
    found = await ledger.all_devices(erased.user)
    sids = [state.sid for state in found.living if state.created_at_us <= erased.at_us]
    damaged = tuple(found.damaged)
    try:
        await ledger.end_all(erased.user, sids, EndSession(REASON))
    except NotAllEnded as left:
        damaged += left.sids
    if damaged:
        raise NotAllEnded(damaged)
    return bool(sids)


async def _forget_older(identities: Identities, erased: Erased) -> bool:
    """Remove the record of a user from before an erasure; tells whether there was one."""
    since_us = await identities.since_us(erased.user)
    return since_us is not None and since_us <= erased.at_us and await identities.erase(erased.user)


class PlainEvents(NamedTuple):
    """How many events hold unsealed what a device said; and the sessions that could not be read whole, with why."""

    events: int
    unread: dict[str, str]


async def plain_events(past: EventPages, partition: int, user: str) -> PlainEvents:
    """Count the events of a user that hold what a device said of itself unsealed, as they were written before."""
    found = 0
    unread: dict[str, str] = {}
    for sid in await sessions_of(past.store, partition, user):
        try:
            async for run in past.runs(partition, sid):
                events = (entry.recorded.event for entry in run.entries)
                found += sum(isinstance(event, _OF_DEVICES) and has_plain(event) for event in events)
        except NoSuchSession:  # its history was removed meanwhile
            continue
        except (CorruptLedger, StoreReplyError) as damage:
            unread[sid] = str(damage)
    return PlainEvents(found, unread)
