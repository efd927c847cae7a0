"""What is remembered across streams: runs of events without rows, by each process; rows not sent, in the store.

A row that does not fit is left out, and so is all that hangs on it. Their events are passed then, so somebody must know
of them when the row fits again: its next event names its children once more, to every device, whichever process left
them out. A parent is therefore noted in the store before any device gets past its children:

- `unfit` while it does not fit. It counts as being on a device only where it was sent in the same stream;
- `fits` from when a run first sent it again. Streams that begin after that have its event below their bound. The mark
  stays for devices that were away; one that is dropped raises the tombstone floor, so that they start over.

What waits for a parent is noted too, only to be told of.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Literal, NamedTuple

import msgspec

from ledger import keys
from ledger.store.interface import Store
from ledger.store.scripts import Arg, Script
from projections.entities.registry import STORED_TYPES
from projections.entities.source import HeldBack

KEPT_TAILS: Final = 20_000
KEPT_LIBRARIES: Final = 1_000
MAX_NOTES: Final = 5_000
"""Notes of one entity type of a library. Where a parent cannot be noted, runs end before it and before its children."""
MARKS_KEPT_US: Final = 30 * 86_400_000_000
"""How long a device may be away and still get what hangs on a row that was mended meanwhile without starting over."""
SLACK_US: Final = 3_600_000_000
"""Between the clocks of those who mark and those who serve, and for streams that began before a mark."""
AT_ONCE: Final = 100
PARENTS: Final = {"asset": "AssetV2", "album": "AlbumV2", "person": "PersonV1"}
"""The tables whose rows others hang on, and the entity types these are stored as. Users always fit."""
_SHOWN: Final = 256
_VERSION: Final = b"@version"
_FLOOR: Final = b"@floor"

HELD_BACK: Final = Script.load("projections.entities.gumnut", "held_back.lua")

log = logging.getLogger(__name__)


class Tails:
    """Events of a feed that led to no rows of an entity type, so that nobody reads them again from the same cursor.

    What was not there when they were read can only come back with an event behind them. `version` is that of the notes
    in the store: which events matter depends on them.
    """

    def __init__(self) -> None:
        self._ends: OrderedDict[tuple[str, str, str, str], str] = OrderedDict()

    def end_of(self, library: str, version: str, entity_type: str, cursor: str) -> str:
        """Tell from where to read instead of a cursor."""
        key = (library, version, entity_type, cursor)
        if key not in self._ends:
            return cursor
        self._ends.move_to_end(key)
        return self._ends[key]

    def note(self, library: str, version: str, entity_type: str, cursor: str, end: str) -> None:
        """Note that between two cursors there are no rows."""
        self._ends[library, version, entity_type, cursor] = end
        while len(self._ends) > KEPT_TAILS:
            self._ends.popitem(last=False)

    def forget(self, library: str) -> bool:
        """Forget what is known of a library; tells whether that was anything."""
        known = [key for key in self._ends if key[0] == library]
        for key in known:
            del self._ends[key]
        return bool(known)


class Note(NamedTuple):
    """Why a row is not sent, or that it is again, since when; `what` is the field or the parent (`table|id`).

    `stops`: the run of an entity type ends before `example`, whose parent may not be there.
    """

    state: Literal["unfit", "fits", "waits", "stops"]
    at_us: int
    what: str
    example: str = ""


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Note).decode


class Noted(NamedTuple):
    """The notes of a library at one moment, by `entity type|id`."""

    version: str
    floor_us: int
    notes: Mapping[str, Note]
    types: frozenset[str]


class HeldBackNotes:
    """The notes in the store; each process keeps those it read last, and reads them again once they changed."""

    def __init__(self, store: Store, now_us: Callable[[], int]) -> None:
        self._store = store
        self._now_us = now_us
        self._read: OrderedDict[str, Noted] = OrderedDict()
        self._logged: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def of(self, library: str) -> Notes:
        """Read the notes as one stream uses them: before its bound is taken."""
        return Notes(self, library, await self._noted(library), self._now_us())

    async def libraries(self, most: int) -> list[str]:
        """Name libraries that ever had rows which were not sent; where there are more than `most`, any so many."""
        index = keys.held_back_libraries()
        return sorted(name.decode() for name in await self._store.command("SRANDMEMBER", index, most, key=index))

    async def floor(self, library: str) -> int:
        """Tell when the newest mark that was dropped was made, and some; 0 if none was."""
        key = keys.held_back(library)
        return int(await self._store.command("HGET", key, _FLOOR, key=key) or 0)

    def log(self, entity_type: str, entity_id: str, field: str) -> None:
        """Log the first row of a field that does not fit."""
        if (entity_type, field) in self._logged:
            return
        self._logged[entity_type, field] = None
        while len(self._logged) > KEPT_LIBRARIES:
            self._logged.popitem(last=False)
        log.warning(
            "Gumnut's %s %s is not sent: a device cannot read its %s; others of the kind are counted and not logged",
            entity_type,
            _shown(entity_id),
            field,
        )

    async def write(self, library: str, floor_us: int, changes: Sequence[tuple[str, str, bytes]]) -> set[str]:
        """Write notes in one script; returns the names that were refused."""
        index = keys.held_back_libraries()
        if library not in self._read:
            await self._store.command("SADD", index, library, key=index)
        args: list[Arg] = [MAX_NOTES, floor_us]
        for what, name, value in changes:
            args += [what, name, value]
        return {name.decode() for name in await self._store.script(HELD_BACK, [keys.held_back(library)], args)}

    async def _noted(self, library: str) -> Noted:
        key = keys.held_back(library)
        version = await self._store.command("HGET", key, _VERSION, key=key)
        if version is None:
            return Noted("", 0, {}, frozenset())
        noted = self._read.get(library)
        if noted is None or noted.version != version.decode():
            flat = await self._store.command("HGETALL", key, key=key)
            noted = _noted_of(dict(zip(flat[::2], flat[1::2], strict=True)))
        self._read[library] = noted
        self._read.move_to_end(library)
        while len(self._read) > KEPT_LIBRARIES:
            self._read.popitem(last=False)
        return noted


def _noted_of(fields: Mapping[bytes, bytes]) -> Noted:
    notes = {name.decode(): _decode(value) for name, value in fields.items() if name[:1] not in (b"#", b"@")}
    types = frozenset(name.partition("|")[0] for name in notes)
    return Noted(fields.get(_VERSION, b"").decode(), int(fields.get(_FLOOR, 0)), notes, types)


class Notes:
    """The notes of one library in one stream: as they were before its bound, and what the stream adds to them."""

    def __init__(self, store_of_notes: HeldBackNotes, library: str, noted: Noted, now_us: int) -> None:
        self._store_of_notes = store_of_notes
        self._library = library
        self._noted = noted
        self._now_us = now_us
        self._changes: dict[str, Note | None] = {}
        self._staged: dict[str, Note | None] = {}

    @property
    def version(self) -> str:
        """The version of the notes that the stream began with."""
        return self._noted.version

    @property
    def floor_us(self) -> int:
        """The tombstone floor as the stream began with it."""
        return self._noted.floor_us

    def has(self, entity_type: str) -> bool:
        """Tell whether the stream began with a note of an entity type."""
        return entity_type in self._noted.types

    def began_with(self, entity_type: str, entity_id: str) -> bool:
        """Tell whether there was a note of a row when the stream began: its next event names its children."""
        return _name(entity_type, entity_id) in self._noted.notes

    def is_unfit(self, entity_type: str, entity_id: str) -> bool:
        """Tell whether a row did not fit when it was last read, by whomever."""
        note = self._get(_name(entity_type, entity_id))
        return note is not None and note.state == "unfit"

    def unfit(self, entity_type: str, entity_id: str, field: str) -> str:
        """Note a row that does not fit; returns the name of the note."""
        name = _name(entity_type, entity_id)
        old = self._get(name)
        if old is None or old[::2] != ("unfit", field):
            self._stage(name, Note("unfit", self._now_us, field))
            self._store_of_notes.log(entity_type, entity_id, field)
        return name

    def waits(self, entity_type: str, entity_id: str, parent: str) -> None:
        """Note a row that waits for a parent which does not fit."""
        self._put(_name(entity_type, entity_id), Note("waits", self._now_us, _shown(parent)))

    def stops(self, entity_type: str, entity_id: str, parent: str) -> None:
        """Note that a run ended before a row, and those behind it, whose parent may not be there."""
        self._put(_name(entity_type, ""), Note("stops", self._now_us, _shown(parent), _shown(entity_id)))

    def goes_on(self, entity_type: str) -> None:
        """Note that a run of an entity type came to its end."""
        self.gone(entity_type, "")

    def sent(self, entity_type: str, entity_id: str) -> bool:
        """Note that a row goes to a device; tells whether there was a note of it."""
        name = _name(entity_type, entity_id)
        note = self._get(name)
        if note is None:
            return False
        if entity_type not in PARENTS.values():
            self._stage(name, None)
        elif note.state != "fits":
            self._stage(name, Note("fits", self._now_us, ""))
        return True

    def gone(self, entity_type: str, entity_id: str) -> None:
        """Note that a row is not there any more."""
        name = _name(entity_type, entity_id)
        if self._get(name) is not None:
            self._stage(name, None)

    def deleted(self, entity_type: str, entity_id: str) -> None:
        """Note that a row was deleted, and with it what hangs on it."""
        if self._get(_name(entity_type, entity_id)) is None:
            return
        self.gone(entity_type, entity_id)
        parents = {_shown(f"{table}|{entity_id}") for table, told in PARENTS.items() if told == entity_type}
        for name, note in list(self.all()):
            if note.state == "waits" and note.what in parents:
                self._stage(name, None)

    async def keep(self) -> set[str]:
        """Write what was noted since the last time, if anything; returns the names of notes that there is no room for.

        Marks that are old go with it, and where there is no room the oldest.
        """
        if not self._staged:
            return set()
        staged, self._staged = self._staged, {}
        long_ago = self._now_us - MARKS_KEPT_US
        refused = await self._write(staged, [name for name, note in self._marks() if note.at_us < long_ago])
        full = {name.partition("|")[0] for name in refused}
        if oldest := [name for name, _ in self._marks() if name.partition("|")[0] in full and name not in staged]:
            refused = await self._write({name: staged[name] for name in refused}, oldest)
        for name in refused:
            self._changes.pop(name, None)
        return refused

    @property
    def count(self) -> int:
        """How many notes there are, of rows that are sent again too."""
        return len(self._noted.notes)

    def held_back(self) -> list[HeldBack]:
        """Tell what is held back: what waits for each kind of parent, and what does not fit by its field."""
        found: dict[tuple[str, str, str], list[tuple[str, Note]]] = {}
        for name, note in self.all():
            entity_type, _, entity_id = name.partition("|")
            group = note.what if note.state == "unfit" else note.what.partition("|")[0]
            found.setdefault((entity_type, note.state, group), []).append((entity_id, note))
        told = []
        for (entity_type, state, _), rows in found.items():
            entity_id, note = min(rows)
            reason: Literal["unfit", "missing_parent"] = "unfit" if state == "unfit" else "missing_parent"
            told.append(HeldBack(entity_type, len(rows), reason, note.example or entity_id, note.what))
        return sorted(told, key=lambda held: (STORED_TYPES.index(held.entity_type), held.reason, held.parent))

    def all(self) -> Iterator[tuple[str, Note]]:
        """Go through the notes of rows that are not sent."""
        for name in dict.fromkeys((*self._noted.notes, *self._changes)):
            if (note := self._get(name)) is not None and note.state != "fits":
                yield name, note

    def _get(self, name: str) -> Note | None:
        return self._changes[name] if name in self._changes else self._noted.notes.get(name)

    def _put(self, name: str, note: Note) -> None:
        old = self._get(name)
        if old is None or old._replace(at_us=0) != note._replace(at_us=0):
            self._stage(name, note)

    def _stage(self, name: str, note: Note | None) -> None:
        self._changes[name] = self._staged[name] = note

    def _marks(self) -> list[tuple[str, Note]]:
        """List the oldest marks."""
        marks = [(name, note) for name, note in self._noted.notes.items() if note.state == "fits"]
        return list(islice(sorted(marks, key=lambda mark: mark[1].at_us), AT_ONCE))

    async def _write(self, changes: Mapping[str, Note | None], dropped: Sequence[str]) -> set[str]:
        dropped = [name for name in dropped if name not in changes]
        marks = [(name, self._noted.notes[name]) for name in dropped]
        floor_us = max((note.at_us + SLACK_US for _, note in marks), default=0)
        writes = [("drop", name, _encode(note)) for name, note in marks]
        for name, note in changes.items():
            writes.append(("del", name, b"") if note is None else ("put", name, _encode(note)))
        return await self._store_of_notes.write(self._library, floor_us, writes)


def _name(entity_type: str, entity_id: str) -> str:
    return f"{entity_type}|{_shown(entity_id)}"


def _shown(text: str) -> str:
    """Make an id fit for logs, keys and answers; as it is, unless it is odd."""
    if text.isprintable() and len(text) <= _SHOWN:
        return text
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:_SHOWN])
