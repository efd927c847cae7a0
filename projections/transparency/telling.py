"""How far a log is behind the store, and what is the matter with it, in figures."""

from __future__ import annotations

from typing import Final, NamedTuple

from ledger import keys
from ledger.store.interface import Store
from ledger.transparency.notes import BadNote, parse_note
from projections.archive.format import place as place_of
from projections.transparency import batches
from projections.transparency.noted import read_noted
from projections.transparency.place import CHECKPOINT, LogPlace
from projections.transparency.witnesses import Witnesses

COUNTED: Final = 10_000
"""How many events are counted that are not logged yet; of a log that is further behind it is known that it is."""
_PAGE: Final = 1000


class LogFigures(NamedTuple):
    """A log's entries, and of the store's events how many are not in it yet, and how old the oldest of these is in s.

    `unlogged` is counted up to COUNTED. `refused`: sessions that have an event which does not follow what is logged.
    `unwitnessed`: witnesses that have not signed the newest checkpoint.
    """

    entries: int = 0
    unlogged: int = 0
    behind_s: float = 0.0
    refused: int = 0
    unwitnessed: int = 0


async def figures(
    store: Store, place: LogPlace, witnesses: Witnesses | None, partitions: int, now_us: int
) -> LogFigures:
    """Look at the newest batch and the streams behind it.

    Raises LogContradicts, ArchiveUnavailable, StoreUnavailable.
    """
    noted, newest = await read_noted(store), await batches.newest(place)
    cursors = {} if newest is None else newest.cursors
    unlogged, oldest_ms = 0, now_us // 1000
    for partition in range(partitions):
        cursor, name = cursors.get(partition, ""), keys.stream(partition)
        start = f"({cursor}" if cursor else "-"
        while True:
            count = min(_PAGE, max(1, COUNTED - unlogged))  # at least one, for the oldest of each partition
            rows = await store.command("XRANGE", name, start, "+", "COUNT", count, key=name)
            if rows:
                oldest_ms = min(oldest_ms, place_of(rows[0][0].decode())[0])
                unlogged = min(COUNTED, unlogged + len(rows))
                start = f"({rows[-1][0].decode()}"
            if len(rows) < count or unlogged >= COUNTED:
                break
    behind_s = max(0, now_us // 1000 - oldest_ms) / 1000
    return LogFigures(noted.size, unlogged, behind_s, noted.refused, await _unwitnessed(place, witnesses))


async def _unwitnessed(place: LogPlace, witnesses: Witnesses | None) -> int:
    content = None if witnesses is None else await place.find(CHECKPOINT)
    if witnesses is None or content is None:
        return 0
    try:
        return len(witnesses.lacking(parse_note(content.decode())))
    except (BadNote, ValueError):
        return 0  # the next run publishes it anew
