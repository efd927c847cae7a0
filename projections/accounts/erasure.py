"""Erasing users: who they are, and what their devices said of themselves, wherever a copy of it lies."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from ledger.commands import EndSession
from ledger.errors import NoSuchSession, SessionEnded
from ledger.events import DeviceDescribed, Personal, SessionCreated
from ledger.log.service import Ledger
from ledger.personal import has_plain
from projections.accounts.identities import Identities
from projections.accounts.user_keys import UserKeys
from projections.history.event_pages import EventPages
from projections.history.user_history import sessions_of

REASON = "erased"
_OF_DEVICES = (SessionCreated, DeviceDescribed)


class Erasure(NamedTuple):
    """What was erased: sessions ended, whether there was an identity record, and a key of personal texts."""

    sessions: int
    identity: bool
    key: bool


async def erase_user(ledger: Ledger, identities: Identities, user_keys: UserKeys, user: str, by: Personal) -> Erasure:
    """End all sessions of a user, remove who they are, and destroy the key of their personal texts.

    Their events stay, with what they hold of a person unreadable; backups of before are restored without this user.
    What broke off is completed by the same done again.
    """
    ended = await ledger.end_others(user, "", EndSession(REASON, by))  # no session has an empty id: none is kept
    identity = await identities.erase(user)
    key = await user_keys.erase(user, ledger.clock())
    ended += await ledger.end_others(user, "", EndSession(REASON))  # who signed in meanwhile; sealing would make a key
    return Erasure(ended, identity or await identities.erase(user), key)


async def erase_again(ledger: Ledger, identities: Identities, user_keys: UserKeys) -> int:
    """Erase from what was restored whoever was erased after that was written; returns how many were in it.

    A user who came back since is let be: only sessions and records from before the erasure go.
    """
    users = 0
    async for erased in user_keys.all_erased():
        states = [state for state in await ledger.devices(erased.user) if state.created_at_us <= erased.at_us]
        for state in states:
            with suppress(SessionEnded):  # with its parent
                await ledger.execute(erased.user, state.sid, EndSession(REASON))
        since_us = await identities.since_us(erased.user)
        known = since_us is not None and since_us <= erased.at_us and await identities.erase(erased.user)
        users += bool(states or known)
    return users


async def plain_events(past: EventPages, partition: int, user: str) -> int:
    """Count the events of a user that hold what a device said of itself unsealed, as they were written before."""
    found = 0
    for sid in await sessions_of(past.store, partition, user):
        with suppress(NoSuchSession):  # its history was removed meanwhile
            async for run in past.runs(partition, sid):
                events = (entry.recorded.event for entry in run.entries)
                found += sum(isinstance(event, _OF_DEVICES) and has_plain(event) for event in events)
    return found
