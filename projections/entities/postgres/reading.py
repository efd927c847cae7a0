"""Reading an entity type's lines: few statements, bounded in bytes, cut into pages.

As many rows are asked for as should make up FETCH_BYTES, by the mean of what was read before; the server cuts off what
begins behind that. So a page in memory is bounded, whatever the rows' sizes, and a million rows take some thousand
statements.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from ledger.positions import Position, us_from_iso
from projections.entities.source import Page

PAGE_BYTES: Final = 64 * 1024
"""What a page has at most, unless its only line is longer."""
FETCH_BYTES: Final = 3 * PAGE_BYTES
"""What one statement should bring, and where a line that begins behind it is cut off."""
FIRST_ROWS: Final = 64
"""How many rows are asked for while their size is not known."""
FEWEST_ROWS: Final = 16
FETCH_PAGES: Final = 3
"""A statement brings at most so many pages' rows."""
FIRST_SHARES: Final = 1
MOST_SHARES: Final = 32

_EPOCH_2000_US: Final = 946_684_800_000_000
_FAR_US: Final = 2**62


class PostgresPage(Page):
    """A page that knows where the parents of its rows stand: for each table, an instant in µs for each line."""

    parents: tuple[tuple[str, Sequence[int]], ...] = ()


class Fetched(Struct):
    """What one statement brought: entries in order, as `Part.line` prints them.

    `parents` has for each table an instant in µs for each entry.
    """

    entries: list[bytes]
    parents: list[tuple[str, Sequence[int]]]

    def cut(self, limit: int) -> Iterator[Fetched]:
        """Yield what makes up a page each: at most `limit` entries and PAGE_BYTES."""
        start, size = 0, 0
        for at, entry in enumerate(self.entries):
            if at > start and (at - start >= limit or size + len(entry) > PAGE_BYTES):
                yield self._slice(start, at)
                start, size = at, 0
            size += len(entry)
        yield self if start == 0 else self._slice(start, len(self.entries))

    def sent(self) -> Fetched:
        """Return the lines that are sent."""
        lines = [line_of(entry) for entry in self.entries]
        kept = [at for at, line in enumerate(lines) if line]
        parents: list[tuple[str, Sequence[int]]] = [
            (table, [stands[at] for at in kept]) for table, stands in self.parents
        ]
        return Fetched([lines[at] for at in kept], parents)

    @property
    def last(self) -> Position:
        """The position of the last entry."""
        return place_of(self.entries[-1])

    def _slice(self, start: int, end: int) -> Fetched:
        return Fetched(self.entries[start:end], [(table, stands[start:end]) for table, stands in self.parents])


class Batch(Struct):
    """What one statement brought: `read` rows, the last of them cut off if there are fewer entries, and their bytes."""

    fetched: Fetched
    read: int
    size: int
    more_shares: bool


class Pace:
    """Decides how many rows, and how many shares, the next statement asks for."""

    def __init__(self, limit: int, line_bytes: float) -> None:
        """`line_bytes` is the mean of an entity type's lines; 0 if it is not known yet."""
        self._limit = limit
        self.line_bytes = line_bytes
        self.rows = self._wanted()
        self.shares = FIRST_SHARES

    def learn(self, batch: Batch) -> bool:
        """Take in what came; tells whether there may be more."""
        entries = len(batch.fetched.entries)
        more = batch.read >= self.rows or entries < batch.read or batch.more_shares
        mean = batch.size / entries
        self.line_bytes = mean if self.line_bytes == 0 else (self.line_bytes + mean) / 2
        if batch.more_shares and batch.read < self.rows // 2:
            self.shares = min(self.shares * 2, MOST_SHARES)
        elif batch.read >= self.rows and self.shares > FIRST_SHARES:
            self.shares //= 2
        self.rows = self._wanted()
        return more

    def _wanted(self) -> int:
        most = FETCH_PAGES * self._limit
        if self.line_bytes == 0:
            return min(FIRST_ROWS, most)
        return min(max(int(FETCH_BYTES / self.line_bytes), FEWEST_ROWS), most)


def unfit_parent_of(entry: bytes) -> str:
    """Read which row (`table|id`) that cannot be read an entry refers to; empty if to none."""
    if entry.startswith(b"~"):
        named = entry[1:].partition(b"\t")[0]
    elif entry.startswith(b"|"):
        named = entry.partition(b"\t")[2]
        named = b"" if named.startswith(b"\t") else named
    else:
        return ""
    return msgspec.json.decode(named, type=str) if named else ""


def unfit_field_of(entry: bytes) -> str:
    """Read which field of a row cannot be read, so that it is not sent; empty if none."""
    return entry.partition(b"\t\t")[2].decode() if entry.startswith(b"|") else ""


def line_of(entry: bytes) -> bytes:
    """Return the line of an entry; empty if it is not sent."""
    if entry.startswith(b"{"):
        return entry
    return entry.partition(b"\t")[2] if entry.startswith(b"~") else b""


def place_of(entry: bytes) -> Position:
    """Read the position of an entry, also one whose id no ack can hold."""
    if entry.startswith(b"|"):
        entry = entry.partition(b"\t")[0]
    _, iso, raw_id = entry.rpartition(b'"ack":"')[2].split(b"|", 2)
    return Position(us_from_iso(iso.decode()), msgspec.json.decode(b'"%b"' % raw_id, type=str))


def stands_of(raw: bytes, *, is_uuid: bool) -> Sequence[int]:
    """Read where parents stand, in µs: 16 bytes of a UUIDv7 or 8 of a timestamptz each, as PostgreSQL sends them."""
    numbers = array("Q" if is_uuid else "q", raw)
    if sys.byteorder == "little":
        numbers.byteswap()
    if is_uuid:
        return array("q", [(number >> 16) * 1000 for number in numbers[::2]])
    try:
        return array("q", [number + _EPOCH_2000_US for number in numbers])
    except OverflowError:  # infinity is the greatest number there is
        return array("q", [min(number, _FAR_US) + _EPOCH_2000_US for number in numbers])
