"""The source of this service over the same tables: where each row stands, as the preset for Immich has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Self

from ledger.commands import Origin, Resend
from ledger.positions import Position, iso_from_us
from projections.entities.source import Ahead, HeldBack, Page, SourceHealth, Waiting
from tests.support.beside.tables import ME, Key, Tables

LAG_US: Final = 1_000_000
"""How far the horizon is behind the clock."""


class Row(NamedTuple):
    """A row where it stands."""

    position: Position
    table: str
    key: Key
    version: str | None


def at(uuid7: str) -> Position:
    """Stand where a UUIDv7 was made."""
    return Position(us(uuid7), uuid7)


def in_share(share: str, row: str) -> Position:
    """Stand in a share."""
    return Position(us(share), f"{share}:{row}")


def us(uuid7: str) -> int:
    """Tell when a UUIDv7 was made."""
    return int(uuid7.replace("-", "")[:12], 16) * 1000


class Source:
    """Implements `EntitySource`; a library is the phone's user."""

    steady = False
    resends: tuple[Resend, ...] = ()

    def __init__(self, tables: Tables) -> None:
        self._db = tables
        self._rows: Mapping[str, Callable[[], Iterable[Row]]] = {
            "UserDeleteV1": lambda: self._markers("user"),
            "UserV1": self._users,
            "PartnerDeleteV1": lambda: self._markers("partner", tables.partners, lambda key: key[0]),
            "PartnerV1": lambda: (
                Row(at(share.update_id), "partner", (name,), share.update_id) for name, share in tables.partners.items()
            ),
            "AssetDeleteV1": lambda: (
                Row(at(m.id), "asset", m.key, None) for m in tables.deleted["asset"] if m.owner == ME
            ),
            "AssetV2": lambda: self._own("asset"),
            "AssetExifV1": lambda: self._own("exif"),
            "PartnerAssetDeleteV1": self._partners_deletes,
            "PartnerAssetBackfillV2": lambda: self._partners("asset", backfill=True),
            "PartnerAssetV2": lambda: self._partners("asset", backfill=False),
            "PartnerAssetExifBackfillV1": lambda: self._partners("exif", backfill=True),
            "PartnerAssetExifV1": lambda: self._partners("exif", backfill=False),
            "AlbumAssetUpdateV2": lambda: self._updates("asset"),
            "AlbumAssetCreateV2": lambda: self._creates("asset"),
            "AlbumAssetBackfillV2": lambda: self._backfill("asset"),
            "AlbumAssetExifUpdateV1": lambda: self._updates("exif"),
            "AlbumAssetExifCreateV1": lambda: self._creates("exif"),
            "AlbumAssetExifBackfillV1": lambda: self._backfill("exif"),
            "AlbumDeleteV1": lambda: self._markers("album"),
            "AlbumV2": self._albums,
            "AlbumUserDeleteV1": lambda: self._of_albums("member", tables.members),
            "AlbumUserBackfillV1": lambda: self._in_albums("member", backfill=True),
            "AlbumUserV1": lambda: self._in_albums("member", backfill=False),
            "AlbumToAssetDeleteV1": lambda: self._of_albums("link", tables.links),
            "AlbumToAssetBackfillV1": lambda: self._in_albums("link", backfill=True),
            "AlbumToAssetV1": lambda: self._in_albums("link", backfill=False),
        }

    async def origin(self, library: str, horizon_us: int) -> Origin:
        """Be the second of the ledger's sources: what was adopted from it must start nobody over."""
        return Origin(2, horizon_us)

    async def catches_up_in(self, library: str, types: Collection[str], before: int, asked_s: float) -> float:
        """Be up to date."""
        return 0.0

    # Where rows stand

    def _users(self) -> Iterator[Row]:
        for name, user in self._db.users.items():
            yield Row(Position(user.created_us, name), "user", (name,), user.update_id)
            written_ms = us(user.update_id) // 1000
            if user.changed or not user.created_us // 1000 <= written_ms <= user.created_us / 1000 + 500:
                yield Row(at(user.update_id), "user", (name,), user.update_id)

    def _markers(
        self, table: str, alive: Mapping[str, object] | None = None, name: Callable[[Key], str] = str
    ) -> Iterator[Row]:
        for marker in self._db.deleted[table]:
            if alive is None or name(marker.key) not in alive:
                yield Row(at(marker.id), table, marker.key, None)

    def _own(self, table: str) -> Iterator[Row]:
        for name, asset in self._db.assets.items():
            if asset.owner == ME:
                version = asset.update_id if table == "asset" else asset.exif_id
                yield Row(at(version), table, (name,), version)

    def _partners_deletes(self) -> Iterator[Row]:
        for marker in self._db.deleted["asset"]:
            share = self._db.partners.get(marker.owner)
            if share is not None and marker.id > share.create_id:
                yield Row(at(marker.id), "asset", marker.key, None)

    def _partners(self, table: str, *, backfill: bool) -> Iterator[Row]:
        for name, asset in self._db.assets.items():
            share = self._db.partners.get(asset.owner)
            version = asset.update_id if table == "asset" else asset.exif_id
            if share is not None and (version <= share.create_id) == backfill:
                yield Row(in_share(share.create_id, version) if backfill else at(version), table, (name,), version)

    def _shown(self, table: str) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
        """Yield others' assets in albums: the asset, its version, and its links and memberships."""
        mine = {album: share.create_id for (album, user), share in self._db.members.items() if user == ME}
        shown: dict[str, list[tuple[str, str]]] = {}
        for (album, name), link in self._db.links.items():
            if album in mine and self._db.assets[name].owner != ME:
                shown.setdefault(name, []).append((link, mine[album]))
        for name, pairs in shown.items():
            asset = self._db.assets[name]
            yield name, asset.update_id if table == "asset" else asset.exif_id, pairs

    def _updates(self, table: str) -> Iterator[Row]:
        for name, version, pairs in self._shown(table):
            if any(link < version and member < version for link, member in pairs):
                yield Row(at(version), table, (name,), version)

    def _creates(self, table: str) -> Iterator[Row]:
        for name, version, pairs in self._shown(table):
            if links := [link for link, member in pairs if link > member and link >= version]:
                yield Row(at(min(links)), table, (name,), version)

    def _backfill(self, table: str) -> Iterator[Row]:
        for name, version, pairs in self._shown(table):
            if found := [(member, link) for link, member in pairs if link <= member and version <= member]:
                yield Row(in_share(*min(found)), table, (name,), version)

    def _albums(self) -> Iterator[Row]:
        for (album, user), share in self._db.members.items():
            if user == ME:
                version = self._db.albums[album]
                yield Row(at(share.create_id), "album", (album,), version)
                if version > share.create_id:
                    yield Row(at(version), "album", (album,), version)

    def _of_albums(self, table: str, alive: Mapping[tuple[str, str], object]) -> Iterator[Row]:
        mine = set(self._db.mine())
        for marker in self._db.deleted[table]:
            if marker.key[0] in mine and marker.key not in alive:
                yield Row(at(marker.id), table, marker.key, None)

    def _in_albums(self, table: str, *, backfill: bool) -> Iterator[Row]:
        members, links = self._db.members, self._db.links
        rows = links.items() if table == "link" else ((key, share.update_id) for key, share in members.items())
        for key, version in rows:
            share = members.get((key[0], ME))
            if share is not None and (version <= share.create_id) == backfill:
                yield Row(in_share(share.create_id, version) if backfill else at(version), table, key, version)

    # Reading

    def rows(self, entity_type: str, after: Position | None, before: int) -> list[Row]:
        """List a type's rows strictly after a position and before an instant, in order."""
        make = self._rows.get(entity_type)
        if make is None:
            return []
        fit = (row for row in make() if row.position.at_us < before and (not after or row.position.key > after.key))
        return sorted(fit, key=lambda row: row.position.key)

    async def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        while rows := self.rows(entity_type, after, before)[: self._db.dice.choice((1, 2, 9))]:
            after = rows[-1].position
            yield Page([_line(entity_type, row) for row in rows], after, 0)

    async def changed(self, library: str, after: Mapping[str, Position | None], before: int) -> frozenset[str]:
        return frozenset(name for name, position in after.items() if self.rows(name, position, before))

    async def first_waiting(
        self, library: str, entity_type: str, page: Page, snapshot_us: int, limits: Mapping[str, Position]
    ) -> Waiting | None:
        return None

    async def horizon(self, library: str) -> int:
        return self._db.now_ms * 1000 - LAG_US

    async def ahead(self, library: str, entity_type: str, after: Position | None, before: int) -> Ahead:
        rows = self.rows(entity_type, after, before)
        return Ahead(len(rows), rows[-1].position.at_us if rows else None)

    async def tombstone_floor(self, library: str) -> int:
        return 0

    async def provision(self, library: str, horizon_us: int) -> int:
        return horizon_us

    async def renamed(self, library: str, user: str) -> None:
        """Do nothing."""

    async def held_back(self, library: str) -> Sequence[HeldBack]:
        return ()

    async def knows(self, library: str) -> bool | None:
        return None

    async def health(self) -> SourceHealth:
        return SourceHealth("model", ok=True, text="")

    def of_session(self, user: str, sid: str) -> Self:
        return self

    def rechecked(self, library: str, after_us: int) -> AsyncIterator[list[bytes]] | None:
        """Return None: checksums play no part here."""
        return None


def _line(entity_type: str, row: Row) -> bytes:
    version = "null" if row.version is None else f'"{row.version}"'
    key = ",".join(f'"{part}"' for part in row.key)
    position = f"{iso_from_us(row.position.at_us)}|{row.position.id}"
    data = f'{{"table":"{row.table}","key":[{key}],"version":{version}}}'
    return f'{{"type":"{entity_type}","data":{data},"ack":"{entity_type}|{position}'.encode()
