"""Which SQL types can be printed as a payload's field. Pure."""

from __future__ import annotations

from functools import cache
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import inspect

from projections.entities.payloads.scalars import ID_PATTERN, INSTANT_PATTERN
from projections.entities.registry import row

Kind = Literal["id", "text", "time", "integer", "number", "flag", "object"]
Inside = tuple[tuple[str, Literal["integer", "text"]], ...]

_TEXTS: Final = ("text", "varchar", "bpchar", "char", "name", "citext", "unknown")
_INTEGERS: Final = ("int2", "int4", "int8")
_TYPES: Final[dict[Kind, tuple[str, ...]]] = {
    "id": (*_TEXTS, "uuid", *_INTEGERS),
    "text": (*_TEXTS, "uuid", *_INTEGERS),
    "time": ("timestamptz", "timestamp", "date"),
    "integer": _INTEGERS,
    "number": ("float4", "float8", "numeric", *_INTEGERS),
    "flag": ("bool",),
    "object": ("json", "jsonb"),
}
_MEANINGS: Final[dict[Kind, str]] = {
    "id": "an id (text, uuid or an integer)",
    "text": "a text",
    "time": "a time (timestamptz)",
    "integer": "an integer",
    "number": "a number",
    "flag": "a boolean",
    "object": "a JSON object (json or jsonb)",
}
# What objects hold, in one way or another. `MemoryData.fromMap` of the app: `map['year'] as int`, which throws at
# 2020.5 and at null; a birthday has a person instead.
_YEAR: Final[Inside] = (("year", "integer"),)
_PERSON: Final[Inside] = (("personId", "text"), ("personName", "text"))
_INSIDE: Final = {("MemoryV1", "data"): (_YEAR,), ("MemoryV2", "data"): (_YEAR, _PERSON)}
# It tells a new picture from an old one, and keeps a user from nobody.
_OTHERWISE: Final = {
    (name, "profileChangedAt"): "1970-01-01T00:00:00.000Z" for name in ("UserV1", "AuthUserV1", "AuthUserV2")
}
_HINTS: Final = {
    ("text", "bytea"): "; encode(…, 'base64') makes it a text",
    ("id", "bytea"): "; encode(…, 'hex') makes it a text",
    ("integer", "numeric"): "; a device throws at 5.0: round it and cast it to bigint",
    ("integer", "float8"): "; a device throws at 5.0: round it and cast it to bigint",
    ("integer", "float4"): "; a device throws at 5.0: round it and cast it to bigint",
}


class Field(NamedTuple):
    """One key of a payload on the wire: what it holds, whether that may be null, its only values if it has such.

    `inside` are the keys that the app reads of an object, and what it casts them to, in each of the ways that it takes.
    `otherwise` is sent where a value cannot be read: of what nobody would miss a row for.
    """

    name: str
    kind: Kind
    nullable: bool
    values: frozenset[str] = frozenset()
    inside: tuple[Inside, ...] = ()
    otherwise: str = ""


class SqlType(NamedTuple):
    """An SQL type as pg_type names it (of a domain what it is made of), and the values of an enum."""

    name: str
    labels: tuple[str, ...] = ()


@cache
def fields_of(entity_type: str) -> tuple[Field, ...]:
    """List the keys of an entity type's payload."""
    described = inspect.type_info(row(entity_type).payload)
    assert isinstance(described, inspect.StructType)
    fields = (_field(field) for field in described.fields)
    return tuple(
        field._replace(
            inside=_INSIDE.get((entity_type, field.name), ()),
            otherwise=_OTHERWISE.get((entity_type, field.name), ""),
        )
        for field in fields
    )


def misfit(kind: Kind, found: SqlType) -> str:
    """Say why values of an SQL type do not fit a field of a kind; empty if they do."""
    if found.name in _TYPES[kind] or (kind == "text" and found.labels):
        return ""
    return f"is {found.name}, but a device reads {_MEANINGS[kind]} there{_HINTS.get((kind, found.name), '')}"


def _field(field: inspect.Field) -> Field:
    parts = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
    values = [part for part in parts if not isinstance(part, inspect.NoneType)]
    assert len(values) == 1, field.encode_name
    only = values[0].values if isinstance(values[0], inspect.LiteralType) else ()
    nullable = len(parts) > 1 or field.default is msgspec.UNSET
    return Field(field.encode_name, _kind(values[0]), nullable, frozenset(map(str, only)))


def _kind(described: inspect.Type) -> Kind:
    match described:
        case inspect.StrType(pattern=pattern):
            return {INSTANT_PATTERN: "time", ID_PATTERN: "id"}.get(pattern or "", "text")  # type: ignore[return-value]
        case inspect.LiteralType():
            return "text"
        case inspect.IntType():
            return "integer"
        case inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "flag"
        case inspect.DictType():
            return "object"
    raise TypeError(f"no kind of field holds {described}")
