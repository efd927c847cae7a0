"""Rows as they are served: in another version than they are stored as, and with the names of who has none."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from ledger import keys
from ledger.store.interface import Store
from projections.entities.catalog.layout import waits
from projections.entities.catalog.own_user import OWN_TYPES, Profiles, named
from projections.entities.catalog.writer import Writer
from projections.entities.lines import as_served, as_type, payload_of, position_of, renamed
from projections.entities.registry import EntityTypeRow, row

MOST_USERS: Final = 4096
"""Of how many users the own row is remembered, with where it lay: about half a KB each."""


class Versions:
    """Makes of stored lines those of the version that is asked for."""

    def __init__(self, store: Store, profiles: Profiles, writer: Writer) -> None:
        self._store = store
        self._profiles = profiles
        self._writer = writer
        self._users: OrderedDict[tuple[str, str, str], tuple[bytes, list[bytes]]] = OrderedDict()

    async def named(self, served: EntityTypeRow, lines: list[bytes]) -> list[bytes]:
        """Give the users among stored lines who have no names those of their identity records."""
        return await named(served.stored, lines, self._profiles) if served.stored in OWN_TYPES else lines

    async def line(self, library: str, served: EntityTypeRow, entity_id: str, user: str) -> bytes | None:
        """Read a row's line as it is served, with the names of who has none; None if it is not there as that."""
        lines = await self.named(served, await self.stored(library, served, entity_id))
        made = await self.converted(library, served, lines, user) if lines else lines
        return made[0] if made else None

    async def stored(self, library: str, served: EntityTypeRow, entity_id: str) -> list[bytes]:
        """Read a row's line as it is stored; none if it is not there as this entity type."""
        if served.form is None:
            return []
        key = keys.catalog_ids(library, served.form.name)
        held = await self._store.command("HGET", key, entity_id, key=key)
        if held is None or chr(held[0]) != served.letter:
            return []
        name = library, served.stored, entity_id
        known = self._users.get(name)
        if known is not None and known[0] == held:  # what was written since lies elsewhere
            self._users.move_to_end(name)
            return known[1]
        rows = keys.catalog_rows(library, served.stored)
        found: list[bytes] = await self._store.command("ZRANGEBYSCORE", rows, held[1:], held[1:], key=rows)
        if found and served.stored in OWN_TYPES:
            self._users[name] = held, found
            if len(self._users) > MOST_USERS:
                self._users.popitem(last=False)
        return found

    async def converted(self, library: str, served: EntityTypeRow, lines: list[bytes], user: str) -> list[bytes]:
        """Convert stored lines to the version that is served, without those that it leaves out.

        `user` asks: an album without an owner is shown as theirs.
        """
        if served.is_as_stored:
            return lines
        stored = row(served.stored)
        if served.needs_owner:
            return await self._owned(library, served, lines, user)
        if served.served_with is not None:
            lines = await self._accompanied(library, served.served_with, stored, lines, user)
        if not served.is_other_version and served.from_stored is None:
            return lines
        return [made for line in lines if (made := as_served(line, served, stored)) is not None]

    async def _accompanied(
        self, library: str, served_with: tuple[str, str], stored: EntityTypeRow, lines: list[bytes], user: str
    ) -> list[bytes]:
        """Leave out lines whose named row is there, but not served as that entity type."""
        attribute, entity_type = served_with
        other = row(entity_type)
        if other.serves_all:
            return lines
        names = [getattr(payload_of(stored, line), attribute) for line in lines]
        asked = list(dict.fromkeys(names))
        held = await asyncio.gather(*(self.stored(library, other, name) for name in asked))
        left_out = {
            name
            for name, found in zip(asked, held, strict=True)
            if found and not await self.converted(library, other, found, user)
        }
        return [line for line, name in zip(lines, names, strict=True) if name not in left_out]

    async def _owned(self, library: str, served: EntityTypeRow, lines: list[bytes], user: str) -> list[bytes]:
        """Convert albums to the version that names their owner.

        One without an owner is shown as the asking user's: left out, it would be missing to what hangs on it.
        """
        assert served.from_stored is not None
        payloads = [payload_of(row(served.stored), line) for line in lines]
        newest: dict[str, tuple[int, str]] = {}
        for album_id, _, place, line in await self._writer.owners(library, [data.id for data in payloads]):
            if waits(place):
                continue
            owner = (position_of(line).at_us, payload_of(row("AlbumUserV1"), line).user_id)
            newest[album_id] = max(owner, newest.get(album_id, (0, "")))
        owned = [(line, data, newest.get(data.id, (0, user))[1]) for line, data in zip(lines, payloads, strict=True)]
        made = [(line, served.from_stored(data, owner)) for line, data, owner in owned if owner]
        return [as_type(line, served.name, data) for line, data in made if data is not None]


def exported(stored: EntityTypeRow, line: bytes) -> bytes:
    """Give what its own version cannot say to the one that can, so that it can be imported again."""
    if not stored.exported_as or as_served(line, stored, stored) is not None:
        return line
    return renamed(line, stored.exported_as)
