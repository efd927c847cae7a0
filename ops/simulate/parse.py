"""Read lines as strictly as the app's parser does, a held block at a time.

`null` or a missing key where a value must be, `5.0` for an integer, a value outside of an enum, an unknown type or a
blank line: each fails the whole block, as it does in the app.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from ops.simulate.errors import UnreadableLine
from ops.simulate.tables import FORMS, Form

Row = tuple[Any, ...]

_INT64: Final = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_DATE: Final = Annotated[datetime.datetime, msgspec.Meta(tz=True)]
_KINDS: Final[dict[str, Any]] = {"s": str, "b": bool, "i": _INT64, "f": float, "dt": _DATE, "{}": dict[str, Any]}
_sorted_json: Final = msgspec.json.Encoder(order="sorted").encode


class Field(NamedTuple):
    """One key of an entity's data; `values` holds an enum's values."""

    name: str
    kind: str
    nullable: bool
    optional: bool
    values: tuple[str, ...]


def fields_of(text: str) -> tuple[Field, ...]:
    """Read a line of fields as `tables.py` writes them; the empty text has none."""
    return tuple(_field(*part.split()) for part in text.split(",") if part.strip())


def _field(name: str, kind: str) -> Field:
    nullable = kind.endswith("?")
    kind = kind.removesuffix("?")
    values = () if kind in _KINDS else tuple(kind.split("|"))
    return Field(name.removesuffix("?"), "enum" if values else kind, nullable, name.endswith("?"), values)


def _struct(name: str, fields: Sequence[Field], *, dates: Any) -> type[msgspec.Struct]:
    """Build the struct that accepts what the app's parser accepts, with dates read as `dates`."""
    members: list[Any] = []
    for field in fields:
        kind = Literal[field.values] if field.values else dates if field.kind == "dt" else _KINDS[field.kind]
        if field.nullable:
            kind = kind | None
        members.append((field.name, kind, None) if field.optional else (field.name, kind))
    return msgspec.defstruct(name, members, gc=False, kw_only=True)


def duration_ms(text: str | None) -> int | None:
    """Read the V1 duration `H:MM:SS.ffffff` as the milliseconds that V2 carries, finer digits cut off."""
    if text is None:
        return None
    hours, minutes, seconds = text.split(":")
    whole, _, fraction = seconds.partition(".")
    return (int(hours) * 3600 + int(minutes) * 60 + int(whole)) * 1000 + int(f"{fraction}000"[:3])


class Shape:
    """How the data of one entity type is read: checked with its dates parsed, then kept as it was written."""

    def __init__(self, entity_type: str, form: Form) -> None:
        self.form = form
        self.fields = fields_of(form.fields)
        self.columns = tuple(field.name for field in self.fields)
        self._checked = msgspec.json.Decoder(list[_struct(entity_type, self.fields, dates=_DATE)])  # type: ignore[misc]
        self._kept = msgspec.json.Decoder(list[_struct(entity_type, self.fields, dates=str)])  # type: ignore[misc]
        self._fixes: list[tuple[int, Callable[[Any], Any]]] = [
            (index, fix) for index, field in enumerate(self.fields) if (fix := _fix(field))
        ]

    def rows(self, data: Sequence[msgspec.Raw]) -> list[Row]:
        """Return one tuple per object, in the order of `columns`; raises msgspec.MsgspecError or ValueError."""
        array = b"[" + b",".join(data) + b"]"
        self._checked.decode(array)
        rows: list[Row] = [msgspec.structs.astuple(item) for item in self._kept.decode(array)]
        return [self._fixed(row) for row in rows] if self._fixes else rows

    def _fixed(self, row: Row) -> Row:
        values = list(row)
        for index, fix in self._fixes:
            values[index] = fix(values[index])
        return tuple(values)


def _fix(field: Field) -> Callable[[Any], Any] | None:
    if field.kind == "{}":
        return lambda value: _sorted_json(value).decode()
    if field.name == "duration" and field.kind == "s":
        return duration_ms
    return None


SHAPES: Final = {entity_type: Shape(entity_type, form) for entity_type, form in FORMS.items()}


class Line(msgspec.Struct, gc=False):
    """One line of the stream."""

    type: str
    data: msgspec.Raw
    ack: str


class Entity(msgspec.Struct, gc=False):
    """One line of a catalog's listing."""

    type: str
    data: msgspec.Raw


class Run(NamedTuple):
    """Consecutive lines of one type; `first` is the number of the first of them in the stream, from 1."""

    type: str
    rows: list[Row]
    acks: list[str]
    first: int


_lines: Final = msgspec.json.Decoder(Line)
_entities: Final = msgspec.json.Decoder(Entity)


def parse_runs(block: bytes, first: int) -> list[Run]:
    """Split a block of whole lines, each with its LF, into maximal runs; raises UnreadableLine."""
    if block.startswith(b"\n") or b"\n\n" in block:
        blank = next(number for number, line in enumerate(block.split(b"\n"), first) if not line)
        raise UnreadableLine(f"line {blank} of the stream is blank")
    try:
        lines = _lines.decode_lines(block)
    except msgspec.MsgspecError as error:
        raise _bad_line(block, first, error) from error
    runs: list[Run] = []
    begin = 0
    for index in range(1, len(lines) + 1):
        if index < len(lines) and lines[index].type == lines[begin].type:
            continue
        part = lines[begin:index]
        rows = rows_of(part[0].type, [line.data for line in part], "line {} of the stream", first + begin)
        runs.append(Run(part[0].type, rows, [line.ack for line in part], first + begin))
        begin = index
    return runs


def parse_entities(block: bytes, first: int) -> list[Entity]:
    """Read a block of a catalog's listing; raises UnreadableLine."""
    try:
        return _entities.decode_lines(block)
    except msgspec.MsgspecError as error:
        raise UnreadableLine(f"the listing from line {first} on is unreadable: {error}") from error


def rows_of(entity_type: str, data: Sequence[msgspec.Raw], where: str, first: int) -> list[Row]:
    """Read the data of lines of one type; raises UnreadableLine, which names the line by `where` and the field."""
    shape = SHAPES.get(entity_type)
    if shape is None:
        raise UnreadableLine(f"{where.format(first)}: the app knows no type {entity_type[:64]!r}")
    try:
        return shape.rows(data)
    except (msgspec.MsgspecError, ValueError) as error:
        for number, item in enumerate(data, first):
            try:
                shape.rows([item])
            except (msgspec.MsgspecError, ValueError) as reason:
                told = str(reason).replace("`$[0]", "`$")
                raise UnreadableLine(f"{where.format(number)}, {entity_type}: {told}") from reason
        raise UnreadableLine(f"{where.format(first)}, {entity_type}: {error}") from error


def _bad_line(block: bytes, first: int, error: Exception) -> UnreadableLine:
    for number, line in enumerate(block.split(b"\n"), first):
        try:
            _lines.decode(line)
        except msgspec.MsgspecError as reason:
            return UnreadableLine(f"line {number} of the stream: {reason}")
    return UnreadableLine(f"lines from {first} on: {error}")
