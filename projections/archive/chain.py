"""A session's events across the hot stream and the segments, as if nothing had ever been trimmed."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from ledger.errors import CorruptLedger
from ledger.log.reader import ANY_SEQ, Entry, Walk, walk
from ledger.log.store import Store
from projections.archive.catalog import Archive
from projections.archive.errors import BadSegment, ObjectMissing
from projections.archive.fold import Fold
from projections.archive.format import Name, place
from projections.archive.record import Record, read_record

_ATTEMPTS: Final = 3


async def walk_across(
    store: Store,
    archive: Archive | None,
    partition: int,
    sid: str,
    *,
    top_seq: int = ANY_SEQ,
    top_at_us: int = ANY_SEQ,
    count: int = 100,
) -> Walk | None:
    """Read up to `count` events of a session from seq `top_seq` and time `top_at_us` backwards; None if unknown.

    As `ledger.log.reader.walk` does; `below_floor` means here that what is older was removed by retention, or that
    there is no archive to read it from. Raises CorruptLedger where the first of them is missing or damaged,
    ArchiveUnavailable.
    """
    hot = await walk(store, partition, sid, top_seq=top_seq, top_at_us=top_at_us, count=count)
    if hot is None or not hot.below_floor or archive is None or len(hot.entries) == count:
        return hot
    if hot.entries:
        top_seq = min(top_seq, hot.entries[-1].recorded.seq - 1)
    for attempt in range(_ATTEMPTS):
        record, page = await read_record(store, partition), list(hot.entries)
        try:
            next_id = await _walk_segments(
                archive, record, partition, sid, hot.next_id, top_seq, top_at_us, count, page
            )
        except ObjectMissing:
            # Retention may have removed it while it was being read: then it is not missed the next time.
            if attempt < _ATTEMPTS - 1 and await read_record(store, partition) != record:
                continue
            if not page:
                raise
        except CorruptLedger:
            if not page:
                raise
        else:
            return Walk(page, bool(next_id), next_id)
        return Walk(page, below_floor=False)
    raise AssertionError


async def state_before(store: Store, archive: Archive | None, partition: int, sid: str, entry: Entry) -> Fold:
    """Give a state of a session from which few events lead to `entry`: that at the end of the segment before it.

    Its state is None, and all events from the first are to be folded, where there is no such segment or the session
    did not live then.
    """
    if archive is not None:
        names = await archive.segments(partition)
        at = _behind(names, entry.id)
        if at > 0:
            found = await (await archive.open(names[at - 1])).state(sid)
            if found is not None:
                return found
    return Fold()


async def _walk_segments(
    archive: Archive,
    record: Record,
    partition: int,
    sid: str,
    next_id: str,
    top_seq: int,
    top_at_us: int,
    count: int,
    page: list[Entry],
) -> str:
    """Go on in the segments, from the event at `next_id` backwards, until `page` has `count` events.

    Returns where older ones were that retention removed, '' if none were.
    """
    names = await archive.segments(partition, record)
    while True:
        if record.cut and place(next_id) <= place(record.cut):
            return next_id
        at = _behind(names, next_id)
        if at == len(names) or place(next_id) < place(names[at].first):
            raise CorruptLedger(f"event {next_id} is neither in the stream nor in a segment", sid=sid, id=next_id)
        segment = await archive.open(names[at])
        found = await segment.find(sid)
        if found is None:
            raise BadSegment(segment.text, f"it has no events of session {sid}, though event {next_id} must be there")
        entries = await segment.of_session(sid, found, top_seq, top_at_us, count - len(page))
        page += entries
        if len(page) == count or not found.prev:
            return ""
        if place(found.prev) >= place(next_id):
            raise BadSegment(segment.text, f"its index leads from event {next_id} of session {sid} to a later one")
        next_id = found.prev


def _behind(names: list[Name], stream_id: str) -> int:
    """Tell the number of the segment that holds a stream id, or else of the first one behind it."""
    return bisect_left(names, place(stream_id), key=lambda name: place(name.last))
