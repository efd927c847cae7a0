"""Options that are instants: ISO 8601, a plain date, or how long ago."""

from __future__ import annotations

import re
import time
from typing import Final

import click

from ledger.positions import us_from_iso
from ops.settings.durations import parse_duration

FORMS: Final = "2025-01-20, 2025-01-20T10:00:00Z, or 1h for an hour ago"
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_AGO: Final = re.compile(r"\d+(\.\d+)?(ms|s|m|h|d)", re.ASCII)
_DAY_US: Final = 86_400_000_000


def instant(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read an option that is an instant, as µs since 1970; a date is its beginning, in UTC."""
    return None if value is None else _instant_us(value, end=False)


def instant_until(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read an option up to which something goes: a date is its end."""
    return None if value is None else _instant_us(value, end=True)


def _instant_us(value: str, *, end: bool) -> int:
    try:
        if _AGO.fullmatch(value):
            return max(time.time_ns() // 1000 - int(parse_duration(value) * 1_000_000), 0)
        if _DAY.fullmatch(value):
            return us_from_iso(f"{value}T00:00:00Z") + (_DAY_US - 1 if end else 0)
        return us_from_iso(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}; give it like {FORMS}") from None
