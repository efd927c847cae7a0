"""The door: a line becomes an entity, or is refused with the field named.

What would make the app's parser throw stops here: one bad row blocks every later row of its type on every phone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, Final
from uuid import UUID, uuid5

import msgspec
from msgspec import Struct

from ledger.errors import InvalidInput
from ledger.positions import check_id
from projections.entities.lines import head_of
from projections.entities.payloads.albums import AlbumUserV1
from projections.entities.payloads.base import Payload
from projections.entities.payloads.scalars import PATTERN_MEANINGS
from projections.entities.registry import EntityTypeRow, row
from projections.entities.versions import NotConvertible

MAX_LINE_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 64
"""How deep an object inside a payload may nest; parsers of devices must follow."""
PAIRS: Final = UUID("9a1d6e0c-54b5-5b9e-8b0a-2f7c3d1e6a48")
"""The namespace of the ids of pairs. Never change it: ids would no longer match the stored ones."""


class Entity(Struct, frozen=True):
    """One upsert or delete marker, ready to be stored.

    `row` is that of the stored type, `data` in its version, `head` its line up to the time. `refs` are the parents as
    `table|id`, those marked with `*` get a new time when this entity changes. `owner` is the owner's membership that an
    AlbumV1 brings along.
    """

    row: EntityTypeRow
    id: str
    data: Payload
    head: bytes
    refs: tuple[str, ...] = ()
    owner: Entity | None = None


class _Line(Struct, forbid_unknown_fields=True):
    type: str
    data: msgspec.Raw
    id: str | None = None


_decode_line: Final = msgspec.json.Decoder(_Line).decode
_PATH: Final = re.compile(r"(.*?)(?: - at `\$?(.*)`)?\Z", re.DOTALL)
_FIELD: Final = re.compile(r"Object (?:missing required|contains unknown) field `(.*)`\Z", re.DOTALL)
_PATTERN: Final = re.compile(r"Expected `str` matching regex '(.*)'\Z", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")


def read_line(line: bytes) -> Entity:
    """Read one `{"type","id","data"}` line; `id` may be absent where it follows from the data. Raises InvalidInput."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidInput([((), f"is longer than {MAX_LINE_BYTES} bytes")])
    parsed = _decoded(_decode_line, line, ())
    try:
        found = row(parsed.type)
    except KeyError:
        raise InvalidInput([(("type",), f"{parsed.type[:80]!r} is not an entity type")]) from None
    if found.form is None:
        raise InvalidInput([(("type",), f"{found.name} is not stored; it is part of every stream")])
    data = _decoded(_decoder(found.payload), parsed.data, ("data",))
    return entity_of(found, data, parsed.id)


def entity_of(written_as: EntityTypeRow, data: Payload, entity_id: str | None = None) -> Entity:
    """Make an entity of a payload, converted to the stored version; raises InvalidInput if ids do not fit."""
    form = written_as.form
    assert form is not None, written_as.name
    entity_id = _id_of(written_as, data, entity_id)
    owner = None
    if written_as.needs_owner:
        owner = entity_of(row("AlbumUserV1"), AlbumUserV1(entity_id, data.owner_id, "owner"))  # type: ignore[attr-defined]
    stored = row(written_as.stored)
    if written_as.to_stored is not None:
        try:
            data = written_as.to_stored(data)
        except NotConvertible as error:
            raise InvalidInput([(("data", error.field), str(error))]) from error
    head = head_of(stored.name, data)
    refs = () if stored.is_delete else _refs(stored, data)
    if owner is not None:
        refs += (f"user|{owner.data.user_id}",)  # type: ignore[attr-defined]
    return Entity(stored, entity_id, data, head, refs, owner)


def pair_id(form: str, parts: tuple[str, ...]) -> str:
    """Derive the id of an entity that is a pair: the UUIDv5 of its parts."""
    return str(uuid5(PAIRS, "\n".join((form, *parts))))


def _id_of(written_as: EntityTypeRow, data: Payload, given: str | None) -> str:
    parts = tuple(getattr(data, attribute) for attribute in written_as.key)
    assert written_as.form is not None
    if len(parts) == 1:
        if given is not None and given != parts[0]:
            field = msgspec.structs.fields(written_as.payload)
            name = next(f.encode_name for f in field if f.name == written_as.key[0])
            raise InvalidInput([(("id",), f"differs from data.{name}")])
        entity_id: str = parts[0]
    else:
        entity_id = pair_id(written_as.form.name, parts) if given is None else given
    check_id("id", entity_id)
    return entity_id


@cache
def _ref_getters(entity_type: str) -> tuple[tuple[str, Callable[[Any], str | None]], ...]:
    form = row(entity_type).form
    assert form is not None
    return tuple((f"{parent.table}|", attrgetter(parent.field)) for parent in form.parents)


def _refs(stored: EntityTypeRow, data: Payload) -> tuple[str, ...]:
    refs = tuple(table + parent_id for table, get in _ref_getters(stored.name) if (parent_id := get(data)) is not None)
    if isinstance(data, AlbumUserV1) and data.role == "owner":
        return (f"*album|{data.album_id}", *refs)
    return refs


@cache
def _decoder(payload: type[Payload]) -> Callable[[bytes | msgspec.Raw], Payload]:
    """Make the strict decoder of a payload; objects inside it may only nest so deep."""
    decode = msgspec.json.Decoder(payload).decode
    nested = [f.name for f in msgspec.structs.fields(payload) if "dict" in str(f.type)]
    if not nested:
        return decode

    def decode_checked(raw: bytes | msgspec.Raw) -> Payload:
        data = decode(raw)
        if any(_depth(getattr(data, name)) > MAX_DEPTH for name in nested):
            raise RecursionError
        return data

    return decode_checked


def _depth(value: Any) -> int:
    """Count the levels of an object without recursion, up to one more than allowed."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return depth


def _decoded(decode: Callable[[Any], Any], raw: bytes | msgspec.Raw, path: tuple[str, ...]) -> Any:
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise InvalidInput([_problem(str(error), path)]) from error
    except msgspec.DecodeError as error:
        raise InvalidInput([(path, f"is not JSON: {error}")]) from error
    except UnicodeDecodeError as error:
        raise InvalidInput([(path, "is not UTF-8")]) from error
    except RecursionError as error:
        raise InvalidInput([(path, f"is nested deeper than {MAX_DEPTH} levels")]) from error


def _problem(message: str, path: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], str]:
    """Turn the decoder's message into the path of the field and what is wrong there."""
    match = _PATH.match(message)
    assert match is not None
    message, where = match[1], match[2] or ""
    path += tuple(step[1] or (int(step[2]) if step[2].isdigit() else step[2]) for step in _STEP.finditer(where))
    if field := _FIELD.match(message):
        return (*path, field[1]), "is missing" if "missing" in message else "is not a field of this type"
    if pattern := _PATTERN.match(message):
        meaning = next((m for p, m in PATTERN_MEANINGS.items() if repr(p) == f"'{pattern[1]}'"), message)
        return path, meaning
    return path, message[:300]
