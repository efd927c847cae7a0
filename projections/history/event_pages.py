"""What happened to a session, wherever it lies: in the stream, or in the segments of the archive behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Final, NamedTuple

from ledger.chain import GENESIS, previous_of
from ledger.errors import CorruptLedger, NoSuchSession
from ledger.log import milestones
from ledger.log.append import is_known
from ledger.log.reader import ANY_SEQ, PAGE, PAGE_BYTES, Entry, Walk, size_of, walk
from ledger.store.interface import Store
from projections.archive.catalog import Archive
from projections.archive.errors import ArchiveNotGiven, ObjectMissing
from projections.archive.fold import Fold
from projections.archive.record import read_record

_ATTEMPTS: Final = 3


class Run(NamedTuple):
    """Some events of a session in the order asked for.

    Those that follow come beyond seq `next_seq`; None at the end. `below_floor`: wanted events before these were
    removed, or lie in an archive that is not read. `previous`: the hash of the event before the oldest of them, None if
    it is not known.
    """

    entries: list[Entry]
    next_seq: int | None
    below_floor: bool
    previous: bytes | None = None

    @property
    def previous_hashes(self) -> dict[str, bytes]:
        """The hash that each event links to, by stream id; without those that are not known."""
        entries = sorted(self.entries, key=lambda entry: entry.recorded.seq)
        found = {entry.id: _previous(entry, before) for before, entry in pairwise(entries)}
        if entries:
            found[entries[0].id] = self.previous
        return {stream_id: previous for stream_id, previous in found.items() if previous is not None}


class Page(NamedTuple):
    """A page of a session's history, newest first.

    `below_floor`: what is older was removed, or lies in an archive that is not read. `previous`: as in `Run`.
    `full`: it has fewer than were wanted because these have enough bytes.
    """

    entries: list[Entry]
    below_floor: bool
    previous: bytes | None
    full: bool = False


class EventPages:
    """Reads events across the streams of a store and, with an archive, the segments sealed of them.

    Without one, what begins below the archive's floor raises ArchiveNotGiven. All raise NoSuchSession, Rebuilding,
    CorruptLedger where events are missing or damaged, ArchiveUnavailable.
    """

    def __init__(self, store: Store, archive: Archive | None = None) -> None:
        self.store = store
        self._archive = archive

    @property
    def has_archive(self) -> bool:
        """Tell whether segments are read."""
        return self._archive is not None

    async def page(
        self,
        partition: int,
        sid: str,
        *,
        top_seq: int = ANY_SEQ,
        top_at_us: int = ANY_SEQ,
        count: int = 100,
        page_bytes: int = PAGE_BYTES,
    ) -> Page:
        """Read up to `count` events of a session, and about `page_bytes`, from seq and time backwards, newest first.

        `below_floor`: what is older was removed by retention, or lies in an archive that is not given. CorruptLedger is
        raised where the first of them is missing or damaged; before another one the page ends.
        """
        walked = await self._walk(partition, sid, top_seq, top_at_us, count + 1, page_bytes)
        entries = walked.entries[:count]
        if len(walked.entries) > count:
            before = walked.entries[count]
            return Page(entries, False, _previous(entries[-1], before))
        if walked.full:
            return await self._full(partition, sid, entries)
        is_first = bool(entries) and not entries[-1].prev
        return Page(entries, walked.below_floor, previous_of(entries[-1].recorded, 0, GENESIS) if is_first else None)

    async def _full(self, partition: int, sid: str, entries: list[Entry]) -> Page:
        """Make a page of what has enough bytes; of a single event the one that it is linked to is read too."""
        if len(entries) > 1:
            return Page(entries[:-1], False, _previous(entries[-2], entries[-1]), full=True)
        try:
            below = await self._walk(partition, sid, entries[0].recorded.seq - 1, ANY_SEQ, 1)
        except (CorruptLedger, ArchiveNotGiven):  # the next page tells
            return Page(entries, False, None, full=True)
        return Page(entries, False, _previous(entries[0], below.entries[0]) if below.entries else None, full=True)

    async def _walk(
        self, partition: int, sid: str, top_seq: int, top_at_us: int, count: int, page_bytes: int = PAGE_BYTES
    ) -> Walk:
        hot = await self._hot(partition, sid, top_seq, top_at_us, count, page_bytes)
        if self._archive is None and hot.below_floor and not hot.entries:
            raise ArchiveNotGiven
        if self._archive is None or not hot.below_floor or len(hot.entries) == count:
            return hot
        if hot.entries:
            top_seq = min(top_seq, hot.entries[-1].recorded.seq - 1)
        for attempt in range(_ATTEMPTS):
            record, page = await read_record(self.store, partition), list(hot.entries)
            try:
                next_id = await self._archive.walk(
                    partition,
                    record,
                    sid,
                    hot.next_id,
                    page,
                    top_seq=top_seq,
                    top_at_us=top_at_us,
                    count=count,
                    page_bytes=page_bytes,
                )
            except ObjectMissing:
                # Retention may have removed it while it was being read: then it is not missed the next time.
                if attempt < _ATTEMPTS - 1 and await read_record(self.store, partition) != record:
                    continue
                if not page:
                    raise
            except CorruptLedger:
                if not page:
                    raise
            else:
                is_full = not next_id and len(page) < count and size_of(page) >= page_bytes and bool(page[-1].prev)
                return Walk(page, bool(next_id), next_id, is_full)
            return Walk(page, below_floor=False)
        raise AssertionError

    async def runs(
        self,
        partition: int,
        sid: str,
        *,
        since_us: int = 0,
        until_us: int = ANY_SEQ,
        beyond_seq: int | None = None,
        forward: bool = False,
        size: int = PAGE,
        page_bytes: int = PAGE_BYTES,
    ) -> AsyncIterator[Run]:
        """Yield a session's events from `since_us` to `until_us`, both included; at least one run.

        Each has up to `size` of them, or fewer where these have `page_bytes`. Newest first, or with `forward` oldest
        first; `beyond_seq` is the last one read before. Forwards it ends with the event that was the newest at the
        beginning. Raises CorruptLedger behind what could be read.
        """
        if forward:
            reading = self._forwards(partition, sid, since_us, until_us, beyond_seq or 0, size, page_bytes)
        else:
            reading = self._backwards(partition, sid, since_us, until_us, beyond_seq, size, page_bytes)
        async for run in reading:
            yield run

    async def state_before(self, partition: int, sid: str, entry: Entry) -> Fold:
        """Give the fold of a session from which few events lead to `entry`; an empty one to begin with its first.

        It is a milestone's, or one that a segment keeps: whichever is later.
        """
        for state in await milestones.before(self.store, partition, sid, entry.recorded.seq):
            found = await self._hot(partition, sid, state.seq, ANY_SEQ, 1, PAGE_BYTES)
            at = found.entries[0] if found.entries else None
            if at is not None and (at.recorded.seq, at.recorded.hash) == (state.seq, state.hash):
                return Fold(state, at.id)  # in the stream, so behind all that segments keep
        if self._archive is None:
            return Fold()
        fold = await self._archive.state_before(partition, sid, entry)
        if fold.state is not None and fold.state.seq >= entry.recorded.seq:
            raise CorruptLedger("a segment holds a later state than its end", sid=sid, seq=fold.state.seq)
        return fold

    async def _hot(self, partition: int, sid: str, top_seq: int, top_at_us: int, count: int, page_bytes: int) -> Walk:
        for attempt in range(2):
            page = await walk(
                self.store,
                partition,
                sid,
                top_seq=top_seq,
                top_at_us=top_at_us,
                count=count,
                page_bytes=page_bytes,
            )
            if page is not None:
                return page
            if attempt or not await is_known(self.store, partition, sid):  # else it was rebuilt at this moment
                break
        raise NoSuchSession(f"No session {sid}")

    async def _backwards(
        self,
        partition: int,
        sid: str,
        since_us: int,
        until_us: int,
        beyond_seq: int | None,
        size: int,
        page_bytes: int,
    ) -> AsyncIterator[Run]:
        before = ANY_SEQ if beyond_seq is None else beyond_seq
        while True:
            page = await self.page(
                partition, sid, top_seq=before - 1, top_at_us=until_us, count=size, page_bytes=page_bytes
            )
            entries, below_floor, previous = page.entries, page.below_floor, page.previous
            last = not entries or entries[-1].recorded.seq == 1 or below_floor
            if entries and entries[-1].recorded.at_us < since_us:
                last, below_floor = True, False
                entries = [entry for entry in entries if entry.recorded.at_us >= since_us]
                before_them = page.entries[len(entries)]
                previous = _previous(entries[-1], before_them) if entries else None
            before = 0 if last else entries[-1].recorded.seq
            yield Run(entries, None if last else before, below_floor, previous)
            if last:
                return

    async def _forwards(
        self, partition: int, sid: str, since_us: int, until_us: int, beyond_seq: int, size: int, page_bytes: int
    ) -> AsyncIterator[Run]:
        """Read windows of seqs, which have no gaps but where events were lost, each of them backwards.

        A window that has too many bytes is read again as a smaller one.
        """
        last_seq, below_floor = await self._seq_at(partition, sid, until_us)
        if since_us:
            first, _ = await self._seq_at(partition, sid, since_us - 1)
            beyond_seq = max(beyond_seq, first)
        window = size
        while True:
            top_seq = min(beyond_seq + window, last_seq)
            entries, previous = list[Entry](), None
            if top_seq > beyond_seq:
                count = top_seq - beyond_seq
                page = await self.page(partition, sid, top_seq=top_seq, count=count, page_bytes=page_bytes)
                if page.full and window > 1 and page.entries[-1].recorded.seq > beyond_seq + 1:
                    window = max(1, min(window // 2, len(page.entries)))
                    continue
                entries = [entry for entry in page.entries if entry.recorded.seq > beyond_seq]
                below_floor = page.below_floor and len(page.entries) < count
                oldest = page.entries[-1] if page.entries else None
                previous = page.previous
                if len(entries) < len(page.entries):
                    previous = _previous(entries[-1], page.entries[len(entries)]) if entries else None
                if len(page.entries) < count and not below_floor and oldest is not None and oldest.prev:
                    await self._raise_damage(partition, sid, oldest.recorded.seq - 1)
            more = top_seq < last_seq
            yield Run(entries[::-1], top_seq if more else None, below_floor, previous)
            if not more:
                return
            beyond_seq, below_floor, window = top_seq, False, min(size, 2 * window)

    async def _raise_damage(self, partition: int, sid: str, seq: int) -> None:
        """Raise the CorruptLedger that tells why an event could not be read."""
        await self.page(partition, sid, top_seq=seq, count=1)
        raise CorruptLedger(f"event {seq} of the session cannot be reached", sid=sid)

    async def _seq_at(self, partition: int, sid: str, at_us: int) -> tuple[int, bool]:
        """Tell the seq of the newest event up to an instant, 0 without one, and whether the archive begins there."""
        page = await self.page(partition, sid, top_at_us=at_us, count=1)
        return (page.entries[0].recorded.seq, False) if page.entries else (0, page.below_floor)


def _previous(entry: Entry, before: Entry) -> bytes | None:
    """Give the hash that an event must be linked to behind another one; None if it does not follow that one."""
    return previous_of(entry.recorded, before.recorded.seq, before.recorded.hash) if entry.prev == before.id else None
