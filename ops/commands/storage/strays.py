"""What lies in a store without the index that leads to it, looked for with progress."""

from __future__ import annotations

from ledger.log.stored_sessions import Strays, find_strays
from ops.commands.options import progress
from ops.commands.tables import counted
from ops.opening.ledger import Opened


async def strays_of(found: Opened) -> Strays:
    """Look at every key of a ledger's store, of which there are some for each device."""
    with progress("looking at all keys") as advance:
        return await find_strays(
            found.store, found.ledger.partitions, lambda looked: advance(0, f"{counted(looked, 'key')}")
        )
