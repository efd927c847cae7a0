"""A device's history as counts over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ledger.errors import NoSuchSession
from ledger.events import AckRefused, AcksRecorded, CheckpointsCleared, Event, ResetSent, StreamOffered
from ledger.positions import iso_from_us
from projections.history.event_pages import EventPages
from projections.sent.record import How, Sent

MOST_BUCKETS: Final = 400
MOST_EVENTS: Final = 200_000
"""How many events are counted for one plot, the newest ones."""


class Bucket(msgspec.Struct, rename="camel", omit_defaults=True):
    """What happened in one bucket, the `index`th from 0; what is left out is 0.

    `offers`: streams that offered something new. `acks`: requests that moved checkpoints; `acked`: the positions that
    they moved. `stale`: positions that came late. `refused`: refused acks. `resets`: a reset was sent, or checkpoints
    were cleared. `others`: all other events. `streams` counts how streams ended that are over; only the last 20 of a
    device are known.
    """

    index: int
    at: str
    offers: int = 0
    acks: int = 0
    acked: int = 0
    stale: int = 0
    refused: int = 0
    resets: int = 0
    others: int = 0
    streams: dict[How, int] = {}


class Plot(msgspec.Struct, frozen=True, rename="camel"):
    """A device's events over time. `buckets` are those in which anything happened, in their order.

    `from` to `to` is what they cover, `bucketS` how long each one is, in seconds; bucket times are when they begin.
    `firstAt` and `lastAt` are those of the device's first and last event. `events` counts all that lie in between;
    `belowFloor`: older ones were removed, or are in an archive that is not read. `cut`: there were more events than
    are counted for one plot, and the oldest are missing.
    """

    session_id: str
    since: str = msgspec.field(name="from")
    until: str = msgspec.field(name="to")
    bucket_s: float
    first_at: str
    last_at: str
    events: int
    below_floor: bool
    cut: bool
    buckets: list[Bucket]


async def plot(
    past: EventPages,
    partition: int,
    sid: str,
    sent: Sequence[Sent],
    since_us: int | None,
    until_us: int | None,
    buckets: int = 100,
) -> Plot:
    """Count a session's events from one instant to another, both included, in so many buckets of one length.

    Without an instant it is that of the first event, or the last one. `sent` are the session's last streams. Raises
    NoSuchSession, CorruptLedger, ArchiveUnavailable.
    """
    first_us, last_us, below_floor = await _ends(past, partition, sid)
    since_us = first_us if since_us is None else since_us
    until_us = max(last_us, since_us) if until_us is None else until_us
    length_us = max(-(-(until_us - since_us + 1) // buckets), 1)
    counted: dict[int, Bucket] = {}

    def bucket(at_us: int) -> Bucket:
        index = (at_us - since_us) // length_us
        if (found := counted.get(index)) is None:
            found = counted[index] = Bucket(index, iso_from_us(since_us + index * length_us))
        return found

    events, cut = 0, False
    async for run in past.runs(partition, sid, since_us=since_us, until_us=until_us):
        for entry in run.entries:
            _count(bucket(entry.recorded.at_us), entry.recorded.event)
        events += len(run.entries)
        below_floor = below_floor or run.below_floor
        if events >= MOST_EVENTS and run.next_seq is not None:
            cut = True
            break
    for one in sent:
        if since_us <= one.stream.at_us <= until_us:
            streams = bucket(one.stream.at_us).streams
            streams[one.stream.how] = streams.get(one.stream.how, 0) + one.times
    return Plot(
        session_id=sid,
        since=iso_from_us(since_us),
        until=iso_from_us(until_us),
        bucket_s=length_us / 1e6,
        first_at=iso_from_us(first_us),
        last_at=iso_from_us(last_us),
        events=events,
        below_floor=below_floor,
        cut=cut,
        buckets=[counted[index] for index in sorted(counted)],
    )


async def _ends(past: EventPages, partition: int, sid: str) -> tuple[int, int, bool]:
    """Tell when a session's first and last event were, and whether its first one is not here any more."""
    last = (await past.page(partition, sid, count=1)).entries
    first = await past.page(partition, sid, top_seq=1, count=1)
    if not last:
        raise NoSuchSession(f"No session {sid}")
    if first.entries:
        return first.entries[0].recorded.at_us, last[0].recorded.at_us, False
    return last[0].recorded.at_us, last[0].recorded.at_us, first.below_floor


def _count(bucket: Bucket, event: Event) -> None:
    match event:
        case StreamOffered():
            bucket.offers += 1
        case AcksRecorded():
            bucket.acks += bool(event.moved)
            bucket.acked += len(event.moved)
            bucket.stale += event.stale_count or len(event.stale)
        case AckRefused():
            bucket.refused += 1
        case ResetSent() | CheckpointsCleared():
            bucket.resets += 1
        case _:
            bucket.others += 1
