"""What auditors are given of the log: the newest checkpoint, and the tiles and bundles that prove what is in it."""

from __future__ import annotations

from ledger.transparency.tiles import WIDTH, parse_path
from projections.transparency.place import CHECKPOINT, LogPlace


class PublishedLog:
    """The log as C2SP tlog-tiles has it read. All methods raise ArchiveUnavailable."""

    def __init__(self, place: LogPlace) -> None:
        self._place = place

    async def checkpoint(self) -> bytes | None:
        """Read the newest checkpoint; None before the first."""
        return await self._place.find(CHECKPOINT)

    async def tile(self, path: str) -> bytes | None:
        """Read the tile or bundle of a path like `tile/0/000.p/7`; None where there is none, or it is no such path."""
        tile = parse_path(path)
        return None if tile is None else await self._place.find(tile.path)


def is_full(path: str) -> bool:
    """Tell whether a path is that of a full tile or bundle, which is never removed."""
    tile = parse_path(path)
    return tile is not None and tile.width == WIDTH
