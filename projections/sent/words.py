"""A session's last streams as people and programs read them; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from ledger.positions import iso_from_us
from projections.sent.record import How, Sent

ENDS: Final[Mapping[How, str]] = {
    "completed": "completed",
    "gone": "device left",
    "stalled": "stalled",
    "broken": "broken off here",
    "ended": "signed out",
    "refused": "refused (503)",
}
"""How a stream ended, as people read it."""


class StreamTold(msgspec.Struct, frozen=True, rename="camel"):
    """A sync stream that is over, or `times` of them since `since` that all failed alike before their first row.

    `how`: `completed`, `gone` (the device left), `stalled` (it took nothing for too long), `broken` (broken off here),
    `ended` (its session ended meanwhile) or `refused` (503). `rows` and `bytes`, before compression, are what was
    handed to the connection: a device that left may have missed the last few hundred KB. `first` and `last` are the
    acks of the first and the last row.
    """

    at: str
    how: How
    why: str | None
    rows: int
    bytes: int
    seconds: float
    first: str | None
    last: str | None
    snapshot: str | None
    correlation_id: str
    times: int
    since: str


def told(sent: Sent) -> StreamTold:
    """Put a record into words."""
    stream = sent.stream
    return StreamTold(
        at=iso_from_us(stream.at_us),
        how=stream.how,
        why=stream.why or None,
        rows=stream.rows,
        bytes=stream.size,
        seconds=round(stream.took_us / 1e6, 3),
        first=stream.first or None,
        last=stream.last or None,
        snapshot=iso_from_us(stream.snapshot_us) if stream.snapshot_us else None,
        correlation_id=stream.correlation,
        times=sent.times,
        since=iso_from_us(sent.since_us),
    )


def row_text(ack: str) -> str:
    """Name the row of an ack by its type and id."""
    entity_type, _, rest = ack.partition("|")
    return f"{entity_type} {rest.partition('|')[2].partition('|')[0]}".rstrip()
