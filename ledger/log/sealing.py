"""Sealing what commands hold of people before anything is decided, and opening it where it is shown."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from msgspec.structs import replace

from ledger.commands import Command, EndSession, RequestReset
from ledger.errors import LayoutError, LedgerError, Unavailable
from ledger.personal import UserKey, has_plain, has_sealed, opened, sealed
from ledger.state import State

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Command)


class UserKeys(Protocol):
    """Where the keys of users' personal texts are; raises Unavailable where that place does not answer."""

    async def of(self, user: str) -> UserKey:
        """Return a user's key, which is made where there is none."""
        ...

    async def find(self, user: str) -> UserKey | None:
        """Return a user's key; None if there is none, or it was erased."""
        ...

    async def find_now(self, user: str) -> UserKey | None:
        """Return a user's key as `find` does, also if another process erased it just now."""
        ...


class Sealing:
    """Seals and opens with the keys of users; without such keys personal texts are written plain."""

    def __init__(self, user_keys: UserKeys | None) -> None:
        self._user_keys = user_keys

    async def sealed(self, user: str, command: C) -> C:
        """Seal what a command holds of a person.

        What keeps others safe, an end or a reset for a cause, waits for no key, and then it is not on record by whom.
        """
        if self._user_keys is None or not has_plain(command):
            return command
        try:
            return sealed(command, await self._user_keys.of(user))
        except LedgerError as error:
            if not isinstance(command, EndSession) and not (isinstance(command, RequestReset) and command.cause):
                raise
            log.warning("it is not on record who ended a session, or had it start over: %s", error)
            return replace(command, by=b"")

    async def opened(self, state: State) -> State:
        """Make what a state holds of a person plain, as far as its user's key is there."""
        return opened(state, await self.key_of(state.user)) if has_sealed(state) else state

    async def key_of(self, user: str) -> UserKey | None:
        """Read the key of a user's personal texts, to open them with; None if there is none, or it was erased.

        One that another process erased may be given for a minute; not so by `key_now`.
        """
        return None if self._user_keys is None else await self._key(self._user_keys.find(user))

    async def key_now(self, user: str) -> UserKey | None:
        """Read the key as it is now, at the price of a read of its place."""
        return None if self._user_keys is None else await self._key(self._user_keys.find_now(user))

    async def _key(self, finding: Awaitable[UserKey | None]) -> UserKey | None:
        try:
            return await finding
        except (Unavailable, LayoutError):
            raise
        except LedgerError as error:  # what is sealed is not told; all else of the user still is
            log.error("what is sealed of a user cannot be opened: %s", error)
            return None
