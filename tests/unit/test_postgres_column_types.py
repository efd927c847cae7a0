"""Which SQL types can be printed as which field."""

from __future__ import annotations

import pytest

from projections.entities.postgres.mapping.column_types import Field, Kind, SqlType, fields_of, misfit
from projections.entities.registry import ROWS


def field(entity_type: str, name: str) -> Field:
    (found,) = (each for each in fields_of(entity_type) if each.name == name)
    return found


@pytest.mark.parametrize(
    ("entity_type", "name", "kind", "nullable"),
    [
        ("AssetV2", "id", "id", False),
        ("AssetV2", "stackId", "id", True),
        ("AssetV2", "checksum", "text", False),
        ("AssetV2", "type", "text", False),
        ("AssetV2", "createdAt", "time", True),
        ("AssetV2", "isFavorite", "flag", False),
        ("AssetV2", "duration", "integer", True),
        ("AssetV1", "duration", "text", True),
        ("AssetExifV1", "latitude", "number", True),
        ("MemoryV1", "data", "object", False),
        ("UserV1", "avatarColor", "text", True),  # it may even be absent
    ],
)
def test_a_field_is_what_its_payload_says(entity_type: str, name: str, kind: Kind, nullable: bool) -> None:
    found = field(entity_type, name)
    assert (found.kind, found.nullable) == (kind, nullable)


def test_the_values_of_an_enum_are_known() -> None:
    assert field("AssetV2", "type").values == {"IMAGE", "VIDEO", "AUDIO", "OTHER"}
    assert field("AssetV2", "checksum").values == frozenset()


def test_all_payloads_can_be_described() -> None:
    assert all(fields_of(row.name) or row.form is None for row in ROWS)


@pytest.mark.parametrize(
    ("kind", "sql_type", "fits"),
    [
        ("id", "uuid", True), ("id", "int8", True), ("id", "bytea", False), ("id", "timestamptz", False),
        ("text", "varchar", True), ("text", "bytea", False), ("text", "jsonb", False), ("text", "bool", False),
        ("time", "timestamptz", True), ("time", "date", True), ("time", "text", False),
        ("integer", "int4", True), ("integer", "numeric", False), ("integer", "float8", False),
        ("number", "numeric", True), ("number", "int2", True), ("number", "text", False),
        ("flag", "bool", True), ("flag", "int4", False),
        ("object", "jsonb", True), ("object", "text", False),
    ],
)  # fmt: skip
def test_types_fit_as_a_device_reads_them(kind: Kind, sql_type: str, fits: bool) -> None:
    assert (misfit(kind, SqlType(sql_type)) == "") is fits


def test_an_enum_is_a_text_and_no_id() -> None:
    mood = SqlType("mood", ("sad", "glad"))
    assert misfit("text", mood) == ""
    assert "is mood, but a device reads an id" in misfit("id", mood)


def test_what_would_help_is_told() -> None:
    assert "encode(…, 'base64')" in misfit("text", SqlType("bytea"))
    assert "cast it to bigint" in misfit("integer", SqlType("numeric"))
