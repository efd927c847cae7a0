"""Reading a mapping from its TOML file, or from that of a preset.

Read once, when the service starts. Whatever does not fit is refused with its place in the file; whether the database
has those tables and columns is asked of the database (`syncledger source check`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from collections.abc import Mapping as AnyMapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo, fields, replace

from ledger.commands import Resend
from ledger.entity_types import mask_of
from ledger.errors import InvalidInput
from projections.entities.forms import FORMS
from projections.entities.postgres.horizon import MARGIN_US
from projections.entities.postgres.mapping.mapping import (
    Branch,
    Each,
    LibraryType,
    Mapping,
    Order,
    ParentJoin,
    SourceOptions,
    Stamps,
)
from projections.entities.postgres.mapping.sql_text import problem_of
from projections.entities.registry import ROWS, EntityTypeRow, row

T = TypeVar("T")

Problem = tuple[tuple[str | int, ...], str]

PRESETS: Final = ("immich",)
SERVED: Final = tuple(found.name for found in ROWS if found.form is not None)
"""The entity types a mapping may give rows to."""

_TABLES: Final = frozenset(form.table for form in FORMS)
_DURATION: Final = re.compile(r"([1-9][0-9]{0,9})(s|m|h|d)")
_COLUMN: Final = re.compile(r"[^.]+(?:\.[^.]+){1,2}")
_UNIT_US: Final = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_NAME: Final = r'(?:[A-Za-z_][\w$]*|"(?:[^"]|"")+")'
_ONE_TABLE: Final = re.compile(rf"{_NAME}(?:\.{_NAME})?(?:\s+(?:AS\s+)?{_NAME})?", re.IGNORECASE)
_AT: Final = re.compile(r"^(.*?)(?: - at `(?:key in )?\$(.*)`)?$", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")


class _Source(Struct, frozen=True, forbid_unknown_fields=True):
    library: LibraryType = "uuid"
    stamps: Stamps = "transaction"
    keeps_deletes: str | None = None
    version: str | None = None


class _Resend(Struct, frozen=True, forbid_unknown_fields=True):
    revision: int
    types: list[str]
    needs_column: str = ""


class _Narrowed(Struct, frozen=True, forbid_unknown_fields=True):
    of: str
    where: str


class _Parent(Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    table: str
    from_: str
    on: str
    uuid7: str | None = None
    updated_at: str | None = None
    since: str | bool | None = None
    payload: str | None = None
    data: dict[str, str] = {}
    changes: str | None = None


class _Each(Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    from_: str
    where: str
    uuid7: str


class _Branch(Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    from_: str
    where: str
    payload: str | None = None
    data: dict[str, str] = {}
    uuid7: str | None = None
    updated_at: str | None = None
    id: str | None = None
    parents: list[_Parent] = []
    each: _Each | None = None
    needs_column: str = ""
    lacks_column: str = ""


def load_mapping(name_or_path: str) -> Mapping:
    """Read a preset by its name, or a file; raises InvalidInput that names the place in it, or the file."""
    if name_or_path in PRESETS:
        preset = resources.files("projections.entities.postgres.mapping").joinpath(f"{name_or_path}.toml")
        return read_mapping(preset.read_text(encoding="utf-8"), name_or_path)
    try:
        text = Path(name_or_path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise InvalidInput([((name_or_path,), f"is no preset, nor a file to read: {reason}")]) from error
    return read_mapping(text, name_or_path)


def read_mapping(text: str, name: str) -> Mapping:
    """Read a mapping; raises InvalidInput with the path and the trouble of each place that does not fit."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput([((name,), f"is not TOML: {error}")]) from error
    reader = _Reader()
    mapping = reader.mapping(raw, name)
    if reader.problems:
        raise InvalidInput(reader.problems)
    return mapping


def missing_keys(entity_type: str, given: AnyMapping[str, str]) -> list[str]:
    """Name the payload keys an entity type needs that are not given."""
    return [
        field.encode_name for field in payload_fields(entity_type) if field.required and field.encode_name not in given
    ]


@cache
def payload_fields(entity_type: str) -> tuple[FieldInfo, ...]:
    """Name the fields of an entity type's payload, in its order. PERF: a mapping asks hundreds of times."""
    return fields(row(entity_type).payload)


class _Reader:
    """Turns what TOML says into structs, and notes every place that does not fit."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def mapping(self, raw: dict[str, Any], name: str) -> Mapping:
        for key in raw.keys() - {"source", "payloads", "entities", "narrowed", "resend"}:
            self._refuse(
                (key,), "is not a part of a mapping: there are source, payloads, entities, narrowed and resend"
            )
        source = self._source(raw.get("source", {}))
        payloads = self._convert(raw.get("payloads", {}), dict[str, dict[str, str]], ("payloads",)) or {}
        for payload, expressions in payloads.items():
            self._check_all(expressions, ("payloads", payload))
        entities = self._convert(raw.get("entities", {}), dict[str, list[Any]], ("entities",))
        if entities == {}:
            self._refuse(("entities",), "maps no entity type")
        made: dict[str, tuple[Branch, ...]] = {}
        for entity_type, branches in (entities or {}).items():
            if entity_type not in SERVED:
                self._refuse(("entities", entity_type), "is not an entity type with rows")
                continue
            found = [
                self._branch(branch, row(entity_type), payloads, ("entities", entity_type, index))
                for index, branch in enumerate(branches)
            ]
            if not found:
                self._refuse(("entities", entity_type), "has no branch")
            made[entity_type] = tuple(branch for branch in found if branch is not None)
        narrowed = self._convert(raw.get("narrowed", {}), dict[str, _Narrowed], ("narrowed",)) or {}
        made |= {name: self._narrowed(name, narrower, made) for name, narrower in narrowed.items()}
        resends = self._convert(raw.get("resend", []), list[_Resend], ("resend",)) or []
        needed = {resend.revision: resend.needs_column for resend in resends if resend.needs_column}
        return Mapping(source, made, name, tuple(self._resends(resends, made)), needed)

    def _narrowed(
        self, name: str, narrower: _Narrowed, mapped: AnyMapping[str, tuple[Branch, ...]]
    ) -> tuple[Branch, ...]:
        """Give an entity type the branches of another one, each with one more condition."""
        path = ("narrowed", name)
        self._check_all({"where": narrower.where}, path)
        if name not in SERVED:
            self._refuse(path, "is not an entity type with rows")
        elif name in mapped:
            self._refuse(path, "has branches of its own")
        elif narrower.of not in mapped:
            self._refuse((*path, "of"), f"{narrower.of!r} is not mapped under entities")
        elif [field.name for field in payload_fields(name)] != [field.name for field in payload_fields(narrower.of)]:
            self._refuse((*path, "of"), f"{narrower.of} has other keys than {name}")
        return tuple(
            replace(branch, entity_type=name, where=f"({branch.where}) AND ({narrower.where})")
            for branch in mapped.get(narrower.of, ())
        )

    def _resends(self, resends: list[_Resend], mapped: AnyMapping[str, object]) -> Iterator[Resend]:
        """Make masks of all versions that the named entity types are served as."""
        for index, resend in enumerate(resends):
            path = ("resend", index)
            if resend.revision != index + 1:
                self._refuse((*path, "revision"), f"must be {index + 1}: revisions are counted from 1 without a gap")
            for at, name in enumerate(resend.types):
                if name not in mapped:
                    self._refuse((*path, "types", at), f"{name!r} is not mapped here")
                elif row(name).is_delete:
                    self._refuse((*path, "types", at), "is a delete marker's: who got it needs it no more")
            if not resend.types:
                self._refuse((*path, "types"), "names no entity type")
            if resend.needs_column and not all(later.needs_column for later in resends[index:]):
                says = (
                    "is for the last revisions only: phones that are past a later one would not get these types again"
                )
                self._refuse((*path, "needs_column"), says)
            versions = (found.name for found in ROWS if not {found.name, found.stored}.isdisjoint(resend.types))
            yield Resend(resend.revision, mask_of(versions))

    def _source(self, raw: Any) -> SourceOptions:
        read = self._convert(raw, _Source, ("source",))
        if read is None:
            return SourceOptions()
        keeps_us = None
        if read.keeps_deletes is not None:
            found = _DURATION.fullmatch(read.keeps_deletes)
            if found is None:
                self._refuse(("source", "keeps_deletes"), "must be a duration like 12h or 30d")
            else:
                keeps_us = int(found[1]) * _UNIT_US[found[2]]
                if keeps_us <= MARGIN_US:
                    self._refuse(("source", "keeps_deletes"), "must be more than 1s: nothing newer than that is read")
        self._check_all({"version": read.version}, ("source",))
        return SourceOptions(read.library, read.stamps, keeps_us, read.version or "")

    def _branch(
        self, raw: Any, served: EntityTypeRow, payloads: dict[str, dict[str, str]], path: tuple[str | int, ...]
    ) -> Branch | None:
        read = self._convert(raw, _Branch, path)
        if read is None:
            return None
        self._check_all({"from": read.from_, "where": read.where}, path)
        self._check_all(read.data, (*path, "data"))
        order = self._order(read.uuid7, read.updated_at, read.id, path)
        each = None
        if read.each is not None:
            at = (*path, "each")
            self._check_all({"from": read.each.from_, "where": read.each.where}, at)
            if _ONE_TABLE.fullmatch(read.each.from_.strip()) is None:
                self._refuse((*at, "from"), "must be one table and its alias")
            if read.uuid7 is None:
                self._refuse(path, "rows of shares are ordered by a uuid7")
            each = Each(read.each.from_.strip(), read.each.where, self._order(read.each.uuid7, None, None, at))
        parents = [
            self._parent(parent, served, each, payloads, (*path, "parents", index))
            for index, parent in enumerate(read.parents)
        ]
        data = self._data(read, served.name, payloads, path)
        for name in ("needs_column", "lacks_column"):
            if (column := getattr(read, name)) and _COLUMN.fullmatch(column) is None:
                self._refuse((*path, name), "must be a table and a column, like person.name")
        return Branch(
            served.name,
            read.from_,
            read.where,
            order,
            data,
            tuple(parents),
            each,
            read.needs_column,
            read.lacks_column,
        )

    def _data(
        self, read: _Branch, entity_type: str, payloads: dict[str, dict[str, str]], path: tuple[str | int, ...]
    ) -> dict[str, str]:
        """Gather a branch's expressions in the order of the payload; its own ones go before those of its payload."""
        shared: dict[str, str] = {}
        if read.payload is not None:
            if read.payload not in payloads:
                self._refuse((*path, "payload"), f"there is no payloads.{read.payload}")
                return {}
            shared = payloads[read.payload]
        given = {**shared, **read.data}
        known = [field.encode_name for field in payload_fields(entity_type)]
        at = (*path, "data") if read.payload is None else (*path, "payload")
        for key in given.keys() - set(known):
            self._refuse((*path, "data", key) if key in read.data else at, f"{entity_type} has no key {key!r}")
        for key in missing_keys(entity_type, given):
            self._refuse(at, f"{entity_type} needs the key {key!r}")
        return {key: given[key] for key in known if key in given}

    def _parent(
        self,
        read: _Parent,
        served: EntityTypeRow,
        each: Each | None,
        payloads: dict[str, dict[str, str]],
        path: tuple[str | int, ...],
    ) -> ParentJoin:
        self._check_all({"from": read.from_, "on": read.on}, path)
        tables = [parent.table for parent in served.parents]
        if read.table not in _TABLES:
            self._refuse((*path, "table"), f"{read.table!r} is not a table of the device")
        elif served.is_delete:
            self._refuse(path, "a delete marker waits for no parent")
        elif read.table not in tables and not (served.needs_owner and read.table == "user"):
            self._refuse((*path, "table"), f"{served.name} does not refer to {read.table!r}")
        if (read.uuid7 is None) == (read.updated_at is None):
            self._refuse(path, "needs either uuid7 or updated_at")
        self._check_all({"uuid7": read.uuid7, "updated_at": read.updated_at}, path)
        stands = Order(read.uuid7 or "", read.updated_at or "")
        since = read.since
        if since is True:
            self._refuse((*path, "since"), "must be an SQL expression or false")
            since = None
        elif isinstance(since, str):
            self._check_all({"since": since}, path)
            if each is not None:
                self._refuse((*path, "since"), "rows of shares stand where their share does; leave it out")
        changes = Order()
        if read.changes is not None:
            self._check_all({"changes": read.changes}, path)
            changes = Order(uuid7=read.changes) if read.uuid7 else Order(updated_at=read.changes)
        return ParentJoin(read.table, read.from_, read.on, stands, since, self._own(read, payloads, path), changes)

    def _own(self, read: _Parent, payloads: dict[str, dict[str, str]], path: tuple[str | int, ...]) -> dict[str, str]:
        """Gather the expressions of a parent's own payload: those that are given go before those of `payload`."""
        self._check_all(read.data, (*path, "data"))
        shared = {} if read.payload is None else payloads.get(read.payload)
        if shared is None:
            self._refuse((*path, "payload"), f"there is no payloads.{read.payload}")
            return {}
        given = {**shared, **read.data}
        forms = [form for form in FORMS if form.table == read.table]
        known = {field.encode_name for form in forms for name in form.upsert_types for field in payload_fields(name)}
        for key in sorted(given.keys() - known) if forms else ():
            self._refuse((*path, "data", key), f"a row of {read.table} has no key {key!r}")
        return given

    def _order(
        self, uuid7: str | None, updated_at: str | None, entity_id: str | None, path: tuple[str | int, ...]
    ) -> Order:
        if (uuid7 is None) == (updated_at is None):
            self._refuse(path, "needs either uuid7, or updated_at and id")
        elif (updated_at is None) != (entity_id is None):
            self._refuse(path, "updated_at and id go together, and uuid7 without id")
        self._check_all({"uuid7": uuid7, "updated_at": updated_at, "id": entity_id}, path)
        return Order(uuid7 or "", updated_at or "", entity_id or "")

    def _check_all(self, pieces: AnyMapping[str, str | None], path: tuple[str | int, ...]) -> None:
        for key, sql in pieces.items():
            if sql is not None and (problem := problem_of(sql)) is not None:
                self._refuse((*path, key), problem)

    def _convert(self, raw: Any, kind: type[T], path: tuple[str | int, ...]) -> T | None:
        try:
            return msgspec.convert(raw, kind)
        except msgspec.ValidationError as error:
            found = _AT.fullmatch(str(error))
            assert found is not None
            steps = [int(index) if index.isdigit() else name or "…" for name, index in _STEP.findall(found[2] or "")]
            self._refuse((*path, *steps), found[1])
            return None

    def _refuse(self, path: tuple[str | int, ...], message: str) -> None:
        self.problems.append((path, message))
