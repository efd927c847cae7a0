"""The index of a segment: in which frames each session's events are."""

from __future__ import annotations

from collections.abc import Iterator

from ledger.log.reader import Entry
from projections.archive.format import IndexLine, Run


class _Runs:
    """A session's events so far."""

    __slots__ = ("done", "first_at_us", "first_seq", "frame", "last_seq", "prev")

    def __init__(self, prev: str) -> None:
        self.prev = prev
        self.done: list[Run] = []
        self.frame = -1
        self.first_seq = self.last_seq = self.first_at_us = 0

    def all(self) -> tuple[Run, ...]:
        return (*self.done, Run(self.frame, self.first_seq, self.last_seq, self.first_at_us))


class Index:
    """Takes a segment's events in order."""

    def __init__(self) -> None:
        self._found: dict[str, _Runs] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, entry: Entry, frame: int) -> None:
        """Note that an event is in a frame."""
        recorded = entry.recorded
        runs = self._found.get(recorded.sid)
        if runs is None:
            runs = self._found[recorded.sid] = _Runs(entry.prev)
        if runs.frame != frame:
            if runs.frame >= 0:
                runs.done.append(Run(runs.frame, runs.first_seq, runs.last_seq, runs.first_at_us))
            runs.frame, runs.first_seq, runs.first_at_us = frame, recorded.seq, recorded.at_us
        runs.last_seq = recorded.seq

    def get(self, sid: str) -> IndexLine | None:
        """Give a session's line; None if it has no events here."""
        runs = self._found.get(sid)
        return None if runs is None else IndexLine(sid, runs.prev, runs.all())

    def lines(self) -> Iterator[IndexLine]:
        """Give all lines in the order of session ids."""
        for sid, runs in sorted(self._found.items()):
            yield IndexLine(sid, runs.prev, runs.all())
