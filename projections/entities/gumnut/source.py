"""Gumnut as a source: its events feed gives the order, its entities the rows, asked in the name of each session.

A checkpoint carries the cursor of the feed. A cursor that Gumnut does not know, as after a restore there that went
back in time, cannot be gone on from: `changed` raises PositionLost, and the device is asked to start over
(SyncResetV1). Only so does it also lose what the restored library never had.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, Self

from ledger.commands import Origin, Resend
from ledger.positions import Position
from ledger.store.interface import Store
from projections.accounts.credentials import Credentials
from projections.entities.gumnut import payloads
from projections.entities.gumnut.bulk_reads import is_id
from projections.entities.gumnut.client import Pool, health_of
from projections.entities.gumnut.config import GumnutConfig
from projections.entities.gumnut.feed import Feed, Filter
from projections.entities.gumnut.held_back import PARENTS, HeldBackNotes, Notes, Tails
from projections.entities.gumnut.payloads import Unfit, stamp_of
from projections.entities.gumnut.session_calls import GumnutSessions
from projections.entities.gumnut.stream_client import Speaker
from projections.entities.gumnut.stream_library import View
from projections.entities.gumnut.token import ApiKey
from projections.entities.gumnut.type_reads import Kind, kind_of
from projections.entities.gumnut.type_run import ROOM_US, Run, line_of
from projections.entities.origins import Origins
from projections.entities.payloads.base import Payload
from projections.entities.registry import row
from projections.entities.source import Ahead, HeldBack, Page, PositionLost, SourceHealth, Waiting

PAGE_BYTES: Final = 64 * 1024
MAX_AHEAD_PAGES: Final = 5
AT_ONCE: Final = 4
MOST_LIBRARIES: Final = 1000
MOST_NOTES: Final = 100_000
"""Of how many libraries, and up to how many notes, it is told at once what is held back everywhere."""
DAY_US: Final = 86_400_000_000
_USERS: Final = ("AuthUserV1", "AuthUserV2", "UserV1")


class GumnutSource:
    """Serves libraries at Gumnut; implements `EntitySource`.

    `of_session` gives what one stream reads with, in the name of its session; sessions that hold no JWT are spoken for
    by the API key, if there is one. Unbound, it speaks by the key alone, and without one has no users and no bound.
    """

    kind: Final = "gumnut"
    steady = False
    resends: tuple[Resend, ...] = ()

    def __init__(
        self,
        config: GumnutConfig,
        credentials: Credentials,
        store: Store,
        api_key: str | None = None,
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """Connect to nothing yet. `store` keeps which rows are not sent, for all processes.

        `now_us` only labels positions and tells which rows are young.
        """
        self._url = config.issuer
        self._pool = Pool(config)
        self._sessions = GumnutSessions(config, credentials, self._pool)
        self._key = None if api_key is None else ApiKey(api_key)
        self._now_us = now_us
        self._tails = Tails()
        self._noted = HeldBackNotes(store, now_us)
        self._origins = Origins(store)
        self._bind("", "")

    def _bind(self, user: str, sid: str) -> None:
        self._user = user
        self._speaker = Speaker(self._pool, self._sessions, user, sid, self._key)
        self._views: dict[str, View] = {}

    def of_session(self, user: str, sid: str) -> Self:
        """Return the source as one stream reads it; all its feeds share the bound that `horizon` takes."""
        bound = copy.copy(self)
        bound._bind(user, sid)
        return bound

    async def provision(self, library: str, horizon_us: int) -> int:
        """Return the horizon: users are made elsewhere."""
        return horizon_us

    async def renamed(self, library: str, user: str) -> None:
        """Do nothing: names come from elsewhere."""

    async def horizon(self, library: str) -> int:
        """Take the bound of what is ready; the instant is this machine's, and only labels."""
        self._views.pop(library, None)
        view = await self._view(library)  # with the notes of what is not sent, which must be older than the bound
        await view.feed.bound()
        return self._now_us()

    async def origin(self, library: str, horizon_us: int) -> Origin:
        """Tell that it is Gumnut's; a cursor tells whether it is another Gumnut, or lost events (`PositionLost`)."""
        return await self._origins.of_kind(self.kind)

    async def tombstone_floor(self, library: str) -> int:
        """Tell up to when a device may have missed rows that were mended meanwhile; no event is ever forgotten.

        A stream that began above the floor has all that it needs, whatever is forgotten meanwhile.
        """
        view = self._views.get(library)
        return await self._noted.floor(library) if view is None else view.notes.floor_us

    async def changed(self, library: str, after: Mapping[str, Position | None], before: int) -> frozenset[str]:
        """Tell which entity types may have rows, by one page of each feed; raises PositionLost.

        A cursor that was remembered for others may be lost where the device's own is not: it is asked by its own then.
        """
        try:
            return await self._changed(library, after, before)
        except PositionLost:
            if not self._tails.forget(library):
                raise
        return await self._changed(library, after, before)

    async def _changed(self, library: str, after: Mapping[str, Position | None], before: int) -> frozenset[str]:
        view = await self._view(library)
        found = {name for name in _USERS if name in after and await self._users(library, name, after[name], before)}
        asked: dict[tuple[Filter, str], list[tuple[str, Kind, str]]] = {}
        for name, position in after.items():
            if (kind := kind_of(row(name).stored)) is not None:
                cursor = "" if position is None else position.id
                start = self._tails.end_of(library, view.notes.version, name, cursor)
                asked.setdefault((kind.feed(view.notes), start), []).append((name, kind, cursor))
        starts = list(asked)
        for at in range(0, len(starts), AT_ONCE):
            part = starts[at : at + AT_ONCE]
            pages = await asyncio.gather(*(view.feed.read(of, start) for of, start in part))
            for feed, page in zip(part, pages, strict=True):
                for name, kind, cursor in asked[feed]:
                    if page.more or kind.mattering(view.notes, page.events):
                        found.add(name)
                    elif page.events:
                        self._tails.note(library, view.notes.version, name, cursor, page.events[-1].cursor)
        return frozenset(found)

    async def news(self, library: str, since: datetime) -> str:
        """Tell the cursor of a library's newest event, of transactions that began at an instant or later; '' without.

        It is the same as long as nothing happened, and costs Gumnut one page. Raises what asking raises.
        """
        return (await Feed(self._speaker, library).since(None, since, "")).next

    async def catches_up_in(self, library: str, types: Collection[str], before: int, asked_s: float) -> float:
        """Return 0: the feeds of events have what happened."""
        return 0.0

    async def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        """Yield what comes strictly after a position, `limit` rows and about 64 KiB a page."""
        if entity_type in _USERS:
            users = await self._users(library, entity_type, after, before)
            if users:
                yield Page([line for line, _ in users], users[-1][1], before)
            return
        served = row(entity_type)
        kind = kind_of(served.stored)
        if kind is None:
            return
        run = Run(await self._view(library), library, served, kind, self._tails)
        last = after or Position(0, "")
        async for batch in run.batches(after, before):
            held_back = batch.held_back
            for page in _pages_of(batch.rows, limit, before):
                page.held_back, held_back, last = held_back, 0, page.last
                yield page
            if held_back or batch.cut:
                yield Page([], last, before, held_back, batch.cut)

    async def first_waiting(
        self, library: str, entity_type: str, page: Page, snapshot_us: int, limits: Mapping[str, Position]
    ) -> Waiting | None:
        """Tell that none is: a run ends by itself before a row whose parent is not surely there."""
        return None

    def rechecked(self, library: str, after_us: int) -> AsyncIterator[list[bytes]] | None:
        """Return None: what rows were before is noted nowhere."""
        return None

    async def held_back(self, library: str) -> Sequence[HeldBack]:
        """Tell what streams came across and could not send: unfit rows, and those that wait.

        Where there is somebody to ask for it is read again, and what is not so any more forgotten.
        """
        notes = await self._noted.of(library)
        if self._speaker.is_somebody:
            await self._look_again(await self._view(library), notes)
        return notes.held_back()

    async def _look_again(self, view: View, notes: Notes) -> None:
        """Forget what is gone, and of what nothing hangs on also what is right by now."""
        noted: dict[str, list[str]] = {}
        for name, _ in notes.all():
            entity_type, _, entity_id = name.partition("|")
            if is_id(entity_id) and kind_of(entity_type) is not None:
                noted.setdefault(entity_type, []).append(entity_id)
        for entity_type, ids in noted.items():
            kind = kind_of(entity_type)
            made = {} if kind is None else await kind.read(view, ids)
            for entity_id in ids:
                row = made.get(entity_id)
                fits = row is not None and not isinstance(row.data, Unfit) and not any(ref.unfit for ref in row.refs)
                if row is None or (fits and entity_type not in PARENTS.values()):
                    notes.gone(entity_type, entity_id)
        await notes.keep()

    async def held_back_everywhere(
        self, most_libraries: int = MOST_LIBRARIES, most_notes: int = MOST_NOTES
    ) -> dict[str, Sequence[HeldBack]]:
        """Tell what is held back of every library, as streams of all processes came across it.

        Of more than `most_libraries` any so many are looked at, and no further one once `most_notes` were read.
        """
        found: dict[str, Sequence[HeldBack]] = {}
        count = 0
        for library in await self._noted.libraries(most_libraries):
            if count >= most_notes:
                break
            notes = await self._noted.of(library)
            found[library] = notes.held_back()
            count += notes.count
        return found

    async def ahead(self, library: str, entity_type: str, after: Position | None, before: int) -> Ahead:
        """Count events that may lead to rows: several may name one entity, and only the first thousand are read."""
        if entity_type in _USERS:
            users = await self._users(library, entity_type, after, before)
            return Ahead(len(users), users[-1][1].at_us if users else None)
        kind = kind_of(row(entity_type).stored)
        if kind is None:
            return Ahead(0, None)
        view, count, newest = await self._view(library), 0, 0
        cursor = self._tails.end_of(library, view.notes.version, entity_type, "" if after is None else after.id)
        for _ in range(MAX_AHEAD_PAGES):
            page = await view.feed.read(kind.feed(view.notes), cursor)
            events = kind.mattering(view.notes, page.events)
            count, newest = count + len(events), max([newest, *(event.at_us for event in events)])
            if not page.more:
                break
            cursor = page.next
        return Ahead(count, newest if count else None)

    async def knows(self, library: str) -> None:
        """Tell nothing: Gumnut is asked in the name of a session, which sees what is its user's."""

    async def health(self) -> SourceHealth:
        """Tell whether Gumnut answers."""
        return await health_of(self._pool, self._url)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()

    async def _view(self, library: str) -> View:
        if library not in self._views:
            notes = await self._noted.of(library)
            view = View(self._speaker, library, self._user, notes, self._now_us)
            return self._views.setdefault(library, view)
        return self._views[library]

    async def _users(
        self, library: str, entity_type: str, after: Position | None, before: int
    ) -> list[tuple[bytes, Position]]:
        """Make the rows of users, which have no feed: they stand where they were last changed."""
        if not self._speaker.is_somebody:
            return []
        view = await self._view(library)
        me, my_id = await view.reads.me(), await view.me()
        rows: list[tuple[int, str, Payload]] = []
        served = row(entity_type)
        if served.stored == "AuthUserV1":
            try:
                auth_user = payloads.auth_user_of(me, my_id)
            except Unfit as problem:
                view.notes.unfit(served.stored, my_id, str(problem))
            else:
                as_asked = auth_user if served.from_stored is None else served.from_stored(auth_user)
                assert as_asked is not None
                rows.append((self._past(me.updated_at), my_id, as_asked))
                view.notes.sent(served.stored, my_id)
            await view.notes.keep()
        else:
            owner = await view.owner()
            mine = payloads.user_of(my_id, payloads.name_of(me), me.email or "", me.created_at)
            rows.append((self._past(me.updated_at), my_id, mine))
            if owner.id != my_id:
                theirs = payloads.user_of(owner.id, owner.name, owner.email, owner.since)
                rows.append((self._past(owner.since), owner.id, theirs))
        placed = sorted((Position(min(at, before - ROOM_US), user_id), data) for at, user_id, data in rows)
        return [
            (line_of(entity_type, data, position), position)
            for position, data in placed
            if after is None or position.key > after.key
        ]

    def _past(self, moment: datetime | None) -> int:
        """Tell an instant in µs; 0 for one so far ahead that no clock shows it: its row would come again each time."""
        stamp_us = stamp_of(moment)
        return stamp_us if stamp_us <= self._now_us() + DAY_US else 0


def _pages_of(rows: list[tuple[bytes, Position]], limit: int, before: int) -> list[Page]:
    """Cut rows into pages."""
    pages: list[Page] = []
    lines: list[bytes] = []
    size = 0
    for line, position in rows:
        if lines and (len(lines) >= limit or size + len(line) > PAGE_BYTES):
            lines, size = [], 0
        if not lines:
            pages.append(Page(lines, position, before))
        lines.append(line)
        size += len(line)
        pages[-1].last = position
    return pages
