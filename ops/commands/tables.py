"""Tables, the same on a terminal and in a pipe: columns as wide as what is in them, and times one can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

WIDEST = 24


def columns(rows: Sequence[Sequence[str]], widest: int = WIDEST) -> Iterator[str]:
    """Yield the rows as lines, each value plain, cut to `widest` characters and padded to the widest of its column."""
    shown = [list(map(plain, row)) for row in rows]
    cut = [[value if len(value) <= widest else f"{value[: widest - 1]}…" for value in row] for row in shown]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    for row in cut:
        yield "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()


def plain(text: str) -> str:
    """Write what clients and providers say of themselves: what would steer a terminal or end the line, as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shortened(names: Sequence[str], most: int = 5) -> str:
    """List names in a sentence, the first few of many."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(count: int, one: str, many: str = "") -> str:
    """Write a count with its noun, in the plural where it is not one: `1 session`, `2 sessions`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def minute(at_us: int) -> str:
    """Write a time in µs since 1970 as UTC to the minute."""
    return f"{datetime.fromtimestamp(at_us / 1e6, UTC):%Y-%m-%d %H:%M}"
