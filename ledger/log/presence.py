"""Whether the ledger that a process opened is still the one behind its store's address.

A store that was emptied (FLUSHALL, another volume, a lost append-only file) knows no session. To answer that with 401
would sign every device out, and a restore would come too late. So whoever is about to say that there is no such session
asks here first.
"""

from __future__ import annotations

import logging
from typing import Final

from ledger import keys
from ledger.errors import LedgerGone
from ledger.store.interface import Store

log = logging.getLogger(__name__)

_WHAT_TO_DO: Final = "restore it (syncledger restore), or bring its server or volume back; devices stay signed in"


class Presence:
    """Looks for one ledger, by its id; tells the log once when it goes, and when it is there again."""

    def __init__(self, store: Store, ledger_id: str) -> None:
        self.ledger_id = ledger_id
        self._store = store
        self._told = ""

    async def check(self) -> None:
        """Return if the ledger is there; raises LedgerGone with what is there instead, and StoreUnavailable."""
        name = keys.meta()
        found, restoring = await self._store.command("HMGET", name, "id", "restoring", key=name)
        gone = self._judge(found, restoring)
        if gone and gone != self._told:
            log.critical("%s; until then what would be 401 is 503", gone)
        elif self._told and not gone:
            log.warning("ledger %s is there again", self.ledger_id)
        self._told = gone
        if gone:
            raise LedgerGone(gone)

    def _judge(self, found: bytes | None, restoring: bytes | None) -> str:
        if restoring is not None:
            return "The ledger is being restored: wait for syncledger restore, or run it again if it broke off"
        if found is None:
            return f"The store is empty, it has lost ledger {self.ledger_id}: {_WHAT_TO_DO}"
        other = found.decode(errors="backslashreplace")
        if other != self.ledger_id:
            return (
                f"The store holds ledger {other} in place of {self.ledger_id}: {_WHAT_TO_DO}; if the other one is to "
                "be served from now on, restart the service"
            )
        return ""
