"""What one stream knows of a library: whose it is, and which rows its device surely has.

A row may refer to one whose own event is not ready yet: the feeds share a bound, but a transaction that began to write
first comes first in them, also if what it refers to was written by another one. So a parent counts as there only if

- its row was sent in this stream, or
- an event of it lies below the bound: this stream's run, or one before, read it then, or
- it has not been changed for an hour: then its event was ready long ago, unless a transaction took longer than that.

A child of any other parent waits: its run ends before it, and the next stream begins with it again. Of a parent that
did not fit when somebody read it last only the first counts: its other events led to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from projections.entities.gumnut.bulk_reads import Reads, is_id
from projections.entities.gumnut.client import GumnutUnavailable
from projections.entities.gumnut.feed import Event, Feed, Filter
from projections.entities.gumnut.held_back import PARENTS, Notes
from projections.entities.gumnut.payloads import name_of, stamp_of
from projections.entities.gumnut.stream_client import Speaker

YOUNG_US: Final = 3_600_000_000
KNOWN_IDS: Final = 100_000
"""How many ids a stream remembers of each table: of rows changed within the last hour."""
MAX_SCAN: Final = 100
"""Pages of events that are looked through at a time for events of parents; one not found waits until it is old."""
EVENTS_OF: Final[dict[str, Filter]] = {"asset": ("asset", "metadata"), "album": ("album",), "person": ("person",)}
"""The entities whose events tell of changes in a table."""
_AHEAD_US: Final = 86_400_000_000
"""A time that lies further ahead than clocks differ tells nothing."""
TOOK: Final = (timedelta(minutes=5), timedelta(hours=1), timedelta(days=1))
"""How long the transaction that made a parent may have taken, tried in turn: its events tell only when it began."""


class Ref(NamedTuple):
    """A parent: the table of the device it is in, its id, when it was made and when it last changed; 0 if unknown.

    `unfit` is its field that no device could read, if there is one.
    """

    table: str
    id: str
    made_us: int
    stamp_us: int
    unfit: str = ""

    @property
    def told(self) -> str:
        """Name it."""
        return f"{self.table}|{self.id}"


class Owner(NamedTuple):
    """Whose a library is: the id, and as far as they are known, name, e-mail address and since when."""

    id: str
    name: str
    email: str
    since: datetime | None


class View:
    """One library in one stream."""

    def __init__(
        self, speaker: Speaker, library: str, user: str, notes: Notes, now_us: Callable[[], int]
    ) -> None:  # fmt: skip
        self.feed = Feed(speaker, library)
        self.reads = Reads(speaker, library)
        self.notes = notes
        self._user = user
        self._now_us = now_us()
        self._young_us = self._now_us - YOUNG_US
        self._known: dict[str, set[str]] = {}
        self._omitted: dict[str, set[str]] = {}
        self._cut: set[str] = set()
        self._looked: dict[str, datetime] = {}
        self._coverless: list[str] | None = None

    async def me(self) -> str:
        """Name the user of the session, as all its rows name them: as the ledger does."""
        return self._user or (await self.reads.me()).id

    async def owner(self) -> Owner:
        """Tell whose the library is; for the app it is its own user's only if the ids are the same.

        Raises GumnutUnavailable where that is not told: everything hangs on it, and nobody would say when it is mended.
        """
        me, about = await self.reads.me(), await self.reads.about()
        if not is_id(about.user_id):
            raise GumnutUnavailable("Gumnut does not tell whose the library is")
        if about.user_id == me.id:
            return Owner(await self.me(), name_of(me), me.email or "", me.updated_at)
        return Owner(about.user_id, getattr(about.owner, "display_name", None) or "", "", about.updated_at)

    async def coverless_stacks(self) -> list[str]:
        """Name the stacks for which nobody chose a cover; read once."""
        if self._coverless is None:
            self._coverless = [stack.id for stack in await self.reads.all_stacks() if not stack.primary_asset_id]
        return self._coverless

    def sent(self, table: str, row_id: str, stamp_us: int) -> None:
        """Note that a row goes to the device."""
        noted = self.notes.began_with(PARENTS.get(table, ""), row_id)
        old = 0 < stamp_us < self._young_us
        if noted or not old or row_id in self._omitted_in(table) or table in self._cut:
            self._know(table, row_id)
        self._omitted.get(table, set()).discard(row_id)

    def omitted(self, table: str, ids: Iterable[str]) -> None:
        """Note rows that were not there when their own run read them: if they are by now, they come next time."""
        omitted = self._omitted.setdefault(table, set())
        omitted.update(ids)
        if len(omitted) > KNOWN_IDS:
            self.cut(table)

    def cut(self, table: str) -> None:
        """Note that a run ended early: of its table only what was sent is surely there."""
        self._cut.add(table)

    def dated(self, ref: Ref, child: Event) -> Ref:
        """Return a parent with when it changed, or if it does not sensibly say so, when its child came to refer to it.

        It was there before that, so its own event is as old at least.
        """
        latest_us = self._now_us + _AHEAD_US
        stamp_us = ref.stamp_us if 0 < ref.stamp_us <= latest_us else child.at_us
        return ref._replace(
            made_us=ref.made_us if ref.made_us <= latest_us else 0, stamp_us=stamp_us if stamp_us <= latest_us else 0
        )

    async def unproven(self, refs: Iterable[Ref]) -> set[Ref]:
        """Tell which parents are not surely on the device."""
        doubtful = {ref for ref in refs if not self._is_there(ref)}
        for table in {ref.table for ref in doubtful} - self._cut:
            await self._scan(table, [ref for ref in doubtful if ref.table == table])
        return {ref for ref in doubtful if not self._is_there(ref)}

    def _omitted_in(self, table: str) -> set[str]:
        return self._omitted.get(table, set())

    def _is_there(self, ref: Ref) -> bool:
        if ref.id in self._known.get(ref.table, ()):
            return True
        if self.notes.is_unfit(PARENTS[ref.table], ref.id):
            return False
        return (
            ref.table not in self._cut and ref.stamp_us < self._young_us and ref.id not in self._omitted_in(ref.table)
        )

    async def _scan(self, table: str, wanted: Sequence[Ref]) -> None:
        """Note rows that have events below the bound, from when the oldest of some was made, until all are found.

        The event of one that was made in a transaction which took long lies further back. For one that is old and only
        changed lately, nobody looks there: it may have left since.
        """
        told, omitted, pages = PARENTS[table], self._omitted_in(table), MAX_SCAN
        left = {ref.id: ref.made_us for ref in wanted if not self.notes.is_unfit(told, ref.id)}
        for took in TOOK:
            known = self._known.get(table, ())
            left = {row_id: at_us for row_id, at_us in left.items() if row_id not in known and row_id not in omitted}
            if took != TOOK[0]:
                left = {row_id: at_us for row_id, at_us in left.items() if at_us >= self._young_us}
            if not left:
                return
            first_us = min(max(at_us, self._young_us) for at_us in left.values())
            pages = await self._look(table, datetime.fromtimestamp(first_us / 1_000_000, UTC) - took, set(left), pages)

    async def _look(self, table: str, began: datetime, wanted: set[str], pages: int) -> int:
        """Note rows with events of transactions that began at an instant or later; returns how many pages are left.

        What was read to its end is not read again: there is nothing else below the bound.
        """
        if table in self._looked and began >= self._looked[table]:
            return pages
        told, omitted = PARENTS[table], self._omitted_in(table)
        cursor = ""
        for spent in range(1, pages + 1):
            page = await self.feed.since(EVENTS_OF[table], began, cursor)
            ids = {event.id for event in page.events if event.id not in omitted}
            ids = {row_id for row_id in ids if not self.notes.is_unfit(told, row_id)}
            for row_id in ids:
                self._know(table, row_id)
            wanted -= ids
            if not page.more:
                self._looked[table] = began
            if not (wanted and page.more):
                return pages - spent
            cursor = page.next
        return 0

    def _know(self, table: str, row_id: str) -> None:
        known = self._known.setdefault(table, set())
        if len(known) < KNOWN_IDS:
            known.add(row_id)


def made_us(found: object) -> int:
    """Tell when an entity was made, in µs since 1970."""
    return stamp_of(getattr(found, "created_at", None))


def changed_us(found: object) -> int:
    """Tell when an entity last changed, in µs since 1970."""
    return stamp_of(getattr(found, "created_at", None), getattr(found, "updated_at", None))
