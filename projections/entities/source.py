"""Where the entities of a stream come from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol, Self, runtime_checkable

from msgspec import Struct

from ledger.commands import Origin, Resend
from ledger.errors import Unavailable
from ledger.positions import Position

MOST_BEHIND_S: Final = 2.0
"""A horizon further behind than this is not waited for: who holds it there may do so for long."""


class SourceUnavailable(Unavailable):
    """The source did not answer in time; sessions and acks are not concerned."""

    retry_after_s = 5


class PositionLost(SourceUnavailable):
    """The source does not know a position any more that it gave before: the device must start over (SyncResetV1)."""


class Page(Struct):
    """Some rows of one entity type, in order.

    `lines` are the rows' JSON lines without their closing `"}` and LF: the writer puts that, or the epoch and that,
    between them. `last` is the position of the last row, also of one that was held back. `horizon_us` is the source's
    horizon when the page was read: if it is not above the stream's snapshot, nothing has been written since.
    `held_back` counts the rows that were left out because the device could not store them yet; `unfit` those of them
    that it could not even read, by field. `cut` tells that the run ends here, before a row whose parent may not be
    there; a source that knows that by itself needs no `first_waiting`.
    """

    lines: Sequence[bytes]
    last: Position
    horizon_us: int
    held_back: int = 0
    cut: bool = False
    unfit: dict[str, int] = {}


class Waiting(Struct, frozen=True):
    """Where a run ends: the index in its page and the position of the first row that must wait for its parent."""

    index: int
    position: Position


class HeldBack(Struct, frozen=True):
    """Rows of one entity type that no stream sends for now: how many (at most), why, and one of them.

    `missing_parent`: it refers to a row that was never written, that this library may not see, or that is unfit;
    `parent` is its `table|id`. `unfit`: it does not fit the payload a device can read; `parent` names the field.
    """

    entity_type: str
    rows: int
    reason: Literal["missing_parent", "unfit"]
    example_id: str
    parent: str


class Ahead(NamedTuple):
    """What of one entity type lies beyond a position: how many rows, at most, and the time of the newest; None without.

    It may count rows that an older version of the type leaves out.
    """

    rows: int
    newest_us: int | None


class SourceHealth(NamedTuple):
    """How a source is: its kind, whether it answers, and in words what an operator should know.

    `holder`: who holds its horizon back at all, however shortly, and since when, `holder_s` for how long by its clock;
    `behind_s`: how far the horizon is behind that.
    """

    kind: str
    ok: bool
    text: str
    holder: str = ""
    holder_s: float = 0.0
    behind_s: float = 0.0


class Library(Protocol):
    """What a source knew of a library at one instant."""

    @property
    def marks(self) -> object:
        """What compares equal as long as the library is as it was."""
        ...

    @property
    def horizon_us(self) -> int:
        """The latest instant below which nothing new could appear."""
        ...

    @property
    def floor_us(self) -> int:
        """The `updated_at` of the newest delete marker that was purged; 0 if none was."""
        ...

    def has_after(self, stored: str, after: Position | None) -> bool:
        """Tell whether rows of a stored type may lie after a position and below the horizon."""
        ...


class Outlook(NamedTuple):
    """A library as it was, and the origin of its source then: all that a poll which finds nothing depends on."""

    library: Library
    origin: Origin


@runtime_checkable
class Remembers(Protocol):
    """A steady source that remembers libraries, and can tell in one short question whether one is as it was."""

    resends: tuple[Resend, ...]

    def outlook(self, library: str, user: str) -> Outlook | None:
        """Tell what is remembered of a library; None where a stream of this user needs more than that."""
        ...

    async def is_still(self, library: str, outlook: Outlook) -> bool:
        """Tell whether a library is as it was; raises what a source raises."""
        ...


@runtime_checkable
class TellsQuiet(Protocol):
    """A source whose horizon goes on, and which can tell in one short question whether anything was written at all."""

    resends: tuple[Resend, ...]

    @property
    def moment(self) -> object:
        """Name what was written by the last look at the source: another as soon as anything is."""
        ...

    def quiet(self, library: str, types: Collection[str], from_us: int) -> bool:
        """Tell whether at the last look no row of entity types stood at or above an instant, and none can since."""
        ...

    async def is_quiet_since(self, moment: object) -> bool:
        """Tell whether nothing at all was written since a moment; True only of what was committed until now."""
        ...


class EntitySource(Protocol):
    """Serves entities of a library in the order `(updated_at, id)`; instants are µs since 1970, by its clock.

    A position's id is the entity's, or where a source keeps another order, the place in that. All that reads raises
    SourceUnavailable (or another Unavailable) if the source does not answer.
    """

    steady: bool
    """Whether the horizon stays the same while nothing is written; else a stream keeps its last snapshot then."""

    @property
    def resends(self) -> tuple[Resend, ...]:
        """Tell since which revisions rows are sent otherwise that did not change: who has them gets them again."""
        ...

    def of_session(self, user: str, sid: str) -> Self:
        """Return the source as one session's stream reads it, from the horizon on; itself where that is all the same.

        Gumnut is asked in the name of the session, and what one stream has read is remembered for it.
        """
        ...

    async def provision(self, library: str, horizon_us: int) -> int:
        """Make the rows of the session's own user where the library has none, and tell the horizon then.

        `horizon_us` is the one just read. Does nothing where users are another system's.
        """
        ...

    async def renamed(self, library: str, user: str) -> None:
        """Let devices have a user's row again that takes its names from the identity record, which has changed."""
        ...

    async def horizon(self, library: str) -> int:
        """Tell the latest instant below which nothing new can appear."""
        ...

    async def origin(self, library: str, horizon_us: int) -> Origin:
        """Tell which origin the source had when it gave a horizon, a moment ago.

        Raises SourceUnavailable while it is not known whether devices may go on from what they have.
        """
        ...

    async def changed(self, library: str, after: Mapping[str, Position | None], before: int) -> frozenset[str]:
        """Tell which entity types may have rows after their positions and before an instant, in one question for all.

        Types that are left out have none. Raises PositionLost, so that a device is told before anything is sent.
        """
        ...

    async def catches_up_in(self, library: str, types: Collection[str], before: int, asked_s: float) -> float:
        """Tell in how many seconds what was committed by `asked_s` (of the monotonic clock) is below the horizon.

        0 where all such rows of these types are below `before`, the horizon of a stream that found nothing, or where
        they would not be sent in MOST_BEHIND_S either.
        """
        ...

    def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        """Yield what comes strictly after a position and before an instant, `limit` rows and 64 to 120 KiB a page.

        A page holds at least one line, or says how many rows were held back; never more than 128 KiB, unless its only
        line is longer.
        """
        ...

    async def first_waiting(
        self, library: str, entity_type: str, page: Page, snapshot_us: int, limits: Mapping[str, Position]
    ) -> Waiting | None:
        """Find a page's first row whose parent was not sent for being too new; None if there is none.

        A parent was sent if its row lies below the snapshot and, where its own entity type's run was cut, before the
        position in `limits`. Rows whose parent is not there at all are not in pages.
        """
        ...

    def rechecked(self, library: str, after_us: int) -> AsyncIterator[list[bytes]] | None:
        """Yield the rows that changed their checksum and were written after an instant, or None where nobody noted it.

        As lines of their stored types without their end, those too that are above any snapshot.
        """
        ...

    async def held_back(self, library: str) -> Sequence[HeldBack]:
        """Tell what no stream of a library sends for now; a row is sent once its parent is there or it fits."""
        ...

    async def ahead(self, library: str, entity_type: str, after: Position | None, before: int) -> Ahead:
        """Tell how much comes strictly after a position and before an instant, without reading it."""
        ...

    async def knows(self, library: str) -> bool | None:
        """Tell whether there is anything of a library but what its sessions made; None where that is not known."""
        ...

    async def tombstone_floor(self, library: str) -> int:
        """Tell the `updated_at` of the newest delete marker that was already purged; 0 if none was."""
        ...

    async def health(self) -> SourceHealth:
        """Tell how the source is; raises nothing."""
        ...
