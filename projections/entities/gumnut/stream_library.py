"""What one stream knows of a library: whose it is, and which rows its device surely has.

A row may refer to one whose own event is not ready yet: the feeds share a bound, but a transaction that began to write
first comes first in them, also if what it refers to was written by another one. So a parent counts as there only if

- its row was sent in this stream, or
- an event of it lies below the bound, and none after that tells that it went: this stream's run, or one before, read
  it then, or
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
from projections.entities.gumnut.feed import Event, Events, Feed, Filter
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
"""How long the transaction that wrote a parent may have taken, tried in turn: its events tell only when it began."""


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


class _Looked:
    """What the events of a table tell, of transactions that began at an instant or later, as far as they were read.

    `later` is what was told by those of transactions that began later, which were read before.
    """

    def __init__(self, began: datetime, later: dict[str, bool]) -> None:
        self.began = began
        self.cursor = ""
        self.ended = False
        self._later = later
        self._there: dict[str, bool] = {}

    def read(self, page: Events) -> None:
        """Take in the page behind the cursor."""
        for event in page.events:
            self._there[event.id] = not event.tells_of_gone
        self.cursor, self.ended = page.next, not page.more

    def has(self, row_id: str) -> bool | None:
        """Tell whether a row was there after the last of its events; None without any."""
        return self._later.get(row_id, self._there.get(row_id))

    def from_earlier(self, began: datetime) -> _Looked:
        """Begin again, further back."""
        return _Looked(began, self._there | self._later)

    @property
    def count(self) -> int:
        """How many ids are remembered at most."""
        return len(self._there) + len(self._later)


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
        self._looked: dict[tuple[str, timedelta], _Looked] = {}
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
        if ref.table in self._cut or ref.id in self._omitted_in(ref.table):
            return False
        return ref.stamp_us < self._young_us or self._was_there(ref)

    def _was_there(self, ref: Ref) -> bool:
        """Tell what the last event of a row says, as far as events were read.

        Far back many lie behind those that were read, one of which may tell that it went: there only the whole counts.
        """
        for took in TOOK:
            looked = self._looked.get((ref.table, took))
            if looked is not None and (looked.ended or took == TOOK[0]) and (there := looked.has(ref.id)) is not None:
                return there
        return False

    async def _scan(self, table: str, wanted: Sequence[Ref]) -> None:
        """Read events from when the oldest of some rows was made, up to the bound: the last of a row's counts.

        The event of one that was written in a transaction which took long lies further back.
        """
        told, pages = PARENTS[table], MAX_SCAN
        left = [ref for ref in wanted if not self.notes.is_unfit(told, ref.id)]
        left = [ref for ref in left if ref.id not in self._omitted_in(table)]
        for took in TOOK:
            if not left:
                return
            first_us = min(max(ref.made_us, self._young_us) for ref in left)
            pages = await self._look(table, took, datetime.fromtimestamp(first_us / 1_000_000, UTC) - took, pages)
            left = [ref for ref in left if not self._is_there(ref)]

    async def _look(self, table: str, took: timedelta, began: datetime, pages: int) -> int:
        """Read events of transactions that began at an instant or later; returns how many pages are left.

        It goes on where it ended the time before, unless that did not begin as early.
        """
        looked = self._looked.get((table, took))
        if looked is None:
            looked = _Looked(began, {})
        elif began < looked.began:
            looked = looked.from_earlier(began)
        self._looked[table, took] = looked
        while pages and not looked.ended and looked.count < KNOWN_IDS:
            looked.read(await self.feed.since(EVENTS_OF[table], looked.began, looked.cursor))
            pages -= 1
        return pages

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
