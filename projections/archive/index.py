"""The index of a segment: in which frames each session's events are."""

from __future__ import annotations

from collections.abc import Iterator

from ledger.log.reader import Entry
from projections.archive.format import IndexLine, Run


class Index:
    """Takes a segment's events in order."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, list[Run]]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, entry: Entry, frame: int) -> None:
        """Note that an event is in a frame."""
        recorded = entry.recorded
        runs = self._found.setdefault(recorded.sid, (entry.prev, []))[1]
        if runs and runs[-1].frame == frame:
            runs[-1] = runs[-1]._replace(last_seq=recorded.seq)
        else:
            runs.append(Run(frame, recorded.seq, recorded.seq, recorded.at_us))

    def get(self, sid: str) -> IndexLine | None:
        """Give a session's line; None if it has no events here."""
        found = self._found.get(sid)
        return None if found is None else IndexLine(sid, found[0], tuple(found[1]))

    def lines(self) -> Iterator[IndexLine]:
        """Give all lines in the order of session ids."""
        for sid, (prev, runs) in sorted(self._found.items()):
            yield IndexLine(sid, prev, tuple(runs))
