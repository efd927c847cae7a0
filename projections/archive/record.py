"""What a partition's `archive` hash says: how far it is archived, in which segments, and who is archiving it."""

from __future__ import annotations

from typing import NamedTuple

from ledger import keys
from ledger.errors import CorruptLedger
from ledger.log.append import pairs
from ledger.log.state_fields import Fields
from ledger.store.interface import Store


class Record(NamedTuple):
    """How far a partition is archived.

    `floor`: stream id of the last archived event, '' if nothing is archived. `segment` and `digest`: the newest
    segment. `segments`: how many there are. `cut`: stream id of the last event that retention removed, '' if none was.
    """

    floor: str = ""
    segment: str = ""
    digest: str = ""
    segments: int = 0
    cut: str = ""


async def read_record(store: Store, partition: int) -> Record:
    """Read how far a partition is archived; raises CorruptLedger."""
    name = keys.archive(partition)
    return parse_record(pairs(await store.command("HGETALL", name, key=name)))


def parse_record(fields: Fields) -> Record:
    """Read the fields of an `archive` hash; raises CorruptLedger."""
    try:
        floor, segment, digest, cut = (
            fields.get(name, b"").decode() for name in (b"floor", b"segment", b"digest", b"cut")
        )
        return Record(floor, segment, digest, int(fields.get(b"segments", 0)), cut)
    except ValueError as error:
        raise CorruptLedger(f"how far a partition is archived cannot be read: {error!r}") from error
