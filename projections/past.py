"""What happened, wherever it lies: in the streams, or in the archive behind them."""

from __future__ import annotations

from ledger.errors import CorruptLedger, NoSuchSession
from ledger.log.append import is_known
from ledger.log.reader import ANY_SEQ, Entry, Walk
from ledger.log.store import Store
from ledger.state import State
from projections.archive.catalog import Archive
from projections.archive.chain import state_before, walk_across


class Past:
    """Reads events backwards across the streams of a store and, with an archive, the segments sealed of them."""

    def __init__(self, store: Store, archive: Archive | None = None) -> None:
        self.store = store
        self._archive = archive

    async def history(
        self, partition: int, sid: str, *, top_seq: int = ANY_SEQ, top_at_us: int = ANY_SEQ, count: int
    ) -> Walk:
        """Read up to `count` events of a session from seq and time backwards, newest first.

        `below_floor`: what is older was removed, or lies in an archive that is not given. Raises NoSuchSession,
        Rebuilding, CorruptLedger where events are missing or damaged, ArchiveUnavailable.
        """
        for attempt in range(2):
            page = await walk_across(
                self.store, self._archive, partition, sid, top_seq=top_seq, top_at_us=top_at_us, count=count
            )
            if page is not None:
                return page
            if attempt or not await is_known(self.store, partition, sid):  # else it was rebuilt at this moment
                break
        raise NoSuchSession(f"No session {sid}")

    async def state_before(self, partition: int, sid: str, entry: Entry) -> State | None:
        """Give a state of a session from which few events lead to `entry`; None to begin with its first event."""
        state = (await state_before(self.store, self._archive, partition, sid, entry)).state
        if state is not None and state.seq >= entry.recorded.seq:
            raise CorruptLedger("a segment holds a later state than its end", sid=sid, seq=state.seq)
        return state
