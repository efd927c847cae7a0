"""Where the entities of a stream come from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, Protocol

from msgspec import Struct

from ledger.positions import Position


class Page(Struct):
    """Some rows of one entity type, in order.

    `lines` are the rows' JSON lines without their closing `"}` and LF: the writer puts that, or the epoch and that,
    between them. `last` is the position of the last line. `horizon_us` is the source's horizon when the page was read:
    if it is not above the stream's snapshot, nothing has been written since.
    """

    lines: list[bytes]
    last: Position
    horizon_us: int


class Held(Struct, frozen=True):
    """Where a run ends: the index in its page and the position of the first row that must wait for its parent."""

    index: int
    position: Position


class Ahead(NamedTuple):
    """What of one entity type lies beyond a position: how many rows, at most, and the time of the newest; None without.

    It may count rows that an older version of the type leaves out.
    """

    rows: int
    newest_us: int | None


class EntitySource(Protocol):
    """Serves entities of a library in the order `(updated_at, id)`; instants are µs since 1970, by its clock."""

    async def horizon(self, library: str) -> int:
        """Tell the latest instant below which nothing new can appear; it stays the same while nothing is written."""
        ...

    def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        """Yield what comes strictly after a position and before an instant, `limit` rows and about 64 KiB a page.

        A page holds at least one line; never more than 128 KiB, unless its only line is longer.
        """
        ...

    async def first_held(
        self, library: str, entity_type: str, page: Page, snapshot_us: int, limits: Mapping[str, Position]
    ) -> Held | None:
        """Find a page's first row whose parent was not sent for being too new; None if there is none.

        A parent was sent if its row lies below the snapshot and, where its own entity type's run was cut, before the
        position in `limits`. A parent the source never had holds nothing back.
        """
        ...

    async def ahead(self, library: str, entity_type: str, after: Position | None, before: int) -> Ahead:
        """Tell how much comes strictly after a position and before an instant, without reading it."""
        ...

    async def tombstone_floor(self, library: str) -> int:
        """Tell the `updated_at` of the newest delete marker that was already purged; 0 if none was."""
        ...
