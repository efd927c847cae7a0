"""A source in memory, with stamps as tests want them: ties by the thousand, and a horizon that lags behind.

It knows three forms: assets, albums, and links between one asset and one album. Albums in THUMBNAILS refer to an asset
while it lives. An id is either an upsert or a delete marker; deleting an asset or album deletes its links with it, and
changes the albums that refer to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, Literal, NamedTuple, Self

import msgspec

from ledger.commands import Origin, Resend
from ledger.positions import Position, iso_from_us
from projections.entities.lines import data_of, position_of
from projections.entities.source import Ahead, HeldBack, Page, SourceHealth, Waiting

Form = Literal["asset", "album", "link"]
UPSERTS: Final[Mapping[Form, str]] = {"asset": "AssetV2", "album": "AlbumV2", "link": "AlbumToAssetV1"}
DELETES: Final[Mapping[Form, str]] = {
    "asset": "AssetDeleteV1",
    "album": "AlbumDeleteV1",
    "link": "AlbumToAssetDeleteV1",
}
THUMBNAILS: Final[Mapping[str, str]] = {"b1": "a1"}
REQUESTS: Final = ("AssetsV2", "AlbumsV2", "AlbumToAssetsV1")


Key = tuple[Form, str]


class Row(NamedTuple):
    """One entity as of its last version, or its delete marker, and the rows it refers to."""

    type: str
    position: Position
    version: int
    parents: tuple[Key, ...] = ()

    def line(self, library: str) -> bytes:
        """Print the stored line, without its end."""
        entity_id, name = self.position.id, self.type
        parents = "".join(f',"{form}":"{parent}"' for form, parent in self.parents)
        data = f'{{"id":"{entity_id}","version":{self.version},"library":"{library}"{parents}}}'
        return f'{{"type":"{name}","data":{data},"ack":"{name}|{iso_from_us(self.position.at_us)}|{entity_id}'.encode()


class Change(NamedTuple):
    """Something written: an upsert or a delete, `later_us` above the horizon."""

    form: Form
    id: str
    delete: bool = False
    later_us: int = 0


def link_id(asset: str, album: str) -> str:
    """Name the link of an asset and an album."""
    return f"{asset}+{album}"


class _Library:
    """One library's rows by form and id."""

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.horizon_us = 1
        self.floor_us = 0


class MemorySource:
    """Implements `EntitySource`; every page is read at another moment, so writes come in between."""

    steady = True
    resends: tuple[Resend, ...] = ()

    def __init__(self, page_rows: int = 3) -> None:
        self._page_rows = page_rows
        self._libraries: dict[str, _Library] = {}
        self._version = 0

    # Writing

    def write(self, library: str, changes: Iterable[Change]) -> None:
        """Write changes in their order; what lacks its parents is left out. The horizon stays where it is."""
        of = self._library(library)
        for change in changes:
            key = (change.form, change.id)
            if change.delete and self._lives(of, key):
                for child, row in list(of.rows.items()):
                    if key in row.parents and child[0] == "link":
                        self._put(of, Change(*child, delete=True, later_us=change.later_us))
                self._put(of, change)
                for child, row in list(of.rows.items()):
                    if key in row.parents:
                        self._put(of, Change(*child, later_us=change.later_us))
            elif not change.delete and all(self._lives(of, parent) for parent in _required(key)):
                self._put(of, change)

    def close(self, library: str) -> None:
        """Promise that nothing new appears at or below the last stamp: the horizon moves on to behind it."""
        of = self._library(library)
        of.horizon_us = max([of.horizon_us, *(row.position.at_us + 1 for row in of.rows.values())])

    def purge(self, library: str, before_us: int) -> None:
        """Forget delete markers below an instant that is not above the horizon, and raise the floor."""
        of = self._library(library)
        for key, row in list(of.rows.items()):
            if row.type == DELETES[key[0]] and row.position.at_us < min(before_us, of.horizon_us):
                of.floor_us = max(of.floor_us, row.position.at_us)
                del of.rows[key]

    def living(self, library: str) -> dict[Key, int]:
        """Tell all living entities with their last versions: what a device must end with."""
        rows = self._library(library).rows
        return {key: row.version for key, row in rows.items() if row.type == UPSERTS[key[0]]}

    # Reading

    def of_session(self, user: str, sid: str) -> Self:
        return self

    async def changed(self, library: str, after: Mapping[str, Position | None], before: int) -> frozenset[str]:
        await asyncio.sleep(0)
        found = {name for name, position in after.items() if (await self.ahead(library, name, position, before)).rows}
        return frozenset(found)

    async def catches_up_in(self, library: str, types: Collection[str], before: int, asked_s: float) -> float:
        return 0.0

    def rechecked(self, library: str, after_us: int) -> AsyncIterator[list[bytes]] | None:
        """Return None: what rows were before is noted nowhere."""
        return None

    async def held_back(self, library: str) -> Sequence[HeldBack]:
        return ()

    async def knows(self, library: str) -> bool | None:
        return None

    async def health(self) -> SourceHealth:
        return SourceHealth("memory", ok=True, text="")

    async def provision(self, library: str, horizon_us: int) -> int:
        """Return the horizon: users are made elsewhere."""
        return horizon_us

    async def renamed(self, library: str, user: str) -> None:
        """Do nothing: names come from elsewhere."""

    async def horizon(self, library: str) -> int:
        return self._library(library).horizon_us

    async def origin(self, library: str, horizon_us: int) -> Origin:
        return Origin()

    async def tombstone_floor(self, library: str) -> int:
        return self._library(library).floor_us

    async def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        of = self._library(library)
        size = min(limit, self._page_rows)
        while True:
            await asyncio.sleep(0)
            rows = sorted((row for row in of.rows.values() if row.type == entity_type), key=lambda r: r.position.key)
            fit = (row for row in rows if row.position.at_us < before and (not after or row.position.key > after.key))
            page = list(islice(fit, size))
            if not page:
                return
            after = page[-1].position
            yield Page([row.line(library) for row in page], after, of.horizon_us)

    async def first_waiting(
        self, library: str, entity_type: str, page: Page, snapshot_us: int, limits: Mapping[str, Position]
    ) -> Waiting | None:
        await asyncio.sleep(0)
        of = self._library(library)
        for index, line in enumerate(page.lines):
            data = msgspec.json.decode(data_of(line), type=dict[str, str | int])
            parents = [(form, str(data[form])) for form in UPSERTS if form in data]
            if any(self._unsent(of, parent, snapshot_us, limits) for parent in parents):
                return Waiting(index, position_of(line))
        return None

    async def ahead(self, library: str, entity_type: str, after: Position | None, before: int) -> Ahead:
        stamps = [
            row.position.at_us
            for row in self._library(library).rows.values()
            if row.type == entity_type
            and row.position.at_us < before
            and (after is None or row.position.key > after.key)
        ]
        return Ahead(len(stamps), max(stamps, default=None))

    def _library(self, library: str) -> _Library:
        return self._libraries.setdefault(library, _Library())

    def _put(self, of: _Library, change: Change) -> None:
        self._version += 1
        name = (DELETES if change.delete else UPSERTS)[change.form]
        position = Position(of.horizon_us + change.later_us, change.id)
        key = (change.form, change.id)
        parents = () if change.delete else (*_required(key), *(p for p in _optional(key) if self._lives(of, p)))
        of.rows[key] = Row(name, position, self._version, parents)

    def _lives(self, of: _Library, key: Key) -> bool:
        row = of.rows.get(key)
        return row is not None and row.type == UPSERTS[key[0]]

    def _unsent(self, of: _Library, key: Key, snapshot_us: int, limits: Mapping[str, Position]) -> bool:
        """Tell whether a parent lives but was not sent in this stream nor in one before."""
        if not self._lives(of, key):
            return False
        row = of.rows[key]
        cut = limits.get(row.type)
        return row.position.at_us >= snapshot_us or (cut is not None and row.position.key >= cut.key)


def _required(key: Key) -> tuple[Key, ...]:
    """Name the rows that a row cannot be without."""
    if key[0] != "link":
        return ()
    asset, album = key[1].split("+")
    return ("asset", asset), ("album", album)


def _optional(key: Key) -> tuple[Key, ...]:
    """Name the rows that a row refers to while they live."""
    return (("asset", THUMBNAILS[key[1]]),) if key[0] == "album" and key[1] in THUMBNAILS else ()
