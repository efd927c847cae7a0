"""What archiving is configured with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from projections.archive.format import place

SEGMENT_EVENTS = 200_000


class ArchiveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a run seals and removes.

    `hot_s`: events younger than this stay in the stream. `hot_events`: no more than so many of a partition do, however
    young; None for any number. `retention_s`: segments that are older are removed; None: none is. `spool`: the folder
    where a segment is built, the system's for temporary files if None. `logged`: the stream id up to which each
    partition is in the transparency log, behind which nothing is sealed or removed; None where there is no log.
    """

    hot_s: float = 30 * 86400.0
    hot_events: int | None = None
    retention_s: float | None = None
    segment_events: int = SEGMENT_EVENTS
    spool: Path | None = None
    logged: Mapping[int, str] | None = None
    lease_s: float = 60.0

    def may_go(self, partition: int, stream_id: str) -> bool:
        """Tell whether what happened up to a stream id may leave the store: not before it is in the log."""
        if self.logged is None:
            return True
        cursor = self.logged.get(partition, "")
        return bool(cursor) and place(stream_id) <= place(cursor)
