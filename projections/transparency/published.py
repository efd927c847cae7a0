"""What auditors are given of the log: the newest checkpoint, and the tiles and bundles that prove what is in it."""

from __future__ import annotations

from typing import Final

from ledger.transparency.session_proof import SessionProof
from ledger.transparency.tiles import parse_path
from projections.history.event_pages import EventPages
from projections.transparency.place import CHECKPOINT, LogPlace
from projections.transparency.proving import prove
from projections.transparency.tree import find_tile

MOST_EVENTS: Final = 50_000
"""How many events are proved in one request: about 15 MB."""


class PublishedLog:
    """The log as C2SP tlog-tiles has it read. All methods raise ArchiveUnavailable."""

    def __init__(self, place: LogPlace, note: str = "") -> None:
        """`note`: what is to be said of the place with every proof."""
        self._place = place
        self._note = note

    async def prove(self, past: EventPages, partition: int | None, sid: str) -> SessionProof | None:
        """Make the proof of a session as `proving.prove` does."""
        return await prove(self._place, past, partition, sid, note=self._note, most=MOST_EVENTS)

    async def checkpoint(self) -> bytes | None:
        """Read the newest checkpoint; None before the first."""
        return await self._place.find(CHECKPOINT)

    async def tile(self, path: str) -> bytes | None:
        """Read the tile or bundle of a path like `tile/0/000.p/7`; None where there is none, or it is no such path."""
        tile = parse_path(path)
        return None if tile is None else await find_tile(self._place, tile)
