"""A device's history as counts over time."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ledger.errors import CorruptLedger, NoSuchSession
from ledger.events import AckRefused, AcksRecorded, CheckpointsCleared, ResetSent, StreamOffered
from ledger.log.reader import Entry
from ledger.positions import MAX_US, iso_from_us
from projections.archive.errors import ArchiveNotGiven
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
    are counted for one plot, and the oldest are missing. `broken` tells why events are missing that should be there.
    """

    session_id: str
    since: str = msgspec.field(name="from")
    until: str = msgspec.field(name="to")
    bucket_s: float
    first_at: str | None
    last_at: str
    events: int
    below_floor: bool
    cut: bool
    broken: str | None
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
    NoSuchSession, ArchiveUnavailable, and CorruptLedger where not even the last event can be read.
    """
    last_us = await _last_us(past, partition, sid)
    first_us, seen = await _first_us(past, partition, sid), _Seen()
    cut = below_floor = False
    broken: str | None = None
    try:
        async for run in past.runs(
            partition, sid, since_us=since_us or 0, until_us=MAX_US if until_us is None else until_us
        ):
            seen.take(run.entries)
            below_floor = below_floor or run.below_floor
            if len(seen.at_us) >= MOST_EVENTS and run.next_seq is not None:
                cut = True
                break
    except CorruptLedger as error:  # what is newer is told all the same
        broken = str(error)
    if since_us is None:
        since_us = seen.at_us[-1] if seen.at_us else last_us
    until_us = max(last_us, since_us) if until_us is None else max(until_us, since_us)
    length_us = -(-(until_us - since_us + 1) // buckets)
    counted: dict[int, Bucket] = {}

    def bucket(at_us: int) -> Bucket:
        index = (at_us - since_us) // length_us
        if (found := counted.get(index)) is None:
            found = counted[index] = Bucket(index, iso_from_us(since_us + index * length_us))
        return found

    seen.count(bucket)
    for one in sent:
        if since_us <= one.stream.at_us <= until_us:
            streams = bucket(one.stream.at_us).streams
            streams[one.stream.how] = streams.get(one.stream.how, 0) + one.times
    return Plot(
        session_id=sid,
        since=iso_from_us(since_us),
        until=iso_from_us(until_us),
        bucket_s=length_us / 1e6,
        first_at=None if first_us is None else iso_from_us(first_us),
        last_at=iso_from_us(last_us),
        events=len(seen.at_us),
        below_floor=below_floor,
        cut=cut,
        broken=broken,
        buckets=[counted[index] for index in sorted(counted)],
    )


async def _last_us(past: EventPages, partition: int, sid: str) -> int:
    entries = (await past.page(partition, sid, count=1)).entries
    if not entries:
        raise NoSuchSession(f"No session {sid}")
    return entries[0].recorded.at_us


async def _first_us(past: EventPages, partition: int, sid: str) -> int | None:
    """Tell when a session's first event was; None where that is not here any more."""
    try:
        entries = (await past.page(partition, sid, top_seq=1, count=1)).entries
    except (ArchiveNotGiven, CorruptLedger):
        return None
    return entries[0].recorded.at_us if entries else None


class _Seen:
    """What was seen of events: when, and how much of what; a hundred thousand of them take a few MB."""

    def __init__(self) -> None:
        self.at_us = array("q")
        self._kinds = bytearray()
        self._acked: dict[int, tuple[int, int]] = {}

    def take(self, entries: Sequence[Entry]) -> None:
        """Take more events."""
        at_us, kinds = self.at_us, self._kinds
        for entry in entries:
            event = entry.recorded.event
            kind = _KINDS.get(type(event), _OTHER)
            if kind == _ACKS:
                assert isinstance(event, AcksRecorded)
                self._acked[len(kinds)] = len(event.moved), event.stale_count or len(event.stale)
            at_us.append(entry.recorded.at_us)
            kinds.append(kind)

    def count(self, bucket: Callable[[int], Bucket]) -> None:
        """Count all in their buckets."""
        for place, (at_us, kind) in enumerate(zip(self.at_us, self._kinds, strict=True)):
            found = bucket(at_us)
            match kind:
                case 0:
                    moved, stale = self._acked[place]
                    found.acks += moved > 0
                    found.acked += moved
                    found.stale += stale
                case 1:
                    found.offers += 1
                case 2:
                    found.refused += 1
                case 3:
                    found.resets += 1
                case _:
                    found.others += 1


_ACKS: Final = 0
_OTHER: Final = 4
_KINDS: Final[dict[type, int]] = {
    AcksRecorded: _ACKS,
    StreamOffered: 1,
    AckRefused: 2,
    ResetSent: 3,
    CheckpointsCleared: 3,
}
