"""Every entity type's payload, and the line it stands in, as JSON Schema."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from projections.entities.payloads.meanings import meaning
from projections.entities.payloads.scalars import DURATION_PATTERN, ID_PATTERN, INSTANT_PATTERN, PATTERN_MEANINGS
from projections.entities.registry import ROWS

LINE: Final = "SyncLine"
_EXAMPLES: Final = {
    ID_PATTERN: "8f0c1f7e-3c1c-4a53-9f0e-0d3b6e0a6f11",
    INSTANT_PATTERN: "2025-01-20T10:30:45.123Z",
    DURATION_PATTERN: "0:00:10.50000",
}
_ACK: Final = {
    "type": "string",
    "description": "What to send to `/sync/ack` once this line, and all before it of its type, are stored",
    "examples": ["AssetV2|2025-01-20T10:30:45.123456Z|8f0c1f7e-3c1c-4a53-9f0e-0d3b6e0a6f11"],
}


def entity_schemas(ref_template: str) -> dict[str, Any]:
    """Describe the payload of each entity type under its name, and under `SyncLine` the lines of a stream."""
    payloads = list({row.payload: None for row in ROWS})
    _, schemas = msgspec.json.schema_components(payloads, ref_template=ref_template)
    described = {name: _described(name, _plain(schema)) for name, schema in schemas.items()}
    for row in ROWS:
        if row.name not in described:
            of = ref_template.format(name=row.payload.__name__)
            described[row.name] = {"title": row.name, "allOf": [{"$ref": of}]}
    return described | {LINE: {"title": LINE, "oneOf": [_line(row.name, ref_template) for row in ROWS]}}


def _line(name: str, ref_template: str) -> dict[str, Any]:
    return {
        "type": "object",
        "title": f"{name} line",
        "required": ["type", "data", "ack"],
        "additionalProperties": False,
        "properties": {
            "type": {"const": name},
            "data": {"$ref": ref_template.format(name=name)},
            "ids": {"type": "array", "items": {"type": "string"}, "description": "Of SyncCompleteV1: the snapshot"},
            "ack": _ACK,
        },
    }


def _described(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    fields = schema.get("properties", {})
    return schema | {
        "properties": {field: {"description": meaning(name, field), **about} for field, about in fields.items()}
    }


def _plain(schema: Any) -> Any:
    """Say patterns as JSON Schema does, whose regular expressions know no `\\A` and `\\Z`, with an example of each."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items()}
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        plain["pattern"] = pattern.replace(r"\A", "^").replace(r"\Z", "$")
        if pattern in PATTERN_MEANINGS:
            plain |= {"examples": [_EXAMPLES[pattern]]}
    return plain
