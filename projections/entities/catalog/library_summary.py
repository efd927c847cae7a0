"""What a library holds at one moment, told by its meta hash alone: a poll that finds nothing new reads nothing else."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ledger.positions import Position

START_US: Final = 1
"""The horizon of a library to which nothing was ever written."""


class LibrarySummary(Struct, frozen=True):
    """The horizon of a library, and for each stored type the last row ever written below it and its longest line."""

    horizon_us: int
    born_us: int
    """The stamp of its first rows; 0 where that was not noted. A library that is made anew has another one."""
    newest: dict[str, Position]
    longest: dict[str, int]

    @classmethod
    def of(cls, meta: list[bytes]) -> LibrarySummary:
        """Read the reply of HGETALL."""
        last_us = born_us = 0
        newest: dict[str, Position] = {}
        longest: dict[str, int] = {}
        for name, value in zip(meta[::2], meta[1::2], strict=True):
            kind, _, stored = name.decode().partition(":")
            if kind == "last":
                last_us = int(value)
            elif kind == "born":
                born_us = int(value)
            elif kind == "newest":
                stamp, _, entity_id = value.decode().partition("|")
                newest[stored] = Position(int(stamp), entity_id)
            elif kind == "longest":
                longest[stored] = int(value)
        return cls(last_us + 1 if last_us else START_US, born_us, newest, longest)

    def has_after(self, stored: str, after: Position | None) -> bool:
        """Tell whether rows of a type may lie after a position and below this horizon; it stays true of that horizon.

        Rows only ever leave the span below a horizon, for a place above it.
        """
        last = self.newest.get(stored)
        return last is not None and (after is None or after.key < last.key)
