"""What one sync stream sent and how it ended: counted while it is sent, then logged and kept with its session."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from endpoints.figures.of_streams import StreamFigures
from endpoints.sync.stream_over import StreamOver, log_it
from ledger.entity_types import COMPLETE
from ledger.errors import LedgerError
from ledger.log.service import Ledger
from ledger.session_ids import short_id
from ledger.state import State
from projections.entities.lines import count_in
from projections.sent import record
from projections.sent.marking import note_end
from projections.sent.record import How, SentStream

log = logging.getLogger(__name__)

_ACK: Final = b'"ack":"'
_COMPLETE: Final = f'{{"type":"{COMPLETE}"'.encode()


class StreamAccount:
    """The account of one stream of a session; `guarded` keeps it."""

    def __init__(
        self,
        ledger: Ledger,
        state: State,
        correlation: str,
        asked_s: float,
        figures: StreamFigures | None = None,
        *,
        route: str = "",
        told: Callable[[StreamOver], None] = log_it,
    ) -> None:
        """`asked_s`: when it was asked for, by the monotonic clock. `figures`: where all streams are counted.

        `route`: the template of its path. `told` hears that it is over.
        """
        self._figures = figures or StreamFigures()
        self._route = route
        self._told_over = told
        self._is_open = False
        self.snapshot_us = 0
        self._ledger = ledger
        self._state = state
        self._correlation = correlation
        self._asked_s = asked_s
        self._rows = 0
        self._size = 0
        self._first = b""
        self._last = b""
        self._is_complete = False

    def open(self) -> None:
        """Count the stream as open, until `close`."""
        self._is_open = True
        self._figures.opened()

    def add(self, chunk: bytes) -> None:
        """Count whole lines that were handed to the connection."""
        if not self._size:
            self._figures.first_lines.note(time.monotonic() - self._asked_s)
        rows = count_in(chunk)
        self._size += len(chunk)
        end = len(chunk)
        start = chunk.rfind(b"\n", 0, end - 1) + 1
        if chunk.startswith(_COMPLETE, start):  # no row, and behind everything
            self._is_complete = True
            rows, end = rows - 1, start
            start = chunk.rfind(b"\n", 0, max(end - 1, 0)) + 1
        self._figures.sent(rows, len(chunk))
        if not rows:
            return
        if not self._rows:
            self._first = _ack_of(chunk[: chunk.index(b"\n")])
        self._rows += rows
        self._last = _ack_of(chunk[start:end])

    async def close(self, how: str, why: str = "") -> None:
        """Tell how the stream ended, and keep it with the session where it is worth that; raises nothing."""
        if how == "gone" and self._is_complete:  # its client had no reason to stay
            how = "completed"
        if self._is_open:
            self._is_open = False
            self._figures.closed()
        self.over(how, why)
        if not record.is_worth_noting(how, self._rows):  # PERF: most streams, as nothing was new
            return
        stream = self._told(how, why)  # type: ignore[arg-type]
        try:
            await note_end(self._ledger, self._state.user, self._state.sid, stream)
        except LedgerError as error:
            log.warning("how the stream [%s] ended could not be kept: %s", self._correlation, error)

    def over(self, how: str, why: str = "", *, size: int = 0) -> None:
        """Count and tell that the stream is over, also one of which nothing is kept; raises nothing.

        `size`: what was sent of one that had no row.
        """
        took_s = time.monotonic() - self._asked_s
        self._figures.ended(how, took_s)
        self._told_over(
            StreamOver(
                session=short_id(self._state.sid),
                user=self._state.user,
                route=self._route,
                status=503 if how == "refused" else 200,
                how=how,
                took_s=took_s,
                rows=self._rows,
                size=self._size or size,
                correlation=self._correlation,
                last=self._last.decode(),
                why=why,
            )
        )

    def _told(self, how: How, why: str) -> SentStream:
        return SentStream(
            at_us=self._ledger.clock(),
            took_us=int((time.monotonic() - self._asked_s) * 1_000_000),
            how=how,
            rows=self._rows,
            size=self._size,
            first=self._first.decode(),
            last=self._last.decode(),
            snapshot_us=self.snapshot_us,
            correlation=self._correlation,
            why=why,
        )


def _ack_of(line: bytes) -> bytes:
    """Tell the ack of a line, behind all its data; what looks like one inside of a text has its quotes escaped."""
    start = line.rfind(_ACK) + len(_ACK)
    return line[start : line.index(b'"', start)]
