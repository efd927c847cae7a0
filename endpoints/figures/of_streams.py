"""What is counted of sync streams: how many are open, what they sent, how each ended."""

from __future__ import annotations

from typing import Final, get_args

from ledger.figures.families import LATENCY_S, LONG_S, Family, Part
from projections.sent.record import How

RESET: Final = "reset"
"""A stream that was nothing but the line that has a device start over."""
OPEN: Final = Family("streams_open", "gauge", "Sync streams that are being sent now.")
ENDED: Final = Family(
    "streams_total",
    "counter",
    "Sync streams that are over, by how they ended.",
    ("how",),
    [*((how,) for how in get_args(How)), (RESET,)],
)
SECONDS: Final = Family(
    "stream_seconds", "histogram", "How long streams took, from their request to their end.", bounds=LONG_S
)
FIRST: Final = Family(
    "stream_first_line_seconds",
    "histogram",
    "How long it took from the request to the first lines that were handed to the connection.",
    bounds=(*LATENCY_S, 30.0),
)
ROWS: Final = Family("stream_rows_total", "counter", "Rows handed to the connections of streams.")
BYTES: Final = Family("stream_bytes_total", "counter", "Bytes handed to the connections, before compression.")
TURNS: Final = Family("streams_waiting", "gauge", "Streams that wait for their turn to begin.")


class StreamFigures(Part):
    """The streams of one worker."""

    def __init__(self) -> None:
        super().__init__(OPEN, ENDED, SECONDS, FIRST, ROWS, BYTES, TURNS)
        self.seconds, self.first_lines = self.times(SECONDS.name), self.times(FIRST.name)
        self._open, self._rows, self._bytes = self.place(OPEN.name), self.place(ROWS.name), self.place(BYTES.name)
        self._waiting = self.place(TURNS.name)

    def waits(self, by: int) -> None:
        """Count one more, or one less, that waits for its turn."""
        self.values[self._waiting] += by

    def opened(self) -> None:
        """Count a stream that is being sent from now on."""
        self.values[self._open] += 1

    def closed(self) -> None:
        """Count one that is not any more."""
        self.values[self._open] -= 1

    def sent(self, rows: int, size: int) -> None:
        """Count rows and bytes that were handed to a connection."""
        values = self.values
        values[self._rows] += rows
        values[self._bytes] += size

    def found_nothing(self, size: int, took_s: float) -> None:
        """Count a stream that was nothing but its last line, all at once."""
        self.first_lines.note(took_s)
        self.sent(0, size)
        self.ended("completed", took_s)

    def ended(self, how: str, took_s: float) -> None:
        """Count the end of a stream."""
        self.add(ENDED.name, how)
        self.seconds.note(took_s)
