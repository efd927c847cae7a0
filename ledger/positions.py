"""Positions: the exact place of an entity in its type's order.

A position is always the last one done, never the next: everything at or before it is stored on the device.
Entities are ordered by `(updated_at, id)`. Ids compare as bytes; an empty id sorts after every id, so
`Position(t, "")` means "all entities with an `updated_at` of t are done" (the seed's ack form).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from ledger.errors import InvalidInput

MAX_ID_BYTES: Final = 256
MAX_US: Final = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z, the last instant datetime can print
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ISO: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):?[0-5]\d)", re.ASCII
)
_UNFIT: Final = re.compile("[|\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Position(msgspec.Struct, frozen=True, gc=False):
    """The last entity done: `at_us` in microseconds since 1970 UTC, `id` the entity's id or empty."""

    at_us: int
    id: str

    @property
    def key(self) -> tuple[int, bool, bytes]:
        """The sort key: by time, then by the bytes of the id, an empty id last."""
        return (self.at_us, not self.id, self.id.encode())


def iso_from_us(us: int) -> str:
    """Print an instant as ISO 8601 in UTC with exactly six decimals and `Z`: always 27 characters."""
    seconds, micros = divmod(us, 1_000_000)
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment.year:04}-{moment.month:02}-{moment.day:02}T{moment:%H:%M:%S}.{micros:06}Z"


def us_from_iso(text: str) -> int:
    """Read an ISO 8601 instant with up to six decimals and a zone; raises ValueError for anything else."""
    if _ISO.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not an ISO 8601 time with a zone, like 2025-01-20T10:30:45.123456Z")
    return us_of(text.upper())


def us_of(text: str) -> int:
    """Read an instant that has the form `us_from_iso` takes, in capitals; raises ValueError for none that there is."""
    since = datetime.fromisoformat(text) - _EPOCH
    us = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if not 0 <= us <= MAX_US:
        raise ValueError(f"{text[:40]!r} is outside 1970 to 9999")
    return us


def check_id(field: str, value: str) -> None:
    """Refuse an id that acks or keys cannot carry; raises InvalidInput naming `field`."""
    if value.isascii() and value.isprintable() and "|" not in value and 1 <= len(value) <= MAX_ID_BYTES:
        return  # PERF: so are almost all
    problem = ""
    if not 1 <= len(value.encode("utf-8", "surrogatepass")) <= MAX_ID_BYTES:
        problem = f"must have 1 to {MAX_ID_BYTES} bytes"
    elif _UNFIT.search(value):
        problem = "must not hold '|', control characters or surrogates"
    if problem:
        raise InvalidInput([((field,), problem)])
