"""Users whose identity's claim names another user: bound before the claim was there, or the claim was changed.

An identity stays with the user it was bound to, whose devices and history would otherwise be another's from one
sign-in to the next. So the two disagree until somebody decides, and that must be seen.
"""

from __future__ import annotations

import logging
from typing import Final

from ledger import keys
from ledger.errors import LedgerError
from ledger.store.interface import Store
from ledger.store.scripts import Script
from projections.counters import Counters

log = logging.getLogger(__name__)

MOST: Final = 1000
"""How many users are kept; the sign-in of one more is logged and counted all the same."""
NOTE: Final = Script.load("projections.accounts", "claim_conflicts.lua")


class ClaimConflicts:
    """What the sign-ins of all processes came across. No sign-in depends on it: what could not be noted is logged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counters = Counters(store)

    async def note(self, user: str, named: str | None) -> None:
        """Note that `user` signed in with an identity whose claim names `named`; None where no claim names anybody."""
        if named in (None, user):
            await self._settle(user)
            return
        log.warning(
            "user %s signed in with an identity whose claim names user %s: it stays bound to the former; if that is "
            "wrong, `syncledger user unlink %s` and its next sign-in goes by the claim",
            user,
            named,
            user,
        )
        await self._counters.note("claim_conflicts")
        name = keys.claim_conflicts()
        try:
            await self._store.script(NOTE, [name], (user, named or "", MOST))
        except LedgerError as error:
            log.error("not noted: the claim of user %s: %s", user, error)

    async def forget(self, user: str) -> None:
        """Forget a conflict that is settled."""
        name = keys.claim_conflicts()
        await self._store.command("HDEL", name, user, key=name)

    async def all(self) -> dict[str, str]:
        """List, by user, which other user the claim of their identity names."""
        name = keys.claim_conflicts()
        flat = await self._store.command("HGETALL", name, key=name)
        return {user.decode(): named.decode() for user, named in zip(flat[::2], flat[1::2], strict=True)}

    async def told(self) -> str:
        """Say in words how many there are; '' for none."""
        name = keys.claim_conflicts()
        count = int(await self._store.command("HLEN", name, key=name))
        if not count:
            return ""
        many = f"{count:,} or more users" if count >= MOST else "1 user" if count == 1 else f"{count:,} users"
        return f"the claim names another user for {many} known here: syncledger user conflicts"

    async def _settle(self, user: str) -> None:
        try:
            await self.forget(user)
        except LedgerError as error:
            log.error("not forgotten: the claim of user %s: %s", user, error)
