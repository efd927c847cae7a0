"""The scalar types of sync payloads: exactly as strict as the parser of the mobile app.

The app throws, and its sync stops for good, on `null` or a missing key where a value belongs, on `5.0` for an integer,
on an integer beyond 64 bits and on an unknown enum value. Texts are otherwise free.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta

_DAYS: Final = (
    r"[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_LEAP_DAYS: Final = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
INSTANT_PATTERN: Final = rf"\A(?:{_DAYS}|{_LEAP_DAYS})T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,6}})?Z\Z"
ID_PATTERN: Final = r"\A[^|\x00-\x1f\x7f-\x9f]{1,256}\Z"
DURATION_PATTERN: Final = r"\A[0-9]{1,3}:[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?\Z"

# What an error says instead of printing the pattern.
PATTERN_MEANINGS: Final = {
    INSTANT_PATTERN: "must be a UTC time like 2025-01-20T10:30:45.123Z",
    ID_PATTERN: "must have 1 to 256 characters without '|' or control characters",
    DURATION_PATTERN: "must be a duration like 0:10:00.00000",
}

Instant: TypeAlias = Annotated[str, Meta(pattern=INSTANT_PATTERN)]
"""An ISO 8601 instant in UTC with `Z` and up to six decimals; a day of the calendar; kept as it was written."""

Id: TypeAlias = Annotated[str, Meta(pattern=ID_PATTERN)]
"""An id of this or of another entity; opaque."""

DurationText: TypeAlias = Annotated[str, Meta(pattern=DURATION_PATTERN)]
"""A duration of the V1 payloads: hours, minutes, seconds."""

DurationMs: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""A duration in milliseconds, 32 bits."""

Int: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""A JSON integer that fits into 64 bits (a Dart `int`): beyond, Dart reads a double and throws."""

JsonObject: TypeAlias = dict[str, Any]
"""Any JSON object."""

AvatarColor: TypeAlias = Literal[
    "primary", "pink", "red", "yellow", "blue", "green", "purple", "orange", "gray", "amber"
]
