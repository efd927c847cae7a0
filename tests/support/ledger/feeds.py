"""What feeds tell, for tests of how it reads."""

from __future__ import annotations

from typing import Final, get_args

from ledger.events import SCHEMA, Event, Recorded, encode_event
from ledger.log.reader import Entry
from projections.feed.told import Notice, NoticeKind, Seen
from tests.support.ledger.given import NOW, SID

STREAM_ID: Final = "1790000000000-1"
PARTITION: Final = 3


def seen(event: Event, raw: bytes | None = None, schema: int = SCHEMA, user: str | None = "ann") -> Seen:
    """An event as a feed tells it."""
    recorded = Recorded(SID, 7, NOW, schema, event, encode_event(event) if raw is None else raw, bytes(range(32)))
    return Seen(PARTITION, Entry(STREAM_ID, recorded, ""), user, {})


def notices() -> list[Notice]:
    """A notice of each kind."""
    of_partitions = [kind for kind in get_args(NoticeKind) if kind != "position"]
    found = [Notice(kind, PARTITION, STREAM_ID, f"what is {kind}", NOW) for kind in of_partitions]
    return [*found, Notice("position", None, "", "no event carries the position", NOW)]
