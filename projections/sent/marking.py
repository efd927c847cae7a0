"""The mark of a device that is stuck, by what the ends of its streams show; kept in the order of devices."""

from __future__ import annotations

import asyncio
from typing import Final

from ledger import keys
from ledger.errors import CorruptLedger
from ledger.log.order import SPAN_MS, Placing, place
from ledger.log.service import Ledger
from projections.sent import record
from projections.sent.judgement import judge
from projections.sent.record import SentStream, parsed

_ATTEMPTS: Final = 8


async def note_end(ledger: Ledger, user: str, sid: str, stream: SentStream) -> bool:
    """Keep how a stream ended, and mark its device by that; False if its session is not there any more.

    Raises StoreUnavailable.
    """
    there = await record.note(ledger, user, sid, stream)
    if there:
        await mark(ledger, ledger.partition_of(user), sid)
    return there


async def mark(ledger: Ledger, partition: int, sid: str) -> None:
    """Mark a device as stuck, or take that back, as its last streams and its state show. Raises StoreUnavailable.

    A session that cannot be read is left as it is.
    """
    store, name = ledger.store, keys.order(partition)
    for _ in range(_ATTEMPTS):
        try:
            entries, state, placed = await asyncio.gather(
                record.stored(store, partition, sid),
                ledger.look(partition, sid),
                store.command("ZSCORE", name, sid, key=name),
            )
        except CorruptLedger:
            return
        if state is None:
            return
        stuck = judge(parsed(entries), state)
        placing = Placing.of(state, None if stuck is None else stuck.since_us, entries)
        if placed is not None and (float(placed) == placing.stuck_ms if stuck else float(placed) >= SPAN_MS):
            return
        if not await place(store, partition, [placing]):
            return
