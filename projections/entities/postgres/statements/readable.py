"""Whether a device can read a field, as a condition in SQL. Pure.

It is decided there because whoever hangs on a row that is not sent must not be sent either, page by page, in counts and
in what changed. It says what `line_check.py` checks of printed lines, less what the database holds by itself: a type, a
NOT NULL column, an enum whose every value a device knows. Where nothing is left the condition is empty and costs
nothing.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from ledger.positions import MAX_ID_BYTES
from projections.entities.entity import MAX_DEPTH
from projections.entities.payloads.scalars import DURATION_PATTERN, INSTANT_PATTERN, DurationMs, DurationText
from projections.entities.postgres.mapping.column_types import Field
from projections.entities.postgres.statements.encodings import UTF8, in_unicode, no_control_characters

INTEGERS: Final = frozenset({"int2", "int4", "int8"})
STAMPS: Final = frozenset({"timestamptz", "timestamp"})
NUMBERS: Final = frozenset({"float4", "float8", "numeric"})

_MOST: Final = 2**63 - 1
_NULL: Final = re.compile(r"[\s()]*null[\s()]*", re.IGNORECASE)
_AHEAD: Final = "(SELECT now() + interval '1 day')"
"""A stamp further ahead is a mistake: who waited for its day would wait for good."""


class Given(NamedTuple):
    """What the database holds of an expression: its type as pg_type names it, an enum's values, never null.

    `encoding` is that of the database.
    """

    sql_type: str
    labels: tuple[str, ...] = ()
    not_null: bool = False
    encoding: str = UTF8


def readable(field: Field, sql: str, given: Given, strict: Any) -> str:
    """Print the condition under which a field can be read as it is printed; empty where that is always so."""
    if field.otherwise or (field.nullable and _NULL.fullmatch(sql)):
        return ""
    found = _value(field, sql, given, strict)
    if field.nullable:
        return f"({sql} IS NULL OR {found})" if found else ""
    if found:
        return found if given.not_null else f"({sql} IS NOT NULL AND {found})"
    return "" if given.not_null else f"{sql} IS NOT NULL"


def finite_time(sql: str) -> str:
    """Print that an instant can be printed: ISO 8601 has four digits for its year."""
    return f"({sql} >= '0001-01-01' AND {sql} < '10000-01-01')"


def finite_number(sql: str, sql_type: str) -> str:
    """Print that a number is one in JSON, and not beyond what 64 bits of floating point hold."""
    most = "1e308::numeric" if sql_type == "numeric" else "'Infinity'::float8"
    return f"abs({sql}) < {most}"


def stamp_in_reach(sql: str, sql_type: str) -> str:
    """Print that rows standing at this instant (or UUIDv7) are sent: positions hold nothing before 1970."""
    if sql_type == "uuid":
        return f"{sql} < (SELECT {_uuid7_ahead()})"
    ahead = f"{_AHEAD} AT TIME ZONE 'UTC'" if sql_type == "timestamp" else _AHEAD
    return f"({sql} >= '1970-01-01' AND {sql} < {ahead})"


def _uuid7_ahead() -> str:
    ms = "(extract(epoch FROM now()) * 1000)::bigint + 86400000"
    return f"(lpad(to_hex({ms}), 12, '0') || '{'0' * 20}')::uuid"


def known_values(field: Field, sql: str, given: Given) -> str:
    """Print that an enum's value is one a device knows; empty where the database has no other."""
    if given.labels and field.values.issuperset(given.labels):
        return ""
    values = ", ".join("'" + value.replace("'", "''") + "'" for value in sorted(field.values))
    return f"({sql})::text IN ({values})"


def id_in_positions(sql: str, encoding: str = UTF8) -> str:
    """Print that a text can be the id of a position."""
    text = f"({sql})::text"
    size = f"octet_length({text if encoding == UTF8 else _in_utf8(text, encoding)}) BETWEEN 1 AND {MAX_ID_BYTES}"
    return _all(in_unicode(sql, encoding), size, no_control_characters(sql, encoding))


def _in_utf8(text: str, encoding: str) -> str:
    """Print a text's bytes in UTF-8, of one that can be read."""
    condition = in_unicode(text, encoding)
    converted = f"convert_to({text}, 'UTF8')"
    return f"CASE WHEN {condition} THEN {converted} END" if condition else converted


def _all(*conditions: str) -> str:
    kept = [condition for condition in conditions if condition]
    return kept[0] if len(kept) == 1 else f"({' AND '.join(kept)})" if kept else ""


def _value(field: Field, sql: str, given: Given, strict: Any) -> str:
    """Print what a value that is not null must be."""
    sql_type = given.sql_type
    match field.kind:
        case "id":
            if sql_type == "uuid" or sql_type in INTEGERS:
                return ""
            size = f"char_length(({sql})::text) BETWEEN 1 AND 256"
            return _all(in_unicode(sql, given.encoding), size, no_control_characters(sql, given.encoding))
        case "text" if field.values:
            return "" if field.nullable else known_values(field, sql, given)
        case "text" if _is(strict, DurationText):
            return f"({sql})::text ~ '{DURATION_PATTERN}'"
        case "text":
            return "" if sql_type == "uuid" or sql_type in INTEGERS else in_unicode(sql, given.encoding)
        case "time" if sql_type in STAMPS or sql_type == "date":
            return "" if field.nullable else finite_time(sql)
        case "time":
            return f"({sql})::text ~ '{INSTANT_PATTERN}'"
        case "integer" if sql_type in INTEGERS:
            return f"{sql} BETWEEN 0 AND {2**31 - 1}" if _is(strict, DurationMs) else ""
        case "integer" if sql_type in NUMBERS:
            least, most = (0, 2**31 - 1) if _is(strict, DurationMs) else (-_MOST - 1, _MOST)
            whole = f"({sql})::text ~ '^(0|-?[1-9][0-9]*)$'"
            return f"CASE WHEN {whole} THEN ({sql})::text::numeric BETWEEN {least} AND {most} ELSE false END"
        case "number" if sql_type in INTEGERS:
            return ""
        case "number" if sql_type in NUMBERS:
            return "" if field.nullable else finite_number(sql, sql_type)
        case "flag" if sql_type == "bool":
            return ""
        case "object" if sql_type in ("json", "jsonb"):
            return _all(in_unicode(sql, given.encoding), _object(field, sql, given))
    return "false"  # a type that no value of fits; the schema's check refuses it


def _object(field: Field, sql: str, given: Given) -> str:
    """Print that a value is an object, nested no deeper than parsers of devices follow."""
    text = f"({sql})::text"
    if given.sql_type == "jsonb":
        flat = f"(length({text}) < {2 * MAX_DEPTH} OR NOT {_is_deep(sql)})"
        return (
            f"CASE WHEN jsonb_typeof({sql}) = 'object' THEN {' AND '.join((flat, *_inside(field, sql)))} ELSE false END"
        )
    strings = rf"""regexp_replace({text}, '"([^"\\]|\\.)*"', '', 'g')"""
    few = f"length({strings}) - length(translate({strings}, '[{{', '')) <= {MAX_DEPTH}"
    # What jsonb or a text of this encoding cannot hold would be an error, and end the whole page.
    held = r"\\u0000" if given.encoding == UTF8 else r"\\u(?!00[0-7])|\\u0000"
    odd = rf"{text} ~ '{held}|[eE][+]?[0-9]{{4,}}'"
    flat = f"CASE WHEN {few} THEN true WHEN {odd} THEN false ELSE NOT {_is_deep(f'({sql})::jsonb')} END"
    inside = [f"CASE WHEN {odd} THEN false ELSE {one} END" for one in _inside(field, f"({sql})")]
    return f"CASE WHEN json_typeof({sql}) = 'object' THEN {' AND '.join((flat, *inside))} ELSE false END"


def _inside(field: Field, sql: str) -> list[str]:
    """Print what must hold of an object's keys, as far as the app reads them."""
    printed = {"integer": _whole_number, "text": _text_inside}
    ways = [" AND ".join(printed[kind](sql, key) for key, kind in way) for way in field.inside]
    return [f"({' OR '.join(f'({way})' for way in ways)})"] if ways else []


def _is_deep(sql: str) -> str:
    return f'jsonb_path_exists({sql}, \'strict $.**{{{MAX_DEPTH}}} ? (@.type() == "object" || @.type() == "array")\')'


def _whole_number(sql: str, key: str) -> str:
    """Print that a key of an object holds an integer of 64 bits; jsonb's `2020.0` is printed as one."""
    text = f"({sql} ->> '{key}')"
    whole = f"CASE WHEN {text} ~ '^-?[0-9]{{1,18}}(\\.0+)?$' THEN true ELSE false END"
    return f"coalesce(({sql} -> '{key}')::text !~ '^\"' AND {whole}, false)"


def _text_inside(sql: str, key: str) -> str:
    """Print that a key of an object holds a text."""
    return f"coalesce(({sql} -> '{key}')::text ~ '^\"', false)"


def _is(strict: Any, kind: Any) -> bool:
    """Tell whether a payload's type is this one, or null."""
    return bool(strict == kind or strict == kind | None)
