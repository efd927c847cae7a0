"""Where the entities of a stream come from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct, field

from ledger.positions import Position
from projections.entities.registry import row


class Page(Struct):
    """Some rows of one entity type, in order.

    `lines` are the rows' JSON lines without their closing `"}` and LF: the writer puts that, or the epoch and that,
    between them. `last` is the position of the last line. `horizon_us` is the source's horizon when the page was read:
    if it is not above the stream's snapshot, nothing has been written since.
    """

    lines: list[bytes]
    last: Position
    horizon_us: int


class Limits(Struct):
    """How far a stream has sent each entity type: below the snapshot, or below the row where a type's run was cut.

    `cuts` maps the stored entity type to the lowest `updated_at` in µs that was not sent.
    """

    snapshot_us: int
    cuts: dict[str, int] = field(default_factory=dict)

    def cut(self, entity_type: str, at_us: int) -> None:
        """Note that the run of an entity type (of any version) ended before the row at `at_us`."""
        stored = row(entity_type).stored
        self.cuts[stored] = min(at_us, self.below(stored))

    def below(self, stored_type: str) -> int:
        """Tell below which instant rows of a stored entity type were sent."""
        return self.cuts.get(stored_type, self.snapshot_us)


class EntitySource(Protocol):
    """Serves entities of a library in the order `(updated_at, id)`; instants are µs since 1970, by its clock."""

    async def horizon(self, library: str) -> int:
        """Tell the latest instant below which nothing new can appear; it stays the same while nothing is written."""
        ...

    def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        """Yield what comes strictly after a position and before an instant, at most `limit` rows and 64 KiB a page.

        A page holds at least one line; a single line may be larger.
        """
        ...

    async def first_held(self, library: str, entity_type: str, page: Page, limits: Limits) -> int | None:
        """Tell the index of a page's first row whose parent was too new to be sent; None if there is none.

        A parent the source never had holds nothing back.
        """
        ...

    async def tombstone_floor(self, library: str) -> int:
        """Tell the `updated_at` of the newest delete marker that was already purged; 0 if none was."""
        ...
