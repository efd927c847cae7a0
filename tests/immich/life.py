"""A random life of an Immich server: what its users do, one small transaction after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

from tests.immich.database import ImmichDatabase

Act = Callable[[], None]


class Life:
    """Acts of some users, chosen by dice; an act that finds nothing to do does nothing.

    Left out is what Immich's own schema cannot tell a device: an asset that changes its owner, and a file that is
    uploaded again after it was in an album that is gone.
    """

    def __init__(self, database: ImmichDatabase, dice: random.Random, users: Sequence[UUID]) -> None:
        self._db = database
        self._dice = dice
        self._users = users
        self._deleted: list[tuple[UUID, str]] = []
        self._in_gone_albums: set[UUID] = set()
        self._contents: dict[UUID, str] = {}
        self._acts: list[tuple[int, Act]] = [
            (8, self.upload), (2, self.upload_again), (6, self.change_asset), (4, self.change_exif),
            (3, self.delete_asset), (1, self.make_again), (3, self.make_album), (2, self.change_album),
            (1, self.delete_album), (8, self.link), (2, self.unlink), (6, self.share), (3, self.unshare),
            (1, self.add_partner), (2, self.end_partner), (2, self.find_face), (1, self.delete_face),
            (1, self.name_person), (1, self.forget_person), (2, self.make_memory), (1, self.add_to_memory),
            (1, self.forget_memory), (1, self.stack), (1, self.unstack), (1, self.find_text), (1, self.edit),
            (1, self.revert), (1, self.annotate), (1, self.set_preferences), (1, self.change_user),
        ]  # fmt: skip

    def act(self) -> None:
        """Do one thing."""
        weights, acts = zip(*self._acts, strict=True)
        self._dice.choices(acts, weights)[0]()

    def _pick(self, sql: str, *values: object) -> dict[str, UUID] | None:
        """Choose one of the rows; of those that this life's users made."""
        rows = self._db.fetch(sql, list(self._users), *values)
        rows.sort(key=str)
        return self._dice.choice(rows) if rows else None

    def _user(self) -> UUID:
        return self._dice.choice(self._users)

    def _asset(self) -> UUID | None:
        found = self._pick('SELECT id FROM asset WHERE "ownerId" = ANY($1)')
        return None if found is None else found["id"]

    def _album(self) -> dict[str, UUID] | None:
        return self._pick(
            """SELECT "albumId" AS id, "userId" FROM album_user WHERE role = 'owner' AND "userId" = ANY($1)"""
        )

    # Assets

    def upload(self) -> None:
        content = uuid4().hex
        self._contents[self._db.asset(self._user(), content)] = content

    def upload_again(self) -> None:
        if self._deleted:
            owner, content = self._deleted.pop(self._dice.randrange(len(self._deleted)))
            self._contents[self._db.asset(owner, content)] = content

    def make_again(self) -> None:
        """Delete an asset and bring the same one back, as a restored database would."""
        if (asset := self._deletable()) is not None:
            owner = self._db.value('SELECT "ownerId" FROM asset WHERE id = $1', asset)
            self._db.delete("asset", id=asset)
            self._db.asset(owner, self._contents[asset], id=asset)

    def change_asset(self) -> None:
        if (asset := self._asset()) is not None:
            changes: list[dict[str, Any]] = [
                {"isFavorite": self._dice.random() < 0.5},
                {"visibility": self._dice.choice(["timeline", "archive", "hidden", "locked"])},
                {"deletedAt": self._db.value("SELECT now()")},
                {"duration": self._dice.randrange(100_000), "width": 10, "thumbhash": self._dice.randbytes(25)},
            ]
            self._db.update("asset", asset, **self._dice.choice(changes))

    def change_exif(self) -> None:
        if (asset := self._asset()) is not None:
            self._db.update("asset_exif", asset, city=self._dice.choice(["Berlin", "Oslo", None]), fNumber=2.8)

    def _deletable(self) -> UUID | None:
        found = self._pick(
            'SELECT id FROM asset a WHERE "ownerId" = ANY($1)'
            ' AND NOT EXISTS (SELECT FROM stack s WHERE s."primaryAssetId" = a.id)'
        )
        return None if found is None else found["id"]

    def delete_asset(self) -> None:
        if (asset := self._deletable()) is not None:
            owner = self._db.value('SELECT "ownerId" FROM asset WHERE id = $1', asset)
            self._db.delete("asset", id=asset)
            if asset not in self._in_gone_albums:
                self._deleted.append((owner, self._contents[asset]))

    # Albums and partners

    def make_album(self) -> None:
        owner = self._user()
        members = [user for user in self._users if user != owner and self._dice.random() < 0.4]
        own = self._db.fetch('SELECT id FROM asset WHERE "ownerId" = $1 ORDER BY id', owner)
        assets = [row["id"] for row in self._dice.sample(own, min(len(own), self._dice.randrange(4)))]
        album = self._db.album(owner, assets=assets)
        if assets:
            self._db.update("album", album, albumThumbnailAssetId=assets[0])
        for member in members:
            self._db.share(album, member)

    def change_album(self) -> None:
        if (album := self._album()) is not None:
            linked = self._db.fetch('SELECT "assetId" FROM album_asset WHERE "albumId" = $1 ORDER BY 1', album["id"])
            thumbnail = self._dice.choice(linked)["assetId"] if linked else None
            name = f"Album {self._dice.randrange(99)}"
            self._db.update("album", album["id"], albumName=name, albumThumbnailAssetId=thumbnail)

    def delete_album(self) -> None:
        if (album := self._album()) is not None:
            linked = self._db.fetch(
                'SELECT "assetId" FROM album_asset WHERE "albumId" = $1 '
                'UNION SELECT "assetId" FROM album_asset_audit WHERE "albumId" = $1', album["id"],
            )  # fmt: skip
            self._in_gone_albums.update(row["assetId"] for row in linked)
            gone = {self._contents[asset] for asset in self._in_gone_albums}
            self._deleted = [(owner, content) for owner, content in self._deleted if content not in gone]
            self._db.delete("album", id=album["id"])

    def link(self) -> None:
        album, asset = self._album(), self._asset()
        if album is not None and asset is not None:
            sql = 'INSERT INTO album_asset ("albumId", "assetId") VALUES ($1, $2) ON CONFLICT DO NOTHING'
            self._db.execute(sql, album["id"], asset)

    def unlink(self) -> None:
        found = self._pick(
            'SELECT l."albumId", l."assetId" FROM album_asset l JOIN asset a ON a.id = l."assetId"'
            ' WHERE a."ownerId" = ANY($1)'
        )
        if found is not None:
            self._db.delete("album_asset", **found)

    def share(self) -> None:
        if (album := self._album()) is not None:
            sql = 'INSERT INTO album_user ("albumId", "userId") VALUES ($1, $2) ON CONFLICT DO NOTHING'
            self._db.execute(sql, album["id"], self._user())

    def unshare(self) -> None:
        found = self._pick(
            """SELECT "albumId", "userId" FROM album_user WHERE role <> 'owner' AND "userId" = ANY($1)"""
        )
        if found is not None:
            self._db.delete("album_user", **found)

    def add_partner(self) -> None:
        by, other = self._dice.sample(self._users, 2)
        sql = 'INSERT INTO partner ("sharedById", "sharedWithId") VALUES ($1, $2) ON CONFLICT DO NOTHING'
        self._db.execute(sql, by, other)

    def end_partner(self) -> None:
        if (
            found := self._pick('SELECT "sharedById", "sharedWithId" FROM partner WHERE "sharedById" = ANY($1)')
        ) is not None:
            self._db.delete("partner", **found)

    # People and memories

    def find_face(self) -> None:
        if (asset := self._asset()) is not None:
            found = self._pick(
                'SELECT "personGroupId" FROM person WHERE "ownerId" = ANY($1)'
                ' AND "ownerId" = (SELECT "ownerId" FROM asset WHERE id = $2)', asset,
            )  # fmt: skip
            self._db.face(asset, None if found is None else found["personGroupId"])

    def name_person(self) -> None:
        self._db.person(self._user(), name=f"Person {self._dice.randrange(99)}")

    def forget_person(self) -> None:
        if (found := self._pick('SELECT "ownerId", "personGroupId" FROM person WHERE "ownerId" = ANY($1)')) is not None:
            self._db.delete("person", **found)

    def delete_face(self) -> None:
        found = self._pick(
            'SELECT f.id FROM asset_face f JOIN asset a ON a.id = f."assetId" WHERE a."ownerId" = ANY($1)'
        )
        if found is not None:
            self._db.delete("asset_face", **found)

    def make_memory(self) -> None:
        assets = {asset for _ in range(2) if (asset := self._asset()) is not None}
        grace = {"type": "birthday", "data": {"personId": str(uuid4()), "personName": "Grace"}}
        self._db.memory(self._user(), sorted(assets), **(grace if self._dice.random() < 0.4 else {}))

    def add_to_memory(self) -> None:
        memory, asset = self._pick('SELECT id FROM memory WHERE "ownerId" = ANY($1)'), self._asset()
        if memory is not None and asset is not None:
            sql = 'INSERT INTO memory_asset ("memoriesId", "assetId") VALUES ($1, $2) ON CONFLICT DO NOTHING'
            self._db.execute(sql, memory["id"], asset)

    def forget_memory(self) -> None:
        if (found := self._pick('SELECT id FROM memory WHERE "ownerId" = ANY($1)')) is not None:
            self._db.delete("memory", **found)

    # Stacks, texts, edits, and what is kept at an asset or a user

    def stack(self) -> None:
        owner = self._user()
        own = self._db.fetch('SELECT id FROM asset WHERE "ownerId" = $1 AND "stackId" IS NULL ORDER BY id', owner)
        if len(own) >= 2:
            self._db.stack(owner, [row["id"] for row in self._dice.sample(own, 2)])

    def unstack(self) -> None:
        if (found := self._pick('SELECT id FROM stack WHERE "ownerId" = ANY($1)')) is not None:
            self._db.delete("stack", **found)

    def find_text(self) -> None:
        if (asset := self._asset()) is not None:
            self._db.delete("asset_ocr", assetId=asset)
            self._db.ocr(asset, "EXIT")

    def edit(self) -> None:
        if (asset := self._asset()) is not None:
            self._db.delete("asset_edit", assetId=asset)
            self._db.edit(asset)

    def revert(self) -> None:
        if (asset := self._asset()) is not None:
            self._db.delete("asset_edit", assetId=asset)

    def annotate(self) -> None:
        if (asset := self._asset()) is not None:
            self._db.delete("asset_metadata", assetId=asset, key="mobile-app")
            if self._dice.random() < 0.7:
                self._db.insert("asset_metadata", assetId=asset, key="mobile-app", value={"n": self._dice.random()})

    def set_preferences(self) -> None:
        user = self._user()
        self._db.delete("user_metadata", userId=user, key="preferences")
        if self._dice.random() < 0.7:
            self._db.insert("user_metadata", userId=user, key="preferences", value={"n": self._dice.random()})

    def change_user(self) -> None:
        self._db.update("user", self._user(), avatarColor=self._dice.choice(["red", "blue", None]))
