"""What a library holds at one moment, told by its meta hash alone: a poll that finds nothing new reads nothing else."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ledger.positions import Position

MARKS: Final = ("last", "floor", "born")
"""The fields of a meta hash that tell whether it is as it was: whatever is written or purged changes one of them."""
START_US: Final = 1
"""The horizon of a library to which nothing was ever written."""


class LibrarySummary(Struct, frozen=True):
    """The horizon of a library, and for each stored type the last row ever written below it and its longest line."""

    horizon_us: int
    born_us: int
    """The stamp of its first rows; 0 where that was not noted. A library that is made anew has another one."""
    floor_us: int
    """The stamp of the newest delete marker that was already purged; 0 if none was."""
    newest: dict[str, Position]
    longest: dict[str, int]
    marks: tuple[bytes | None, ...]
    """What the fields of `MARKS` held."""

    @classmethod
    def of(cls, meta: list[bytes]) -> LibrarySummary:
        """Read the reply of HGETALL."""
        last_us = born_us = floor_us = 0
        marks: list[bytes | None] = [None] * len(MARKS)
        newest: dict[str, Position] = {}
        longest: dict[str, int] = {}
        for name, value in zip(meta[::2], meta[1::2], strict=True):
            kind, _, stored = name.decode().partition(":")
            if kind in MARKS:
                marks[MARKS.index(kind)] = value
            if kind == "last":
                last_us = int(value)
            elif kind == "born":
                born_us = int(value)
            elif kind == "floor":
                floor_us = int(value)
            elif kind == "newest":
                stamp, _, entity_id = value.decode().partition("|")
                newest[stored] = Position(int(stamp), entity_id)
            elif kind == "longest":
                longest[stored] = int(value)
        return cls(last_us + 1 if last_us else START_US, born_us, floor_us, newest, longest, tuple(marks))

    def has_after(self, stored: str, after: Position | None) -> bool:
        """Tell whether rows of a type may lie after a position and below this horizon; it stays true of that horizon.

        Rows only ever leave the span below a horizon, for a place above it.
        """
        last = self.newest.get(stored)
        return last is not None and (after is None or after.key < last.key)
