"""Reading an entity type's lines: few statements, bounded in bytes, cut into pages.

As many rows are asked for as should make up so many bytes, by the mean of what was read before; the server cuts off
what begins behind that. So a page in memory is bounded, whatever the rows' sizes, and a million rows take some thousand
statements. Statements grow as long as their reader waits for the database, and shrink once the database waits for it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Final

import msgspec
from msgspec import Struct

from ledger.positions import Position, us_from_iso
from projections.entities.lines import CLOSED, JoinedLines, count_in, joined
from projections.entities.source import Page

PAGE_BYTES: Final = 64 * 1024
"""What a page has at most, unless its only line is longer."""
WIDE_PAGE_BYTES: Final = 120 * 1024
"""The same of what grown statements bring. PERF: making and sending a page takes as long as checking 30 KB of it."""
FETCH_BYTES: Final = 3 * PAGE_BYTES
"""What a first statement should bring, and where a line that begins behind it is cut off; what any may bring."""
MOST_FETCH_BYTES: Final = 16 * PAGE_BYTES
"""What one statement should bring at most, for a reader that keeps up: four times as much takes a server 5 % less."""
GROWN_BYTES: Final = 6 * 1024 * 1024
"""What the statements of all streams of a process may bring beyond FETCH_BYTES each, together."""
STEADY: Final = 4
"""So many statements in a row a reader waited for before they grow: the first ones fill its connection's buffers."""
FIRST_ROWS: Final = 64
"""How many rows are asked for while their size is not known."""
FEWEST_ROWS: Final = 16
FETCH_PAGES: Final = 3
"""A statement of FETCH_BYTES brings at most so many pages' rows."""
FIRST_SHARES: Final = 1
MOST_SHARES: Final = 32
LEAST_LINE: Final = 70
"""No line that is sent is shorter; PERF: pages of no more lines than that makes need not be counted."""

_EPOCH_2000_US: Final = 946_684_800_000_000
_FAR_US: Final = 2**62
_LF: Final = b"\n"


class Stands:
    """Where the parents of one table stand, an instant in µs for each entry: read only where it matters."""

    def __init__(self, raw: bytes, *, is_uuid: bool, of: Stands | None = None) -> None:
        """`raw` has 16 bytes of a UUIDv7 or 8 of a timestamptz for each, as PostgreSQL sends them.

        `of` are those that these were cut out of. PERF: mostly none of all of them matters.
        """
        self._raw = raw
        self._is_uuid = is_uuid
        self._of = of

    @cached_property
    def latest_us(self) -> int:
        """The latest of them; 0 without any."""
        if self._is_uuid:  # PERF: the first eight bytes of each, of which six are its milliseconds
            return (max(_numbers(self._raw, "Q")[::2], default=0) >> 16) * 1000
        return max(stands_of(self._raw, is_uuid=False), default=0)

    def first_at(self, bound_us: int) -> int | None:
        """Tell which entry is the first whose parent does not stand before an instant; None where all do."""
        if (self._of is not None and self._of.latest_us < bound_us) or self.latest_us < bound_us:
            return None
        return next(at for at, us in enumerate(stands_of(self._raw, is_uuid=self._is_uuid)) if us >= bound_us)

    def only(self, kept: Sequence[int]) -> Stands:
        """Return those of some entries."""
        width = 16 if self._is_uuid else 8
        raw = b"".join([self._raw[at * width : (at + 1) * width] for at in kept])
        return Stands(raw, is_uuid=self._is_uuid, of=self._of)

    def cut(self, start: int, end: int) -> Stands:
        """Return those of the entries from one to before another."""
        width = 16 if self._is_uuid else 8
        return Stands(self._raw[start * width : end * width], is_uuid=self._is_uuid, of=self)


Parents = tuple[tuple[str, Stands], ...]


class PostgresPage(Page):
    """A page that knows where the parents of its rows stand: for each table, an instant in µs for each line."""

    parents: Parents = ()


class Fetched(Struct):
    """What one statement brought: entries in order, as `Part.line` prints them, each closed by CLOSED.

    `plain`: each of them is a line that is sent as it is. `parents` has where they stand for each table and entry.
    """

    text: bytes
    plain: bool
    parents: Parents

    @property
    def entries(self) -> list[bytes]:
        """Each entry."""
        return self.text[: -len(CLOSED)].split(CLOSED) if self.text else []

    def cut(self, limit: int, most_bytes: int = PAGE_BYTES) -> Iterator[Fetched]:
        """Yield what makes up a page each: at most `limit` entries and so many bytes."""
        start, row = 0, 0
        while start < len(self.text):
            end = self._end(start, limit, most_bytes)
            text = self.text[start:end] if start or end < len(self.text) else self.text
            if self.parents:
                rows = count_in(text)
                yield Fetched(text, self.plain, tuple((name, one.cut(row, row + rows)) for name, one in self.parents))
                row += rows
            else:
                yield Fetched(text, self.plain, ())
            start = end

    def _end(self, start: int, limit: int, most_bytes: int) -> int:
        """Tell where the page that begins at an offset ends."""
        end = len(self.text)
        if end - start > most_bytes:
            end = self.text.rfind(_LF, start, start + most_bytes) + 1
            if end == 0:
                end = self.text.index(_LF, start) + 1
        if (not self.plain or end - start >= limit * LEAST_LINE) and count_in(self.text[start:end]) > limit:
            end = start
            for _ in range(limit):
                end = self.text.index(_LF, end) + 1
        return end

    def sent(self) -> Fetched:
        """Return the lines that are sent."""
        lines = [line_of(entry) for entry in self.entries]
        kept = [at for at, line in enumerate(lines) if line]
        text = joined([lines[at] for at in kept], CLOSED)
        return Fetched(text, True, tuple((name, one.only(kept)) for name, one in self.parents))

    @property
    def last(self) -> Position:
        """The position of the last entry."""
        return place_of(JoinedLines(self.text).last)


class Batch(Struct):
    """What one statement brought: of `read` rows `kept`, the others were cut off."""

    fetched: Fetched
    read: int
    kept: int
    more_shares: bool


class Room:
    """The bytes that statements may bring beyond what each may anyway: of all streams of a process."""

    def __init__(self, most: int = GROWN_BYTES) -> None:
        self.left = most

    def take(self, wanted: int) -> int:
        """Take what is to be had of so many bytes."""
        taken = min(wanted, self.left)
        self.left -= taken
        return taken

    def give_back(self, taken: int) -> None:
        """Give back what was taken."""
        self.left += taken


class Pace:
    """Decides how many bytes, rows and shares the next statement asks for.

    A reader that was waiting for each of its last STEADY statements gets twice as much with the next one, if there is
    `Room`; of one that was waited for half as much is asked. So a slow reader costs what FETCH_BYTES cost.
    """

    def __init__(self, limit: int, line_bytes: float, room: Room) -> None:
        """`line_bytes` is the mean of an entity type's lines; 0 if it is not known yet."""
        self._limit = limit
        self._room = room
        self._grown = 0
        self._in_a_row = 0
        self.line_bytes = line_bytes
        self.rows = self._wanted()
        self.shares = FIRST_SHARES

    @property
    def size(self) -> int:
        """How many bytes the next statement should bring."""
        return FETCH_BYTES + self._grown

    @property
    def page_bytes(self) -> int:
        """How many bytes of it a page may have."""
        return WIDE_PAGE_BYTES if self._grown >= FETCH_BYTES else PAGE_BYTES

    def learn(self, batch: Batch, *, keeps_up: bool) -> bool:
        """Take in what came, and whether its reader was waiting for it; tells whether there may be more."""
        more = batch.read >= self.rows or batch.kept < batch.read or batch.more_shares
        mean = len(batch.fetched.text) / batch.kept
        self.line_bytes = mean if self.line_bytes == 0 else (self.line_bytes + mean) / 2
        if batch.more_shares and batch.read < self.rows // 2:
            self.shares = min(self.shares * 2, MOST_SHARES)
        elif batch.read >= self.rows and self.shares > FIRST_SHARES:
            self.shares //= 2
        self._in_a_row = self._in_a_row + 1 if keeps_up else 0
        if self._in_a_row >= STEADY:
            self._resize(min(self.size * 2, MOST_FETCH_BYTES))
        elif not keeps_up:
            self._resize(max(self.size // 2, FETCH_BYTES))
        self.rows = self._wanted()
        return more

    def give_back(self) -> None:
        """Give back the room that was taken: nothing more is asked."""
        self._resize(FETCH_BYTES)

    def _resize(self, size: int) -> None:
        self._room.give_back(self._grown)
        self._grown = self._room.take(size - FETCH_BYTES)

    def _wanted(self) -> int:
        most = FETCH_PAGES * self._limit * self.size // FETCH_BYTES
        if self.line_bytes == 0:
            return min(FIRST_ROWS, most)
        return min(max(int(self.size / self.line_bytes), FEWEST_ROWS), most)


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
    numbers = _numbers(raw, "Q" if is_uuid else "q")
    if is_uuid:
        return array("q", [(number >> 16) * 1000 for number in numbers[::2]])
    try:
        return array("q", [number + _EPOCH_2000_US for number in numbers])
    except OverflowError:  # infinity is the greatest number there is
        return array("q", [min(number, _FAR_US) + _EPOCH_2000_US for number in numbers])


def _numbers(raw: bytes, kind: str) -> array[int]:
    numbers = array(kind, raw)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
