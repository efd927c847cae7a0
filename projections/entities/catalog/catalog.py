"""The embedded catalog: entities of libraries in the ledger's own Redis, as a source and as a store to fill.

How it lies there is told in `layout.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from copy import copy
from typing import Final, Self

from ledger import keys
from ledger.commands import Origin, Resend
from ledger.errors import Unavailable
from ledger.log.replicas import Replicas
from ledger.positions import Position
from ledger.store.interface import Store
from ledger.store.scripts import Arg, Script
from projections.accounts.person import Profile
from projections.entities.catalog.layout import CHECKSUMS, EXCLUDING, WAITS_US, keys_of
from projections.entities.catalog.library_summary import MARKS, LibrarySummary
from projections.entities.catalog.own_user import OWN_TYPES, Profiles, is_nameless, made_anew, own_rows
from projections.entities.catalog.paging import read_rows
from projections.entities.catalog.parents import Parents, is_checked
from projections.entities.catalog.versions import Versions, exported
from projections.entities.catalog.writer import Writer, Written
from projections.entities.entity import Entity
from projections.entities.forms import DELETE, forms_of, sharing_id_with
from projections.entities.lines import data_of, export_line, position_of
from projections.entities.origins import Origins
from projections.entities.registry import STORED_TYPES, EntityTypeRow, row
from projections.entities.source import Ahead, HeldBack, Outlook, Page, SourceHealth, Waiting

PURGE_ROWS: Final = 100
"""How many markers one script forgets, at most: of 500 it took several milliseconds, for which everybody else waits."""
KNOWN_LIBRARIES: Final = 4096
"""How many libraries' outlooks are kept, to answer streams that find nothing new."""

CHECKSUM_ROWS: Final = 64
"""How many rows whose checksum changed one script reads: 256 KiB would be unusually much."""

PARENTS: Final = Script.load("projections.entities.catalog", "parents.lua")
RECHECKED: Final = Script.load("projections.entities.catalog", "checksums.lua")
PURGE: Final = Script.load("projections.entities.catalog", "purge.lua", allow_oom=True)
_OLDEST: Final = Script.load("projections.entities.catalog", "oldest.lua", allow_oom=True)


def _origin_of(summary: LibrarySummary, origin: Origin) -> Origin:
    return origin._replace(number=summary.born_us or origin.number)


async def _nobody(user: str) -> Profile | None:
    """Know nobody."""
    return None


class Catalog:
    """Serves and stores entities; implements `EntitySource`. All its state is in the store."""

    steady = True
    resends: tuple[Resend, ...] = ()

    def __init__(
        self,
        store: Store,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        profiles: Profiles = _nobody,
        origins: Origins | None = None,
        replicas: Replicas | None = None,
        looks: Store | None = None,
    ) -> None:
        """`now_us` dates what is made up here, like delete markers of cascades; every `updated_at` is the server's.

        `profiles` tells who users are, of whom only their sessions tell. `origins` keep whether the catalog always was
        the source. With `replicas` what is put is answered when they have it. `looks`: a way to the same store on
        which nothing waits behind pages.
        """
        self._replicas = replicas
        self._store = store
        self._looks = looks or store
        self._now_us = now_us
        self._origins = origins
        self._writer = Writer(store, now_us)
        self._versions = Versions(store, profiles, self._writer)
        self._known: set[str] = set()
        self._summaries: dict[str, LibrarySummary] = {}
        self._provisioned: dict[tuple[str, str], int] = {}
        self._user = ""

    # Reading

    def of_session(self, user: str, sid: str) -> Self:
        """Return this, for the user: a library is the same for all its sessions, once it has their users."""
        of_user = copy(self)
        of_user._user = user
        return of_user

    async def provision(self, library: str, horizon_us: int) -> int:
        """Make the rows of the session's own user where the library has none, and tell the horizon then.

        Rows that somebody wrote stay as they are, and so does a delete marker until it is purged. Asks the store
        nothing while the library stays as it was.
        """
        key = library, self._user
        if not self._user or self._provisioned.get(key) == horizon_us:
            return horizon_us
        held = [keys.catalog_ids(library, row(name).form.name) for name in OWN_TYPES]  # type: ignore[union-attr]
        found = await asyncio.gather(*(self._store.command("HEXISTS", ids, self._user, key=ids) for ids in held))
        if not all(found):
            await self._note(library)
            await self._writer.put_new(library, own_rows(self._user, self._now_us()))
            horizon_us = await self.horizon(library)
        if len(self._provisioned) >= KNOWN_LIBRARIES:
            self._provisioned.clear()
        self._provisioned[key] = horizon_us
        return horizon_us

    async def renamed(self, library: str, user: str) -> None:
        """Let devices have a user's rows again that take their names from the identity record, which has changed."""
        for entity_type in OWN_TYPES:
            for line in await self._versions.stored(library, row(entity_type), user):
                if is_nameless(line):
                    entity = made_anew(entity_type, line, self._now_us())
                    await self._writer.put_over(library, entity, position_of(line))

    async def horizon(self, library: str) -> int:
        """Tell the latest instant below which nothing new can appear: one past the last stamp."""
        meta = keys.catalog_meta(library)
        summary = LibrarySummary.of(await self._store.command("HGETALL", meta, key=meta))
        if len(self._summaries) >= KNOWN_LIBRARIES:
            self._summaries.clear()
        self._summaries[library] = summary
        return summary.horizon_us

    def outlook(self, library: str, user: str) -> Outlook | None:
        """Tell what is remembered of a library that has the rows of its user; None where that is not all there is."""
        summary = self._summaries.get(library)
        if summary is None or (user and self._provisioned.get((library, user)) != summary.horizon_us):
            return None
        origin = Origin(first=True) if self._origins is None else self._origins.remembered()
        return None if origin is None else Outlook(summary, _origin_of(summary, origin))

    async def is_still(self, library: str, outlook: Outlook) -> bool:
        """Tell whether a library is as it was; one question of a few bytes."""
        meta = keys.catalog_meta(library)
        return tuple(await self._looks.command("HMGET", meta, *MARKS, key=meta)) == outlook.library.marks

    async def origin(self, library: str, horizon_us: int) -> Origin:
        """Tell a library's origin: when its first rows were written, or for an older one, that it is the catalog's."""
        if library not in self._summaries:
            await self.horizon(library)
        origin = Origin(first=True) if self._origins is None else await self._origins.of_kind("catalog")
        return _origin_of(self._summaries[library], origin)

    async def tombstone_floor(self, library: str) -> int:
        """Tell the stamp of the newest delete marker that was already purged; 0 if none was."""
        meta = keys.catalog_meta(library)
        return int(await self._store.command("HGET", meta, "floor", key=meta) or 0)

    async def changed(self, library: str, after: Mapping[str, Position | None], before: int) -> frozenset[str]:
        """Tell which entity types may have rows after their positions and below `before`; asks the store nothing."""
        summary = self._summaries.get(library)
        if summary is None or summary.horizon_us != before:
            return frozenset(after)
        return frozenset(name for name, position in after.items() if summary.has_after(row(name).stored, position))

    async def catches_up_in(self, library: str, types: Collection[str], before: int, asked_s: float) -> float:
        """Return 0: the horizon is one past the last stamp."""
        return 0.0

    async def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        """Yield what comes strictly after a position and below `before`, `limit` rows and about 64 KiB a page."""
        async for page in self._pages(library, row(entity_type), after, before, limit):
            yield page

    async def _pages(
        self,
        library: str,
        served: EntityTypeRow,
        after: Position | None,
        before: int,
        limit: int,
        *,
        all_stored: bool = False,
    ) -> AsyncIterator[Page]:
        """Yield pages as `pages` does; `all_stored`: also rows that no device of this version gets."""
        summary = self._summaries.get(library)
        longest = None
        if summary is not None and summary.horizon_us == before:
            if not summary.has_after(served.stored, after):
                return
            longest = summary.longest[served.stored]
        async for rows in read_rows(self._store, library, served.stored, after, before, limit, longest):
            lines = await self._versions.named(served, rows.lines)
            if not all_stored:
                lines = await self._versions.converted(library, served, lines, self._user)
            if lines:
                yield Page(lines, rows.last, rows.horizon_us)

    async def first_waiting(
        self, library: str, entity_type: str, page: Page, snapshot_us: int, limits: Mapping[str, Position]
    ) -> Waiting | None:
        """Find a page's first row whose parent was not sent for being too new; None if there is none.

        Costs nothing while nothing was written since the snapshot and no parent's run was cut.
        """
        if not is_checked(entity_type, page.horizon_us > snapshot_us, limits):
            return None
        parents = Parents(entity_type, page.lines)
        wanted = parents.wanted()
        if not wanted:
            return None
        every = keys_of(library)
        used = [keys.catalog_ids(library, form.name) for form, _ in wanted]
        args: list[Arg] = []
        for _, ids in wanted:
            args += (len(ids), *ids)
        found = await self._store.script(PARENTS, (every[0], *used), args)
        index = parents.first_waiting(found, snapshot_us, limits)
        return None if index is None else Waiting(index, position_of(page.lines[index]))

    async def ahead(self, library: str, entity_type: str, after: Position | None, before: int) -> Ahead:
        """Tell how much comes strictly after a position and before an instant; two lookups in a sorted set."""
        stored, high = row(entity_type).stored, f"({before}"
        rows = keys.catalog_rows(library, stored)
        low = "-inf" if after is None else f"({after.at_us}"
        counted = self._store.command("ZCOUNT", rows, low, high, key=rows)
        newest = self._store.command("ZRANGE", rows, high, low, "BYSCORE", "REV", "LIMIT", 0, 1, key=rows)
        count, last = await asyncio.gather(counted, newest)
        positions = [position_of(line) for line in last]
        if after is not None and after.id and after.at_us < before:  # of that very instant, what its id leaves open
            lines = await self._store.command("ZRANGE", rows, after.at_us, after.at_us, "BYSCORE", key=rows)
            left = [position for position in map(position_of, lines) if position.key > after.key]
            count, positions = count + len(left), positions or left
        return Ahead(int(count), positions[-1].at_us if positions else None)

    def rechecked(self, library: str, after_us: int) -> AsyncIterator[list[bytes]]:
        """Yield the rows that changed their checksum and were written after an instant; asks nothing if none was."""
        return self._rechecked(library, after_us)

    async def _rechecked(self, library: str, after_us: int) -> AsyncIterator[list[bytes]]:
        summary = self._summaries.get(library)
        last = None if summary is None else summary.newest.get(CHECKSUMS)
        if last is None or last.at_us <= after_us:
            return
        excluding = forms_of(EXCLUDING)
        used, args = [keys.catalog_meta(library), keys.catalog_checksums(library)], list[Arg]()
        for form in excluding:
            letters = [letter for letter, _ in form.variants if letter != DELETE]
            used.append(keys.catalog_ids(library, form.name))
            used += [keys.catalog_rows(library, form.type_of(letter)) for letter in letters]
            args += (form.name, "".join(letters))
        found = CHECKSUM_ROWS
        while found == CHECKSUM_ROWS:
            found, stamp, *lines = await self._store.script(RECHECKED, used, (f"({after_us}", CHECKSUM_ROWS, *args))
            after_us = int(stamp)
            if lines:
                yield lines

    async def held_back(self, library: str) -> Sequence[HeldBack]:
        """Tell how many rows of each type wait for a parent, and name the one that has waited longest of each."""
        waiting = keys.catalog_waiting(library)
        if not await self._store.command("HLEN", waiting, key=waiting):
            return ()
        found = [self._waiting_of(library, name) for name in STORED_TYPES if not row(name).is_delete]
        return [one for one in await asyncio.gather(*found) if one is not None]

    async def _waiting_of(self, library: str, stored: str) -> HeldBack | None:
        rows, waiting = keys.catalog_rows(library, stored), keys.catalog_waiting(library)
        count = await self._store.command("ZCOUNT", rows, WAITS_US, "+inf", key=rows)
        if not count:
            return None
        lines = await self._store.command("ZRANGE", rows, WAITS_US, "+inf", "BYSCORE", "LIMIT", 0, 1, key=rows)
        example_id = position_of(lines[0]).id if lines else ""
        form = row(stored).form
        assert form is not None
        entry = await self._store.command("HGET", waiting, f"{form.name}|{example_id}", key=waiting)
        if entry is None:  # it went on its way between two questions
            return HeldBack(stored, count, "missing_parent", "", "")
        return HeldBack(stored, count, "missing_parent", example_id, entry.split(b"\n")[1].decode())

    async def knows(self, library: str) -> bool:
        """Tell whether anything but users was ever written to a library."""
        await self.horizon(library)
        return bool(self._summaries[library].newest.keys() - set(OWN_TYPES))

    async def health(self) -> SourceHealth:
        """Tell whether the store answers."""
        try:
            await self._store.command("PING", key=keys.catalog_libraries())
        except Unavailable as error:
            return SourceHealth("catalog", ok=False, text=str(error))
        return SourceHealth("catalog", ok=True, text="in the ledger's own store")

    async def entity(self, library: str, entity_type: str, entity_id: str) -> bytes | None:
        """Return an entity's data in the version asked for; None if it is not there as this entity type."""
        line = await self._versions.line(library, row(entity_type), entity_id, self._user)
        return None if line is None else data_of(line)

    async def count(self, library: str) -> dict[str, int]:
        """Count the rows of each stored entity type, without those that wait."""
        meta = keys.catalog_meta(library)
        counts = {}
        for name in STORED_TYPES:
            rows = keys.catalog_rows(library, name)
            counts[name] = await self._store.command("ZCOUNT", rows, "-inf", f"({WAITS_US}", key=meta)
        return counts

    async def entities(
        self, library: str, types: Collection[str] | None = None, *, markers: bool = False, waiting: bool = True
    ) -> AsyncIterator[list[bytes]]:
        """Yield all living entities in the order of the stream, as lines that `import` reads, a list for each page.

        Those that wait come behind the others of their type, an entity that is to be replaced by one as it is and as it
        will be; without `waiting` it is what a device has.
        """
        before = 2**53 if waiting else WAITS_US
        for name in STORED_TYPES:
            if (types is None or name in types) and (markers or not row(name).is_delete):
                async for page in self._pages(library, row(name), None, before, 1000, all_stored=True):
                    yield [export_line(exported(row(name), line)) for line in page.lines]

    async def libraries(self) -> list[str]:
        """List the libraries that were ever written to."""
        found = await self._store.command("SMEMBERS", keys.catalog_libraries(), key=keys.catalog_libraries())
        return sorted(name.decode() for name in found)

    # Writing

    async def put(self, library: str, entities: Sequence[Entity]) -> Written:
        """Write entities in their order; see `Writer.put`. Raises NotReplicated if replicas do not confirm it."""
        await self._note(library)
        written = await self._writer.put(library, entities)
        if self._replicas is not None:  # also where all is unchanged: who was answered 503 writes it again
            name = keys.catalog_meta(library)
            stamp = await self._store.command("HGET", name, "last", key=name)
            await self._replicas.confirm_library(library, int(stamp or 0))
        return written

    async def _note(self, library: str) -> None:
        """Note that a library is written to; raises InvalidInput for a name that none can have."""
        keys.check_name("library", library)
        if library not in self._known:
            index = keys.catalog_libraries()
            await self._store.command("SADD", index, library, key=index)
            self._known.add(library)

    async def release(self, library: str) -> None:
        """Let rows go that wait for nothing any more; see `Writer.release`."""
        await self._writer.release(library)

    async def purge_tombstones(self, library: str, older_than_us: int) -> int:
        """Forget delete markers with a stamp below an instant and raise the floor; returns how many.

        With them it is forgotten which rows changed their checksum and were not written since.
        """
        purged, meta, checksums = 0, keys.catalog_meta(library), keys.catalog_checksums(library)
        markers = [marker for marker in map(row, STORED_TYPES) if marker.is_delete and marker.form is not None]
        sets = [checksums, *(keys.catalog_rows(library, marker.name) for marker in markers)]
        due = set(await self._store.script(_OLDEST, sets, (older_than_us,)))  # PERF: mostly none, of many libraries
        while 1 in due and await self._store.script(PURGE, (meta, checksums), (older_than_us, PURGE_ROWS)):
            pass
        for number, marker in enumerate(markers, 2):
            if number not in due or marker.form is None:
                continue
            parts = [keys.catalog_ids(library, part.name) for part in sharing_id_with(marker.form.table)]
            ids = keys.catalog_ids(library, marker.form.name)
            used = (meta, keys.catalog_rows(library, marker.name), ids, *parts)
            while count := await self._store.script(PURGE, used, (older_than_us, PURGE_ROWS)):
                purged += count
        return purged
