"""Reading rows in pages that are bounded in bytes, at the cost of a bare range.

A script can cut a page to size, but strings that pass through Lua cost the server five times as much as those it just
sends. So plain ranges ask for so many rows as make up a page, where that many of the longest could not be too much. The
script reads where they could, or where the longest line is not known yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from msgspec import Struct

from ledger import keys
from ledger.positions import Position
from ledger.store.interface import Store
from ledger.store.scripts import Script
from projections.entities.lines import position_of

PAGE_BYTES: Final = 64 * 1024
"""What a page should have, and what a page cut by the script has at most, unless its only line is longer."""
MAX_BYTES: Final = 2 * PAGE_BYTES
"""What a page read as a plain range has at most."""
FEWEST_ROWS: Final = 16
"""With fewer rows than this to a plain range the script reads better."""

PAGE: Final = Script.load("projections.entities.catalog", "page.lua")


class Rows(Struct):
    """A page as it is stored: its lines, the position of the last one, the library's horizon after it was read."""

    lines: list[bytes]
    last: Position
    horizon_us: int


async def read_rows(
    store: Store, library: str, stored: str, after: Position | None, before: int, limit: int, longest: int | None
) -> AsyncIterator[Rows]:
    """Yield the rows of a stored entity type strictly after a position and below an instant, `limit` at most a page.

    `longest` bounds the length of a line below `before`; None if that is not known yet.
    """
    rows, meta = keys.catalog_rows(library, stored), keys.catalog_meta(library)
    high = f"({before}"
    low, done = _bound(after)
    wanted = 0 if longest is None else min(limit, PAGE_BYTES // max(longest, 1))
    while True:
        if wanted < FEWEST_ROWS <= limit or wanted == 0:
            lines = await store.script(PAGE, (rows, meta), (low, high, limit, PAGE_BYTES, stored))
            longest, last_stamp, more = int(lines.pop()), lines.pop(), lines.pop()
        else:
            # Both leave in one write, the range first: what it missed shows in a higher stamp.
            stamp = asyncio.ensure_future(store.command("HGET", meta, "last", key=meta))
            try:
                lines = await store.command("ZRANGE", rows, low, high, "BYSCORE", "LIMIT", 0, wanted, key=rows)
                last_stamp = await stamp
            finally:
                stamp.cancel()
            more = len(lines) == wanted
        if not lines:
            return
        last = position_of(lines[-1])
        wanted = min(limit, PAGE_BYTES * len(lines) // sum(map(len, lines)), MAX_BYTES // max(longest or 1, 1))
        if done is not None:
            lines = [line for line in lines if position_of(line).key > done]
            done = None
        if lines:
            yield Rows(lines, last, int(last_stamp or 0) + 1)
        if not more:
            return
        low = f"({last.at_us}"


def _bound(after: Position | None) -> tuple[str, tuple[int, bool, bytes] | None]:
    """Tell where to begin and, if rows of that very instant may still come, which of them are done."""
    if after is None:
        return "-inf", None
    if after.id:
        return str(after.at_us), after.key
    return f"({after.at_us}", None
