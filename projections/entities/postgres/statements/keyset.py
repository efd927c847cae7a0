"""Orders of rows: how a page goes on behind a position and stays below an instant, in SQL and in its parameters. Pure.

An order is by a UUIDv7 (which stands at its milliseconds, with its text as the id), or by a timestamp and an id. Its
conditions are comparisons of bare columns with parameters, a row comparison where there are two, so that an index on
just these columns serves them. Ids compare as bytes: a uuid as its canonical text does, an integer as 20 digits do.

What stands in a position that this source never gave out (another source did, or somebody's hand) may be no value of
the id's type. Then the rows of that very instant are sent again: once more does no harm, and none is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct

from ledger.positions import MAX_US, Position
from projections.entities.postgres.mapping.mapping import LibraryType

IdKind = Literal["uuid", "text", "bigint"]
StampKind = Literal["timestamptz", "timestamp"]

ISO_US: Final = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""
MAX_UUID: Final = 2**128 - 1
MAX_BIGINT: Final = 2**63 - 1

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS_BITS: Final = 80
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LIBRARY_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_LIBRARY_BIGINT: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_INTEGER: Final = re.compile(r"-?[0-9]{20}", re.ASCII)


class Ask(NamedTuple):
    """What a statement is asked with: a library (as its SQL type takes it), positions by entity type, and bounds.

    `unfit` has for each table the ids of rows that were seen not to fit; None: that may have been any.
    """

    library: Any
    after: Mapping[str, Position | None]
    before: int
    rows: int = 0
    size: int = 0
    shares: int = 0
    unfit: Mapping[str, Sequence[str] | None] = {}


class Parameters:
    """The parameters of one statement: numbered as they are first used, with what makes their values."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, ...], str] = {}
        self._values: list[Callable[[Ask], Any]] = []

    def use(self, name: tuple[str, ...], sql_type: str, value: Callable[[Ask], Any]) -> str:
        """Name a parameter in SQL; the same name is the same parameter."""
        name = (*name, sql_type)
        if name not in self._numbers:
            self._values.append(value)
            self._numbers[name] = f"${len(self._values)}::{sql_type}"
        return self._numbers[name]

    def values(self, ask: Ask) -> list[Any]:
        """Make the values for an execution."""
        return [value(ask) for value in self._values]


class Key(Struct, frozen=True):
    """What rows are ordered by, in SQL: `at` is a timestamptz, `id` the text of the position's id.

    `columns` are compared with parameters of the types `types`; `id_kind` is the type of the id.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    id_kind: IdKind
    at: str
    id: str

    @property
    def escaped_id(self) -> str:
        """Print the id as it stands inside of a JSON text."""
        if self.id_kind != "text":
            return self.id
        escaped = f"to_json({self.id})::text"
        return f"substr({escaped}, 2, length({escaped}) - 2)"

    @property
    def is_uuid7(self) -> bool:
        """Tell whether a UUIDv7 is all of the order."""
        return len(self.columns) == 1

    @property
    def order_by(self) -> str:
        """Print the ORDER BY list."""
        return ", ".join(self.columns)

    @property
    def order_by_newest(self) -> str:
        """Print the ORDER BY list for the newest first."""
        return ", ".join(f"{column} DESC" for column in self.columns)

    def after(self, parameters: Parameters, entity_type: str) -> str:
        """Print that a row comes strictly after the entity type's position."""
        names = self._names(parameters, entity_type, lambda ask: ask.after[entity_type])
        return f"{self._row(self.columns)} > {self._row(names)}"

    def before(self, parameters: Parameters) -> str:
        """Print that a row stands before the instant."""
        if self.is_uuid7:
            bound = parameters.use(("before",), "uuid", lambda ask: uuid_text(_floor(-(-ask.before // 1000))))
        else:
            kind = self.types[0]
            bound = parameters.use(("before",), kind, lambda ask: stamp(min(ask.before, MAX_US), kind))
        return f"{self.columns[0]} < {bound}"

    def _names(
        self, parameters: Parameters, entity_type: str, position: Callable[[Ask], Position | None]
    ) -> tuple[str, ...]:
        if self.is_uuid7:
            return (parameters.use(("after", entity_type), "uuid", lambda ask: uuid_text(uuid7_after(position(ask)))),)
        kind, id_kind = self.types[0], self.id_kind
        at = parameters.use(
            ("after at", entity_type, id_kind), kind, lambda ask: stamp(stamped_after(position(ask), id_kind)[0], kind)
        )
        entity_id = parameters.use(
            ("after id", entity_type, kind), self.types[1], lambda ask: stamped_after(position(ask), id_kind)[1]
        )
        return at, self._compared(entity_id)

    def _compared(self, name: str) -> str:
        return f'{name} COLLATE "C"' if self.id_kind == "text" else name

    @staticmethod
    def _row(parts: tuple[str, ...]) -> str:
        return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def uuid7_key(sql: str) -> Key:
    """Order by a UUIDv7."""
    return Key((sql,), ("uuid",), "uuid", uuid7_at(sql), f"{sql}::text")


def stamped_key(at: str, stamp_kind: StampKind, entity_id: str, id_kind: IdKind) -> Key:
    """Order by a timestamp (one without a zone is in UTC) and an id."""
    zoned = at if stamp_kind == "timestamptz" else f"({at} AT TIME ZONE 'UTC')"
    column = f'{entity_id}::text COLLATE "C"' if id_kind == "text" else entity_id
    return Key((at, column), (stamp_kind, id_kind), id_kind, zoned, id_text(entity_id, id_kind))


def id_text(sql: str, kind: IdKind) -> str:
    """Print an id as the text in its position; these texts order as bytes as the ids do."""
    if kind != "bigint":
        return f"{sql}::text"
    # Below zero the minus is below every digit, and what is added grows with the number.
    below = f"'-' || lpad(({sql} + {MAX_BIGINT} + 1)::text, 20, '0')"
    return f"CASE WHEN {sql} < 0 THEN {below} ELSE lpad({sql}::text, 20, '0') END"


def uuid7_at(sql: str) -> str:
    """Print the instant of a UUIDv7, exact to its millisecond (until 2255: intervals are multiplied as floats).

    PERF: from its first six bytes; to take the hyphen out of its text takes 0.2 µs longer.
    """
    ms = f"('x' || encode(substr(uuid_send({sql}), 1, 6), 'hex'))::bit(48)::bigint"
    return f"(timestamptz 'epoch' + {ms} * interval '1 millisecond')"


def uuid7_below(at: str) -> str:
    """Print the least UUIDv7 that does not stand before a timestamptz."""
    ms = f"ceil(extract(epoch FROM {at}) * 1000)::bigint"
    return f"(lpad(to_hex({ms}), 12, '0') || '{'0' * 20}')::uuid"


def uuid7_after(position: Position | None) -> int:
    """Return the uuid that all rows strictly after a position are above, as a number."""
    if position is None:
        return 0
    ms, rest = divmod(position.at_us, 1000)
    below, last = max(_floor(ms) - 1, 0), _floor(ms + 1) - 1
    if rest or not position.id:
        return last
    found = read_uuid(position.id.partition(":")[0])
    return below if found is None else min(max(found, below), last)


def share_after(position: Position | None) -> tuple[int, int]:
    """Return the share that what comes strictly after a position begins in, and the row in it that is done.

    Ids of rows in shares are `<share>:<row>`; one without a colon is of another branch, which the share may come after.
    """
    if position is None:
        return 0, 0
    ms, rest = divmod(position.at_us, 1000)
    first, next_ms = _floor(ms), _floor(ms + 1)
    if rest or not position.id:
        return next_ms, 0
    share_text, _, row_text = position.id.partition(":")
    share, done = read_uuid(share_text), read_uuid(row_text)
    if share is None or share < first:
        return first, 0
    return (next_ms, 0) if share >= next_ms else (share, done or 0)


def stamped_after(position: Position | None, kind: IdKind) -> tuple[int, Any]:
    """Return the instant and the id that all rows strictly after a position are above."""
    if position is None:
        return _behind(-1, kind)
    if not position.id:
        return _behind(position.at_us, kind)
    found = read_id(position.id.partition(":")[0] if kind == "uuid" else position.id, kind)
    return _behind(position.at_us - 1, kind) if found is None else (position.at_us, found)


def read_id(text: str, kind: IdKind) -> Any:
    """Read an id as its SQL type takes it; None if it is none."""
    if kind == "text":
        return text
    if kind == "uuid":
        return text if _UUID.fullmatch(text) else None
    if _INTEGER.fullmatch(text) is None:
        return None
    number = int(text.lstrip("-")) - (MAX_BIGINT + 1 if text.startswith("-") else 0)
    return number if number <= MAX_BIGINT else None


def _behind(at_us: int, kind: IdKind) -> tuple[int, Any]:
    """Return what is above all rows of an instant and below all later ones.

    No text is the last one in every encoding; before all that are ids is the empty one, at the next instant.
    """
    if kind == "text":
        return min(at_us + 1, MAX_US), ""
    return at_us, uuid_text(MAX_UUID) if kind == "uuid" else MAX_BIGINT


def members_of(unfit: Mapping[str, Sequence[str] | None], table: str, kind: str) -> list[str] | None:
    """List the rows of a table that were seen not to fit, of those that can be ids of this SQL type."""
    ids = unfit.get(table, ())
    return None if ids is None else [one for one in ids if kind == "text" or _UUID.fullmatch(one)]


def read_uuid(text: str) -> int | None:
    """Read a canonical uuid as a number; None if it is none."""
    return int(text.replace("-", ""), 16) if _UUID.fullmatch(text) else None


def uuid_text(number: int) -> str:
    """Print a number as a canonical uuid."""
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def stamp(us: int, kind: str) -> datetime:
    """Return an instant as the driver takes it for an SQL type."""
    moment = _EPOCH + timedelta(microseconds=us)
    return moment if kind == "timestamptz" else moment.replace(tzinfo=None)


def _floor(ms: int) -> int:
    """Return the least uuid of a millisecond, as a number."""
    return min(ms << _MS_BITS, MAX_UUID)


def library_value(library: str, sql_type: LibraryType) -> Any:
    """Return a library's id as its SQL type takes it; None if it is none, so that the library is empty."""
    if sql_type == "uuid":
        return library if _LIBRARY_UUID.fullmatch(library) else None
    if sql_type == "bigint":
        found = int(library) if _LIBRARY_BIGINT.fullmatch(library) else None
        return found if found is not None and -(2**63) <= found < 2**63 else None
    return None if "\0" in library or any("\ud800" <= char <= "\udfff" for char in library) else library
