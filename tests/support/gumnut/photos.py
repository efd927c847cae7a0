"""What lies at Gumnut: libraries of photos, and the events of transactions that may begin and end in any order.

A transaction gets its number when it begins to write and takes effect when it commits. Its events stand in the feed by
that number; they are ready once every transaction with a lower one has ended. So events appear late and out of the
order of commits, as the SDK says they do.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final, NamedTuple

BEGAN: Final = datetime(2025, 3, 1, 12, tzinfo=UTC)
Row = dict[str, Any]


class Recorded(NamedTuple):
    """An event as it stands in the feed."""

    number: int
    order: int
    library: str
    at: datetime
    entity: str
    type: str
    id: str
    payload: Row | None


class Transaction:
    """Changes that take effect together; open until it is committed."""

    def __init__(self, photos: Photos, number: int, began: datetime) -> None:
        self.number = number
        self.began = began
        self.ended = False
        self._photos = photos
        self._changes: list[Callable[[], object]] = []

    def do(self, change: Callable[..., object], *args: Any, **fields: Any) -> None:
        """Change something when it commits."""
        self._changes.append(lambda: change(*args, **fields))

    def commit(self) -> None:
        """Let all of it take effect."""
        with self._photos.writing(self):
            for change in self._changes:
                change()
        self.ended = True


class Photos:
    """All libraries. Methods that change something do so in a transaction of their own, or in that being committed."""

    def __init__(self) -> None:
        self.now = BEGAN
        self.assets: dict[str, Row] = {}
        self.albums: dict[str, Row] = {}
        self.links: dict[str, Row] = {}
        self.people: dict[str, Row] = {}
        self.faces: dict[str, Row] = {}
        self.stacks: dict[str, Row] = {}
        self.events: list[Recorded] = []
        self._ids = count(1)
        self._transactions: list[Transaction] = []
        self._writing: Transaction | None = None

    # Transactions and the feed

    def begin(self) -> Transaction:
        """Begin a transaction that writes later."""
        self._transactions.append(Transaction(self, len(self._transactions) + 1, self.tick()))
        return self._transactions[-1]

    @contextmanager
    def writing(self, transaction: Transaction) -> Iterator[None]:
        """Record events under a transaction."""
        self._writing = transaction
        try:
            yield
        finally:
            self._writing = None
            self.events.sort(key=lambda event: (event.number, event.order))

    def tick(self, seconds: float = 1.0) -> datetime:
        """Move the clock on."""
        self.now += timedelta(seconds=seconds)
        return self.now

    @property
    def ready(self) -> int:
        """The lowest number whose events are not ready."""
        return min((one.number for one in self._transactions if not one.ended), default=len(self._transactions) + 1)

    def forget_since(self, number: int) -> None:
        """Go back in time: transactions from a number on never were; what they changed stays as it is."""
        self._transactions = self._transactions[: number - 1]
        self.events = [event for event in self.events if event.number < number]

    def new_id(self, prefix: str) -> str:
        """Make an id."""
        return f"{prefix}_{next(self._ids):06}"

    # Changes

    def add_asset(self, library: str, **fields: Any) -> str:
        """Add an asset."""
        return str(self._change(self._add_asset, library, self.new_id("asset"), **fields))

    def name(self, asset: str, library: str) -> None:
        """Add an asset that is called so."""
        self._change(self._add_asset, library, asset)

    def update_asset(self, asset: str, **fields: Any) -> None:
        """Change an asset; rating and what else begins with `meta_` is its metadata."""
        self._change(self._update_asset, asset, **fields)

    def trash(self, asset: str) -> None:
        """Move an asset to the trash."""
        self._change(self._trash, asset)

    def restore(self, asset: str) -> None:
        """Take an asset out of the trash."""
        self._change(self._restore, asset)

    def delete_asset(self, asset: str) -> None:
        """Delete an asset for good."""
        self._change(self._delete_asset, asset)

    def move(self, asset: str, library: str) -> None:
        """Move an asset to another library."""
        self._change(self._move, asset, library)

    def add_album(self, library: str, name: str = "Album") -> str:
        """Add an album."""
        return str(self._change(self._add_album, library, self.new_id("album"), name))

    def update_album(self, album: str, **fields: Any) -> None:
        """Change an album."""
        self._change(self._update, self.albums, "album", album, **fields)

    def delete_album(self, album: str) -> None:
        """Delete an album."""
        self._change(self._delete_album, album)

    def link(self, album: str, asset: str) -> str:
        """Put an asset into an album."""
        return str(self._change(self._link, self.new_id("album_asset"), album, asset))

    def unlink(self, link: str) -> None:
        """Take an asset out of an album."""
        self._change(self._unlink, link)

    def add_person(self, library: str, name: str | None = None) -> str:
        """Add a person."""
        return str(self._change(self._add_person, library, self.new_id("person"), name))

    def update_person(self, person: str, **fields: Any) -> None:
        """Change a person."""
        self._change(self._update, self.people, "person", person, **fields)

    def delete_person(self, person: str) -> None:
        """Delete a person; their faces become nobody's."""
        self._change(self._delete_person, person)

    def add_face(self, asset: str, person: str | None = None) -> str:
        """Add a face."""
        return str(self._change(self._add_face, self.new_id("face"), asset, person))

    def update_face(self, face: str, person: str | None) -> None:
        """Give a face to another person."""
        self._change(self._update, self.faces, "face", face, person_id=person)

    def delete_face(self, face: str) -> None:
        """Delete a face."""
        self._change(self._delete_face, face)

    def add_stack(self, assets: list[str], cover: str | None = None) -> str:
        """Stack assets of one library."""
        return str(self._change(self._add_stack, self.new_id("asset_stack"), assets, cover))

    def touch_stack(self, stack: str) -> None:
        """Change a stack in nothing that is kept here."""
        self._change(self._update, self.stacks, "stack", stack)

    def delete_stack(self, stack: str) -> None:
        """Take a stack apart."""
        self._change(self._delete_stack, stack)

    # What they do

    def _change(self, change: Callable[..., Any], *args: Any, **fields: Any) -> Any:
        if self._writing is not None:
            return change(*args, **fields)
        transaction = self.begin()
        with self.writing(transaction):
            made = change(*args, **fields)
        transaction.ended = True
        return made

    def _record(self, library: str, entity: str, what: str, entity_id: str, payload: Row | None = None) -> None:
        assert self._writing is not None
        order = len(self.events)
        at = self._writing.began
        name = "album_asset" if entity == "album_asset" else entity
        self.events.append(
            Recorded(self._writing.number, order, library, at, entity, f"{name}_{what}", entity_id, payload)
        )

    def _add_asset(self, library: str, asset_id: str, **fields: Any) -> str:
        digest = hashlib.sha1(asset_id.encode()).digest()
        row: Row = {
            "library": library,
            "sha1": base64.b64encode(digest).decode(),
            "rating": 0,
            "trashed_at": None,
            "stack_id": None,
            "created_at": self.tick(),
            "updated_at": self.now,
            "mime_type": "image/jpeg",
        }
        self.assets[asset_id] = row | fields
        self._record(library, "asset", "created", asset_id)
        self._record(library, "metadata", "updated", asset_id)
        return asset_id

    def _update_asset(self, asset: str, **fields: Any) -> None:
        row = self.assets[asset]
        row.update(fields, updated_at=self.tick())
        self._record(row["library"], "metadata" if "rating" in fields else "asset", "updated", asset)

    def _trash(self, asset: str) -> None:
        row = self.assets[asset]
        row.update(trashed_at=self.tick(), updated_at=self.now)
        self._record(row["library"], "asset", "trashed", asset)

    def _restore(self, asset: str) -> None:
        row = self.assets[asset]
        row.update(trashed_at=None, updated_at=self.tick())
        self._record(row["library"], "asset", "restored", asset)

    def _delete_asset(self, asset: str) -> None:
        self._leave_albums(asset)
        for face in self._of(self.faces, "asset_id", asset):
            del self.faces[face]
        row = self.assets.pop(asset)
        self._record(row["library"], "asset", "deleted", asset)
        self._drop_empty_stack(row["stack_id"])

    def _move(self, asset: str, library: str) -> None:
        self._leave_albums(asset)
        row = self.assets[asset]
        for face in self._of(self.faces, "asset_id", asset):
            self.faces[face]["person_id"] = None
        self._record(row["library"], "asset", "moved_out", asset)
        stack = row["stack_id"]
        row.update(library=library, stack_id=None, updated_at=self.tick())
        self._record(library, "asset", "moved_in", asset)
        self._drop_empty_stack(stack)

    def _add_album(self, library: str, album: str, name: str) -> str:
        row = {"library": library, "name": name, "description": None, "created_at": self.tick(), "updated_at": self.now}
        self.albums[album] = row
        self._record(library, "album", "created", album)
        return album

    def _delete_album(self, album: str) -> None:
        for link in self._of(self.links, "album_id", album):
            del self.links[link]
        self._record(self.albums.pop(album)["library"], "album", "deleted", album)

    def _link(self, link: str, album: str, asset: str) -> str:
        self.links[link] = {"album_id": album, "asset_id": asset, "created_at": self.tick(), "updated_at": self.now}
        self._record(self.albums[album]["library"], "album_asset", "added", link)
        return link

    def _unlink(self, link: str) -> None:
        row = self.links.pop(link)
        payload = {"album_id": row["album_id"], "asset_id": row["asset_id"]}
        self._record(self.albums[row["album_id"]]["library"], "album_asset", "removed", link, payload)

    def _leave_albums(self, asset: str) -> None:
        for link in self._of(self.links, "asset_id", asset):
            self._unlink(link)

    def _add_person(self, library: str, person: str, name: str | None) -> str:
        self.people[person] = {"library": library, "name": name, "created_at": self.tick(), "updated_at": self.now}
        self._record(library, "person", "created", person)
        return person

    def _delete_person(self, person: str) -> None:
        for face in self._of(self.faces, "person_id", person):
            self._update(self.faces, "face", face, person_id=None)
        self._record(self.people.pop(person)["library"], "person", "deleted", person)

    def _add_face(self, face: str, asset: str, person: str | None) -> str:
        self.faces[face] = {"asset_id": asset, "person_id": person, "created_at": self.tick(), "updated_at": self.now}
        self._record(self.assets[asset]["library"], "face", "created", face)
        return face

    def _delete_face(self, face: str) -> None:
        row = self.faces.pop(face)
        payload = {"previous_person_id": row["person_id"]}
        self._record(self.assets[row["asset_id"]]["library"], "face", "deleted", face, payload)

    def _add_stack(self, stack: str, assets: list[str], cover: str | None) -> str:
        library = self.assets[assets[0]]["library"]
        self.stacks[stack] = {
            "library": library,
            "primary_asset_id": cover,
            "created_at": self.tick(),
            "updated_at": self.now,
        }
        self._record(library, "stack", "created", stack)
        for asset in assets:
            self._update_asset(asset, stack_id=stack)
        return stack

    def _delete_stack(self, stack: str) -> None:
        for asset in self._of(self.assets, "stack_id", stack):
            self._update_asset(asset, stack_id=None)
        self._record(self.stacks.pop(stack)["library"], "stack", "deleted", stack)

    def _drop_empty_stack(self, stack: str | None) -> None:
        if stack is not None and not self._of(self.assets, "stack_id", stack):
            self._record(self.stacks.pop(stack)["library"], "stack", "deleted", stack)

    def _update(self, rows: dict[str, Row], entity: str, row_id: str, **fields: Any) -> None:
        rows[row_id].update(fields, updated_at=self.tick())
        self._record(self.library_of(rows[row_id]), entity, "updated", row_id)

    def _of(self, rows: dict[str, Row], field: str, value: str) -> list[str]:
        return [row_id for row_id, row in rows.items() if row[field] == value]

    # What is there

    def library_of(self, row: Row) -> str:
        """Tell which library a row is in."""
        if "library" in row:
            return str(row["library"])
        if row.get("album_id"):
            return str(self.albums[row["album_id"]]["library"])
        return str(self.assets[row["asset_id"]]["library"])

    def is_shown(self, row: Row) -> bool:
        """Tell whether a face or link is in default reads: not if its asset is in the trash."""
        return "asset_id" not in row or self.assets[row["asset_id"]]["trashed_at"] is None

    def living_in(self, stack: str) -> list[str]:
        """List a stack's members that are not in the trash, the earliest first."""
        return [asset for asset in self._of(self.assets, "stack_id", stack) if not self.assets[asset]["trashed_at"]]

    def cover_of(self, album: str) -> str | None:
        """Choose an album's cover."""
        shown = [row["asset_id"] for row in self.links.values() if row["album_id"] == album and self.is_shown(row)]
        return min(shown, default=None)
