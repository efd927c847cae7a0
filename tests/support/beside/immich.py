"""What Immich's own server does with a phone's sync: its streams and acks, by its source (3.0 to 3.2).

One ack a type, the last one sent. A stream is of what is behind them and below one instant; of new shares all up to the
main type's ack is sent as backfill, whatever its age. On a first sync there is none: the server notes by itself that
backfill is done, and all comes as itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from projections.immich.adoption import CheckpointRow
from tests.support.beside.tables import ME, Key, Tables

RESET: Final = "SyncResetV1"
COMPLETE: Final = "SyncCompleteV1"
CLEARINGS: Final = (
    ("AssetV2", "PartnerAssetV2", "PartnerAssetBackfillV2", "AlbumAssetCreateV2", "AlbumAssetUpdateV2",
     "AlbumAssetBackfillV2"),
    ("PartnerAssetV2", "PartnerAssetBackfillV2"),
    ("AssetExifV1", "PartnerAssetExifV1", "AlbumAssetExifCreateV1", "AlbumAssetExifUpdateV1"),
    ("AlbumAssetBackfillV2",),
    ("AlbumToAssetV1", "AlbumUserV1"),
    ("UserV1",),
)  # fmt: skip
"""Types that an update clears together, or the app itself: as it did, and worse."""


class Line(NamedTuple):
    """A line: what it tells of a row of the phone's `table` (none: nothing), as of `version` (none: it is deleted)."""

    type: str
    ack: str
    table: str = ""
    key: Key = ()
    version: str | None = None


Rows = Iterable[tuple[str, str, Key, str]]
"""Rows to send: `updateId`, and what of which row they tell."""


class Immich:
    """Immich's session of one phone. `checkpoints` are its rows: type → ack, and when it was written (µs)."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.checkpoints: dict[str, tuple[str, int]] = {}
        self.pending_reset = False
        self.mark = ""
        """The row's `updateId`."""

    def press(self) -> None:
        """Wish that the phone start over."""
        self.pending_reset = True
        self.mark = self.tables.uuid7()

    def rows(self) -> list[CheckpointRow]:
        """List the session's rows of `session_sync_checkpoint`."""
        return [CheckpointRow(name, ack, us) for name, (ack, us) in self.checkpoints.items()]

    def ack(self, text: str) -> None:
        """Take an ack."""
        name = text.partition("|")[0]
        if name == RESET:
            self.checkpoints, self.pending_reset = {}, False
        else:
            self._put(name, text)

    def clear(self, types: Iterable[str]) -> None:
        """Clear checkpoints, as an update does or the app asks for."""
        for name in types:
            self.checkpoints.pop(name, None)

    def _put(self, name: str, text: str) -> None:
        # The clock is finer than the model's: no two writes are of one instant.
        newest_us = max((us for _, us in self.checkpoints.values()), default=0)
        self.checkpoints[name] = text, max(self.tables.now_ms * 1000, newest_us + 1)
        if "Backfill" in name:  # a share that is committed below it later is not seen any more
            self.tables.oldest_share = max(self.tables.oldest_share, text.split("|")[1])

    def stream(self) -> Iterator[Line]:
        """Yield a stream of all types; each is read when its turn comes."""
        if self.pending_reset:
            yield Line(RESET, f"{RESET}|reset")
            return
        held = {name: text.split("|") for name, (text, _) in self.checkpoints.items()}
        stream = _Stream(self, held)
        yield from stream.plain("UserDeleteV1", stream.markers("user"))
        yield from stream.plain("UserV1", stream.users())
        yield from stream.plain("PartnerDeleteV1", stream.markers("partner"))
        yield from stream.plain("PartnerV1", stream.partnerships())
        yield from stream.plain("AssetDeleteV1", stream.markers("asset", {ME}))
        yield from stream.plain("AssetV2", stream.assets({ME}))
        yield from stream.plain("PartnerAssetDeleteV1", stream.markers("asset", self.tables.partners))
        yield from stream.partners("PartnerAssetV2", "PartnerAssetBackfillV2", stream.assets)
        yield from stream.albums("AlbumAsset", "V2", stream.linked_assets, stream.changed_assets)
        yield from stream.plain("AlbumDeleteV1", stream.markers("album"))
        yield from stream.plain("AlbumV2", stream.my_albums())
        yield from stream.plain("AlbumUserDeleteV1", stream.markers_of_albums("member"))
        yield from stream.shared("AlbumUserV1", "AlbumUserBackfillV1", stream.memberships(), stream.members)
        yield from stream.plain("AlbumToAssetDeleteV1", stream.markers_of_albums("link"))
        yield from stream.shared("AlbumToAssetV1", "AlbumToAssetBackfillV1", stream.memberships(), stream.links)
        yield from stream.plain("AssetExifV1", stream.exifs({ME}))
        yield from stream.albums("AlbumAssetExif", "V1", stream.linked_exifs, stream.changed_exifs)
        yield from stream.partners("PartnerAssetExifV1", "PartnerAssetExifBackfillV1", stream.exifs)
        yield Line(COMPLETE, f"{COMPLETE}|{stream.now_id}")


class _Stream:
    """One stream: below one instant, behind the acks as they were when it began."""

    def __init__(self, immich: Immich, held: dict[str, list[str]]) -> None:
        self.immich, self.db, self.held = immich, immich.tables, held
        self.now_id = self.db.uuid7(self.db.now_ms - 1)

    # What is sent

    def plain(self, name: str, rows: Rows) -> Iterator[Line]:
        """Send what is behind the type's own ack."""
        after = self.held[name][1] if name in self.held else ""
        found = sorted(row for row in rows if after < row[0] < self.now_id)
        for update_id, table, key, version in found:
            yield Line(name, f"{name}|{update_id}", table, key, version or None)

    def shared(
        self, name: str, backfill: str, parents: list[tuple[str, str]], rows_of: Callable[[set[str]], Rows]
    ) -> Iterator[Line]:
        """Send backfill of new shares, then what is behind the main type's ack."""
        yield from self.backfill(name, backfill, parents, rows_of)
        yield from self.plain(name, rows_of({parent for _, parent in parents}))

    def partners(self, name: str, backfill: str, rows_of: Callable[[set[str]], Rows]) -> Iterator[Line]:
        """Send what partners share."""
        parents = [(share.create_id, partner) for partner, share in self.db.partners.items()]
        yield from self.shared(name, backfill, parents, rows_of)

    def albums(
        self, name: str, version: str, rows_of: Callable[[set[str]], Rows], changed: Callable[[str], Rows]
    ) -> Iterator[Line]:
        """Send assets of albums: backfill, changes of what the phone has, and what is new."""
        create, update = f"{name}Create{version}", f"{name}Update{version}"
        yield from self.backfill(create, f"{name}Backfill{version}", self.memberships(), rows_of)
        if create in self.held:
            yield from self.plain(update, changed(self.held[create][1]))
        for index, line in enumerate(self.plain(create, rows_of(set(self.db.mine())))):
            if not index:
                yield Line("SyncAckV1", f"{update}|{self.now_id}")
            yield line

    def backfill(
        self, main: str, name: str, parents: list[tuple[str, str]], rows_of: Callable[[set[str]], Rows]
    ) -> Iterator[Line]:
        _, done, extra = (*self.held[name], "")[:3] if name in self.held else ("", "", "")
        found = sorted(parent for parent in parents if done <= parent[0] < self.now_id)
        if main not in self.held:
            if found:
                self.immich._put(name, f"{name}|{found[-1][0]}|complete")
            return
        for create_id, parent in found:
            if create_id == done and extra == "complete":
                continue
            after = extra if create_id == done else ""
            for update_id, table, key, version in sorted(rows_of({parent})):
                if after <= update_id < self.now_id and update_id <= self.held[main][1]:
                    yield Line(name, f"{name}|{create_id}|{update_id}", table, key, version)
            yield Line("SyncAckV1", f"{name}|{create_id}|complete")

    # What there is

    def users(self) -> Rows:
        return ((u.update_id, "user", (name,), u.update_id) for name, u in self.db.users.items())

    def partnerships(self) -> Rows:
        return ((s.update_id, "partner", (name,), s.update_id) for name, s in self.db.partners.items())

    def my_albums(self) -> Rows:
        return ((self.db.albums[album], "album", (album,), self.db.albums[album]) for album in self.db.mine())

    def markers(self, table: str, owners: Iterable[str] | None = None) -> Rows:
        whose = None if owners is None else set(owners)
        return ((m.id, table, m.key, "") for m in self.db.deleted[table] if whose is None or m.owner in whose)

    def markers_of_albums(self, table: str) -> Rows:
        mine = set(self.db.mine())
        return ((m.id, table, m.key, "") for m in self.db.deleted[table] if m.key[0] in mine)

    def memberships(self) -> list[tuple[str, str]]:
        return [(share.create_id, album) for (album, user), share in self.db.members.items() if user == ME]

    def assets(self, owners: set[str]) -> Rows:
        return ((a.update_id, "asset", (n,), a.update_id) for n, a in self.db.assets.items() if a.owner in owners)

    def exifs(self, owners: set[str]) -> Rows:
        return ((a.exif_id, "exif", (n,), a.exif_id) for n, a in self.db.assets.items() if a.owner in owners)

    def linked_assets(self, albums: set[str]) -> Rows:
        assets = self.db.assets
        return ((u, "asset", (n,), assets[n].update_id) for (album, n), u in self.db.links.items() if album in albums)

    def linked_exifs(self, albums: set[str]) -> Rows:
        assets = self.db.assets
        return ((u, "exif", (n,), assets[n].exif_id) for (album, n), u in self.db.links.items() if album in albums)

    def changed_assets(self, up_to: str) -> Rows:
        return ((self.db.assets[n].update_id, "asset", (n,), self.db.assets[n].update_id) for n in self._known(up_to))

    def changed_exifs(self, up_to: str) -> Rows:
        return ((self.db.assets[n].exif_id, "exif", (n,), self.db.assets[n].exif_id) for n in self._known(up_to))

    def _known(self, up_to: str) -> set[str]:
        mine = set(self.db.mine())
        return {asset for (album, asset), update_id in self.db.links.items() if album in mine and update_id <= up_to}

    def links(self, albums: set[str]) -> Rows:
        return ((u, "link", key, u) for key, u in self.db.links.items() if key[0] in albums)

    def members(self, albums: set[str]) -> Rows:
        return ((s.update_id, "member", key, s.update_id) for key, s in self.db.members.items() if key[0] in albums)
