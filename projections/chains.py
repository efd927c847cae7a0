"""Reading one session's events in order, backwards or forwards, some at a time, wherever they lie."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from ledger.errors import CorruptLedger
from ledger.log.reader import ANY_SEQ, PAGE, Entry
from projections.past import Past


class Run(NamedTuple):
    """Some events of a session in the order asked for.

    Those that follow come beyond seq `next_seq`; None at the end. `below_floor`: wanted events before these were
    removed, or lie in an archive that is not read.
    """

    entries: list[Entry]
    next_seq: int | None
    below_floor: bool


async def runs(
    past: Past,
    partition: int,
    sid: str,
    *,
    since_us: int = 0,
    until_us: int = ANY_SEQ,
    beyond_seq: int | None = None,
    forward: bool = False,
    size: int = PAGE,
) -> AsyncIterator[Run]:
    """Yield a session's events from `since_us` to `until_us`, both included, `size` at a time; at least one run.

    Newest first, or with `forward` oldest first; `beyond_seq` is the last one read before. Forwards it ends with the
    event that was the newest at the beginning. Raises NoSuchSession, and CorruptLedger behind what could be read.
    """
    if forward:
        reading = _forwards(past, partition, sid, since_us, until_us, beyond_seq or 0, size)
    else:
        reading = _backwards(past, partition, sid, since_us, until_us, beyond_seq, size)
    async for run in reading:
        yield run


async def _backwards(
    past: Past, partition: int, sid: str, since_us: int, until_us: int, beyond_seq: int | None, size: int
) -> AsyncIterator[Run]:
    before = ANY_SEQ if beyond_seq is None else beyond_seq
    while True:
        walk = await past.history(partition, sid, top_seq=before - 1, top_at_us=until_us, count=size)
        entries, below_floor = walk.entries, walk.below_floor
        last = not entries or entries[-1].recorded.seq == 1 or below_floor
        if entries and entries[-1].recorded.at_us < since_us:
            last, below_floor = True, False
            entries = [entry for entry in entries if entry.recorded.at_us >= since_us]
        before = 0 if last else entries[-1].recorded.seq
        yield Run(entries, None if last else before, below_floor)
        if last:
            return


async def _forwards(
    past: Past, partition: int, sid: str, since_us: int, until_us: int, beyond_seq: int, size: int
) -> AsyncIterator[Run]:
    """Read windows of seqs, which have no gaps, each of them backwards."""
    last_seq, below_floor = await _seq_at(past, partition, sid, until_us)
    if since_us:
        first, _ = await _seq_at(past, partition, sid, since_us - 1)
        beyond_seq = max(beyond_seq, first)
    while True:
        top_seq = min(beyond_seq + size, last_seq)
        entries: list[Entry] = []
        if top_seq > beyond_seq:
            count = top_seq - beyond_seq
            walk = await past.history(partition, sid, top_seq=top_seq, top_at_us=ANY_SEQ, count=count)
            entries, below_floor = walk.entries, walk.below_floor and len(walk.entries) < count
            if len(entries) < count and not below_floor:
                await _raise_damage(past, partition, sid, top_seq - len(entries))
        more = top_seq < last_seq
        yield Run(entries[::-1], top_seq if more else None, below_floor)
        if not more:
            return
        beyond_seq, below_floor = top_seq, False


async def _raise_damage(past: Past, partition: int, sid: str, seq: int) -> None:
    """Raise the CorruptLedger that tells why an event could not be read."""
    await past.history(partition, sid, top_seq=seq, top_at_us=ANY_SEQ, count=1)
    raise CorruptLedger(f"event {seq} of the session cannot be reached", sid=sid)


async def _seq_at(past: Past, partition: int, sid: str, at_us: int) -> tuple[int, bool]:
    """Tell the seq of the newest event up to an instant, 0 without one, and whether the archive begins there."""
    walk = await past.history(partition, sid, top_seq=ANY_SEQ, top_at_us=at_us, count=1)
    return (walk.entries[0].recorded.seq, False) if walk.entries else (0, walk.below_floor)
